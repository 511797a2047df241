"""Reads errors of servers that speak OpenAI's API. llama.cpp adds its own error types."""

from typing import Any

from agents.events import AnswerFailed
from proxy.apis.answer_json import UnreadableError, read_object
from proxy.apis.fields import Json
from proxy.apis.server_errors import blamed, to_api_error
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

_CODES = {
    "exceed_context_size_error": "context_length_exceeded",
    "not_found_error": "not_found",
    "not_supported_error": "not_supported",
    "unavailable_error": "unavailable",
    "invalid_request_error": None,
    "server_error": None,
    "rate_limit_error": None,
}
"""OpenAI's `code` for an error type. Any other type is used as the code: it says more than the status."""

_KNOWN = ("code", "message", "type", "param")


def from_error(error: Any, status: int = 500) -> AnswerFailed:
    """Return the failure that an error object describes.

    An HTTP status in the object's `code` takes precedence over `status`. A `status` of 500 says nothing,
    since errors in a stream have it too: the object's `type` then gives the status, if it is known.
    """
    if not isinstance(error, dict):
        message = str(error) or "the model server reported an error"
        return blamed(AnswerFailed(status, message, default_kind(status)))
    code, kind, param = error.get("code"), error.get("type"), error.get("param")
    kind = kind if isinstance(kind, str) else ""
    if isinstance(code, int) and 400 <= code < 600:
        status = code
    elif status == 500:
        status = _STATUS_OF_KIND.get(kind, status)
    if not isinstance(code, str) or kind not in ("", *_CODES):
        code = _CODES.get(kind, kind or None)
    return blamed(
        AnswerFailed(
            status,
            str(error.get("message") or "the model server reported an error"),
            default_kind(status),
            code,
            param if isinstance(param, str) else None,
            {key: value for key, value in error.items() if key not in _KNOWN},
        )
    )


def from_body(body: bytes, status: int = 500) -> AnswerFailed:
    """Return the failure that the body of an error response describes."""
    try:
        data = read_object(body)
    except UnreadableError:
        return from_error(body[:500].decode("utf-8", "replace").strip(), status)
    return from_error(data.get("error", data), status)


def upstream_error(status: int, error: Json) -> ApiError:
    """Return the `ApiError` for a llama.cpp server's error object (`code`, `message`, `type`, and more)."""
    return to_api_error(from_error(error, status))
