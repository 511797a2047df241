"""Bodies as attackers send them, and what the others notice of it."""

import asyncio
import base64
import gzip
import json
import socket
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from actors.messages import ServerAddress
from actors.runtime import spawn
from proxy.door.bodies import BODIES, SMALL
from tests.bombs import gzip_bomb, zstd_bomb
from tests.proxy.scripted import (
    PATIENCE,
    Client,
    Do,
    Door,
    FakeSupervisor,
    Json,
    ScriptedServer,
    Step,
    door,
    json_answer,
    reached,
    scripted,
    whole,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KIB = 1024
MIB = 1024 * KIB
ANSWER: list[Step] = [
    whole(b'{"tokens": [1]}', "Content-Type: application/json", "Connection: close"),
    Do.CLOSE,
]
LIMIT = 2 * SMALL
"""Of one body; all together may have 16 small ones' bytes, large ones together 14."""


def head(length: int, *lines: str, path: str = "/tokenize") -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *lines, "", ""]
    ).encode()


def tokenize(size: int = 0) -> bytes:
    return json.dumps({"model": "demo", "content": "x" * size}).encode()


async def begin(opened: Door, sent: int, length: int = LIMIT) -> Client:
    """A client that has sent a part of a body."""
    client = await opened.connect()
    await client.send(head(length) + b" " * sent)
    return client


async def post(
    opened: Door, body: bytes, *lines: str, path: str = "/tokenize"
) -> tuple[int, Json, dict[str, str]]:
    client = await opened.connect()
    await client.send(head(len(body), *lines, path=path) + body)
    answer = await client.answer()
    return answer.status, answer.json, answer.headers


async def test_the_budget_of_all_bodies_together() -> None:
    async with scripted(ANSWER) as server, door(server, body_limit=LIMIT) as opened:
        halves = [await begin(opened, LIMIT - 1) for _ in range(7)]
        await reached(lambda: opened.bodies.budget.held == 7 * (LIMIT - 1))
        status, told, headers = await post(opened, tokenize(LIMIT - 100))
        assert (status, told["error"]["code"], headers["retry-after"]) == (503, "bodies_busy", "2")
        status, told, _ = await post(opened, b" " * LIMIT, path="/api/chat")
        assert (status, set(told)) == (503, {"error"})
        # Small ones get through, and large ones when there is room again.
        assert (await post(opened, tokenize(KIB)))[0] == 200
        halves[0].leave()
        await reached(lambda: opened.bodies.budget.held == 6 * (LIMIT - 1))
        assert (await post(opened, tokenize(LIMIT - 100)))[0] == 200


async def test_a_request_that_waits_holds_its_body() -> None:
    def gated(supervisor: FakeSupervisor) -> None:
        supervisor.gate = asyncio.Event()

    async with scripted(ANSWER) as server, door(server, body_limit=LIMIT, prepare=gated) as opened:
        clients = [await opened.connect() for _ in range(7)]
        body = tokenize(LIMIT - 100)
        for client in clients:
            await client.send(head(len(body)) + body)
        await reached(lambda: len(opened.supervisor.asked) == 7)
        assert (await post(opened, body))[0] == 503
        assert opened.supervisor.gate is not None
        opened.supervisor.gate.set()
        for client in clients:
            assert (await client.answer()).status == 200
        assert (await post(opened, body))[0] == 200


@pytest.mark.parametrize(
    "path", ["/tokenize", "/v1/messages", "/api/chat", "/upstream/demo/x", "/v1/agents/x/y"]
)
@pytest.mark.parametrize("drips", [False, True])
async def test_a_body_that_does_not_come(path: str, drips: bool) -> None:
    async with scripted(ANSWER) as server, door(server, body_window=0.2) as opened:
        client = await opened.connect()
        await client.send(head(1000, path=path) + b"{")
        answer = spawn(client.answer(), name="answer")
        while drips and not answer.done():
            await client.send(b" ")
            await asyncio.wait([answer], timeout=0.02)
        assert (await answer).status == 408
        assert (await answer).headers["connection"] == "close"


async def test_a_slow_upload_passes() -> None:
    body = tokenize(KIB)
    async with scripted(ANSWER) as server, door(server, body_window=0.2) as opened:
        client = await opened.connect()
        await client.send(head(len(body)))
        for start in range(0, len(body), 100):  # five times as fast as it must be
            await client.send(body[start : start + 100])
            await asyncio.sleep(0.02)
        assert (await client.answer()).status == 200


async def test_only_the_client_must_be_fast() -> None:
    """A daemon that takes a file slowly is not the client's fault."""

    async def take_slowly(request: web.Request) -> web.StreamResponse:
        count = 0
        async for piece in request.app[BODIES].stream(request):
            count += len(piece)
            await asyncio.sleep(0.3)
        return web.json_response(count)

    async with door(body_window=0.1, routes={"/slow": take_slowly}) as opened:
        sent = bytes(MIB // 2)
        async with opened.session.get("/slow", data=sent) as answer:
            assert await answer.json() == len(sent)


def bare(body: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(body) + deflate.flush()


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("X-GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", bare),
        ("zstd", zstd.compress),
        ("ZSTD", partial(zstd.compress, level=19)),
        ("identity, zstd", zstd.compress),
        ("identity", bytes),
        ("", bytes),
    ],
)
async def test_encodings(encoding: str, encode: Any) -> None:
    body = tokenize(700_000)
    async with scripted(ANSWER) as server, door(server) as opened:
        status, told, _ = await post(opened, encode(body), f"Content-Encoding: {encoding}")
        assert (status, told) == (200, {"tokens": [1]})
    assert server.requests[0].body == body
    assert not server.requests[0].all("content-encoding")


PACKED = gzip.compress(tokenize(), mtime=0)
ZSTD = zstd.compress(tokenize())
WIDE = zstd.ZstdCompressor(options={int(zstd.CompressionParameter.window_log): 24})
"""With a window of 16 MiB, which whoever decodes it must hold."""


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"x", 415),
        ("gzip, gzip", PACKED, 415),
        ("gzip", b"nothing of the kind", 400),
        ("gzip", PACKED[:-5], 400),
        ("gzip", PACKED + PACKED, 400),
        ("deflate", b"\xff\xff\xff", 400),
        ("gzip", gzip.compress(b" " * 1_100_000, mtime=0), 413),
        ("gzip", b"", 400),
        ("gzip", b" " * 1_100_000, 413),
        ("zstd", b"nothing of the kind", 400),
        ("zstd", ZSTD[:-5], 400),
        ("zstd", ZSTD + ZSTD, 400),
        ("zstd", ZSTD + b"x", 400),
        ("zstd", zstd.compress(b" " * 1_100_000), 413),
        ("zstd", b"", 400),
        ("zstd", WIDE.compress(tokenize()) + WIDE.flush(), 400),
        ("zstd, gzip", gzip.compress(ZSTD), 415),
        ("identity\r\nContent-Encoding: zstd", b"{}", 400),
    ],
    ids=[
        "br",
        "twice",
        "text",
        "cut",
        "more",
        "deflate",
        "bomb",
        "nothing",
        "large",
        "zstd: text",
        "zstd: cut",
        "zstd: twice",
        "zstd: more",
        "zstd: bomb",
        "zstd: nothing",
        "zstd: a wide window",
        "two encodings",
        "two headers",
    ],
)
@pytest.mark.parametrize("path", ["/tokenize", "/api/show", "/upstream/demo/x", "/v1/agents/x/y"])
async def test_what_cannot_be_decoded(path: str, encoding: str, body: bytes, status: int) -> None:
    async with scripted(ANSWER) as server, door(server) as opened:
        if path.startswith(("/upstream", "/v1/agents")) and not body:
            pytest.skip("none is a body too")
        assert (await post(opened, body, f"Content-Encoding: {encoding}", path=path))[0] == status


@pytest.mark.parametrize(("encoding", "make"), [("gzip", gzip_bomb), ("zstd", zstd_bomb)])
async def test_a_bomb_is_left_at_the_limit(encoding: str, make: Callable[[], bytes]) -> None:
    """What would follow is not worked on, not even to throw it away."""
    bomb = make()
    async with scripted(ANSWER) as server, door(server) as opened:
        before = time.thread_time()
        status, _, headers = await post(opened, bomb, f"Content-Encoding: {encoding}")
        assert (status, headers["connection"]) == (413, "close")
        await opened.clients[0].rest()
        assert time.thread_time() - before < 0.5  # all of it takes more than one


@pytest.mark.parametrize(
    "framing",
    [b"zz\r\n", b"-1\r\n\r\n", b"ffffffffffffffffff\r\nx", b"3\r\nabcdefgh"],
)
@pytest.mark.parametrize("path", ["/tokenize", "/upstream/demo/x", "/v1/agents/x/y", "/api/pull"])
async def test_framing_that_is_wrong(framing: bytes, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is told at once, whether it comes with the head or later."""
    begin = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n".encode()
    async with door(body_window=PATIENCE) as opened:
        client = await opened.connect()
        await client.send(begin + framing)
        assert (await client.answer()).status == 400
        client = await opened.connect()
        await client.send(begin)
        await reached(lambda: opened.bodies.budget.held == 3)
        await client.send(framing)
        assert (await client.answer()).status == 400
        assert await client.rest() == b""
    assert not caplog.records


# Work that would hold the loop


@asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """The seconds of computing between two turns of the loop: how long others would have waited."""
    gaps = [0.0]

    async def beat() -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            gaps.append(now - last)
            last = now

    task = spawn(beat(), name="beat")
    try:
        yield gaps
    finally:
        task.cancel()
        await asyncio.wait([task])


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(30 * MIB)).decode()
IDS = [[index % 50_000 for index in range(500)]] * 2_000
HELLO = {"role": "user", "content": "hello"}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
HISTORY = [
    {"role": "user", "content": [{"type": "text", "text": "a" * 100}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
] * 2_500
SCHEMA = {
    "type": "object",
    "properties": {f"field{i}": {"type": "string", "enum": ["a", "b"]} for i in range(60)},
}
TOOLS = [{"type": "function", "function": {"name": f"f{i}", "parameters": SCHEMA}} for i in range(120)]

MEANT: dict[str, tuple[str, Json]] = {
    "an image": ("/api/chat", {"messages": [{**HELLO, "images": [PNG]}]}),
    "an image as URL": (
        "/v1/chat/completions",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + PNG}}],
                }
            ]
        },
    ),
    "a source file": (
        "/v1/chat/completions",
        {"messages": [{**HELLO, "content": 'if x == "a\\n":\n' * 140_000}]},
    ),
    "a source file for Ollama": (
        "/api/chat",
        {"messages": [{**HELLO, "content": 'if x == "a\\n":\n' * 140_000}]},
    ),
    "inputs": ("/v1/embeddings", {"input": ["some words of a text " * 20] * 2_048}),
    "token ids": ("/v1/embeddings", {"input": IDS}),
    "a long history": ("/v1/chat/completions", {"messages": HISTORY}),
    "many tools": ("/api/chat", {"messages": [HELLO], "tools": TOOLS}),
    "words": ("/v1/messages", {"max_tokens": 5, "messages": [{**HELLO, "content": "wörter " * 8_000_000}]}),
}


def status_of(port: int, begin: bytes, body: bytes) -> int:
    """Post a large body from a thread, whose work is not the loop's."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(begin)
        with suppress(ConnectionError):
            client.sendall(body)
        return int(client.recv(100).split()[1])


@asynccontextmanager
async def teapot() -> AsyncIterator[ScriptedServer]:
    """A model server that reads large requests quickly, and takes none."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        missing = int(asked.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while missing:
            missing -= len(await reader.read(missing))
        writer.write(json_answer({"error": {"code": 418, "message": "is a teapot"}}, status="418 Teapot"))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=MIB)
    async with server:
        endpoint = ServerAddress(*server.sockets[0].getsockname())
        yield cast("ScriptedServer", SimpleNamespace(endpoint=endpoint))


@pytest.mark.parametrize("what", MEANT)
async def test_what_is_meant_passes_and_holds_nobody_up(what: str) -> None:
    path, fields = MEANT[what]
    body = json.dumps({"model": "demo", "stream": False, **fields}, ensure_ascii=False).encode()
    async with teapot() as server, door(server, body_limit=64 * MIB) as opened, watched() as gaps:
        assert await asyncio.to_thread(status_of, opened.port, head(len(body), path=path), body) == 418
    print(what, f"{max(gaps) * 1000:.0f} ms")
    # Anthropic's API is translated: a single text of 64 MB is decoded and encoded in one step each.
    assert max(gaps) < (0.5 if what == "words" else 0.2)


MOST = 60 * MIB
FLOODS = {
    "messages": ("/api/chat", b'{"model":"demo","messages":[%b]}', b'{"role":"user","content":"a"},'),
    "messages for OpenAI": (
        "/v1/chat/completions",
        b'{"model":"demo","messages":[%b]}',
        b'{"role":"user","content":"a"},',
    ),
    "empty objects": ("/v1/messages", b'{"model":"demo","messages":[%b]}', b"{},"),
    "fields": ("/v1/chat/completions", b'{"model":"demo","messages":[],"x":{%b}}', b'"a":1,'),
    "numbers": ("/api/embed", b'{"model":"demo","input":"a","x":[%b]}', b"1,"),
    "prompts": ("/v1/completions", b'{"model":"demo","prompt":[%b]}', b'"",'),
    "depth": ("/v1/completions", b'{"model":"demo","prompt":[%b]}', b"["),
    "names": ("/api/show", b'{"model":"demo","x":[%b]}', b"[],"),
    "quotation marks": ("/api/chat", b'{"model":"demo","messages":[{"role":"user","content":"%b"}]}', rb"\""),
    "an agent's": ("/v1/agents/rag/search", b'{"query":"a","x":[%b]}', b"[],"),
}


@pytest.mark.parametrize("what", FLOODS)
async def test_what_nobody_means_holds_nobody_up(what: str) -> None:
    path, frame, item = FLOODS[what]
    body = frame % (item * (MOST // len(item))).rstrip(b",")
    async with door(body_limit=64 * MIB) as opened, watched() as gaps:
        begin = head(len(body), "Content-Type: application/json", path=path)
        assert await asyncio.to_thread(status_of, opened.port, begin, body) in (400, 413)
    print(what, f"{max(gaps) * 1000:.0f} ms")
    assert max(gaps) < 0.2
