"""Running and waiting requests, and their cancellation at each point of their way."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import Outlook
from agents.api import Agent, Chat, Context, Event, Reply
from agents.events import Text
from agents.host.discovery import Loaded
from proxy.handlers.responses.store import ResponseStore
from tests.proxy.scripted import (
    DONE,
    END,
    STREAM,
    Client,
    Do,
    Door,
    FakeSupervisor,
    Step,
    chunk,
    door,
    json_answer,
    reached,
    said,
    scripted,
)

Json = dict[str, Any]


async def listed(opened: Door) -> list[Json]:
    async with opened.session.get("/admin/requests") as answer:
        assert answer.status == 200
        found: list[Json] = (await answer.json())["requests"]
        return found


async def cancelled(opened: Door, request_id: str) -> int:
    async with opened.session.delete(f"/admin/requests/{request_id}") as answer:
        return answer.status


async def asked(opened: Door, path: str = "/v1/chat/completions", **fields: Any) -> Client:
    """A client that has asked under the id `mine`."""
    client = await opened.connect()
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **fields}
    await client.post(path, body, "X-Request-Id: mine")
    return client


async def test_a_stream_in_its_phases() -> None:
    goes_on = asyncio.Event()
    async with scripted([STREAM, chunk(said("a")), chunk(said("b")), goes_on, chunk(DONE), END]) as server:
        gate = asyncio.Event()

        def prepare(supervisor: FakeSupervisor) -> None:
            supervisor.gate = gate

        async with door(server, prepare=prepare) as opened:
            client = await asked(opened, stream=True)
            await opened.supervisor.waits.wait()
            (one,) = await listed(opened)
            assert (one["id"], one["phase"], one["model"], one["stream"]) == ("mine", "queue", "demo", True)
            assert (one["completion_tokens"], one["first_token_seconds"]) == (None, None)
            gate.set()
            await client.head()
            seen = b""
            while said("b") not in seen:
                seen += await client.chunk()
            (one,) = await listed(opened)
            assert (one["phase"], one["completion_tokens"]) == ("answer", 2)
            assert one["tokens_per_second"] > 0
            assert one["seconds"] >= one["first_token_seconds"] >= 0
            goes_on.set()
            await client.body()
            assert await listed(opened) == []


async def test_views_are_no_requests() -> None:
    async with door() as opened:
        async with opened.session.get("/props?model=demo&autoload=false"):
            pass
        assert await listed(opened) == []
        assert await cancelled(opened, "anything") == 404


async def test_the_same_id_twice() -> None:
    waits = asyncio.Event()
    async with scripted([waits]) as server, door(server) as opened:
        first, second = await asked(opened), await asked(opened)
        await reached(lambda: len(server.requests) == 2)
        ids = [one["id"] for one in await listed(opened)]
        assert ids[0] == "mine"
        assert ids[1].startswith("mine~")
        for one in ids:
            assert await cancelled(opened, one) == 204
        assert (await first.answer()).status == (await second.answer()).status == 403


async def test_the_queue() -> None:
    def prepare(supervisor: FakeSupervisor) -> None:
        supervisor.gate = asyncio.Event()
        supervisor.outlooks = [
            Outlook(
                model="demo", state=State.FETCHED, position=1, seconds=7.44, why="no room", ticket=1, waited=2
            ),
            Outlook(model="demo", state=State.READY, position=2, seconds=9, why=None, ticket=99, client="ci"),
        ]

    async with door(prepare=prepare) as opened:
        await asked(opened)
        await opened.supervisor.waits.wait()
        async with opened.session.get("/admin/queue") as answer:
            first, second = (await answer.json())["waiting"]
        assert first == {
            "id": "mine",
            "model": "demo",
            "key": None,
            "place": 1,
            "reason": "no room",
            "eta_seconds": 7.4,
            "waited_seconds": 2.0,
        }
        assert (second["id"], second["key"], second["reason"]) == (None, "ci", "its slots are busy")


async def test_cancelled_in_the_queue() -> None:
    def prepare(supervisor: FakeSupervisor) -> None:
        supervisor.gate = asyncio.Event()

    async with door(prepare=prepare) as opened:
        for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
            client = await asked(opened, path, max_tokens=5)
            await opened.supervisor.waits.wait()
            opened.supervisor.waits.clear()
            opened.supervisor.left.clear()
            assert await cancelled(opened, "mine") == 204
            answer = await client.answer()
            assert answer.status == 403
            told = answer.json["error"] if path == "/api/chat" else answer.json["error"]["message"]
            assert told == "the operator cancelled this request"
            await opened.supervisor.left.wait()


async def test_cancelled_in_the_middle_of_a_stream() -> None:
    """The client gets whole events, an error as its dialect has it, and nothing after it."""
    for path, ending in (("/v1/chat/completions", "data: "), ("/v1/messages", "event: error\ndata: ")):
        async with scripted([STREAM, chunk(said("a")), asyncio.Event()]) as server, door(server) as opened:
            client = await asked(opened, path, stream=True, max_tokens=5)
            await client.head()
            seen = (await client.chunk()).decode()
            while "a" not in seen:
                seen += (await client.chunk()).decode()
            assert await cancelled(opened, "mine") == 204
            rest = (await client.body()).decode()
            last = rest.removesuffix("data: [DONE]\n\n").removesuffix("\n\n").rpartition("\n\n")[2]
            assert last.startswith(ending)
            error = json.loads(last.removeprefix(ending))["error"]
            assert error["message"] == "the operator cancelled this request"
            await reached(server.connections[0].gone.is_set)
            assert await listed(opened) == []


async def test_cancelled_while_a_whole_answer_is_made() -> None:
    async with scripted([STREAM, chunk(said("a")), asyncio.Event()]) as server, door(server) as opened:
        client = await asked(opened)
        await reached(lambda: bool(server.connections and server.connections[0].sent))
        assert await cancelled(opened, "mine") == 204
        answer = await client.answer()
        assert (answer.status, answer.json["error"]["code"]) == (403, "request_cancelled")
        await reached(server.connections[0].gone.is_set)


async def test_the_connection_serves_the_next_request() -> None:
    first: list[Step] = [STREAM, chunk(said("a")), asyncio.Event()]
    second: list[Step] = [json_answer({"tokens": [1]}), Do.NEXT]
    async with scripted(first, second) as server, door(server) as opened:
        client = await asked(opened, stream=True)
        await client.head()
        await client.chunk()
        assert await cancelled(opened, "mine") == 204
        await client.body()
        await client.post("/tokenize", {"model": "demo", "content": "x"})
        assert (await client.answer()).json == {"tokens": [1]}


@pytest.mark.parametrize("answers", [False, True], ids=["before the model", "in its own answer"])
async def test_cancelled_while_an_agent_works(answers: bool) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def ponder() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def talk() -> AsyncGenerator[Event, None]:
        yield Text("so far")
        await ponder()

    class Ponders(Agent):
        async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
            if answers:
                return Reply(talk())
            await ponder()
            return request

    loaded = Loaded("ponders", __name__, Ponders, Ponders.Config())
    async with door(agents=[loaded]) as opened:
        client = await opened.connect()
        body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        await client.post("/v1/chat/completions", body, "X-Agents: ponders", "X-Request-Id: mine")
        await began.wait()
        (one,) = await listed(opened)
        assert (one["agents"], one["phase"]) == (["ponders"], "answer" if answers else "agents")
        assert await cancelled(opened, "mine") == 204
        answer = await client.answer()
        assert answer.status == (200 if answers else 403)
        assert b"the operator cancelled this request" in answer.body
        await ended.wait()


async def test_an_answer_in_the_background_is_cancelled(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path / "r", 60)
    script: list[Step] = [STREAM, chunk(said("a")), asyncio.Event()]
    async with scripted(script) as server, door(server, responses=store) as opened:
        client = await opened.connect()
        body = {"model": "demo", "input": "x", "background": True}
        await client.post("/v1/responses", body, "X-Request-Id: mine")
        queued = (await client.answer()).json
        await reached(lambda: bool(server.connections and server.connections[0].sent))
        (one,) = await listed(opened)
        assert await cancelled(opened, one["id"]) == 204
        await reached(server.connections[0].gone.is_set)
        async with opened.session.get(f"/v1/responses/{queued['id']}") as answer:
            response = await answer.json()
        assert response["status"] == "failed"
        assert response["error"]["message"] == "the operator cancelled this request"
        assert await listed(opened) == []
        await store.close()


async def test_cancelled_while_its_body_comes() -> None:
    async with door() as opened:
        client = await opened.connect()
        await client.send(
            b"POST /upstream/demo/x HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\nContent-Length: 9\r\n\r\nabc"
        )
        while not await listed(opened):
            pass
        assert await cancelled(opened, "mine") == 204
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (403, "close")
