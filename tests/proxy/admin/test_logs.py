"""`/admin/logs`: earlier lines, and those to come."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from actors.kept_lines import KeptLines, ServerLines
from proxy.admin import logs as module
from proxy.admin.logs import LogViews
from proxy.catalog import Catalog, Known
from tests.proxy.scripted import Client, Door, door, model_status

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class FakeCatalog:
    """Knows two models."""

    models = (model_status("demo"), model_status("quiet"))

    async def find(self, name: str) -> Known:
        """By its name or alias."""
        return Known({"org/demo:latest": "demo"}.get(name, name))


class Logs:
    """What can be read."""

    def __init__(self) -> None:
        self.gateway = KeptLines(5000)
        self.servers = ServerLines()
        self.has_ended = False
        self.views = LogViews(
            self.gateway, self.servers, cast("Catalog", FakeCatalog()), lambda: self.has_ended
        )

    def add(self, event: str, level: str = "info") -> None:
        """Log something."""
        self.gateway.add(json.dumps({"event": event}), LEVELS[level])


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.01)


@asynccontextmanager
async def opened(logs: Logs) -> AsyncIterator[Door]:
    routes = {"/admin/logs": logs.views.gateway, "/admin/logs/{id:.+}": logs.views.model}
    async with door(routes=routes) as found:
        yield found


async def lines(found: Door, path: str) -> list[Any]:
    async with found.session.get(path) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "application/x-ndjson"
        return [json.loads(line) async for line in answer.content]


async def following(found: Door, path: str) -> Client:
    client = await found.connect()
    await client.request("GET", path)
    await client.head()
    return client


async def events(client: Client, count: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        found += [json.loads(line) for line in (await client.chunk()).splitlines() if line]
    return found


async def test_earlier_lines() -> None:
    logs = Logs()
    for level in LEVELS:
        logs.add(f"at {level}", level)
    async with opened(logs) as found:
        assert [line["event"] for line in await lines(found, "/admin/logs")] == [
            f"at {one}" for one in LEVELS
        ]
        severe = await lines(found, "/admin/logs?level=warning")
        assert [line["event"] for line in severe] == ["at warning", "at error"]
        assert [line["event"] for line in await lines(found, "/admin/logs?lines=1")] == ["at error"]
        assert await lines(found, "/admin/logs?lines=0") == []
        for query in ("lines=-1", "lines=x", "level=loud", "follow=perhaps"):
            async with found.session.get(f"/admin/logs?{query}") as answer:
                assert answer.status == 400


async def test_lines_to_come_until_the_gateway_ends() -> None:
    logs = Logs()
    logs.add("before")
    async with opened(logs) as found:
        client = await following(found, "/admin/logs?follow=1&level=info")
        assert await events(client, 1) == [{"event": "before"}]
        logs.add("not this one", "debug")
        logs.add("then")
        assert await events(client, 1) == [{"event": "then"}]
        logs.add("at last")
        logs.has_ended = True
        assert await client.body() == b'{"event": "at last"}\n'


async def test_a_model_s_lines() -> None:
    logs = Logs()
    logs.servers.of("demo").add("loading")
    async with opened(logs) as found:
        (line,) = await lines(found, "/admin/logs/org/demo:latest")
        assert line["line"] == "loading"
        assert line["at"] > 1e9
        assert await lines(found, "/admin/logs/quiet") == []
        client = await following(found, "/admin/logs/quiet?follow=1")
        logs.servers.of("quiet").add("at last")
        assert [line["line"] for line in await events(client, 1)] == ["at last"]
        async with found.session.get("/admin/logs/nobody") as answer:
            assert answer.status == 404


async def test_lines_that_come_faster_than_they_are_read_are_counted() -> None:
    logs = Logs()
    async with opened(logs) as found:
        client = await following(found, "/admin/logs?follow=1&lines=0")
        await asyncio.sleep(0.05)  # it has begun to follow
        for number in range(1000):
            logs.add(str(number))
        first, *rest = await events(client, 2)
        assert first["dropped"] > 900
        assert first["dropped"] + len(logs.gateway.after(0)) == 1000
        assert rest[0] == {"event": str(first["dropped"])}


async def test_a_reader_that_nothing_comes_for_gets_an_empty_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.0)
    async with opened(Logs()) as found:
        client = await following(found, "/admin/logs?follow=1")
        assert await client.chunk() == b"\n"
