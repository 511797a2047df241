"""Errors of agents and of their calls. The front door writes them in the client's API."""


class AgentError(Exception):
    """A request cannot be answered. `status` is HTTP's, `code` a short word for programs.

    `retry_after` is in seconds. If an agent raises it, the agent's `on_error` applies.
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
    """The agent refuses the request on purpose: it reaches the client whatever `on_error` says."""

    def __init__(
        self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message, status=status, code=code, param=param)


class ModelCallError(AgentError):
    """A model that an agent called gave no answer, or an incomplete one."""


class BudgetError(AgentError):
    """An agent has used up its calls, tokens or seconds for this request."""


def unwrapped(error: Exception) -> Exception:
    """Return the single error in an exception group; otherwise the error itself."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
