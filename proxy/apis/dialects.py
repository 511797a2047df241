"""How each API words an error, before the first byte and in the middle of a stream. Pure."""

from collections.abc import Callable

import msgspec

from proxy.apis.answer_json import UnreadableError, read_object
from proxy.apis.assemble import Json
from proxy.errors import ApiError, default_kind
from proxy.wire.sse import parse_event


class Dialect(msgspec.Struct, frozen=True):
    """`body` makes an error's JSON body; `frame` the event that ends a broken stream.

    `patch` may rewrite a piece of the stream on its way to the client. `reword` puts an error about the model
    of that name into the API's own words, and gives it the status that goes with them.
    """

    name: str
    body: Callable[[ApiError, str], Json]
    frame: Callable[[ApiError, str], bytes]
    patch: Callable[[bytes], bytes] | None = None
    reword: Callable[[ApiError, str], ApiError] = lambda error, _model: error


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
        data = read_object(event.data) if event else {}
    except UnreadableError:
        return payload
    if "error" in data or "message" not in data:
        return payload
    return payload[:start] + _anthropic_frame(upstream_error(500, data), "")


OLLAMA_BUSY = "server busy, please try again.  maximum pending requests exceeded"


def ollama_error(status: int, message: str, code: str | None, model: str) -> tuple[int, str]:
    """The status and the text with which Ollama would say it. `model` is the name that was asked for."""
    if status == 404 and code in (None, "model_not_found"):
        return 404, f'model "{model[:200]}" not found, try pulling it first'
    if status == 429:
        return 503, OLLAMA_BUSY
    if status == 499:
        return 499, "request canceled"
    return status, message


def _ollama_reword(error: ApiError, model: str) -> ApiError:
    status, message = ollama_error(error.status, error.message, error.code, model)
    return ApiError(status, message, code=error.code, retry_after=error.retry_after)


def _ollama_body(error: ApiError, _request_id: str) -> Json:
    return {"error": error.message}


def _ollama_frame(error: ApiError, _request_id: str) -> bytes:
    return msgspec.json.encode({"error": error.message}) + b"\n"


OLLAMA = Dialect("ollama", _ollama_body, _ollama_frame, reword=_ollama_reword)
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
