"""A model server's output in the gateway's log, and in words for its clients."""

import asyncio
import logging
import re
import time
from collections.abc import Mapping, Sequence

import structlog

from actors.errors import Failure
from actors.servers.llama.log import BufferLog, out_of_memory

log = structlog.get_logger("model")

_BAD_NEWS = re.compile(
    r"\b(error|failed|failure|unable|cannot|could ?n.t|invalid|exception|abort|assert|out of memory|not)\b",
    re.I,
)
_SEVERE = re.compile(r"^(?:[\d.]+ )?[WE]\s|\b(?:error|failed)\b", re.IGNORECASE)
_ERROR = re.compile(r"^(?:[\d.]+ )?E\s|\b(?:error|failed)\b", re.IGNORECASE)
"""While it serves, llama-server warns about ordinary things with every request."""
_PROVOKED = re.compile(r"unauthorized: Invalid API Key\s*$")
"""While it loads the gateway asks without the key, to know whether it is needed (`health.ask_for_key`)."""

BURST = 2000
"""Lines that a server may write into the gateway's log at once: it tells much while it loads."""
RATE = 100.0
"""Lines a second after that."""
REPORT_PAUSE = 10.0
"""Seconds after which it is said how many lines were left out."""
LOOKED_AT = 500
"""Characters of a line in which its severity shows."""


class _Budget:
    """So many lines at once, and so many a second."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._at = time.monotonic()

    def allows(self) -> bool:
        """Whether one more may go."""
        if self._left < 1:
            now = time.monotonic()
            self._left = min(BURST, self._left + (now - self._at) * RATE)
            self._at = now
            if self._left < 1:
                return False
        self._left -= 1
        return True


class ServerLog:
    """A server's lines on their way into the gateway's log, and the sizes of its buffers among them.

    Of a flood only some lines a second get there, severe ones and others counted apart; how many were left
    out is said.
    """

    def __init__(self, model: str, epoch: int) -> None:
        self._log = log.bind(model=model, epoch=epoch, source="model server")
        self._buffers = BufferLog()
        self._loading = True
        self._severe, self._ordinary = _Budget(), _Budget()
        self.left_out = 0
        """Lines that were, since it was last said."""
        self._report: asyncio.TimerHandle | None = None

    def take(self, line: str) -> None:
        """One line."""
        severe = self._is_severe(line)
        if not (severe or self._loading or self._log.is_enabled_for(logging.DEBUG)):
            return
        if not (self._severe if severe else self._ordinary).allows():
            self._leave_out()
        elif severe:
            self._log.warning("server log", line=line)
        elif self._loading:
            self._log.info("server log", line=line)
        else:
            self._log.debug("server log", line=line)
        if self._loading:
            self._buffers.feed(line)

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
        """Say how many lines were left out, and begin to count anew."""
        self._log.warning("server log left out", lines=self.left_out, seconds=REPORT_PAUSE)
        self.left_out, self._report = 0, None

    def loaded(self) -> None:
        """Loading is over: from now on it is interesting only when something is wrong."""
        self._loading = False

    @property
    def buffers(self) -> Mapping[str, Mapping[str, int]]:
        """Bytes by device and kind, as it told while it loaded."""
        return self._buffers.sizes

    @property
    def uses_no_gpu(self) -> bool:
        """Whether it told that nothing of the model is on a GPU."""
        return self._buffers.uses_no_gpu


def explain_end(how: str, when: str, tail: Sequence[str]) -> Failure:
    """Why a server ended, with the log lines that look like its cause. `how` is said of the server."""
    cause = [line[:LOOKED_AT] for line in tail if _BAD_NEWS.search(line)][-3:]
    said = f"; its log says: {' / '.join(cause)}" if cause else ""
    message = f"the model server {how} {when}{said}"
    last = tuple(tail)[-20:]
    if out_of_memory(tail) is None:
        return Failure(message=message, log_tail=last)
    # What was asked for and could not be had is told, but not how much of it was lacking.
    return Failure(message=f"out of memory: {message}", log_tail=last, kind="out_of_memory")
