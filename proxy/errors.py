"""Errors as clients see them: one exception, and the table of the supervisor's rejections."""

from collections.abc import Callable, Iterable

import actors.errors as rejections
from actors.errors import Rejection


class ApiError(Exception):
    """An error that is answered with a status. `kind` and `code` are OpenAI's `type` and `code`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = default_kind(status)
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.extra: dict[str, object] = {}
        """Further fields of the error, from the model server."""
        self.headers: dict[str, str] = {}
        """Further headers of the answer."""


def default_kind(status: int) -> str:
    """Return OpenAI's error type for a status."""
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def not_allowed(method: str, path: str, allowed: Iterable[str]) -> ApiError:
    """Make the error for a method that a path does not support; `Allow` lists the supported ones."""
    methods = set(allowed)
    message = f"{path} takes {', '.join(sorted(methods))}, not {method}"
    error = ApiError(405, message, code="method_not_allowed")
    error.headers["Allow"] = ", ".join(sorted({*methods, "OPTIONS"}))
    return error


MOST_NAMED = 20
"""Most models that the error for an unknown one names."""

REJECTIONS: dict[type[Rejection], tuple[int, str]] = {
    rejections.UnknownModel: (404, "model_not_found"),
    rejections.Forbidden: (403, "model_forbidden"),
    rejections.NeverFits: (422, "model_too_large"),
    rejections.NotLoaded: (503, "model_not_loaded"),
    rejections.QueueFull: (429, "queue_full"),
    rejections.QueueTimeout: (503, "queue_timeout"),
    rejections.LoadFailed: (503, "model_load_failed"),
    rejections.NoGpu: (503, "no_gpu"),
    rejections.ShuttingDown: (503, "shutting_down"),
}


def from_rejection(reason: Rejection, may_use: Callable[..., bool] = lambda *_: True) -> ApiError:
    """Make the error for a request that got no lease. `may_use`: whether its key may use a model."""
    status, code = REJECTIONS[type(reason)]
    message, param = reason.message, None
    if isinstance(reason, rejections.UnknownModel):
        param = "model"
        if reason.known is not None:
            named = list(filter(may_use, reason.known))[:MOST_NAMED]
            message += f"; there are: {', '.join(map(repr, named)) or 'none'}"
    return ApiError(status, message, code=code, param=param, retry_after=reason.retry_after)
