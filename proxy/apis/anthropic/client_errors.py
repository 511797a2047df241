"""Writes an error in Anthropic's form: as a body before the answer begins, and as an event in a stream."""

import msgspec

from proxy.apis.fields import Json
from proxy.apis.interface import Dialect
from proxy.errors import ApiError

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
    return {"type": "error", "error": {"type": kind, "message": _message(error)}, "request_id": request_id}


def _message(error: ApiError) -> str:
    """Return an error's message in Anthropic's words.

    Claude Code recognizes "prompt is too long" at the beginning, and then shortens the conversation.
    """
    length, limit = error.extra.get("n_prompt_tokens"), error.extra.get("n_ctx")
    if error.code == "context_length_exceeded" and length and limit:
        return f"prompt is too long: {length} tokens > {limit} maximum"
    if error.code == "context_length_exceeded":
        return f"prompt is too long: {error.message}"
    if error.param and error.status == 400 and error.param not in error.message:
        return f"{error.param}: {error.message}"
    return error.message


def _frame(error: ApiError, request_id: str) -> bytes:
    return b"event: error\ndata: " + msgspec.json.encode(_body(error, request_id)) + b"\n\n"


ANTHROPIC = Dialect("anthropic", _body, _frame)
