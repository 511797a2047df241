"""What a model server did wrong, as an event and as the front door raises it.

An API's folder has the rest: `failures` reads what a server says of it, `errors` writes it for a client.
"""

from agents.events import AnswerFailed
from proxy.errors import ApiError


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


def to_api_error(failure: AnswerFailed) -> ApiError:
    """The failure as the front door raises it."""
    error = ApiError(failure.status, failure.message, code=failure.code, param=failure.param)
    error.kind = failure.kind or error.kind
    error.extra = dict(failure.extra)
    return error


def of_api_error(error: ApiError) -> AnswerFailed:
    """What the front door raised, as an event."""
    return AnswerFailed(error.status, error.message, error.kind, error.code, error.param, dict(error.extra))
