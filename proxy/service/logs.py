"""The format of the log: JSON lines for machines, a readable form on a terminal.

Logging never raises, and never waits for the reader of the log (`proxy.service.log_writer`).
"""

import io
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import msgspec
import structlog
from structlog.typing import EventDict

from actors.kept_lines import LEVELS, KeptLines
from actors.terminal import printable, wants_colour
from proxy.service.log_writer import LogWriter

LINE_LIMIT = 64 << 10
"""Bytes of a line beyond which the middle of its long fields is left out."""
FIELD_LIMIT = 4000
"""Characters that are kept of such a field."""
LAST_WORDS = 1.0
"""Seconds for which the gateway's exit waits for the log."""

_TRACEBACKS = ("exception", "stack")
_UNTELLABLE = msgspec.json.encode({"event": "a log line could not be made", "level": "error"}) + b"\n"

Line = Callable[[EventDict], bytes]

LATEST = KeptLines(2 << 20)
"""The latest lines of this process's log, as JSON whatever the format of the log."""

log = structlog.get_logger("gateway")


def set_up_logging(level: str, form: Literal["auto", "json", "console"], descriptor: int) -> LogWriter:
    """Configure structlog for the process, writing to this descriptor. The caller closes the writer."""
    console = form == "console" or (form == "auto" and os.isatty(descriptor))
    render = _Renderer(_console_line(colours=wants_colour(descriptor)) if console else _json_line)
    writer = LogWriter(
        descriptor,
        lambda count: render(None, "warning", {"event": "log lines were dropped", "count": count}),
    )
    set_level(level)
    structlog.configure(
        processors=[render],
        wrapper_class=_Levelled,
        logger_factory=lambda *_: _Logger(writer),
        cache_logger_on_first_use=True,
    )
    # aiohttp and asyncio log through `logging`; their rare messages are worth a line.
    logging.basicConfig(level=logging.WARNING, handlers=[_Bridge()], force=True)
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    return writer


def set_level(level: str) -> None:
    """Log from this level on, also in loggers that exist."""
    _Levelled.least = LEVELS[level]


class _Levelled(structlog.make_filtering_bound_logger(LEVELS["debug"])):  # type: ignore[misc]
    """structlog's logger, whose level can change: its own is a part of its class."""

    least = LEVELS["info"]

    def is_enabled_for(self, level: int) -> bool:
        """Whether lines of this level are logged."""
        return level >= self.least

    def debug(self, event: str, *args: Any, **values: Any) -> Any:
        """Log a line of this level, if it is enabled; so do the others."""
        return super().debug(event, *args, **values) if self.least <= LEVELS["debug"] else None

    def info(self, event: str, *args: Any, **values: Any) -> Any:
        return super().info(event, *args, **values) if self.least <= LEVELS["info"] else None

    def warning(self, event: str, *args: Any, **values: Any) -> Any:
        return super().warning(event, *args, **values) if self.least <= LEVELS["warning"] else None


def take_over_output() -> None:
    """Log uncaught exceptions, and output printed by agents and libraries: a print may block or raise."""
    sys.stdout, sys.stderr = _Printed("stdout"), _Printed("stderr")
    threading.excepthook = _thread_failed
    sys.unraisablehook = _ignored


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is not SystemExit:
        name = failed.thread.name if failed.thread else ""
        log.error("thread failed", thread=name, exc_info=failed.exc_value)


def _ignored(failed: "sys.UnraisableHookArgs") -> None:
    where = failed.err_msg or "in a finalizer"
    log.error("exception ignored", where=where, object=_text(failed.object), exc_info=failed.exc_value)


class _Logger:
    """The logger that gets structlog's rendered lines."""

    def __init__(self, writer: LogWriter) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = writer.write


class _Renderer:
    """The only processor: renders an event as a line, whatever values it has."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)

    def __call__(self, _logger: object, method: str, event: EventDict) -> bytes:
        event["level"] = method
        # An exception may have no text; the line goes without it then.
        with suppress(Exception):
            event = structlog.processors.format_exc_info(None, method, self._stamp(None, method, event))
        line = _rendered(self._line, event)
        told = line if self._line is _json_line else _rendered(_json_line, event)
        LATEST.add(told.decode().rstrip("\n"), LEVELS.get(method, LEVELS["error"]))
        return line


def _rendered(render: Line, event: EventDict) -> bytes:
    try:
        line = render(event)
        if len(line) <= LINE_LIMIT:
            return line
        return render({key: _shortened(value) for key, value in event.items()})
    except Exception:  # a value without JSON, or whose repr() fails; the other values are kept
        try:
            return render({_text(key): _encodable(value) for key, value in event.items()})
        except Exception:  # no stack or no memory left
            return _UNTELLABLE


def _json_line(event: EventDict) -> bytes:
    line = msgspec.json.encode(event, enc_hook=repr)
    if not line.isascii() or b"\x7f" in line:
        # JSON does not have to escape these characters, but terminals interpret some of them.
        text = line.decode()
        line = "".join(char if char.isprintable() else _json_escape(char) for char in text).encode()
    return line + b"\n"


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _console_line(*, colours: bool) -> Line:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colours, exception_formatter=structlog.dev.plain_traceback
    )

    def line(event: EventDict) -> bytes:
        shown = {key: _showable(value, "\n\t" if key in _TRACEBACKS else "") for key, value in event.items()}
        return renderer(None, "", shown).encode() + b"\n"

    return line


def _showable(value: Any, keep: str) -> Any:
    """Return the value, or its escaped text if it could control the terminal."""
    text = value if isinstance(value, str) else repr(value)
    return value if text.isprintable() else printable(text, keep)


def _text(value: Any) -> str:
    """Return a text for any object."""
    try:
        text = value if isinstance(value, str) else repr(value)
        return text.encode(errors="backslashreplace").decode()
    except Exception:  # a foreign __repr__
        return f"<{type(value).__name__} whose repr() fails>"


def _encodable(value: Any) -> Any:
    """Return the value if it can be encoded, otherwise a text for it."""
    try:
        msgspec.json.encode(value, enc_hook=repr)
        return _shortened(value)
    except Exception:  # any exception of the value's own methods
        return _shortened(_text(value))


def _shortened(value: Any) -> Any:
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= FIELD_LIMIT:
        return value
    half = FIELD_LIMIT // 2
    return f"{text[:half]} ... {len(text) - FIELD_LIMIT} characters ... {text[-half:]}"


class _Bridge(logging.Handler):
    """Passes the standard library's log records to our log."""

    def emit(self, record: logging.LogRecord) -> None:
        level, exc_info = logging.getLevelName(record.levelno).lower(), record.exc_info or None
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit the format, or that cannot be converted to text
            message = _text(record.msg)
        if level == "warning":
            log.warning("library message", logger=record.name, text=message, exc_info=exc_info)
        else:
            log.error("library message", logger=record.name, text=message, exc_info=exc_info)


class _Printed(io.TextIOBase):
    """Replaces a standard stream: logs each printed line."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if len(self._rest) > LINE_LIMIT:
            lines.append(self._rest)
            self._rest = ""
        for line in filter(str.strip, lines):
            log.warning("printed output", stream=self._name, text=line)
        return len(text)
