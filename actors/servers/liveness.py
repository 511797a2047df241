"""Detects a running server that has stopped answering. The model actor, which owns the process, decides.

A process may hang without ending: stopped, deadlocked, or in a paused container. Three cases look alike but
are not hangs: all HTTP threads of the server are busy with streams; the machine is slow or swapping; the
gateway itself stood still. So a server counts as hung only if none of its streams has received a byte and
several health checks in a row were not answered, for `PATIENCE` seconds in all.
"""

import math
import time
from typing import Protocol

import structlog

from actors.messages import ServerAddress
from actors.servers import ModelServer

log = structlog.get_logger("model")

LOOK = 0.5
"""Seconds between checks, which are cheap unless a health check is due."""
SILENCE = 3.0
"""Seconds without a byte on any stream after which a health check is sent, and between health checks."""
IDLE = 10.0
"""Seconds between health checks of an idle server."""
ANSWER = 2.5
"""Time-out of a health check, in seconds."""
CHECKS = 4
"""Unanswered health checks in a row. All of llama-server's threads may wait 5 s on idle connections."""
PATIENCE = 11.0
"""Seconds since the first unanswered check; a swapped server needs some time to return."""
BUSY_PATIENCE = 120.0
"""The same for a server that computes: with `--threads-http 1` a prompt occupies all threads."""
BUSY = 0.1
"""Processor seconds per second from which a server counts as computing."""
STANDSTILL = 1.5
"""Delay of a check, in seconds, from which the gateway or the machine counts as having stood still."""


class Requests(Protocol):
    """The front door's knowledge of the requests that model servers work on."""

    def asked_since(self, endpoint: ServerAddress) -> float | None:
        """Return since when a server has had requests (monotonic); -inf after a refusal, None for none."""

    def last_heard(self, endpoint: ServerAddress) -> float:
        """Return when a server last sent anything; -inf if long ago."""

    def abandon(self, endpoint: ServerAddress, reason: str) -> None:
        """End all requests of a server that is being killed."""

    def abandon_silent(self, endpoint: ServerAddress, reason: str) -> None:
        """End a server's silent requests: it counts as gone, and another program may have its port."""


class NoRequests:
    """Implements `Requests` without a front door."""

    def asked_since(self, endpoint: ServerAddress) -> float | None:
        """Return None: there are no requests."""

    def last_heard(self, endpoint: ServerAddress) -> float:
        """Return -inf: nothing is ever received."""
        return -math.inf

    def abandon(self, endpoint: ServerAddress, reason: str) -> None:
        """There is nothing to end."""

    def abandon_silent(self, endpoint: ServerAddress, reason: str) -> None:
        """There is nothing to end."""


NO_REQUESTS = NoRequests()


class Watch:
    """Watches one ready server. `scale` shortens all times, for tests."""

    def __init__(self, server: ModelServer, requests: Requests, *, scale: float = 1.0) -> None:
        self._server = server
        self._requests = requests
        self._scale = scale
        self._asked_at = time.monotonic()
        self._misses = 0
        self._first_miss = 0.0
        self._used = 0.0

    async def until_gone(self) -> str | None:
        """Wait until the server has ended (None) or hangs; then return the reason to kill it."""
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
        """Whether the gateway or the machine stood still, so that earlier checks are void."""
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
        """Send one health check. True also if the gateway itself stood still meanwhile."""
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
