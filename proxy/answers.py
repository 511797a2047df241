"""How a model server's answer becomes the client's: whole, assembled, or relayed as it comes."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from aiohttp import HttpVersion11, web

from actors.supervisor import Lease
from agents.events import Failure
from proxy.asking import broken
from proxy.assemble import Assembler, StreamedError
from proxy.dialects import Dialect, upstream_error
from proxy.exchange import Exchange
from proxy.ndjson import LineSplitter
from proxy.relay import (
    PROGRESS,
    STREAM_HEADERS,
    ClientStalledError,
    Collector,
    Prelude,
    Relay,
    count_tokens,
    is_event_stream,
)
from proxy.sse import EventSplitter, EventTooLongError, ServerSentEvent
from proxy.translate.failures import to_api_error
from proxy.upstream import UpstreamError, UpstreamResponse

ANSWER_LIMIT = 512 * 1024 * 1024
ERROR_LIMIT = 1024 * 1024
LAST_EVENTS = (
    b"data: [DONE]",
    b'"type":"message_stop"',
    b'"type":"response.completed"',
    b'"stop":true',
)
FORBIDDEN_OUT = {
    "access-control-allow-origin",
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "server",
    "trailer",
    "transfer-encoding",
    "upgrade",
}

ReadFailure = Callable[[bytes, int], Failure]
"""Takes the body and the status of an error."""


async def collected(lease: Lease, response: UpstreamResponse, read_failure: ReadFailure) -> bytes:
    """The whole body. Raises `ApiError` for an error, in the words of the server."""
    status = response.head.status
    collector = Collector(ANSWER_LIMIT if status < 400 else ERROR_LIMIT)
    response.attach(collector.feed)
    await response.finish()
    lease.served = status < 500
    if status >= 400:
        raise to_api_error(read_failure(collector.body, status))
    return collector.body


async def whole(
    exchange: Exchange, lease: Lease, response: UpstreamResponse, read_failure: ReadFailure
) -> web.StreamResponse:
    """Pass on an answer that is no stream; an error is put into the client's dialect."""
    body = await collected(lease, response, read_failure)
    status = response.head.status
    exchange.first_byte()
    exchange.status = status
    exchange.tokens = count_tokens(body[-4096:])
    content_type = response.head.headers.get("content-type", "application/json")
    return web.Response(status=status, body=body, headers={"Content-Type": content_type})


async def assembled(
    exchange: Exchange, lease: Lease, response: UpstreamResponse, assembler: Assembler
) -> web.StreamResponse:
    """Make the whole answer of a stream."""
    split = EventSplitter().feed if is_event_stream(response.head) else _lines()

    def feed(payload: bytes, _raw: bytes | None) -> None:
        if PROGRESS not in payload:
            exchange.first_byte()
        for event in split(payload):
            try:
                assembler.feed(event)
            except (msgspec.DecodeError, LookupError, TypeError, AttributeError) as error:
                message = f"the model server's stream makes no sense: {error}: {event.data[:200]!r}"
                raise UpstreamError(message) from error

    try:
        response.attach(feed)
        await response.finish()
        exchange.first_byte()  # a short answer may come in one piece with the progress
        body = msgspec.json.encode(assembler.result())
    except StreamedError as error:
        raise upstream_error(500, error.error) from None
    lease.served = True
    exchange.status = 200
    exchange.tokens = count_tokens(body)
    return json_response(body)


def _lines() -> Callable[[bytes], Iterator[ServerSentEvent]]:
    splitter = LineSplitter()

    def feed(payload: bytes) -> Iterator[ServerSentEvent]:
        return (ServerSentEvent("", line) for line in splitter.feed(payload) if line.strip())

    return feed


def json_response(body: bytes) -> web.Response:
    """A whole answer."""
    return web.Response(body=body, content_type="application/json", charset="utf-8")


def stream_response(request: web.Request, exchange: Exchange, media_type: str) -> web.StreamResponse:
    """The head of a streamed answer."""
    client = web.StreamResponse(headers={"Content-Type": media_type, **STREAM_HEADERS})
    client.headers["X-Request-Id"] = exchange.request_id
    if request.version < HttpVersion11:
        client.force_close()  # the end of the connection is the end of the body
    return client


def raw_response(request: web.Request, exchange: Exchange, response: UpstreamResponse) -> web.StreamResponse:
    """The head of an answer that is passed on unread."""
    head = response.head
    exchange.first_byte()
    exchange.status = head.status
    headers = {name: value for name, value in head.headers.items() if name not in FORBIDDEN_OUT}
    client = web.StreamResponse(status=head.status, headers=headers)
    client.headers.update(exchange.headers)
    if (length := head.headers.get("content-length")) is not None:
        client.content_length = int(length)
    elif request.version < HttpVersion11:
        client.force_close()
    return client


async def relayed(
    request: web.Request,
    exchange: Exchange,
    lease: Lease,
    response: UpstreamResponse,
    client: web.StreamResponse,
    *,
    write_timeout: float,
    dialect: Dialect | None = None,
    ending: bytes = b"",
    first: bytes = b"",
) -> web.StreamResponse:
    """Stream to the client, unparsed. Once its head is out, an error can only be a last frame, or a cut.

    `ending` is that of an event or a line, of which only whole ones are passed on; `first` goes before.
    """
    relay = await begin_relay(
        request, exchange, response, client, ending=ending, patch=dialect.patch if dialect else None
    )
    if first:
        relay.feed(first, None)
    response.attach(relay.feed, relay)
    try:
        await run_relay(request, exchange, lease, relay, write_timeout=write_timeout, dialect=dialect)
    except asyncio.CancelledError:
        # A client may close at the last event, before the connection's end has come from upstream.
        complete = b'"done":true' in relay.tail or any(mark in relay.tail[-200:] for mark in LAST_EVENTS)
        exchange.complete = lease.served = complete
        raise
    finally:
        exchange.tokens = count_tokens(first[:4096], relay.tail)
    await end_relay(request, client)
    return client


async def begin_relay(
    request: web.Request,
    exchange: Exchange,
    response: UpstreamResponse,
    client: web.StreamResponse,
    *,
    ending: bytes = b"",
    patch: Callable[[bytes], bytes] | None = None,
) -> Relay:
    """Send the head, if it is not out yet; return what writes the rest."""
    if not client.prepared:
        client.headers.update(exchange.headers)
    await client.prepare(request)
    chunked = client.headers.get("Transfer-Encoding") == "chunked"
    return Relay(request, response, ending=ending, chunked=chunked, patch=patch)


async def run_relay(
    request: web.Request,
    exchange: Exchange,
    lease: Lease,
    relay: Relay,
    *,
    write_timeout: float,
    dialect: Dialect | None,
) -> bool:
    """Return when all is passed on: true if it came to its end."""
    try:
        await relay.run(write_timeout)
        lease.served = True
        return True
    except ClientStalledError as error:
        exchange.client_left()
        exchange.error = str(error)
        cut(request)
    except (UpstreamError, EventTooLongError) as error:
        lease.broken = isinstance(error, UpstreamError) and error.hung_up
        failure = broken(error, exchange)
        exchange.failed(failure)
        if dialect is None:
            cut(request)
        else:
            failure = dialect.reword(failure, exchange.model or "")
            relay.end_with(dialect.frame(failure, exchange.request_id))
    return False


async def end_relay(request: web.Request, client: web.StreamResponse) -> None:
    """End the answer, if the client is still there."""
    if request.transport is not None and not request.transport.is_closing():
        await client.write_eof()


async def first_event(response: UpstreamResponse, *, keep_progress: bool) -> bytes:
    """What has come when the first real event has. Raises `ApiError` if that is an error."""
    prelude = Prelude(response, keep_progress=keep_progress)
    response.attach(prelude.feed)
    await response.until(lambda: prelude.open)
    _raise_early_error(prelude.first_bytes)
    return prelude.first_bytes


def _raise_early_error(first: bytes) -> None:
    """Raise if the first real event is an error: its status can still be told."""
    for event in EventSplitter().feed(first):
        try:
            data = msgspec.json.decode(event.data, type=dict[str, Any])
        except msgspec.DecodeError:
            return
        if (error := data.get("error")) is not None:
            raise upstream_error(500, error if isinstance(error, dict) else {"message": str(error)})
        if event.type == "error":
            raise upstream_error(500, data)


def cut(request: web.Request) -> None:
    """Close the client's connection so that it cannot take what it got for the whole."""
    if request.transport is not None:
        request.transport.abort()
