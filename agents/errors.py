"""What an agent, or what it asked for, says no with. The front door tells it in its client's words."""


class AgentError(Exception):
    """A request cannot be answered. `status` is HTTP's, `code` a short word for programs.

    `retry_after` is in seconds. Raised by an agent it is subject to its `on_error`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 500,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after


class DeniedError(AgentError):
    """The agent refuses the request, on purpose: `on_error` does not apply, the client is told."""

    def __init__(
        self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message, status=status, code=code, param=param)


class ModelCallError(AgentError):
    """A model that an agent called gave no answer, or broke it off."""


class BudgetError(AgentError):
    """An agent has used up its calls, tokens or seconds for this request."""


def unwrapped(error: Exception) -> Exception:
    """The error itself, of a TaskGroup in which one task failed."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
