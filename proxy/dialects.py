"""How each API words an error, before the first byte and in the middle of a stream. Pure."""

from collections.abc import Callable

import msgspec

from proxy.assemble import Json
from proxy.errors import ApiError, default_kind
from proxy.sse import parse_event


class Dialect(msgspec.Struct, frozen=True):
    """`body` makes an error's JSON body; `frame` the event that ends a broken stream.

    `patch` may rewrite a piece of the stream on its way to the client.
    """

    name: str
    body: Callable[[ApiError, str], Json]
    frame: Callable[[ApiError, str], bytes]
    patch: Callable[[bytes], bytes] | None = None


def _openai_body(error: ApiError, _request_id: str) -> Json:
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.param,
            "code": error.code,
            **error.extra,
        }
    }


def _openai_frame(error: ApiError, request_id: str) -> bytes:
    return b"data: " + msgspec.json.encode(_openai_body(error, request_id)) + b"\n\n"


def _responses_frame(error: ApiError, _request_id: str) -> bytes:
    data = {"type": "error", "code": error.code or error.kind, "message": error.message, "param": error.param}
    return b"event: error\ndata: " + msgspec.json.encode(data) + b"\n\n"


ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def _anthropic_body(error: ApiError, request_id: str) -> Json:
    default = "api_error" if error.status >= 500 else "invalid_request_error"
    kind = ANTHROPIC_KINDS.get(error.status, default)
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}


def _anthropic_frame(error: ApiError, request_id: str) -> bytes:
    return b"event: error\ndata: " + msgspec.json.encode(_anthropic_body(error, request_id)) + b"\n\n"


def _anthropic_patch(payload: bytes) -> bytes:
    """Wrap llama.cpp's error in the middle of a stream, which comes bare (`code`, `message`, `type`)."""
    start = payload.find(b"event: error\n")
    if start < 0 or (start and payload[start - 1 : start] != b"\n"):
        return payload
    event = parse_event(payload[start:])
    try:
        data = msgspec.json.decode(event.data, type=dict[str, object]) if event else {}
    except msgspec.DecodeError:
        return payload
    if "error" in data or "message" not in data:
        return payload
    return payload[:start] + _anthropic_frame(upstream_error(500, data), "")


OPENAI = Dialect("openai", _openai_body, _openai_frame)
RESPONSES = Dialect("responses", _openai_body, _responses_frame)
ANTHROPIC = Dialect("anthropic", _anthropic_body, _anthropic_frame, _anthropic_patch)


def upstream_error(status: int, error: Json) -> ApiError:
    """What a llama.cpp server said (`code`, `message`, `type`, and more), in our own terms."""
    code = error.get("code")
    if isinstance(code, int) and 400 <= code < 600:
        status = code
    kind = error.get("type")
    known = ("code", "message", "type", "param")
    extra = {key: value for key, value in error.items() if key not in known}
    return ApiError(
        status,
        str(error.get("message") or "the model server reported an error"),
        kind=default_kind(status),
        # llama.cpp's own type says more than the status: exceed_context_size_error, not_supported_error.
        code=OPENAI_CODES.get(str(kind), str(kind) if kind else None),
        param=error.get("param"),
        extra=extra,
    )


OPENAI_CODES = {
    "exceed_context_size_error": "context_length_exceeded",
    "not_found_error": "not_found",
    "not_supported_error": "not_supported",
    "unavailable_error": "unavailable",
    "invalid_request_error": None,
    "server_error": None,
    "rate_limit_error": None,
}
