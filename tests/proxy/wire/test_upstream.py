"""Connections to model servers: reuse, death, silence."""

import asyncio
import itertools
import math
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import ApiKey, ServerAddress
from actors.runtime import spawn
from actors.servers.sockets import listening
from proxy.answers.relay import BodyCollector
from proxy.wire.http1 import HEAD_LIMIT
from proxy.wire.sse import EventTooLongError
from proxy.wire.upstream import Upstream, render_request
from proxy.wire.upstream_connection import (
    UnreachableError,
    UpstreamError,
    UpstreamResponse,
    UpstreamTimeoutError,
)
from tests.proxy.scripted import (
    END,
    STREAM,
    Do,
    Script,
    ScriptedServer,
    chunk,
    head,
    scripted,
    whole,
)

OPEN = head("Content-Type: text/plain")
A, B = whole(b"a"), whole(b"b")


@asynccontextmanager
async def response_of(
    upstream: Upstream, endpoint: ServerAddress, message: bytes
) -> AsyncIterator[UpstreamResponse]:
    """The response to a message, given back at the end."""
    response = await upstream.send(endpoint, message)
    try:
        yield response
    finally:
        upstream.give_back(endpoint, response)


async def get(upstream: Upstream, server: ScriptedServer) -> bytes:
    """The body of the answer to a request."""
    message = render_request("GET", "/", {}, None, server.endpoint)
    async with response_of(upstream, server.endpoint, message) as response:
        collector = BodyCollector(2**20)
        response.attach(collector.feed)
        await response.finish()
        return collector.body


async def get_twice(*scripts: Script) -> tuple[ScriptedServer, bytes]:
    """Two requests, one after the other; the server, and the second answer."""
    upstream = Upstream(silence_limit=60)
    async with scripted(*scripts) as server:
        assert await get(upstream, server) == b"a"
        answer = await get(upstream, server)
        await upstream.close()
    return server, answer


@pytest.mark.parametrize(
    ("first", "connections"),
    [
        (A, 1),
        (head("Content-Length: 1", "Connection: Keep-Alive", version="1.0") + b"a", 1),
        (head("Transfer-Encoding: chunked") + chunk(b"a") + END, 1),
        (head("Transfer-Encoding: chunked") + b"1;x=y\r\na\r\n000\r\nTrailer: 1\r\n\r\n", 1),
        (whole(b"a", "Connection: close"), 2),
        (whole(b"a", "Connection: Close"), 2),
        (head("Content-Length: 1", version="1.0") + b"a", 2),
    ],
)
async def test_a_connection_is_used_again_if_the_server_lets_us(first: bytes, connections: int) -> None:
    server, answer = await get_twice([first, Do.NEXT, B], [B])
    assert (len(server.connections), answer) == (connections, b"b")


async def test_concurrent_requests_have_connections_of_their_own() -> None:
    gate = asyncio.Event()
    upstream = Upstream(silence_limit=60)
    async with scripted([gate, A, Do.NEXT, B, Do.NEXT, B]) as server:
        first = spawn(get(upstream, server), name="first")
        second = spawn(get(upstream, server), name="second")
        while len(server.requests) < 2:
            server.asked.clear()
            await server.asked.wait()
        gate.set()
        assert [await first, await second] == [b"a", b"a"]
        assert [await get(upstream, server), await get(upstream, server)] == [b"b", b"b"]
        assert len(server.connections) == 2
        await upstream.close()
        for connection in server.connections:
            await connection.gone.wait()


@pytest.mark.parametrize("end", [Do.CLOSE, Do.RESET])
async def test_a_stale_connection_is_replaced(end: Do) -> None:
    """The server closes it just when the next request comes: that has harmed nobody, so we ask again."""
    server, answer = await get_twice([A, Do.NEXT, end], [B])
    assert answer == b"b"
    assert len(server.connections) == 2
    assert len(server.requests) == 3, "the request was sent again"


async def test_a_connection_that_the_server_closed_in_the_pool_is_forgotten() -> None:
    gate = asyncio.Event()
    upstream = Upstream(silence_limit=60)
    async with scripted([A, gate, Do.CLOSE], [B]) as server:
        assert await get(upstream, server) == b"a"
        gate.set()
        await server.connections[0].gone.wait()
        assert await get(upstream, server) == b"b"
        assert len(server.requests) == 2
        await upstream.close()


@pytest.mark.parametrize("second", [[Do.CLOSE], [Do.RESET], [b"HTTP/1.1 2", Do.CLOSE]])
async def test_a_request_is_not_repeated_when_it_may_have_done_something(second: list[bytes | Do]) -> None:
    """Not on a new connection, and not when a byte of the answer has come."""
    upstream = Upstream(silence_limit=60)
    script = second if isinstance(second[0], Do) else [A, Do.NEXT, *second]
    async with scripted(script, [B]) as server:
        if script is not second:
            await get(upstream, server)
        with pytest.raises(UpstreamError, match="closed the connection"):
            await get(upstream, server)
        assert len(server.connections) == 1
        await upstream.close()


async def test_surplus_bytes_are_nobodys_answer() -> None:
    server, answer = await get_twice([A + b"HTTP/1.1 200 OK\r\n\r\nsmuggled", Do.NEXT, B], [B])
    assert answer == b"b"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([Do.CLOSE], "closed the connection"),
        ([b"HTTP/1.1 200", Do.CLOSE], "closed the connection before"),
        ([head("Content-Length: 5") + b"abc", Do.CLOSE], "closed the connection before"),
        ([STREAM + b"5\r\nab", Do.CLOSE], "closed the connection before"),
        ([STREAM + chunk(b"ab"), Do.CLOSE], "closed the connection before"),
        ([STREAM + chunk(b"ab") + b"0\r\n", Do.CLOSE], "closed the connection before"),
        ([OPEN + b"ab", Do.RESET], "closed the connection before"),
        ([b"I am no HTTP server\r\n\r\n"], "not HTTP"),
        ([b"\x16\x03\x01\r\n\r\n"], "not HTTP"),
        ([b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n"], "not HTTP"),
        ([head("Content-Length: \xb2")], "not HTTP"),
        ([head("Content-Length: 5, 6")], "not HTTP"),
        ([b"HTTP/1.1 200 OK\r\nA: " + b"x" * HEAD_LIMIT + b"\r\n"], "not HTTP"),
        ([STREAM + b"xyz\r\n"], "not HTTP"),
        ([STREAM + b"-5\r\nhello\r\n"], "not HTTP"),
    ],
)
async def test_broken_answers(script: Script, words: str) -> None:
    upstream = Upstream(silence_limit=60)
    async with scripted(script) as server:
        with pytest.raises(UpstreamError, match=words):
            await get(upstream, server)
        await server.connections[0].gone.wait()
        assert len(server.requests) == 1


async def test_nobody_listens() -> None:
    async with scripted([]) as server:
        pass
    with pytest.raises(UpstreamError, match="does not accept connections"):
        await get(Upstream(silence_limit=60), server)


async def test_interim_answers_are_skipped() -> None:
    interim = head(status="100 Continue") + head("Link: x", status="103 Early Hints")
    async with scripted([interim + whole(b"a", "Connection: close")]) as server:
        assert await get(Upstream(silence_limit=60), server) == b"a"


async def test_a_body_that_ends_with_the_connection() -> None:
    async with scripted([OPEN + b"all of it", Do.CLOSE]) as server:
        assert await get(Upstream(silence_limit=60), server) == b"all of it"


@pytest.mark.parametrize("script", [[], [b"HTTP/1.1 200"], [STREAM], [STREAM, chunk(b"a")]])
async def test_silence(script: Script) -> None:
    async with scripted(script) as server:
        with pytest.raises(UpstreamTimeoutError, match=r"silent for 0\.02 s"):
            await get(Upstream(silence_limit=0.02), server)
        await server.connections[0].gone.wait()


async def test_a_paused_server_is_not_silent() -> None:
    """Who waits for a slow client is not to blame; the one that began later and is silent is given up."""
    upstream = Upstream(silence_limit=0.05)
    gate = asyncio.Event()
    async with scripted([STREAM, gate, chunk(b"late"), END], [STREAM]) as server:
        message = render_request("GET", "/", {}, None, server.endpoint)
        async with response_of(upstream, server.endpoint, message) as slow:
            slow.pause()
            for _ in range(2):
                with pytest.raises(UpstreamTimeoutError):
                    await get(upstream, server)
            slow.resume()
            gate.set()
            collector = BodyCollector(100)
            slow.attach(collector.feed)
            await slow.finish()
            assert collector.body == b"late"
        await upstream.close()


async def test_it_tells_when_a_server_was_last_heard() -> None:
    upstream = Upstream(silence_limit=0.04)  # looks every 10 ms
    gate, more = asyncio.Event(), asyncio.Event()
    script: Script = [STREAM, gate, chunk(b"x"), more, END]
    async with scripted(script) as server:
        endpoint = server.endpoint
        assert (upstream.asked_since(endpoint), upstream.last_heard(endpoint)) == (None, -math.inf)
        began = time.monotonic()
        message = render_request("GET", "/", {}, None, endpoint)
        async with response_of(upstream, endpoint, message) as response:
            await poll(lambda: upstream.last_heard(endpoint) > began)
            asked = upstream.asked_since(endpoint)
            assert asked is not None
            assert asked >= began
            before = upstream.last_heard(endpoint)
            gate.set()
            await poll(lambda: upstream.last_heard(endpoint) > before)
            more.set()
            await response.finish()
        await poll(lambda: upstream.asked_since(endpoint) is None)
        assert upstream.last_heard(endpoint) > before, "and that is known for a while"
        await upstream.close()


async def test_a_server_that_refused_is_looked_after() -> None:
    upstream = Upstream(silence_limit=60)
    async with scripted([]) as server:
        pass
    with pytest.raises(UnreachableError):
        await get(upstream, server)
    assert upstream.asked_since(server.endpoint) == -math.inf
    await upstream.close()


async def test_what_a_hung_server_has_not_begun_to_answer_may_be_asked_again() -> None:
    upstream = Upstream(silence_limit=60)
    async with scripted([], [STREAM, chunk(b"x")]) as server, scripted([STREAM, chunk(b"y")]) as other:
        unanswered = spawn(get(upstream, server), name="unanswered")
        await poll(lambda: len(server.requests) == 1)
        message = render_request("GET", "/", {}, None, server.endpoint)
        async with (
            response_of(upstream, server.endpoint, message) as begun,
            response_of(upstream, other.endpoint, message) as others,
        ):
            upstream.abandon(server.endpoint, "it hangs")
            with pytest.raises(UnreachableError, match="it hangs"):
                await unanswered
            with pytest.raises(UpstreamError, match="it hangs") as caught:
                await begun.finish()
            assert not isinstance(caught.value, UnreachableError)
            collector = BodyCollector(10)
            others.attach(collector.feed)
            others.resume()
            await poll(lambda: collector.body == b"y")
        await upstream.close()


async def poll(condition: Callable[[], object]) -> None:
    """Return when it is so."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (the upstream's looks tell nobody)
            await asyncio.sleep(0.002)


async def test_a_server_that_refuses_its_key_is_another_programs() -> None:
    upstream = Upstream(silence_limit=60)
    denied = whole(b"no", status="401 Unauthorized")
    async with scripted([denied, Do.NEXT, denied], [denied]) as server:
        assert await get(upstream, server) == b"no", "of one without a key it is the answer"
        server.endpoint = msgspec.structs.replace(server.endpoint, key=ApiKey("secret"), refuses=True)
        with pytest.raises(UnreachableError, match="another program"):
            await get(upstream, server)
        assert [got.all("authorization") for got in server.requests] == [[], ["Bearer secret"]]
        assert upstream.asked_since(server.endpoint) == -math.inf
        await upstream.close()


async def test_nothing_is_sent_to_a_port_where_others_listen_too() -> None:
    upstream = Upstream(silence_limit=60)
    async with scripted([B, Do.NEXT, B], [B]) as server:
        endpoint = server.endpoint
        sockets = listening(endpoint.host, endpoint.port)
        assert sockets is not None
        assert len(sockets) == 1
        server.endpoint = msgspec.structs.replace(endpoint, sockets=sockets)
        assert await get(upstream, server) == b"b"
        server.endpoint = msgspec.structs.replace(endpoint, sockets=frozenset([1]))
        with pytest.raises(UnreachableError, match="another program"):
            await get(upstream, server)
        assert len(server.requests) == 1
        await upstream.close()


Use = Callable[[Upstream, ScriptedServer], Awaitable[object]]


async def leave_after_the_head(upstream: Upstream, server: ScriptedServer) -> None:
    message = render_request("GET", "/", {}, None, server.endpoint)
    async with response_of(upstream, server.endpoint, message):
        pass


async def leave_before_the_head(upstream: Upstream, server: ScriptedServer) -> None:
    task = spawn(get(upstream, server), name="leaver")
    await server.asked.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize(
    ("script", "use"),
    [
        ([], leave_before_the_head),
        ([STREAM], leave_after_the_head),
        ([STREAM, chunk(b"x")], leave_after_the_head),
    ],
)
async def test_leaving_early_closes_the_connection(script: Script, use: Use) -> None:
    async with scripted(script) as server:
        await use(Upstream(silence_limit=60), server)
        await server.connections[0].gone.wait()


async def test_a_sinks_fault_is_told_to_the_one_who_waits() -> None:
    gate = asyncio.Event()
    async with scripted([STREAM, gate, chunk(b"x")]) as server:
        message = render_request("GET", "/", {}, None, server.endpoint)
        async with response_of(Upstream(silence_limit=60), server.endpoint, message) as response:
            response.attach(BodyCollector(0).feed)
            gate.set()
            with pytest.raises(EventTooLongError):
                await response.finish()
        await server.connections[0].gone.wait()


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent = bytes(data)

    def abort(self) -> None:
        self.aborted = True


@given(st.lists(st.integers(0, 400)), st.sampled_from(["length", "chunked"]))
async def test_any_cut_gives_the_same_answer(cuts: list[int], framing: str) -> None:
    body = bytes(range(256))
    framed = (
        whole(body, "A: 1", "a: 2")
        if framing == "length"
        else head("A: 1", "a: 2", "Transfer-Encoding: chunked") + chunk(body[:9]) + chunk(body[9:]) + END
    )
    response = UpstreamResponse()
    response.connection_made(Wire())
    sending = spawn(response.send(b"GET"), name="send")
    await asyncio.sleep(0)
    for start, end in itertools.pairwise([0, *sorted(cut for cut in cuts if cut < len(framed)), len(framed)]):
        response.data_received(framed[start:end])
    await sending
    assert (response.head.status, response.head.headers["a"]) == (200, "1, 2")
    collector = BodyCollector(1000)
    response.attach(collector.feed)
    assert response.finished
    assert collector.body == body
    assert response.reusable


@pytest.mark.parametrize(
    ("host", "body", "expected"),
    [
        ("127.0.0.1", None, b"GET /a?b=%20 HTTP/1.1\r\nHost: 127.0.0.1:80\r\nX: y\r\n\r\n"),
        ("::1", b"", b"GET /a?b=%20 HTTP/1.1\r\nHost: [::1]:80\r\nX: y\r\nContent-Length: 0\r\n\r\n"),
        ("h", b"hi", b"GET /a?b=%20 HTTP/1.1\r\nHost: h:80\r\nX: y\r\nContent-Length: 2\r\n\r\nhi"),
    ],
)
def test_rendered_requests(host: str, body: bytes | None, expected: bytes) -> None:
    assert render_request("GET", "/a?b=%20", {"X": "y"}, body, ServerAddress(host, 80)) == expected


def test_much_that_comes_at_once_leaves_others_their_turn() -> None:
    size = 32 * 2**20
    turns: list[int] = []

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(head(f"Content-Length: {size}") + bytes(size))

    async def receive(endpoint: ServerAddress) -> int:
        """The bytes of all; `turns` has how many of them came between two turns of the loop."""
        loop = asyncio.get_running_loop()
        received = last = 0

        def sink(payload: bytes, _raw: bytes | None) -> None:
            nonlocal received
            received += len(payload)

        def turn() -> None:
            nonlocal last
            turns.append(received - last)
            last = received
            if received < size:
                loop.call_soon(turn)

        upstream = Upstream(silence_limit=60)
        async with response_of(
            upstream, endpoint, render_request("GET", "/", {}, None, endpoint)
        ) as response:
            response.attach(sink)
            turn()
            await response.finish()
        await upstream.close()
        return received

    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = threading.Thread(target=answer, args=(listener,))  # not of the loop that is looked at
        sender.start()
        assert uvloop.run(receive(ServerAddress("127.0.0.1", listener.getsockname()[1]))) == size
        sender.join()
    assert max(turns) <= 2**18, "the most that uvloop reads at once"
