"""`/admin/logs`: the latest lines of the gateway's log and of model servers, and those that follow."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from actors.kept_lines import LEVELS, KeptLines, Line, ServerLines
from proxy.admin.routes import Route, read_query
from proxy.answers.client_stream import STREAM_HEADERS
from proxy.catalog import Catalog, not_found
from proxy.exchange import EXCHANGE

POLL = 0.25
"""Seconds between two looks for new lines."""
SILENCE = 10.0
"""Seconds without a line after which an empty one is sent, so that a lost connection is noticed."""


class LinesQuery(msgspec.Struct):
    """The query of a model's lines. `lines`: the most earlier ones; `follow`: go on with those to come."""

    lines: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 200
    follow: bool = False


class LogQuery(LinesQuery):
    """The query of the gateway's lines. `level`: the least one."""

    level: Literal["debug", "info", "warning", "error"] = "debug"


class ServerLine(msgspec.Struct, frozen=True):
    """A line of a model server, and the Unix time at which it came."""

    at: float
    line: str


class Dropped(msgspec.Struct, frozen=True):
    """A notice in the place of lines that came faster than they were read."""

    dropped: int


class LogViews:
    """The handlers. `has_ended`: whether the gateway ends now."""

    def __init__(
        self, gateway: KeptLines, servers: ServerLines, catalog: Catalog, has_ended: Callable[[], bool]
    ) -> None:
        self._gateway = gateway
        self._servers = servers
        self._catalog = catalog
        self._has_ended = has_ended

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        one = "/admin/logs/{id:.+}"
        return (
            Route(method="GET", path="/admin/logs", handler=self.gateway, query=LogQuery),
            Route(method="GET", path=one, handler=self.model, answer=ServerLine, query=LinesQuery),
        )

    async def gateway(self, request: web.Request) -> web.StreamResponse:
        """Stream the gateway's log as lines of JSON: the latest ones, and with `?follow=1` those to come."""
        query = read_query(request, LogQuery)
        least = LEVELS[query.level]

        def write(line: Line) -> bytes:
            return line.text.encode() + b"\n" if line.level >= least else b""

        return await self._stream(request, self._gateway, query, write)

    async def model(self, request: web.Request) -> web.StreamResponse:
        """Stream the lines of a model's servers: the latest ones, and with `?follow=1` those to come."""
        query = read_query(request, LinesQuery)
        asked = request.match_info["id"]
        name = (await self._catalog.find(asked)).name
        kept = self._servers.find(name)
        if kept is None:
            if all(model.name != name for model in self._catalog.models):
                raise not_found(asked)
            kept = self._servers.of(name)  # it may write some while the request waits

        def write(line: Line) -> bytes:
            return msgspec.json.encode(ServerLine(round(line.at, 3), line.text)) + b"\n"

        return await self._stream(request, kept, query, write)

    async def _stream(
        self, request: web.Request, kept: KeptLines, query: LinesQuery, write: Callable[[Line], bytes]
    ) -> web.StreamResponse:
        headers = {"Content-Type": "application/x-ndjson", **STREAM_HEADERS, **request[EXCHANGE].headers}
        client = web.StreamResponse(headers=headers)
        await client.prepare(request)
        async with aclosing(self._pieces(kept, query, write)) as pieces:
            async for piece in pieces:
                await client.write(piece)
        await client.write_eof()
        return client

    async def _pieces(
        self, kept: KeptLines, query: LinesQuery, write: Callable[[Line], bytes]
    ) -> AsyncGenerator[bytes, None]:
        number, earlier = kept.number, kept.after(0)
        number = earlier[-1].number if earlier else number
        written = [piece for line in earlier if (piece := write(line))]
        if query.lines and written:
            yield b"".join(written[-query.lines :])
        quiet_since = time.monotonic()
        while query.follow:
            is_last = self._has_ended()
            lines = kept.after(number)
            if lines:
                lost = lines[0].number - number - 1
                notice = msgspec.json.encode(Dropped(lost)) + b"\n" if lost else b""
                number = lines[-1].number
                if piece := notice + b"".join(map(write, lines)):
                    quiet_since = time.monotonic()
                    yield piece
            if is_last:
                return
            if time.monotonic() - quiet_since > SILENCE:
                quiet_since = time.monotonic()
                yield b"\n"
            await asyncio.sleep(POLL)
