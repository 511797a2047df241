"""How the log is written: JSON lines for machines, a readable form on a terminal."""

import logging
import sys
from typing import Any, Literal, TextIO

import msgspec
import structlog

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def set_up_logging(level: str, form: Literal["auto", "json", "console"], stream: TextIO = sys.stdout) -> None:
    """Configure structlog for the process."""
    console = form == "console" or (form == "auto" and stream.isatty())
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if console:
        processors.append(structlog.dev.ConsoleRenderer())
        factory: Any = structlog.PrintLoggerFactory(stream)
    else:
        processors += [structlog.processors.format_exc_info, _render]
        factory = structlog.BytesLoggerFactory(stream.buffer)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    # aiohttp and asyncio speak through logging; what they have to say is rare and worth a line.
    logging.basicConfig(level=logging.WARNING, handlers=[_Bridge()], force=True)


def _render(_logger: Any, _method: str, event: structlog.typing.EventDict) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)


class _Bridge(logging.Handler):
    """Brings the standard library's log records into ours."""

    def emit(self, record: logging.LogRecord) -> None:
        level = logging.getLevelName(record.levelno).lower()
        write = getattr(structlog.get_logger(), level if level in LEVELS else "error")
        write(record.getMessage(), logger=record.name, exc_info=record.exc_info or None)
