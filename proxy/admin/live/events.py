"""`/admin/events`: every change of the gateway's state, as server-sent events."""

from contextlib import aclosing

import msgspec
from aiohttp import web

from proxy.admin.live.feed import Feed
from proxy.admin.routes import Route
from proxy.answers.client_stream import STREAM_HEADERS
from proxy.exchange import EXCHANGE


class EventsQuery(msgspec.Struct):
    """The query of `/admin/events`. `after`: the cursor after which to continue, as `Last-Event-ID`."""

    after: str | None = None


class Events:
    """The handler."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        return (Route(method="GET", path="/admin/events", handler=self.stream, query=EventsQuery),)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Stream every change of models, requests, queue and memory, beginning with a snapshot."""
        cursor = request.query.get("after") or request.headers.get("Last-Event-ID")
        headers = {"Content-Type": "text/event-stream", **STREAM_HEADERS, **request[EXCHANGE].headers}
        client = web.StreamResponse(headers=headers)
        await client.prepare(request)
        async with aclosing(self._feed.follow(cursor)) as frames:
            async for frame in frames:
                await client.write(frame)  # a client that does not read is closed by its connection
        await client.write_eof()
        return client
