"""Streams through the door: what comes through, and what becomes of it when one side fails."""

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any, cast

import pytest
import structlog
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from actors.runtime import spawn
from proxy.answers.relay import BodyCollector, Relay, count_tokens
from proxy.wire.http1 import ChunkedBody
from proxy.wire.sse import BUFFER_LIMIT, EventTooLongError
from proxy.wire.upstream_connection import UpstreamResponse
from tests.proxy.scripted import (
    DONE,
    END,
    STREAM,
    Answer,
    Client,
    Connection,
    Do,
    Door,
    FakeSupervisor,
    Json,
    Script,
    Step,
    chunk,
    door,
    event,
    head,
    request_body,
    said,
    scripted,
    streamed,
    unchunk,
    whole,
)

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
PATHS = [CHAT, RESPONSES]
HELLO = said("hello")
MIB = 2**20

# In memory: any cut


class FakeRequest:
    """As much of a request as the relay needs: `wire` is what its client got."""

    def __init__(self) -> None:
        self.transport = self
        self.protocol = self
        self.writing_paused = False
        self.on_pause: Callable[[], None] | None = None
        self.wire = b""

    def write(self, data: bytes) -> None:
        self.wire += data


class FakeConnection(asyncio.Transport):
    """The upstream's transport."""

    aborted = False
    protocol: asyncio.BaseProtocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.aborted

    def receive(self, data: bytes) -> None:
        """As if `data` had come from the model server."""
        assert isinstance(self.protocol, asyncio.Protocol)
        self.protocol.data_received(data)

    def write(self, _data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


async def relaying(
    *, chunked: bool = True, delimiter: bytes = b"\n\n", **options: Any
) -> tuple[FakeConnection, Relay, FakeRequest]:
    """The connection of a response whose head has come, with a relay attached to it."""
    response, request, connection = UpstreamResponse(), FakeRequest(), FakeConnection()
    connection.set_protocol(response)
    response.connection_made(connection)
    sending = spawn(response.send(b""), name="send")
    await asyncio.sleep(0)
    connection.receive(STREAM)
    await sending
    relay = Relay(cast("web.Request", request), response, delimiter=delimiter, chunked=chunked, **options)
    response.attach(relay.feed, relay)
    return connection, relay, request


LINES = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=12)
EVENT_LINES = st.lists(
    st.builds(str.__add__, st.sampled_from(["data: ", "data:", "event: ", ":", "id: "]), LINES),
    min_size=1,
    max_size=3,
)
EVENTS = st.lists(st.tuples(EVENT_LINES, st.sampled_from(["\n", "\r\n"])), min_size=1, max_size=5).map(
    lambda events: [(end.join(lines) + end + end).encode() for lines, end in events]
)
CUTS = st.lists(st.integers(0, 500), max_size=12)


def cut_at(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces, none of them empty."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(EVENTS, CUTS, CUTS, st.sampled_from([b"%x", b"%X", b"%04x"]), st.booleans())
async def test_only_whole_events_pass_and_at_once(
    events: list[bytes], chunk_cuts: list[int], wire_cuts: list[int], size: bytes, chunked: bool
) -> None:
    """Whatever the chunks and the reads are: at each moment an error frame could follow."""
    payload = b"".join(events)
    ends = list(itertools.accumulate(map(len, events), initial=0))
    chunks = cut_at(payload, chunk_cuts)
    wire = b"".join(size % len(piece) + b"\r\n" + piece + b"\r\n" for piece in chunks) + END
    connection, relay, request = await relaying(chunked=chunked)
    decoder, come = ChunkedBody(), 0
    for piece in cut_at(wire, wire_cuts):
        connection.receive(piece)
        come += len(decoder.feed(piece))
        got = b"".join(unchunk(request.wire)) if chunked else request.wire
        assert payload.startswith(got)
        assert len(got) == max(end for end in ends if end <= come)
    await relay.run(1)
    assert (b"".join(unchunk(request.wire)) if chunked else request.wire) == payload


@given(
    st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=6), CUTS, CUTS
)
async def test_only_whole_lines_pass_and_at_once(
    lines: list[bytes], chunk_cuts: list[int], wire_cuts: list[int]
) -> None:
    payload = b"".join(lines)
    ends = list(itertools.accumulate(map(len, lines), initial=0))
    wire = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in cut_at(payload, chunk_cuts)) + END
    connection, relay, request = await relaying(delimiter=b"\n")
    decoder, come = ChunkedBody(), 0
    for piece in cut_at(wire, wire_cuts):
        connection.receive(piece)
        come += len(decoder.feed(piece))
        assert len(b"".join(unchunk(request.wire))) == max(end for end in ends if end <= come)
    await relay.run(1)
    assert b"".join(unchunk(request.wire)) == payload


async def test_an_endless_event_ends_the_stream() -> None:
    connection, relay, _ = await relaying()
    connection.receive(chunk(b"data: " + b"x" * (BUFFER_LIMIT // 2)))
    connection.receive(chunk(b"x" * (BUFFER_LIMIT // 2)))
    with pytest.raises(EventTooLongError):
        await relay.run(1)


@pytest.mark.parametrize(
    "wire",
    [
        b"xyz\r\ndata: 1\n\n\r\n",
        b"0xb\r\ndata: 1234\n\n\r\n",
        b"+9\r\ndata: 1\n\n\r\n",
        b"9\r\ndata: 1\n\nXX",
    ],
)
async def test_a_chunk_that_is_none_never_reaches_the_client(wire: bytes) -> None:
    connection, _, request = await relaying()
    connection.receive(chunk(HELLO))
    before = request.wire
    connection.receive(wire)
    connection.receive(wire)
    unchunk(request.wire)
    assert b"xyz" not in request.wire
    assert request.wire == before or b"".join(unchunk(request.wire)).startswith(HELLO + b"data: 1")


def test_the_collector_has_a_limit() -> None:
    collector = BodyCollector(4)
    collector.feed(b"ab", None)
    collector.feed(b"cd", None)
    assert collector.body == b"abcd"
    with pytest.raises(EventTooLongError):
        collector.feed(b"e", None)


@pytest.mark.parametrize(
    ("places", "counts"),
    [
        ([b""], {}),
        ([b'"usage":{"completion_tokens":5,"prompt_tokens":9,"total_tokens":14}'], (9, None, 5)),
        ([b'"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":4}'], (9, 4, None)),
        ([b'"timings":{"cache_n":3,"prompt_n":9,"predicted_n":5}'], (12, 3, 5)),
        (
            [b'"input_tokens":9,"cache_read_input_tokens":2', b'"output_tokens":1', b'"output_tokens":7'],
            (11, 2, 7),
        ),
        ([b'"input_tokens": 9, "output_tokens": 7'], (9, None, 7)),
        ([b'"content":"\\"prompt_n\\":1"', b'"prompt_tokens":2'], (2, None, None)),
    ],
)
def test_token_counts(places: list[bytes], counts: Any) -> None:
    names = ("prompt_tokens", "cached_tokens", "completion_tokens")
    expected = {name: count for name, count in zip(names, counts, strict=False) if count is not None}
    assert count_tokens(*places) == expected


# What comes through


async def test_a_stream() -> None:
    events = [said("\u00e9\u4e16\U0001f600"), b":\n\n", said("\x00"), b"data: \xff\xfe\n\n", DONE]
    async with scripted(streamed(*events)) as server, door(server) as opened:
        body = {"model": "org/demo:latest", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with opened.session.post(CHAT, json=body, headers={"X-Request-Id": "mine"}) as response:
            assert await response.read() == b"".join(events)
            assert response.status == 200
            headers = response.headers
        await opened.supervisor.freed.wait()
        assert opened.supervisor.served == [True]
    expected = {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
        "X-Request-Id": "mine",
        "Transfer-Encoding": "chunked",
    }
    assert {name: headers.get(name) for name in expected} == expected
    assert "Content-Length" not in headers
    assert server.requests[0].line == "POST /v1/chat/completions HTTP/1.1"
    assert server.requests[0].all("x-request-id") == ["mine"]
    assert server.requests[0].json == {**body, "return_progress": True}


@pytest.mark.parametrize("way", ["in the framing", "between chunks"])
async def test_an_event_that_was_cut_anywhere_arrives_whole(way: str) -> None:
    """`marker` arrives with the first part of `HELLO`, which must not pass before its last byte."""
    marker, wire = said("marker"), chunk(HELLO)
    pairs = (
        [(wire[:cut], wire[cut:]) for cut in range(1, len(wire) - len("\r\n"))]
        if way == "in the framing"
        else [(chunk(HELLO[:cut]), chunk(HELLO[cut:])) for cut in range(1, len(HELLO))]
    )
    gates = [(asyncio.Event(), asyncio.Event()) for _ in pairs]
    script: list[Step] = [STREAM]
    for (first, second), (half, done) in zip(pairs, gates, strict=True):
        script += [chunk(marker) + first, half, second, done]
    async with scripted([*script, chunk(DONE), END]) as server, door(server) as opened:
        client = await opened.ask()
        await client.head()
        for half, done in gates:
            assert await client.chunk() == marker
            half.set()
            assert await client.chunk() == HELLO
            done.set()
        assert await client.body() == DONE


async def test_a_client_of_http_1_0_gets_the_bare_stream() -> None:
    async with scripted(streamed(HELLO, DONE)) as server, door(server) as opened:
        client = await opened.connect()
        body = request_body(CHAT, stream=True)
        await client.post(CHAT, body, "Connection: keep-alive", version="1.0")
        answer = await client.head()
        assert answer.framing == "close"
        assert answer.headers.get("connection", "close") != "keep-alive"
        assert await client.rest() == HELLO + DONE


async def test_connections_to_the_model_server_are_kept() -> None:
    scripts = [*streamed(HELLO, DONE), Do.NEXT, *streamed(HELLO, DONE)]
    async with scripted(scripts) as server, door(server) as opened:
        client = await opened.connect()
        for _ in range(2):
            await client.post(CHAT, request_body(CHAT, stream=True))
            assert HELLO in (await client.answer()).body
        assert (len(server.connections), len(server.requests)) == (1, 2)


PROGRESS = event(
    {"choices": [], "prompt_progress": {"total": 9, "cache": 0, "processed": 4, "time_ms": 1}, "object": "x"}
)


@pytest.mark.parametrize(
    ("path", "fields", "events", "expected"),
    [
        (CHAT, {}, [PROGRESS, b":\n\n", PROGRESS, HELLO, DONE], [HELLO, DONE]),
        (
            CHAT,
            {"return_progress": True},
            [PROGRESS, PROGRESS, HELLO, DONE],
            [PROGRESS, PROGRESS, HELLO, DONE],
        ),
        (CHAT, {}, [said('"prompt_progress":{'), DONE], [said('"prompt_progress":{'), DONE]),
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_progress_events(
    path: str, fields: Json, events: list[bytes], expected: list[bytes], together: bool
) -> None:
    """The gateway asks for them; a client that did not must not see them."""
    payload = [b"".join(events)] if together else events
    async with scripted(streamed(*payload)) as server, door(server) as opened:
        answer = await (await opened.ask(path, **fields)).answer()
        assert answer.body == b"".join(expected)
        assert server.requests[0].json["return_progress"] is True


# What fails


def frame_of(path: str, frame: bytes) -> tuple[str | None, str]:
    """The code and the message in the event that ends a broken stream."""
    kind, _, data = frame.rpartition(b"\n\nevent: ")[2].partition(b"data: ")
    assert frame.endswith(b"\n\n")
    body = json.loads(data)
    if path == RESPONSES:
        error = body["response"]["error"]
        assert (kind, error["code"]) == (b"response.failed\n", "server_error")
        return error["type"], error["message"]
    assert kind == (b"" if path == CHAT else b"event: error\n")
    return error_of(body)


def error_of(body: Json) -> tuple[str | None, str]:
    """The same of an error's body."""
    error = body["error"]
    assert set(error) >= {"message", "type", "code", "param"}
    return error["code"], error["message"]


BEFORE: dict[str, Script] = {
    "no byte": [Do.CLOSE],
    "reset": [Do.RESET],
    "in the head": [STREAM[:20], Do.CLOSE],
    "after the head": [STREAM, Do.CLOSE],
    "in the first event": [STREAM, chunk(HELLO[:9]), Do.CLOSE],
    "in the first chunk": [STREAM, chunk(HELLO)[:9], Do.CLOSE],
    "after progress": [STREAM, chunk(PROGRESS), b"5\r", Do.CLOSE],
    "no HTTP": [b"I am no HTTP server\r\n\r\n"],
    "no chunk": [STREAM, b"I am no chunk\r\n"],
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("script", BEFORE.values(), ids=BEFORE)
async def test_the_model_server_fails_before_the_first_event(script: Script, stream: bool, path: str) -> None:
    async with scripted(script) as server, door(server) as opened:
        answer = await opened.post(path, stream=stream)
        assert answer.status == 502
        assert answer.headers["content-type"].startswith("application/json")
        code, message = error_of(answer.json)
        assert code == "upstream_error"
        assert "'demo'" in message
        assert opened.supervisor.served == [False]


@pytest.mark.parametrize("path", PATHS)
async def test_nobody_listens(path: str) -> None:
    async with door() as opened:
        answer = await opened.post(path)
        assert answer.status == 502
        assert "does not accept connections" in error_of(answer.json)[1]
        assert opened.supervisor.broken == [True, True]


async def test_a_model_server_that_died_between_two_requests() -> None:
    async with scripted(streamed(HELLO, DONE)) as server, door() as opened:
        opened.supervisor.restarted = server.endpoint
        assert (await opened.post(CHAT)).status == 200
        assert (opened.supervisor.served, opened.supervisor.broken) == ([False, True], [True, False])


AFTER: dict[str, Script] = {
    "between events": [Do.CLOSE],
    "reset": [Do.RESET],
    "in an event": [chunk(HELLO[:9]), Do.CLOSE],
    "in a chunk": [chunk(HELLO)[:9], Do.CLOSE],
    "in a size": [b"1", Do.CLOSE],
    "in the end": [b"0\r\n", Do.CLOSE],
    "no chunk": [b"I am no chunk\r\n"],
    "no chunk, though it looks like one": [b"zz\r\ndata: 1\n\n\r\n"],
    "silence": [],
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("how", AFTER)
async def test_the_model_server_fails_after_the_first_event(how: str, path: str) -> None:
    """The client's framing stays valid, its last event tells, and nothing looks like a proper end."""
    gate = asyncio.Event()
    script = [STREAM, chunk(HELLO), gate, *AFTER[how]]
    silence = 0.05 if how == "silence" else 60
    async with scripted(script, streamed(HELLO, DONE)) as server, door(server, silence=silence) as opened:
        client = await opened.ask(path)
        assert (await client.head()).status == 200
        first = await client.chunk()
        assert first == HELLO or (path == RESPONSES and b"event: response.output_text.delta" in first)
        gate.set()
        frame = await client.body()
        code, message = frame_of(path, frame)
        timeout = how == "silence"
        assert code == ("upstream_timeout" if timeout else "upstream_error")
        assert "'demo'" in message
        assert ("silent" in message) == timeout
        assert b"[DONE]" not in frame
        assert (opened.supervisor.served, opened.supervisor.broken) == ([False], [not timeout])
        # The connection was not announced to close, so that the client may have sent its next request.
        await client.post(CHAT, request_body(CHAT, stream=True))
        assert (await client.answer()).body == HELLO + DONE


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("script", [[], [STREAM], [STREAM, chunk(PROGRESS)]])
async def test_the_model_server_is_silent_before_the_first_event(
    script: Script, stream: bool, path: str
) -> None:
    async with scripted(script) as server, door(server, silence=0.05) as opened:
        answer = await opened.post(path, stream=stream)
        assert answer.status == 504
        assert "silent" in error_of(answer.json)[1]
        await server.connections[0].gone.wait()


CONTEXT = {
    "code": 400,
    "message": "the request exceeds the available context size",
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 9000,
    "n_ctx": 4096,
}
UNAVAILABLE = {"code": 503, "message": "Loading model", "type": "unavailable_error"}


@pytest.mark.parametrize(
    ("path", "first", "status", "code"),
    [
        (CHAT, event({"error": CONTEXT}), 400, "context_length_exceeded"),
        (CHAT, PROGRESS + event({"error": UNAVAILABLE}), 503, "unavailable"),
        (CHAT, event({"error": {"message": "x"}}), 500, None),
        (CHAT, event({"error": "only words"}), 500, None),
        (RESPONSES, event(CONTEXT, "error"), 400, "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_as_the_first_event_has_its_status(
    path: str, first: bytes, status: int, code: str, stream: bool
) -> None:
    async with scripted(streamed(first)) as server, door(server) as opened:
        answer = await opened.post(path, stream=stream)
        assert answer.status == status
        assert error_of(answer.json)[0] == code
        if code == "context_length_exceeded":
            error = answer.json["error"]
            assert (error["n_prompt_tokens"], error["n_ctx"]) == (9000, 4096)


async def test_an_error_in_the_middle_of_the_stream_is_passed_on() -> None:
    error, gate = event({"error": UNAVAILABLE}), asyncio.Event()
    async with scripted([STREAM, chunk(HELLO), gate, chunk(error), END]) as server, door(server) as opened:
        client = await opened.ask()
        await client.head()
        assert await client.chunk() == HELLO
        gate.set()
        assert await client.body() == error


async def test_an_error_in_the_middle_of_an_answer_that_is_assembled() -> None:
    error = event({"error": {"code": 500, "message": "out of luck", "type": "server_error"}})
    async with scripted(streamed(HELLO, error)) as server, door(server) as opened:
        answer = await opened.post(CHAT)
        assert (answer.status, answer.json["error"]["message"]) == (502, "out of luck")


@pytest.mark.parametrize("path", PATHS)
async def test_a_stream_that_cannot_be_assembled_is_the_model_servers_fault(path: str) -> None:
    async with scripted(streamed(b"data: {no json\n\n")) as server, door(server) as opened:
        assert (await opened.post(path)).status == 502


ERRORS: list[tuple[str, bytes, int, str, str | None]] = [
    ("400 Bad Request", json.dumps({"error": CONTEXT}).encode(), 400, "exceeds", "context_length_exceeded"),
    ("503 Loading", json.dumps({"error": UNAVAILABLE}).encode(), 503, "Loading model", "unavailable"),
    (
        "501 No",
        b'{"error":{"code":501,"message":"no","type":"not_supported_error"}}',
        501,
        "no",
        "not_supported",
    ),
    ("404 Not Found", b'{"error":"File Not Found"}', 404, "File Not Found", None),
    (
        "500 Oops",
        b'{"error":{"code":500,"message":"image input is not supported - hint: x","type":"server_error"}}',
        400,
        "image input",
        "unsupported_value",
    ),
    (
        "500 Oops",
        b'{"error":{"code":500,"message":"Compute error.","type":"server_error"}}',
        500,
        "Compute error.",
        None,
    ),
    ("500 Oops", b"<html>oops</html>", 500, "<html>oops</html>", None),
    ("500 Oops", b"\xff\xfe", 500, "\ufffd", None),
    ("500 Oops", b"", 500, "the model server reported an error", None),
    ("500 Oops", b"[1]", 500, "[1]", None),
]


@pytest.mark.parametrize("path", [*PATHS, "/v1/embeddings"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("line", "body", "status", "words", "code"), ERRORS)
async def test_an_answer_with_an_error_status(
    line: str, body: bytes, status: int, words: str, code: str | None, path: str, stream: bool
) -> None:
    async with scripted([whole(body, status=line)]) as server, door(server) as opened:
        answer = await opened.post(path, stream=stream)
        assert answer.status == status
        found, message = error_of(answer.json)
        assert words in message
        assert found == code
        assert opened.supervisor.served == [status < 500]


# Who leaves


def gated(supervisor: FakeSupervisor) -> None:
    supervisor.gate = asyncio.Event()


async def left(opened: Door, client: Client, logs: list[Any], phase: str) -> None:
    """The client leaves; its lease ends at once, and the log says so."""
    client.leave()
    await opened.supervisor.freed.wait()
    (line,) = [line for line in logs if line["event"] == "request" and line["method"] == "POST"]
    assert (line["status"], line["outcome"], line["log_level"]) == (499, "client left", "info")
    assert line["error"] == f"the client left in phase {phase}"
    assert opened.supervisor.served == [False]


async def test_a_client_leaves_the_queue() -> None:
    with structlog.testing.capture_logs() as logs:
        async with scripted([]) as server, door(server, prepare=gated) as opened:
            client = await opened.ask()
            await opened.supervisor.waits.wait()
            client.leave()
            await opened.supervisor.left.wait()
            (line,) = [line for line in logs if line["event"] == "request" and line["method"] == "POST"]
            assert (line["status"], line["error"]) == (499, "the client left in phase queue")
            assert server.connections == []
            assert opened.supervisor.served == []


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_leaves_before_the_head(path: str, stream: bool) -> None:
    with structlog.testing.capture_logs() as logs:
        async with scripted([]) as server, door(server) as opened:
            client = await opened.connect()
            await client.post(path, request_body(path, stream=stream))
            await server.asked.wait()
            await left(opened, client, logs, "prompt")
            await server.connections[0].gone.wait()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("script", [[STREAM], [STREAM, chunk(PROGRESS)], [STREAM, chunk(HELLO[:7])]])
async def test_a_client_leaves_before_the_first_event(script: Script, stream: bool) -> None:
    with structlog.testing.capture_logs() as logs:
        async with scripted(script) as server, door(server) as opened:
            client = await opened.ask(stream=stream)
            await server.asked.wait()
            await server.connections[0].played.wait()
            client.leave()
            await server.connections[0].gone.wait()
            await opened.supervisor.freed.wait()
            (line,) = [line for line in logs if line["event"] == "request" and line["method"] == "POST"]
            assert line["status"] == 499


@pytest.mark.parametrize("more", [b"", chunk(HELLO[:9]), chunk(HELLO)[:9]])
async def test_a_client_leaves_the_stream(more: bytes) -> None:
    with structlog.testing.capture_logs() as logs:
        async with scripted([STREAM, chunk(HELLO) + more]) as server, door(server) as opened:
            client = await opened.ask()
            await client.head()
            assert await client.chunk() == HELLO
            await left(opened, client, logs, "answer")
            await server.connections[0].gone.wait()


async def test_a_client_leaves_while_the_stream_waits_for_it() -> None:
    with structlog.testing.capture_logs() as logs:
        async with scripted([STREAM, *big_events(8 * MIB)]) as server, door(server) as opened:
            client = await opened.connect(buffer=1024)
            await client.post(CHAT, request_body(CHAT, stream=True))
            await client.head()
            await stands_still(opened, server.connections[0])
            await left(opened, client, logs, "answer")
            await server.connections[0].gone.wait()
            assert not server.connections[0].played.is_set()


# Who is slow


def big_events(size: int) -> list[bytes]:
    """Chunks of events, of about `size` bytes in all."""
    big = said("x" * (MIB // 16))
    return [chunk(big)] * (size // len(big))


async def stands_still(opened: Door, connection: Connection) -> int:
    """Let the loop turn until nobody takes anything any more; return what was sent by then."""
    client, before = await opened.connect(), -1
    while connection.sent != before:
        before = connection.sent
        for _ in range(100):
            await client.request("GET", "/health/live")
            assert (await client.answer()).status == 200
    return before


async def test_a_slow_client_slows_the_model_server() -> None:
    """Its stream stops where the buffers are full, and goes on when the client does."""
    events = [*big_events(8 * MIB), chunk(DONE)]
    async with scripted([STREAM, *events, END]) as server, door(server) as opened:
        client = await opened.connect(buffer=1024)
        await client.post(CHAT, request_body(CHAT, stream=True))
        assert (await client.head()).status == 200
        (connection,) = server.connections
        await connection.blocked.wait()
        assert await stands_still(opened, connection) < 2 * MIB, "nothing is read that is not taken"
        assert await client.body() == b"".join(unchunk(b"".join(events)))
        await connection.played.wait()
        await opened.supervisor.freed.wait()
        assert opened.supervisor.served == [True]


async def test_one_slow_client_does_not_slow_another() -> None:
    scripts: list[Script] = [[STREAM, *big_events(8 * MIB)], streamed(HELLO, DONE)]
    async with scripted(*scripts) as server, door(server) as opened:
        slow = await opened.connect(buffer=1024)
        await slow.post(CHAT, request_body(CHAT, stream=True))
        await slow.head()
        await server.connections[0].blocked.wait()
        assert (await (await opened.ask()).answer()).body == HELLO + DONE


async def test_a_dead_client_loses_its_lease() -> None:
    with structlog.testing.capture_logs() as logs:
        script = [STREAM, *big_events(8 * MIB)]
        async with scripted(script) as server, door(server, write_timeout=0.05) as opened:
            client = await opened.connect(buffer=1024)
            await client.post(CHAT, request_body(CHAT, stream=True))
            await client.head()
            await opened.supervisor.freed.wait()
            await server.connections[0].gone.wait()
            assert opened.supervisor.served == [False]
            (line,) = [line for line in logs if line["event"] == "request" and line["method"] == "POST"]
            assert (line["status"], line["outcome"]) == (499, "client left")
            assert line["error"] == "the client took nothing for 0.05 s"
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await client.body()


@pytest.mark.parametrize("end", [[END], [Do.CLOSE]], ids=["ends", "dies"])
async def test_a_dead_client_loses_its_lease_though_the_model_server_is_done(end: list[Step]) -> None:
    """The stream's last bytes are what fills the buffers: nothing more will come to wait for."""
    big = said("x" * 60_000)
    gate = asyncio.Event()
    script = [STREAM, chunk(HELLO), gate, chunk(big), chunk(big) + (END if end == [END] else b""), *end]
    async with scripted(script) as server, door(server, write_timeout=0.05) as opened:
        client = await opened.connect(buffer=1024)
        await client.post(CHAT, request_body(CHAT, stream=True))
        await client.head()
        assert await client.chunk() == HELLO
        gate.set()
        await opened.supervisor.freed.wait()


async def test_a_slow_client_gets_its_error_frame_too() -> None:
    events = big_events(2 * MIB)
    async with scripted([STREAM, *events, Do.CLOSE]) as server, door(server) as opened:
        client = await opened.connect(buffer=1024)
        await client.post(CHAT, request_body(CHAT, stream=True))
        await client.head()
        await server.connections[0].blocked.wait()
        body = await client.body()
        payload = b"".join(unchunk(b"".join(events)))
        assert body.startswith(payload)
        assert frame_of(CHAT, body.removeprefix(payload))[0] == "upstream_error"


# Whole answers


USAGE = {"completion_tokens": 5, "prompt_tokens": 9, "total_tokens": 14}


@pytest.mark.parametrize(
    ("path", "events", "asked", "field"),
    [
        (
            CHAT,
            [said("a"), said("b"), event({"choices": [], "usage": USAGE}), DONE],
            {"stream_options": {"include_usage": True}},
            {"usage": USAGE},
        ),
        (
            "/v1/completions",
            [event({"choices": [{"index": 0, "text": "ab"}]}), DONE],
            {},
            {"object": "text_completion"},
        ),
        (
            "/completion",
            [event({"content": "a"}), event({"content": "b", "stop": True})],
            {},
            {"content": "ab"},
        ),
    ],
)
async def test_answers_that_are_wanted_whole_are_asked_for_as_streams(
    path: str, events: list[bytes], asked: Json, field: Json
) -> None:
    async with scripted(streamed(*events)) as server, door(server) as opened:
        answer: Answer = await opened.post(path, temperature=0.5)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
        assert answer.json.items() >= field.items()
        expected = {
            **request_body(path),
            "temperature": 0.5,
            "stream": True,
            "return_progress": True,
            **asked,
        }
        assert server.requests[0].json == expected
        assert opened.supervisor.served == [True]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/tokenize"])
async def test_what_is_no_generation_is_passed_on_as_it_is(path: str) -> None:
    body = b'{ "odd" : 1e400,  "prompt_tokens":3 }'
    async with (
        scripted([whole(body, "Content-Type: application/json; x=y")]) as server,
        door(server) as opened,
    ):
        client = await opened.connect()
        sent = json.dumps(request_body(path, extra=[1, 2])).replace(",", " ,").encode()
        await client.request("POST", path, body=sent)
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["content-type"] == "application/json; x=y"
        assert server.requests[0].body == sent
        assert [asked.slot for asked in opened.supervisor.asked] == [path in ("/v1/embeddings", "/v1/rerank")]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/completion", {"prompt": ["x", "y"]}),
        ("/completion", {"prompt": [[1, 2], "y"]}),
        ("/completion", {"prompt": "x", "n": 2}),
        ("/completion", {"prompt": [1, 2], "n_cmpl": 2}),
        ("/infill", {"input_prefix": "x", "input_suffix": "y", "n_cmpl": 2}),
    ],
)
async def test_several_native_answers_are_a_list(path: str, fields: Any) -> None:
    async with scripted([whole(b'[{"content":"a"},{"content":"b"}]')]) as server, door(server) as opened:
        answer = await opened.post(path, **fields)
        assert answer.json == [{"content": "a"}, {"content": "b"}]
        assert "stream" not in server.requests[0].json


@pytest.mark.parametrize("prompt", ["x", ["x"], [1, 2], [1, "x", 2]])
async def test_one_native_prompt_is_asked_for_as_a_stream(prompt: Any) -> None:
    stream = [STREAM, chunk(event({"content": "a", "stop": True})), END]
    async with scripted(stream) as server, door(server) as opened:
        assert (await opened.post("/completion", prompt=prompt)).json["content"] == "a"
        assert server.requests[0].json["stream"] is True


async def test_a_stream_with_an_end_of_its_own_connection() -> None:
    """No framing at all: the end of the connection is the end of the stream."""
    bare = head("Content-Type: text/event-stream; charset=utf-8")
    async with scripted([bare + HELLO, DONE, Do.CLOSE]) as server, door(server) as opened:
        assert (await (await opened.ask()).answer()).body == HELLO + DONE
