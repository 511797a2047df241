"""Clients that say nothing, say half, or shut their own side and wait."""

import asyncio
import json
from contextlib import suppress

import pytest
from aiohttp import web

from actors.runtime import spawn
from tests.proxy.scripted import SMALL, Client, Door, FakeSupervisor, door, json_answer, reached, scripted

LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b'{"model": "demo", "content": "x"}'
TOKENIZE = b"POST /tokenize HTTP/%b\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def gated(supervisor: FakeSupervisor) -> None:
    supervisor.gate = asyncio.Event()


async def half_closed(opened: Door, data: bytes) -> Client:
    """A client that has sent all that it will send, and reads on."""
    client = await opened.connect()
    await client.send(data)
    client.shut()
    return client


@pytest.mark.parametrize("count", [1, 2])
async def test_a_client_that_shuts_its_side_gets_its_answers(count: int) -> None:
    async with door() as opened:
        client = await half_closed(opened, LIVE * count)
        for _ in range(count):
            assert (await client.answer("GET")).json == {"status": "ok"}
        assert await client.rest() == b""


async def test_a_client_that_shuts_its_side_may_wait_for_its_turn() -> None:
    answer = json_answer({"tokens": [1]})
    async with scripted([answer]) as server, door(server, prepare=gated) as opened:
        client = await half_closed(opened, TOKENIZE % (b"1.1", len(BODY), BODY))
        # It is asked whether it is still there, in a way that clients skip.
        assert await client.read(len(CONTINUE)) == CONTINUE
        assert opened.supervisor.gate is not None
        opened.supervisor.gate.set()
        wire = await client.rest()
        assert wire.replace(CONTINUE, b"").startswith(b"HTTP/1.1 200 OK\r\n")
        assert json.loads(wire.rpartition(b"\r\n\r\n")[2]) == {"tokens": [1]}


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_client_that_leaves_is_told_from_one_that_waits(version: bytes) -> None:
    """Both send the same; the one of HTTP/1.0 cannot be asked, and has a moment."""
    async with scripted([]) as server, door(server, prepare=gated) as opened:
        client = await opened.connect()
        await client.send(TOKENIZE % (version, len(BODY), BODY))
        await opened.supervisor.waits.wait()
        client.close()
        async with asyncio.timeout(2):
            await opened.supervisor.left.wait()


@pytest.mark.parametrize("data", [b"", b"GET /hea", TOKENIZE % (b"1.1", 100, BODY)])
async def test_a_client_that_shuts_its_side_within_a_request(data: bytes) -> None:
    async with door() as opened:
        client = await half_closed(opened, data)
        assert await client.rest() == b""


@pytest.mark.parametrize("data", [b"", b"GET /health HTTP/1.1\r\nX-Slow: "])
async def test_a_head_that_does_not_come(data: bytes) -> None:
    """However slowly it drips."""
    async with door(head_timeout=0.3) as opened:
        client = await opened.connect()
        await client.send(data)
        end = spawn(client.rest(), name="end")
        while not end.done():  # the door's patience is the limit
            with suppress(ConnectionError):
                await client.send(b"a" if data else b"")
            await asyncio.wait([end], timeout=0.02)
        assert end.exception() is not None or end.result() == b""


async def test_connections_that_say_nothing_make_room() -> None:
    async with door(most=4) as opened:
        silent = [await opened.connect() for _ in range(12)]
        client = await opened.connect()
        await client.send(LIVE)
        assert (await client.answer("GET")).status == 200
        # The oldest are closed.
        for one in silent[:8]:
            assert await one.rest() == b""


async def test_connections_at_work_are_not_closed_for_new_ones() -> None:
    answer = json_answer({"tokens": [1]})
    async with scripted([answer]) as server, door(server, prepare=gated, most=2) as opened:
        at_work = [await opened.connect() for _ in range(2)]
        for client in at_work:
            await client.send(TOKENIZE % (b"1.1", len(BODY), BODY))
        await reached(lambda: len(opened.supervisor.asked) == 2)
        assert await (await opened.connect()).rest() == b""
        assert opened.supervisor.gate is not None
        opened.supervisor.gate.set()
        for client in at_work:
            assert (await client.answer()).json == {"tokens": [1]}


async def test_a_body_is_only_invited_when_somebody_reads_it() -> None:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    async with scripted([json_answer({"tokens": [1]})]) as server, door(server) as opened:
        client = await opened.connect()
        await client.send(head % (b"/tokenize", 2**30))
        assert (await client.head()).status == 413
        client = await opened.connect()
        await client.send(head % (b"/tokenize", len(BODY)))
        assert (await client.head()).status == 100
        await client.send(BODY)
        assert (await client.answer()).json == {"tokens": [1]}


async def test_requests_are_not_read_far_ahead() -> None:
    """Each of their heads may be long."""
    fields = (b"X-Long: " + b"x" * 8000 + b"\r\n") * 7
    request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n"
    answer = json_answer({"tokens": [1]})
    async with scripted([answer]) as server, door(server, prepare=gated) as opened:
        client = await opened.connect(sends=SMALL)
        await client.send(TOKENIZE % (b"1.1", len(BODY), BODY))
        await opened.supervisor.waits.wait()
        sending = spawn(client.send(request * 30), name="many heads")
        await asyncio.wait([sending], timeout=0.5)
        assert not sending.done()
        assert opened.supervisor.gate is not None
        opened.supervisor.gate.set()
        assert (await client.answer()).json == {"tokens": [1]}
        for _ in range(30):
            assert (await client.answer("GET")).json == {"status": "ok"}
        await sending


async def test_a_head_that_is_too_long() -> None:
    async with door() as opened:
        client = await opened.connect()
        with suppress(ConnectionError):  # what has not been read then resets the connection
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + (b"X-Long: " + b"x" * 8000 + b"\r\n") * 20)
            assert (await client.head()).status == 431
            assert await client.rest() == b""
        assert (await opened.session.get("/health/live")).status == 200


async def test_a_client_that_does_not_take_its_answer() -> None:
    async def large(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(2**24))

    async with door(routes={"/large": large}, write_timeout=0.2) as opened:
        client = await opened.connect(buffer=2**12)
        await client.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.head()
        await asyncio.sleep(1)  # it reads nothing meanwhile
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.read(2**24)


async def test_a_client_that_takes_its_answer_slowly() -> None:
    async def large(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(2**20))

    async with door(routes={"/large": large}, write_timeout=0.2) as opened:
        client = await opened.connect(buffer=2**12)
        await client.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.head()
        for _ in range(16):
            assert await client.read(2**16) == bytes(2**16)
            await asyncio.sleep(0.05)
