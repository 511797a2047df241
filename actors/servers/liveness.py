"""Whether a server that runs still answers. Its actor asks; it alone decides, since it owns the process.

A process may stand still (stopped, deadlocked, a paused container) without ending. What looks like that and
is not: a server whose HTTP threads are all taken by streams; a slow or swapped machine; a gateway that stood
still itself. So a server is given up only when nothing has come on any of its streams and several health
checks in a row were not answered, for `PATIENCE` seconds in all.
"""

import math
import time
from typing import Protocol

import structlog

from actors.messages import ServerAddress
from actors.servers import ModelServer

log = structlog.get_logger("model")

LOOK = 0.5
"""Seconds between looks; each is a dictionary's entry, unless a health check is due."""
SILENCE = 3.0
"""Seconds without a byte on any of its streams after which a server is asked, and between the questions."""
IDLE = 10.0
"""Seconds between questions to a server that nobody asks for anything."""
ANSWER = 2.5
"""Seconds that a health check may take."""
CHECKS = 4
"""Unanswered in a row. All of llama-server's threads may be waiting, for 5 s, on idle connections."""
PATIENCE = 11.0
"""Seconds from the first of them; a swapped server needs some to come back."""
BUSY_PATIENCE = 120.0
"""The same of one that computes for somebody: with `--threads-http 1` a prompt takes all threads."""
BUSY = 0.1
"""Seconds of processor time in a second that are work."""
STANDSTILL = 1.5
"""Seconds that a look comes late after which the gateway, or the machine, stood still itself."""


class Requests(Protocol):
    """What the front door knows of the requests that model servers work on."""

    def asked_since(self, endpoint: ServerAddress) -> float | None:
        """Since when there have been requests there (monotonic); -inf after a refusal, None if none are."""

    def last_heard(self, endpoint: ServerAddress) -> float:
        """When anything last came from there; -inf if that is long ago."""

    def abandon(self, endpoint: ServerAddress, reason: str) -> None:
        """End all of its requests: the server is ended."""

    def abandon_silent(self, endpoint: ServerAddress, reason: str) -> None:
        """End those of its requests that nothing comes for: it counts as gone, and may be somebody else's."""


class NoRequests:
    """Where there is no front door. Implements `Requests`."""

    def asked_since(self, endpoint: ServerAddress) -> float | None:
        """Nothing is asked."""

    def last_heard(self, endpoint: ServerAddress) -> float:
        """Nothing comes."""
        return -math.inf

    def abandon(self, endpoint: ServerAddress, reason: str) -> None:
        """There is nothing to end."""

    def abandon_silent(self, endpoint: ServerAddress, reason: str) -> None:
        """There is nothing to end."""


NO_REQUESTS = NoRequests()


class Watch:
    """Looks after one server that is ready. `scale` makes all times shorter, for tests."""

    def __init__(self, server: ModelServer, requests: Requests, *, scale: float = 1.0) -> None:
        self._server = server
        self._requests = requests
        self._scale = scale
        self._asked_at = time.monotonic()
        self._misses = 0
        self._first_miss = 0.0
        self._used = 0.0

    async def until_gone(self) -> str | None:
        """Return None when the server has ended; or why it has to be, since it does not answer any more."""
        while True:
            expected = time.monotonic() + LOOK * self._scale
            await self._server.wait_exited(timeout=LOOK * self._scale)
            if self._server.exited:
                return None
            if self._stood_still(expected) or not self._is_due():
                continue
            answers = await self._answers()
            if self._server.exited:
                return None
            if self._server.lost_port:
                return "another program listens on the model server's port too"
            if not answers and (reason := await self._verdict()):
                return reason

    def _stood_still(self, expected: float) -> bool:
        """Whether the gateway or the whole machine did, so that what was seen before says nothing."""
        late = time.monotonic() - expected > STANDSTILL
        if late:
            self._misses = 0
            self._asked_at = time.monotonic()
        return late

    def _is_due(self) -> bool:
        now, endpoint = time.monotonic(), self._server.endpoint
        asked, heard = self._requests.asked_since(endpoint), self._requests.last_heard(endpoint)
        if heard >= self._first_miss:
            self._misses = 0
        silent = asked is not None and now - max(asked, heard) >= SILENCE * self._scale
        pause = SILENCE if silent or self._misses else IDLE
        return now - self._asked_at >= pause * self._scale

    async def _answers(self) -> bool:
        """Ask once. True also if the gateway itself stood still meanwhile."""
        self._asked_at = began = time.monotonic()
        limit = ANSWER * self._scale
        if await self._server.is_alive(limit) or self._stood_still(began + limit):
            self._misses = 0
            return True
        if not self._misses:
            self._first_miss = began
            self._used = await self._server.processor_seconds()
        self._misses += 1
        return False

    async def _verdict(self) -> str | None:
        now, endpoint = time.monotonic(), self._server.endpoint
        lasted = now - self._first_miss
        quiet = now - self._requests.last_heard(endpoint)
        if self._misses < CHECKS or min(lasted, quiet) < PATIENCE * self._scale:
            return None
        asked = self._requests.asked_since(endpoint) is not None
        if asked and lasted < BUSY_PATIENCE * self._scale and await self._has_worked(lasted):
            return None
        return (
            f"the model server does not answer: {self._misses} health checks in {lasted:.0f} s, all in vain"
        )

    async def _has_worked(self, lasted: float) -> bool:
        return await self._server.processor_seconds() - self._used > BUSY * lasted
