"""Writes an error in OpenAI's form: as a body before the answer begins, and as an event in a stream."""

import msgspec

from proxy.apis.fields import Json
from proxy.apis.interface import Dialect
from proxy.errors import ApiError


def _body(error: ApiError, _request_id: str) -> Json:
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.param,
            "code": error.code,
            **error.extra,
        }
    }


def _frame(error: ApiError, request_id: str) -> bytes:
    return b"data: " + msgspec.json.encode(_body(error, request_id)) + b"\n\n"


OPENAI = Dialect("openai", _body, _frame)
