"""Passes a model server's output to the gateway's log, and explains its end to clients."""

import asyncio
import logging
import re
import time
from collections.abc import Mapping, Sequence

import structlog

from actors.errors import Failure
from actors.kept_lines import KeptLines
from actors.servers.llama.log import BufferLog, out_of_memory

log = structlog.get_logger("model")

_BAD_NEWS = re.compile(
    r"\b(error|failed|failure|unable|cannot|could ?n.t|invalid|exception|abort|assert|out of memory|not)\b",
    re.I,
)
_SEVERE = re.compile(r"^(?:[\d.]+ )?[WE]\s|\b(?:error|failed)\b", re.IGNORECASE)
_ERROR = re.compile(r"^(?:[\d.]+ )?E\s|\b(?:error|failed)\b", re.IGNORECASE)
"""Severities of errors. While serving, llama-server warns about ordinary things with every request."""
_PROVOKED = re.compile(r"unauthorized: Invalid API Key\s*$")
"""Lines that the gateway's own request without a key causes during the load (`health.ask_for_key`)."""

BURST = 2000
"""Most lines of a server that are logged at once; a load writes many."""
RATE = 100.0
"""Most lines per second after `BURST`."""
REPORT_PAUSE = 10.0
"""Seconds between reports of lines left out."""
LOOKED_AT = 500
"""Number of leading characters in which a line's severity is searched."""


class _Budget:
    """Limits lines: `BURST` at once, then `RATE` per second."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._at = time.monotonic()

    def allows(self) -> bool:
        """Whether one more line may be logged."""
        if self._left < 1:
            now = time.monotonic()
            self._left = min(BURST, self._left + (now - self._at) * RATE)
            self._at = now
            if self._left < 1:
                return False
        self._left -= 1
        return True


class ServerLog:
    """Keeps a server's lines, passes them to the gateway's log, and parses the sizes of buffers in them.

    Errors, and warnings during the load, are logged as warnings, all else at level debug. Of a flood only
    some lines per second are logged, with separate limits for severe and other lines. The number of lines
    left out is logged.
    """

    def __init__(self, model: str, epoch: int, kept: KeptLines) -> None:
        self._kept = kept
        self._log = log.bind(model=model, epoch=epoch, source="model server")
        self._buffers = BufferLog()
        self._loading = True
        self._severe, self._ordinary = _Budget(), _Budget()
        self.left_out = 0
        """Number of lines left out since the last report."""
        self._report: asyncio.TimerHandle | None = None

    def take(self, line: str) -> None:
        """Handle one line."""
        self._kept.add(line)
        if self._loading:
            self._buffers.feed(line)
        severe = self._is_severe(line)
        if not (severe or self._log.is_enabled_for(logging.DEBUG)):
            return
        if not (self._severe if severe else self._ordinary).allows():
            self._leave_out()
        elif severe:
            self._log.warning("server log", line=line)
        else:
            self._log.debug("server log", line=line)

    def _is_severe(self, line: str) -> bool:
        if not self._loading:
            return _ERROR.search(line, 0, LOOKED_AT) is not None
        provoked = _PROVOKED.search(line[-LOOKED_AT:]) is not None
        return not provoked and _SEVERE.search(line, 0, LOOKED_AT) is not None

    def _leave_out(self) -> None:
        self.left_out += 1
        if self._report is None:
            self._report = asyncio.get_running_loop().call_later(REPORT_PAUSE, self.say_left_out)

    def say_left_out(self) -> None:
        """Log how many lines were left out, and reset the count."""
        self._log.warning("server log lines left out", lines=self.left_out, seconds=REPORT_PAUSE)
        self.left_out, self._report = 0, None

    def loaded(self) -> None:
        """Note the end of the load: from now on only errors are logged as warnings."""
        self._loading = False

    @property
    def buffers(self) -> Mapping[str, Mapping[str, int]]:
        """Bytes by device and kind, as logged during the load."""
        return self._buffers.sizes

    @property
    def uses_no_gpu(self) -> bool:
        """Whether the log shows that no part of the model is on a GPU."""
        return self._buffers.uses_no_gpu


def explain_end(how: str, when: str, tail: Sequence[str]) -> Failure:
    """Say why a server ended, with the log lines that look like the cause.

    `how` completes "the server ...".
    """
    cause = [line[:LOOKED_AT] for line in tail if _BAD_NEWS.search(line)][-3:]
    said = f"; its log says: {' / '.join(cause)}" if cause else ""
    message = f"the model server {how} {when}{said}"
    last = tuple(tail)[-20:]
    if out_of_memory(tail) is None:
        return Failure(message=message, log_tail=last)
    # The log has the requested bytes, but not how many of them were missing.
    return Failure(message=f"out of memory: {message}", log_tail=last, kind="out_of_memory")
