"""How Anthropic's API words an error, before the first byte and in the middle of a stream."""

import msgspec

from proxy.apis.answer_json import UnreadableError, read_object
from proxy.apis.fields import Json
from proxy.apis.interface import Dialect
from proxy.apis.openai.server_errors import upstream_error
from proxy.errors import ApiError
from proxy.wire.sse import parse_event

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def _body(error: ApiError, request_id: str) -> Json:
    default = "api_error" if error.status >= 500 else "invalid_request_error"
    kind = _KINDS.get(error.status, default)
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}


def _frame(error: ApiError, request_id: str) -> bytes:
    return b"event: error\ndata: " + msgspec.json.encode(_body(error, request_id)) + b"\n\n"


def _patch(payload: bytes) -> bytes:
    """Wrap llama.cpp's error in the middle of a stream, which comes bare (`code`, `message`, `type`)."""
    start = payload.find(b"event: error\n")
    if start < 0 or (start and payload[start - 1 : start] != b"\n"):
        return payload
    event = parse_event(payload[start:])
    try:
        data = read_object(event.data) if event else {}
    except UnreadableError:
        return payload
    if "error" in data or "message" not in data:
        return payload
    return payload[:start] + _frame(upstream_error(500, data), "")


ANTHROPIC = Dialect("anthropic", _body, _frame, _patch)
