"""Logs a continuing failure once, and once again when it is over, instead of with every request."""

import structlog

log = structlog.get_logger("rag")


class Trouble:
    """`event` says what fails, and what is done instead. It is the event's name in the log, with `fields`."""

    def __init__(self, event: str, **fields: object) -> None:
        self._event = event
        self._fields = fields
        self._is_told = False

    def met(self, error: Exception) -> None:
        """Note a failure."""
        if not self._is_told:
            log.warning(self._event, reason=str(error) or type(error).__name__, **self._fields)
        self._is_told = True

    def over(self) -> None:
        """Note a success."""
        if self._is_told:
            log.info("works again", trouble=self._event, **self._fields)
        self._is_told = False
