"""An error's meaning, out of every server's words; `proxy.apis.dialects` finds those for the client."""

from typing import Any

from agents.events import AnswerFailed
from proxy.apis.answer_json import UnreadableError, read_object
from proxy.apis.dialects import OLLAMA_BUSY, OPENAI_CODES
from proxy.errors import ApiError, default_kind

_STATUS_OF_KIND = {
    "invalid_request_error": 400,
    "exceed_context_size_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "not_supported_error": 501,
    "unavailable_error": 503,
}


def truncated(needed: str) -> AnswerFailed:
    """The error of a stream that ended before its answer did. `needed`: the event that did not come."""
    message = f"the model server's answer ended in the middle, without {needed}"
    return AnswerFailed(502, message, code="upstream_error")


def empty() -> AnswerFailed:
    """The error of a complete stream without an answer in it."""
    return AnswerFailed(502, "the model server's stream ended with no answer in it", code="upstream_error")


def unreadable(error: Exception) -> AnswerFailed:
    """The error of a stream that cannot be parsed."""
    return AnswerFailed(502, f"the model server sent what cannot be read: {error}", code="upstream_error")


def from_openai(error: Any, status: int = 500) -> AnswerFailed:
    """Read an error object of OpenAI's or llama.cpp's API; its own status counts more than the HTTP one."""
    if not isinstance(error, dict):
        return AnswerFailed(status, str(error) or "the model server reported an error", default_kind(status))
    code, kind = error.get("code"), str(error.get("type") or "")
    status = code if isinstance(code, int) and 400 <= code < 600 else _STATUS_OF_KIND.get(kind, status)
    if not isinstance(code, str):
        code = OPENAI_CODES.get(kind)
    message = str(error.get("message") or "the model server reported an error")
    param = error.get("param")
    known = ("code", "message", "type", "param")
    extra = {key: value for key, value in error.items() if key not in known}
    return AnswerFailed(
        status, message, default_kind(status), code, param if isinstance(param, str) else None, extra
    )


def from_openai_body(body: bytes, status: int = 500) -> AnswerFailed:
    """Read an error body of OpenAI's or llama.cpp's API."""
    try:
        data = read_object(body)
    except UnreadableError:
        return from_openai(body[:500].decode("utf-8", "replace").strip(), status)
    return from_openai(data.get("error", data), status)


def from_ollama(body: bytes, status: int = 500) -> AnswerFailed:
    """A failure of Ollama's error body, or of the line that ends a broken stream."""
    try:
        error = read_object(body).get("error")
    except UnreadableError:
        error = body[:500].decode("utf-8", "replace").strip()
    return from_ollama_error(error, status)


def from_ollama_error(error: Any, status: int = 500) -> AnswerFailed:
    """A failure of the decoded value of `error`."""
    if isinstance(error, dict):
        return from_openai(error, status)
    message = str(error or "Ollama reported an error")
    code: str | None = None
    if status == 404 and "not found" in message:
        code = "model_not_found"
    elif message == OLLAMA_BUSY:
        status, code = 429, "queue_full"
    elif "exceeds the context length" in message or "exceeds maximum context length" in message:
        status, code = 400, "context_length_exceeded"
    elif "does not support" in message:
        code = "not_supported"
    return AnswerFailed(
        status, message, default_kind(status), code, "model" if code == "model_not_found" else None
    )


def to_api_error(failure: AnswerFailed) -> ApiError:
    """The failure as the front door raises it."""
    return ApiError(
        failure.status,
        failure.message,
        kind=failure.kind or None,
        code=failure.code,
        param=failure.param,
        extra=dict(failure.extra),
    )


def of_api_error(error: ApiError) -> AnswerFailed:
    """What the front door raised, as an event."""
    return AnswerFailed(error.status, error.message, error.kind, error.code, error.param, dict(error.extra))
