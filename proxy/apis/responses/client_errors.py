"""Writes an error of the Responses API: OpenAI's body before the answer, an `error` event in a stream."""

from proxy.apis.fields import encode
from proxy.apis.interface import Dialect
from proxy.apis.openai.client_errors import OPENAI
from proxy.errors import ApiError


def _frame(error: ApiError, _request_id: str) -> bytes:
    """Return the `error` event of a stream without other events; later errors are in `response.failed`."""
    data = {
        "type": "error",
        "code": error.code or error.kind,
        "message": error.message,
        "param": error.param,
        "sequence_number": 0,
    }
    return b"event: error\ndata: " + encode(data) + b"\n\n"


RESPONSES = Dialect("responses", OPENAI.body, _frame)
