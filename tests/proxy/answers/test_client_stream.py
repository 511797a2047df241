"""What is no whole answer is never told as one, whatever the model server sends and the client speaks."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import pytest
import structlog

from agents.api import Agent, Chat, Context, Event, Filter, Reply
from agents.events import Text, Usage
from agents.host.discovery import Loaded
from proxy.answers.translate import tokens_of
from tests.proxy.scripted import (
    DONE,
    END,
    STREAM,
    Answer,
    Do,
    FakeSupervisor,
    Script,
    Step,
    chunk,
    door,
    event,
    head,
    json_answer,
    said,
    scripted,
    whole,
)

JSON = "Content-Type: application/json"
EVENTS = "Content-Type: text/event-stream"
LINES = head("Content-Type: application/x-ndjson", "Transfer-Encoding: chunked")


class Way(msgspec.Struct, frozen=True):
    """From a client's API to a model server, with the pieces of an answer that the server makes."""

    path: str
    start: bytes
    """Events that begin an answer."""
    end: bytes
    api: str = "llama.cpp"

    @property
    def head(self) -> bytes:
        return LINES if self.api == "ollama" else STREAM

    def serve(self, supervisor: FakeSupervisor) -> None:
        """Have the model served so."""
        model = "demo" if self.api == "ollama" else None
        supervisor.endpoint = msgspec.structs.replace(supervisor.endpoint, api=self.api, model=model)


def line(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def named(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)


FINISHED = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})
HELLO = said("hello")
TEXT = event({"choices": [{"index": 0, "text": "hello", "finish_reason": None}]})
NATIVE, STOPPED = event({"content": "hello", "stop": False}), event({"content": "", "stop": True})
OLLAMA_TEXT = line({"model": "demo", "message": {"role": "assistant", "content": "hello"}, "done": False})
OLLAMA_DONE = line(
    {"model": "demo", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
)

WAYS = {
    "chat": Way("/v1/chat/completions", HELLO, FINISHED + DONE),
    "completions": Way("/v1/completions", TEXT, DONE),
    "responses": Way("/v1/responses", HELLO, FINISHED + DONE),
    "messages": Way("/v1/messages", HELLO, FINISHED + DONE),
    "native": Way("/completion", NATIVE, STOPPED),
    "infill": Way("/infill", NATIVE, STOPPED),
    "Ollama's chat, translated": Way("/api/chat", HELLO, FINISHED + DONE),
    "Ollama's generate, translated": Way("/api/generate", TEXT, FINISHED + DONE),
    "Ollama": Way("/api/chat", OLLAMA_TEXT, OLLAMA_DONE, "ollama"),
    "chat of Ollama": Way("/v1/chat/completions", OLLAMA_TEXT, OLLAMA_DONE, "ollama"),
    "responses of Ollama": Way("/v1/responses", OLLAMA_TEXT, OLLAMA_DONE, "ollama"),
    "messages of Ollama": Way("/v1/messages", OLLAMA_TEXT, OLLAMA_DONE, "ollama"),
}
EACH = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
STREAMED = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


async def answer_of(way: Way, script: Script, *, stream: bool) -> tuple[Answer, list[Any]]:
    """The answer, and the lines of the log. Nobody ever sees a traceback."""
    fields: dict[str, Any] = {"stream": stream, "max_tokens": 5}
    if way.path.startswith("/api/"):
        fields = {"stream": stream, "prompt": "x", "messages": [{"role": "user", "content": "x"}]}
    elif "chat" in way.path or "messages" in way.path:
        fields["messages"] = [{"role": "user", "content": "x"}]
    with structlog.testing.capture_logs() as logs:
        async with scripted(script) as server, door(server, silence=5, prepare=way.serve) as opened:
            answer = await opened.post(way.path, **fields)
            await opened.supervisor.freed.wait()
            assert opened.supervisor.served[-1] == (told(way, answer) is None)
    assert not [entry for entry in logs if entry.get("exc_info") or entry["event"] != "request"]
    return answer, logs


def told(way: Way, answer: Answer) -> str | None:
    """The error that the client is told, in its API's words; None if it takes the answer for a whole one."""
    if answer.headers["content-type"].startswith("application/json"):
        error = answer.json.get("error") if isinstance(answer.json, dict) else None
        assert (answer.status == 200) == (error is None)
        return error if error is None or isinstance(error, str) else str(error["message"])
    assert answer.status == 200
    if way.path.startswith("/api/"):
        last = json.loads(answer.body.splitlines()[-1])
        assert ("error" in last) != bool(last.get("done"))
        return str(last["error"]) if "error" in last else None
    frame = answer.body.rstrip(b"\n").rpartition(b"\n\n")[2]
    kind, _, data = frame.rpartition(b"data: ")
    if way.path == "/v1/responses":
        last = json.loads(data)
        error = last if last["type"] == "error" else last["response"]["error"]
        assert error or last["type"] == "response.completed"
        return str(error["message"]) if error else None
    if data == b"[DONE]" or (b'"error"' not in frame and kind != b"event: error\n"):
        return None
    assert b"[DONE]" not in answer.body
    assert b"message_stop" not in answer.body
    body = json.loads(data)
    return str(body["error"]["message"])


@EACH
@STREAMED
async def test_a_whole_answer(way: Way, stream: bool) -> None:
    script = [way.head, chunk(way.start), chunk(way.end), END]
    answer, (entry,) = await answer_of(way, script, stream=stream)
    assert told(way, answer) is None
    assert b"hello" in answer.body
    assert (entry["status"], entry["outcome"]) == (200, "ok")


OF_OLLAMA = {name: way for name, way in WAYS.items() if way.api == "ollama"}


@STREAMED
@pytest.mark.parametrize("way", OF_OLLAMA.values(), ids=OF_OLLAMA)
@pytest.mark.parametrize(("count", "is_whole"), [(31, True), (30, False)])
async def test_a_daemon_that_ends_a_repetition(way: Way, stream: bool, count: int, is_whole: bool) -> None:
    """It just ends its stream, without a last line."""
    again = line({"model": "demo", "message": {"role": "assistant", "content": " again"}, "done": False})
    script = [way.head, *[chunk(again)] * count, END]
    answer, (entry,) = await answer_of(way, script, stream=stream)
    assert (told(way, answer) is None) == is_whole
    assert entry["outcome"] == ("ok" if is_whole else "error")
    if is_whole and way.path == "/api/chat":
        last = json.loads(answer.body.splitlines()[-1])
        assert (last["done"], last["done_reason"]) == (True, "stop")


Cut = Callable[[Way], list[Step]]
CHUNKED = b"Transfer-Encoding: chunked"
CUTS: dict[str, Cut] = {
    "before its end": lambda way: [way.head, chunk(way.start), END],
    "before its end, in one piece": lambda way: [way.head + chunk(way.start) + END],
    "in its last event": lambda way: [
        way.head,
        chunk(way.start),
        chunk(way.end[:-9].rpartition(b"{")[0]),
        END,
    ],
    "without any event": lambda way: [way.head, END],
    "with comments alone": lambda way: [way.head, chunk(b"\n" if way.api == "ollama" else b":\n\n"), END],
    "with the connection": lambda way: [way.head.replace(CHUNKED + b"\r\n", b""), way.start, Do.CLOSE],
    "in its length": lambda way: [
        way.head.replace(CHUNKED, b"Content-Length: 99999"),
        way.start,
        Do.CLOSE,
    ],
}


@EACH
@STREAMED
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_half_an_answer(cut: Cut, way: Way, stream: bool) -> None:
    answer, (entry,) = await answer_of(way, cut(way), stream=stream)
    message = told(way, answer)
    assert message is not None
    assert "'demo'" in message
    assert entry["outcome"] == "error"


BODIES: dict[str, bytes] = {
    "no body": whole(b"", JSON),
    "204": head(status="204 No Content"),
    "HTML": whole(b"<html>Welcome</html>", "Content-Type: text/html"),
    "text": whole(b"hello", "Content-Type: text/plain"),
    "no type": whole(b"hello"),
    "a list": whole(b"[1]", JSON),
    "a number": whole(b"7", JSON),
    "a string": whole(b'"hello"', JSON),
    "half an object": whole(b'{"choices":[', JSON),
    "two objects": whole(b"{}{}", JSON),
    "no JSON between brackets": whole(b"{hello}", JSON),
    "no UTF-8": whole(b'{"choices":[{}],"done":true,"a":"\xff"}', JSON),
    "more than anybody takes": head(JSON, "Content-Length: 999999999999") + b"{",
    "nested deeply": whole(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, JSON),
    "a redirection": whole(b"{}", JSON, "Location: /x", status="302 Found"),
    "gzip": whole(b"\x1f\x8b{}", JSON, "Content-Encoding: gzip"),
    "gzip of a stream": head(EVENTS, "Content-Encoding: gzip", "Content-Length: 2") + b"\x1f\x8b",
    "br": whole(b"{}", JSON, "Content-Encoding: br"),
    "status 000": whole(b"{}", JSON, status="000 None"),
    "status 999": whole(b"{}", JSON, status="999 None"),
    "50,000 interim answers": head(status="100 Continue") * 50_000 + whole(b"{}", JSON),
    "two lengths": head(JSON, "Content-Length: 2", "Content-Length: 3") + b"{}",
    "a length and chunks": head(JSON, "Content-Length: 2", "Transfer-Encoding: chunked") + b"{}",
    "a length of 6,000 digits": head(JSON, "Content-Length: " + "9" * 6000) + b"{}",
    "control characters": whole(b"{}", "Content-Type: application/json\x00"),
}


@EACH
@STREAMED
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_body_that_is_no_answer(body: bytes, way: Way, stream: bool) -> None:
    answer, _ = await answer_of(way, [body], stream=stream)
    assert answer.status == 502
    assert "'demo'" in (told(way, answer) or "")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/tokenize", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("body", [b for name, b in BODIES.items() if name != "a list"])
async def test_a_body_that_is_no_answer_to_what_does_not_generate(body: bytes, path: str) -> None:
    answer, _ = await answer_of(Way(path, b"", b""), [body], stream=False)
    assert answer.status == 502
    assert "'demo'" in (told(Way(path, b"", b""), answer) or "")


BAD_TEXT = b'"\xff"'
NONSENSE: dict[str, bytes] = {
    "no UTF-8": b'data: {"choices":[{"delta":{"content":%b}}],"content":%b}' % (BAD_TEXT, BAD_TEXT),
    "a number of 6,000 digits": b'data: {"choices":[{"index":' + b"9" * 6000 + b"}]}",
    "nested deeply": b'data: {"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "no object": b"data: [1]",
    "no JSON": b"data: {no json",
    "choices alone": b'data: {"choices":[]}\n\ndata: {"choices":[]}\n\ndata: [DONE]',
    "an old server's error": b'error: {"code":500,"message":"out of luck","type":"server_error"}',
}
LLAMA = {name: way for name, way in WAYS.items() if way.api == "llama.cpp"}
OF_LLAMA = pytest.mark.parametrize("way", LLAMA.values(), ids=LLAMA)


@STREAMED
@OF_LLAMA
@pytest.mark.parametrize("payload", NONSENSE.values(), ids=NONSENSE)
async def test_a_stream_that_makes_no_sense(payload: bytes, way: Way, stream: bool) -> None:
    script = [way.head, chunk(payload + b"\n\n"), END]
    answer, _ = await answer_of(way, script, stream=stream)
    assert answer.status in (500, 502)
    assert told(way, answer)


@STREAMED
@OF_LLAMA
@pytest.mark.parametrize(
    "start", [b"error: %b\n\n", b'event: error\ndata: {"error":%b}\n\n'], ids=["old", "new"]
)
async def test_the_servers_own_error_in_the_middle(start: bytes, way: Way, stream: bool) -> None:
    error = start % b'{"code":500,"message":"out of luck","type":"server_error"}'
    answer, (entry,) = await answer_of(way, [way.head, chunk(way.start), chunk(error), END], stream=stream)
    assert told(way, answer) == "out of luck"
    assert answer.status == (200 if stream else 502)
    assert (entry["status"], entry["outcome"]) == (502, "error")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/messages"])
@STREAMED
async def test_a_finish_reason_is_an_end(path: str, stream: bool) -> None:
    """Not every server sends `[DONE]`."""
    way = Way(path, HELLO, FINISHED + USAGE)
    answer, (entry,) = await answer_of(way, [way.head, chunk(way.start), chunk(way.end), END], stream=stream)
    assert told(way, answer) is None
    assert entry["outcome"] == "ok"


FIRST_OF_THREE = event({"choices": [{"index": 0, "text": "", "delta": {}, "finish_reason": "stop"}]})
THREE = {
    "choices": ("/v1/chat/completions", HELLO, {"n": 3, "messages": [{"role": "user", "content": "x"}]}),
    "texts": ("/v1/completions", TEXT, {"n": 3}),
    "prompts": ("/v1/completions", TEXT, {"prompt": ["a", "b", "c"]}),
}


@pytest.mark.parametrize(("path", "start", "fields"), THREE.values(), ids=THREE)
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "half"])
@STREAMED
async def test_one_answer_of_three_is_not_all(
    path: str, start: bytes, fields: Any, is_whole: bool, stream: bool
) -> None:
    script = [STREAM, chunk(start), chunk(FIRST_OF_THREE), *([chunk(DONE)] if is_whole else []), END]
    async with scripted(script) as server, door(server) as opened:
        answer = await opened.post(path, stream=stream, **fields)
    assert (told(Way(path, b"", b""), answer) is None) == is_whole
    assert answer.status == (200 if is_whole or stream else 502)


@EACH
async def test_comments_before_an_answer_are_none_of_it(way: Way) -> None:
    """Newer servers ping while they read a long prompt."""
    if way.api == "ollama":
        pytest.skip("lines of JSON have no comments")
    script = [way.head, chunk(b":\n\n"), chunk(b": ping\n\n"), chunk(way.start), chunk(way.end), END]
    for wish in (False, True):
        async with scripted(script) as server, door(server) as opened:
            answer = await opened.post(
                way.path,
                stream=True,
                return_progress=wish,
                **({} if way.path == "/v1/responses" else {"prompt": "x"}),
                messages=[{"role": "user", "content": "x"}],
                max_tokens=5,
            )
        assert told(way, answer) is None


@EACH
async def test_a_last_event_that_lacks_its_end_is_one(way: Way) -> None:
    script = [way.head, chunk(way.start), chunk(way.end.rstrip(b"\n")), END]
    answer, _ = await answer_of(way, script, stream=True)
    assert told(way, answer) is None


@EACH
@pytest.mark.parametrize("size", [1, 3])
async def test_an_answer_in_tiny_pieces(size: int, way: Way) -> None:
    wire = way.start + way.end
    chunks = [chunk(wire[start : start + size]) for start in range(0, len(wire), size)]
    answer, _ = await answer_of(way, [way.head, b"".join(chunks), END], stream=True)
    assert told(way, answer) is None


async def test_an_error_that_the_server_told_is_told_once() -> None:
    error = event({"error": {"code": 503, "message": "no room", "type": "unavailable_error"}})
    way = WAYS["chat"]
    answer, (entry,) = await answer_of(way, [way.head, chunk(HELLO), chunk(error), END], stream=True)
    assert answer.body == HELLO + error
    assert (entry["outcome"], entry["error"]) == ("error", "no room")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("body", [b"{}", b'{"choices":[]}', b'{"choices":null}', b'{"choices":"x"}'])
async def test_a_whole_answer_without_an_answer(path: str, body: bytes) -> None:
    answer, _ = await answer_of(Way(path, b"", b""), [whole(body, JSON)], stream=False)
    assert answer.status == 502


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/tokenize"])
async def test_an_error_with_status_200(path: str) -> None:
    error = {"error": {"code": 503, "message": "no room", "type": "unavailable_error"}}
    answer, _ = await answer_of(Way(path, b"", b""), [json_answer(error)], stream=False)
    assert answer.status == 503
    assert told(Way(path, b"", b""), answer) == "no room"


async def test_fewer_vectors_than_texts() -> None:
    vectors = {"data": [{"embedding": [1.0], "index": 0}]}
    async with scripted([json_answer(vectors)]) as server, door(server) as opened:
        answer = await opened.post("/api/embed", input=["a", "b"])
        assert answer.status == 502
        assert answer.json["error"] == "model 'demo': the model server gave 1 vectors for 2 texts"


async def test_an_answer_that_was_refused_is_not_the_next_ones() -> None:
    script: Script = [whole(b"gzip", JSON, "Content-Encoding: gzip"), Do.NEXT, json_answer({"tokens": [1]})]
    async with scripted(script) as server, door(server) as opened:
        assert (await opened.post("/tokenize")).status == 502
        assert (await opened.post("/tokenize")).json == {"tokens": [1]}
        assert len(server.connections) == 1


async def test_silence_before_a_connections_end_is_no_end() -> None:
    """The connection that we close for it must not look like the end of a body that ends so."""
    bare = head(EVENTS)
    async with scripted([bare + HELLO]) as server, door(server, silence=0.05) as opened:
        answer = await opened.post("/v1/chat/completions", stream=True)
        assert b"silent" in answer.body


class Passes(Agent):
    """Sees all that passes."""

    class _All(Filter):
        def feed(self, event: Event) -> list[Event]:
            return [event]

    def stream(self, ctx: Context) -> Filter | None:
        return self._All()


class Asks(Agent):
    """Answers with what another call of the model says."""

    async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
        return Reply(ctx.llm.stream(request))


AGENTS = [Loaded(kind.__name__.lower(), kind.__module__, kind, kind.Config()) for kind in (Passes, Asks)]


@pytest.mark.parametrize("agent", ["passes", "asks"])
@STREAMED
@pytest.mark.parametrize("is_whole", [True, False], ids=["all", "half"])
@pytest.mark.parametrize(
    "name", ["chat", "Ollama's chat, translated", "chat of Ollama", "messages of Ollama"]
)
async def test_answers_through_agents(name: str, is_whole: bool, stream: bool, agent: str) -> None:
    way = WAYS[name]
    script = [way.head, chunk(way.start), chunk(way.end) if is_whole else b"", END]
    body = {
        "model": "demo",
        "stream": stream,
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 5,
    }
    async with scripted(script) as server, door(server, prepare=way.serve, agents=AGENTS) as opened:
        client = await opened.connect()
        await client.post(way.path, body, f"X-Agents: {agent}")
        answer = await client.answer()
        await opened.supervisor.freed.wait()
    error = told(way, answer)
    assert (error is None) == is_whole
    assert is_whole or "'demo'" in (error or "")
    assert answer.headers["x-agents"]


LAST = {"chat": HELLO + FINISHED + DONE, "Ollama's chat, translated": HELLO + FINISHED + DONE}


@pytest.mark.parametrize("agent", ["", "passes"], ids=["alone", "through an agent"])
@pytest.mark.parametrize("name", LAST)
async def test_a_client_that_leaves_at_the_last_event_has_its_whole_answer(name: str, agent: str) -> None:
    """The connection of its model server need not have come to its end."""
    way = WAYS[name]
    body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    with structlog.testing.capture_logs() as logs:
        async with (
            scripted([way.head, chunk(LAST[name])]) as server,
            door(server, prepare=way.serve, agents=AGENTS) as opened,
        ):
            client = await opened.connect()
            await client.post(way.path, body, *([f"X-Agents: {agent}"] if agent else []))
            await client.head()
            come = b""
            while not come.endswith((DONE, b"}\n")) or b"stop" not in come:
                come += await client.chunk()
            client.leave()
            await opened.supervisor.freed.wait()
            assert opened.supervisor.served == [True]
    (line,) = [line for line in logs if line["event"] == "request"]
    assert (line["status"], line["outcome"]) == (200, "ok")


SILENT = {
    "chat": (WAYS["chat"], b": "),
    "messages": (WAYS["messages"], b'event: ping\ndata: {"type":"ping"}\n\n'),
    "chat of Ollama": (WAYS["chat of Ollama"], b": "),
    "Ollama": (WAYS["Ollama"], b'"content":""'),
}


@pytest.mark.parametrize(("way", "comment"), SILENT.values(), ids=SILENT)
async def test_a_client_is_kept_while_the_model_server_is_silent(way: Way, comment: bytes) -> None:
    """A daemon sends a tool call when it is whole, and clients give up that see nothing for minutes."""
    ends = asyncio.Event()
    script: Script = [way.head, chunk(way.start), ends, chunk(way.end), END]
    async with (
        scripted(script) as server,
        door(server, keepalive_interval=0.01, prepare=way.serve) as opened,
    ):
        client = await opened.ask(
            way.path, stream=True, messages=[{"role": "user", "content": "x"}], max_tokens=9
        )
        await client.head()
        come = b""
        while b"hello" not in come:
            come += await client.chunk()
        come = b""
        while come.count(comment) < 3:
            come += await client.chunk()
        ends.set()
        rest = await client.body()
        assert (b"[DONE]" in rest) or (b"message_stop" in rest) or (b'"done":true' in rest)
        assert b"error" not in rest
        assert opened.supervisor.served == [True]


async def test_no_comment_is_written_in_the_middle_of_an_event() -> None:
    """A piece of an event is held until the rest is there, and so is the comment."""
    ends = asyncio.Event()
    script: Script = [STREAM, chunk(HELLO), chunk(FINISHED[:9]), ends, chunk(FINISHED[9:] + DONE), END]
    async with scripted(script) as server, door(server, keepalive_interval=0.01) as opened:
        client = await opened.ask()
        await client.head()
        while await client.chunk() != HELLO:
            pass
        # Timers run in their order: a comment that were to come would have come by then.
        asyncio.get_running_loop().call_later(0.05, ends.set)
        assert await client.body() == FINISHED + DONE


async def test_a_client_that_takes_nothing_of_an_agents_own_answer_is_cut_off() -> None:
    over = asyncio.Event()

    async def talk() -> AsyncGenerator[Event, None]:
        try:
            while True:
                yield Text("x" * 60_000)
        finally:
            over.set()

    class Talks(Agent):
        async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
            return Reply(talk())

    body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    with structlog.testing.capture_logs() as logs:
        async with door(
            write_timeout=0.05, agents=[Loaded("talks", __name__, Talks, Talks.Config())]
        ) as opened:
            client = await opened.connect(buffer=1024)
            await client.post("/v1/chat/completions", body, "X-Agents: talks")
            assert (await client.head()).status == 200
            await over.wait()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await client.body()
    (line,) = [line for line in logs if line["event"] == "request"]
    assert (line["status"], line["outcome"]) == (499, "client left")
    assert line["error"] == "the client took nothing for 0.05 s"


def test_counts_of_an_agent_that_cannot_be_count_nothing() -> None:
    tokens = tokens_of(Usage(-5, -1, -(2**70)))
    assert set(tokens.values()) == {0}
