"""Whether a server that runs still answers: what counts against it, and what does not."""

import asyncio
import time

from actors.messages import ServerAddress
from actors.runtime import spawn
from actors.servers.liveness import CHECKS, PATIENCE, Watch
from tests.actors.fake_backend import FakeServer

SCALE = 0.02
"""Of all times: patience is 0.22 s."""


class FakeRequests:
    """What is asked of the server."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.flows = False
        self.heard_at = float("-inf")

    def asked_since(self, endpoint: ServerAddress) -> float | None:
        return self.since

    def last_heard(self, endpoint: ServerAddress) -> float:
        return time.monotonic() if self.flows else self.heard_at

    def abandon(self, endpoint: ServerAddress, reason: str) -> None:
        raise AssertionError("that is its actor's")

    abandon_silent = abandon


class Server(FakeServer):
    """One that counts the questions, and uses `rate` seconds of the processor in each second."""

    def __init__(self, *, hangs: bool = False, rate: float = 0.0) -> None:
        super().__init__(ServerAddress("127.0.0.1", 1))
        self.hangs = hangs
        self.rate = rate
        self.asked = 0
        self.was_asked = asyncio.Event()

    async def is_alive(self, timeout: float) -> bool:
        self.asked += 1
        self.was_asked.set()
        return await super().is_alive(timeout)

    async def processor_seconds(self) -> float:
        return time.monotonic() * self.rate


async def verdict(server: Server, requests: FakeRequests, timeout: float) -> str | None:
    """What is said of the server within `timeout` seconds; it ends then."""
    task = spawn(Watch(server, requests, scale=SCALE).until_gone(), name="watch")
    await asyncio.wait([task], timeout=timeout)
    server.died.set()
    return await task


async def test_one_that_hangs_is_found_while_it_is_asked_and_while_it_is_idle() -> None:
    for since in (time.monotonic(), None):
        server, requests = Server(hangs=True), FakeRequests()
        requests.since = since
        began = time.monotonic()
        reason = await verdict(server, requests, 20)
        assert reason is not None
        assert "does not answer" in reason
        assert server.asked == CHECKS
        assert time.monotonic() - began >= PATIENCE * SCALE


async def test_one_that_takes_no_connections_is_found_although_it_says_so_at_once() -> None:
    class Refuses(Server):
        async def is_alive(self, timeout: float) -> bool:
            self.asked += 1
            return False

    server, requests = Refuses(), FakeRequests()
    requests.since = float("-inf")
    began = time.monotonic()
    assert await verdict(server, requests, 20)
    assert time.monotonic() - began >= PATIENCE * SCALE


async def test_one_whose_streams_flow_is_not_even_asked() -> None:
    server, requests = Server(hangs=True), FakeRequests()
    requests.since, requests.flows = time.monotonic(), True
    watched = spawn(verdict(server, requests, 0.3), name="watched")
    assert await watched is None
    assert server.asked <= 1, "now and then, as if it were idle"


async def test_a_stream_that_goes_on_makes_it_begin_anew() -> None:
    server, requests = Server(hangs=True), FakeRequests()
    requests.since = time.monotonic()
    watched = spawn(verdict(server, requests, 1.0), name="watched")
    while not watched.done():
        # Flowing again before patience is at its end, each time.
        await asyncio.sleep(PATIENCE * SCALE / 2)
        requests.heard_at = time.monotonic()
    assert await watched is None


async def test_an_answer_in_time_makes_it_begin_anew() -> None:
    server, requests = Server(hangs=True), FakeRequests()
    requests.since = time.monotonic()
    watched = spawn(verdict(server, requests, 1.0), name="watched")
    while not watched.done():
        await asyncio.sleep(PATIENCE * SCALE / 2)
        server.hangs = False
        await asyncio.sleep(PATIENCE * SCALE / 2)
        server.hangs = True
    assert await watched is None


async def test_one_that_works_for_somebody_has_more_time_than_one_that_works_for_nobody() -> None:
    for since, found in ((time.monotonic(), False), (None, True)):
        server, requests = Server(hangs=True, rate=1.0), FakeRequests()
        requests.since = since
        assert bool(await verdict(server, requests, 1.0 if not found else 20)) is found


async def test_what_happens_while_the_gateway_itself_stands_still_does_not_count() -> None:
    server, requests = Server(hangs=True), FakeRequests()
    requests.since = time.monotonic()
    watched = spawn(verdict(server, requests, 20), name="watched")
    while server.asked < CHECKS - 1:
        await server.was_asked.wait()
        server.was_asked.clear()
    asked = server.asked
    time.sleep(1.6)
    assert await watched is not None
    assert server.asked >= asked + CHECKS, "counted from the beginning"
