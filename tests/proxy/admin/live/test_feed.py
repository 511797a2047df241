"""The feed of changes: a snapshot first, then what has changed, whoever reads and however slowly."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from actors.progress import Progress
from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import Outlook
from proxy.admin.live import feed as module
from proxy.admin.live.feed import Feed
from tests.proxy.scripted import (
    DONE,
    END,
    STREAM,
    Do,
    Door,
    Step,
    chunk,
    door,
    json_answer,
    model_status,
    reached,
    said,
    scripted,
)

Json = dict[str, Any]

ANSWERS: list[Step] = [json_answer({"tokens": []}), Do.NEXT] * 50


class Reader:
    """Reads the stream of a door."""

    def __init__(self, lines: AsyncIterable[bytes]) -> None:
        self._lines = lines
        self.cursor = ""

    async def next(self, *kinds: str) -> tuple[str, Any]:
        """The next event of one of these kinds, or of any."""
        kind = ""
        async for line in self._lines:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                self.cursor = value
            elif name == "event":
                kind = value
            elif name == "data" and (not kinds or kind in kinds):
                return kind, json.loads(value)
        raise AssertionError("the stream has ended")


@asynccontextmanager
async def reading(opened: Door, **query: str) -> AsyncIterator[Reader]:
    async with opened.session.get("/admin/events", params=query) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        yield Reader(answer.content)


def demo_door() -> AbstractAsyncContextManager[Door]:
    """A door whose supervisor knows a model."""
    return door(prepare=lambda supervisor: supervisor.models.append(model_status("demo")))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.01)


async def test_a_snapshot_comes_first() -> None:
    async with demo_door() as opened, reading(opened) as reader:
        kind, state = await reader.next()
    assert kind == "snapshot"
    assert state["version"] == "1.2.3"
    assert [(model["name"], model["state"]) for model in state["models"]] == [("demo", "ready")]
    assert state["requests"] == state["waiting"] == state["downloads"] == []
    assert set(state["memory"]) == {"gpus", "gpus_lost", "gpu_error", "host"}
    assert state["uptime_seconds"] >= 0


async def test_what_changes_is_told_and_nothing_else() -> None:
    async with demo_door() as opened, reading(opened) as reader:
        await reader.next("snapshot")
        supervisor = opened.supervisor
        supervisor.models = [model_status("demo", idle_seconds=1.0), model_status("b", State.STOPPED)]
        assert [(await reader.next())[1]["name"] for _ in "12"] == ["demo", "b"]
        supervisor.models[0] = model_status("demo", idle_seconds=2.0)  # which changes by itself
        supervisor.models[1] = model_status("b", State.FETCHING)
        kind, told = await reader.next()
        assert (kind, told["name"], told["state"]) == ("model", "b", "fetching")
        supervisor.download = Progress(have=5, total=10, rate=2.5)
        kind, told = await reader.next()
        assert (kind, told[0]["bytes"], told[0]["seconds_left"]) == ("downloads", 5, 2.0)
        supervisor.models.pop()
        assert await reader.next() == ("model_removed", {"name": "b"})
        supervisor.download = None
        while (await reader.next("downloads"))[1]:
            pass
        supervisor.outlooks = [Outlook(model="demo", state=State.READY, position=1, seconds=1, why=None)]
        kind, told = await reader.next()
        assert (kind, told[0]["reason"]) == ("waiting", "its slots are busy")
        supervisor.outlooks = []
        assert await reader.next() == ("waiting", [])


async def test_a_request_from_beginning_to_end() -> None:
    goes_on = asyncio.Event()
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    script: list[Step] = [STREAM, chunk(said("a")), goes_on, chunk(said("b")), chunk(usage), chunk(DONE), END]
    async with scripted(script) as server, door(server) as opened, reading(opened) as reader:
        await reader.next("snapshot")
        client = await opened.ask()
        told: Json = {}
        while told.get("phase") != "answer":
            _, told = await reader.next("request")
        assert (told["model"], told["completion_tokens"]) == ("demo", 1)
        goes_on.set()
        await client.answer()
        _, ended = await reader.next("request_ended")
        assert (ended["id"], ended["status"], ended["outcome"]) == (told["id"], 200, "ok")
        assert (ended["prompt_tokens"], ended["completion_tokens"]) == (3, 2)
        assert (ended["queued_seconds"], ended["loaded_seconds"]) == (0.25, 1.5)


async def test_a_reader_continues_where_it_was() -> None:
    async with scripted(ANSWERS) as server, door(server) as opened:
        async with reading(opened) as reader:
            await reader.next("snapshot")
            cursor = reader.cursor
        await opened.post("/tokenize")
        async with reading(opened, after=cursor) as reader:
            kind, _ = await reader.next("request_ended", "snapshot")
            assert kind == "request_ended"
        headers = {"Last-Event-ID": cursor}
        async with opened.session.get("/admin/events", headers=headers) as answer:
            assert (await Reader(answer.content).next("request_ended", "snapshot"))[0] == "request_ended"


@pytest.mark.parametrize("cursor", ["", "x", "-1", "0123abcd-1", "0123abcd-²"])
async def test_a_cursor_of_another_gateway_gets_a_snapshot(cursor: str) -> None:
    async with door() as opened, reading(opened, after=cursor) as reader:
        assert (await reader.next())[0] == "snapshot"


async def test_a_cursor_that_is_too_old_gets_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 2000)
    async with scripted(ANSWERS) as server, door(server) as opened:
        async with reading(opened) as reader:
            await reader.next("snapshot")
            old = reader.cursor
            for _ in range(10):
                await opened.post("/tokenize")
                await reader.next("request_ended")
        async with reading(opened, after=old) as reader:
            assert (await reader.next())[0] == "snapshot"


async def test_when_nobody_listens_it_stops_and_old_cursors_are_void(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER", 0.0)
    feeds: list[Feed] = []
    start = Feed.follow

    def follow(self: Feed, after: str | None) -> AsyncGenerator[bytes, None]:
        feeds.append(self)
        return start(self, after)

    monkeypatch.setattr(Feed, "follow", follow)
    async with scripted(ANSWERS) as server, door(server) as opened:
        async with reading(opened) as reader:
            await reader.next("snapshot")
            cursor = reader.cursor
        await reached(lambda: feeds[0]._ticker is None)
        await opened.post("/tokenize")
        assert not feeds[0]._ended  # nothing is kept that nobody will read
        async with reading(opened, after=cursor) as reader:
            assert (await reader.next())[0] == "snapshot"


async def test_a_slow_reader_gets_a_snapshot_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 4000)
    async with scripted(ANSWERS) as server, door(server) as opened, reading(opened) as reader:
        await reader.next("snapshot")
        slow = await opened.connect()
        await slow.request("GET", "/admin/events")
        await slow.head()
        for _ in range(40):  # far more than is kept, while the slow one reads nothing
            await opened.post("/tokenize", content="x" * 2000)
            await reader.next("request_ended")
        kinds = set()
        while True:
            text = (await slow.chunk()).decode()
            kinds |= {line for line in text.splitlines() if line.startswith("event: ")}
            if "request_ended" in str(kinds) or "snapshot" in str(kinds):
                break


async def test_the_end_of_the_gateway_ends_the_stream() -> None:
    async with door() as opened:
        client = await opened.connect()
        await client.request("GET", "/admin/events")
        await client.head()
        assert b"event: snapshot" in await client.chunk()
    assert await client.rest() in (b"", b"0\r\n\r\n")


async def test_a_look_that_fails_ends_the_stream_and_the_next_reader_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Feed._look
    fails = True

    def look(self: Feed) -> None:
        if fails:
            raise RuntimeError("a defect")
        looks(self)

    monkeypatch.setattr(Feed, "_look", look)
    async with demo_door() as opened:
        async with reading(opened) as reader:
            with pytest.raises((AssertionError, aiohttp.ClientPayloadError)):
                await reader.next()
        fails = False
        async with reading(opened) as reader:
            await reader.next("snapshot")
            opened.supervisor.models.append(model_status("new"))
            assert (await reader.next("model"))[1]["name"] == "new"
