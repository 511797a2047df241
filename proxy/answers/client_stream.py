"""How a model server's answer becomes the client's: whole, assembled, or relayed as it comes."""

import asyncio
from collections.abc import Callable, Iterable, Iterator

import msgspec
from aiohttp import HttpVersion11, web

from actors.supervisor import Lease
from agents.events import AnswerFailed
from proxy.answers.call import blame, broken, broken_off, named
from proxy.answers.relay import (
    PROGRESS,
    STREAM_HEADERS,
    BodyCollector,
    ClientStalledError,
    Prelude,
    Relay,
    count_tokens,
    is_event_stream,
)
from proxy.apis.answer_json import UnreadableError, read_object, reader
from proxy.apis.assemble import Assembler, StreamedError, UnfinishedError, assemble, take
from proxy.apis.codec import Dialect
from proxy.apis.endings import End, Last, is_whole, outcome, read_last
from proxy.apis.failures import to_api_error
from proxy.apis.llama_cpp.failures import upstream_error
from proxy.apis.table import ENDS
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.wire.http1 import Head, length_of
from proxy.wire.ndjson import LineSplitter
from proxy.wire.sse import EventSplitter, EventTooLongError, ServerSentEvent, parse_event
from proxy.wire.upstream_connection import BadAnswerError, UpstreamError, UpstreamResponse

ANSWER_LIMIT = 512 * 1024 * 1024
"""Bytes of a whole answer."""
ASSEMBLED_LIMIT = 96 * 1024 * 1024
"""Bytes of the events that a whole answer is made of: to write that down stops all others meanwhile."""
ERROR_LIMIT = 1024 * 1024
CHECK_LIMIT = 4 * 1024 * 1024
"""Bytes. Of a larger body only the first and the last one are looked at, which stops nobody."""

ReadFailure = Callable[[bytes, int], AnswerFailed]
"""Takes the body and the status of an error."""


async def collected(lease: Lease, response: UpstreamResponse, read_failure: ReadFailure) -> bytes:
    """The whole body. Raises `ApiError` for an error, in the words of the server.

    Raises `BadAnswerError` for a redirection, which nobody follows.
    """
    status = response.head.status
    limit = ANSWER_LIMIT if status < 400 else ERROR_LIMIT
    if (length_of(response.head) or 0) > limit:
        raise BadAnswerError(f"the model server announced an answer of more than {limit} bytes")
    collector = BodyCollector(limit)
    response.attach(collector.feed)
    await response.finish()
    lease.served = status < 300 or 400 <= status < 500
    if status >= 400:
        raise to_api_error(read_failure(collector.body, status))
    if status >= 300:
        raise BadAnswerError(f"the model server answered with status {status}")
    return collector.body


async def check_stream(
    lease: Lease, response: UpstreamResponse, media_type: str, read_failure: ReadFailure
) -> None:
    """Raise `ApiError` if the server refuses, or `BadAnswerError` if what it sends is no such stream."""
    head = response.head
    if head.status >= 300:
        await collected(lease, response, read_failure)
    if head.content_type != media_type:
        kind = head.content_type or "a body of no type"
        raise BadAnswerError(f"the model server answered {head.status} with {kind}, and no stream")


async def whole(
    exchange: Exchange,
    lease: Lease,
    response: UpstreamResponse,
    read_failure: ReadFailure,
    kinds: tuple[type, ...] = (dict,),
    end: End | None = None,
) -> web.StreamResponse:
    """Pass on an answer that is no stream; an error is put into the client's dialect.

    `end`: it was asked for as a stream. Raises `BadAnswerError` if it is no JSON of one of these `kinds`,
    an object or a list, or if there is no answer in it.
    """
    body = await collected(lease, response, read_failure)
    lease.served = False
    _check_json(response.head, body, kinds, read_failure, end)
    lease.served = True
    exchange.first_byte()
    exchange.status = response.head.status
    exchange.tokens = count_tokens(body[-4096:])
    content_type = "application/json"
    if response.head.content_type == content_type:
        content_type = response.head.headers["content-type"]
    return web.Response(status=response.head.status, body=body, headers={"Content-Type": content_type})


def _check_json(
    head: Head, body: bytes, kinds: tuple[type, ...], read_failure: ReadFailure, end: End | None
) -> None:
    begin, last = body[:1024].lstrip(), body[-1024:].rstrip()
    if not begin:
        raise BadAnswerError(f"the model server answered {head.status} with no body, and JSON was asked for")
    what = f"the model server answered {head.status} with {head.content_type or 'a body of no type'}"
    if (begin[:1], last[-1:]) not in [_BRACKETS[kind] for kind in kinds]:
        raise BadAnswerError(f"{what}, and a JSON {_KINDS[kinds[0]]} was asked for: {body[:80]!r}")
    if len(body) > CHECK_LIMIT:
        return
    try:
        body.decode()
        answer = Last() if begin.startswith(b"[") and _read_list(body) is not None else read_last(body)
    except ValueError as error:
        raise BadAnswerError(f"{what}, which cannot be read: {error}") from None
    if answer.error is not None:
        raise to_api_error(read_failure(body, 500))
    if end is not None and begin.startswith(b"{") and not end.is_answer(answer):
        raise BadAnswerError(f"{what}, and no answer in it")


_BRACKETS: dict[type, tuple[bytes, bytes]] = {dict: (b"{", b"}"), list: (b"[", b"]")}
_KINDS: dict[type, str] = {dict: "object", list: "list"}
_read_list = reader(list[msgspec.Raw])


async def assembled(
    exchange: Exchange, lease: Lease, response: UpstreamResponse, assembler: Assembler
) -> web.StreamResponse:
    """Make the whole answer of a stream. Raises `BadAnswerError` if it is none."""
    splitter = EventSplitter() if is_event_stream(response.head) else _Lines()
    size = taken = 0

    def counted(events: Iterable[ServerSentEvent]) -> Iterator[ServerSentEvent]:
        nonlocal taken
        for event in events:
            yield event
            taken += 1

    def feed(payload: bytes, _raw: bytes | None) -> None:
        nonlocal size
        size += len(payload)
        if size > ASSEMBLED_LIMIT:
            raise EventTooLongError(f"an answer of more than {ASSEMBLED_LIMIT} bytes; ask for a stream")
        if PROGRESS not in payload:
            exchange.first_byte()
        take(assembler, counted(splitter.feed(payload)))

    try:
        response.attach(feed)
        await response.finish()
        take(assembler, counted(splitter.end()))
        exchange.first_byte()  # a short answer may come in one piece with the progress
        body = assemble(assembler)
    except StreamedError as error:
        failure = upstream_error(500, error.error)
        raise broken_off(failure) if taken else failure from None
    except UnfinishedError as error:
        raise BadAnswerError(f"the model server's answer ended in the middle, without {error}") from None
    except UnreadableError as error:
        raise BadAnswerError(f"the model server's stream makes no sense: {error}") from None
    lease.served = True
    exchange.status = 200
    exchange.tokens = count_tokens(body)
    return json_response(body)


class _Lines:
    """Lines of JSON as events."""

    def __init__(self) -> None:
        self._splitter = LineSplitter()

    def feed(self, payload: bytes) -> list[ServerSentEvent]:
        return [ServerSentEvent("", line) for line in self._splitter.feed(payload) if line.strip()]

    def end(self) -> list[ServerSentEvent]:
        rest = self._splitter.rest()
        return [ServerSentEvent("", rest)] if rest.strip() else []


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
    end: End | None = None,
    first: bytes = b"",
) -> web.StreamResponse:
    """Stream to the client, unparsed. Once its head is out, an error can only be a last frame, or a cut.

    `ending` is that of an event or a line, of which only whole ones are passed on; `end` what must have come
    for the answer to be whole; `first` goes before.
    """
    relay = await begin_relay(
        request, exchange, response, client, ending=ending, patch=dialect.patch if dialect else None
    )
    if first:
        relay.feed(first, None)
    response.attach(relay.feed, relay)
    try:
        await run_relay(
            request, exchange, lease, relay, write_timeout=write_timeout, dialect=dialect, end=end
        )
    except asyncio.CancelledError:
        # A client may close at the last event, before the connection's end has come from upstream.
        complete = is_whole(relay.tail, ENDS if end is None else (end,))
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
    end: End | None = None,
) -> bool:
    """Return when all is passed on: true if it came to its end."""
    try:
        await relay.run(write_timeout)
        if end is not None:
            _check_end(exchange, relay, end)
        lease.served = exchange.status < 500
        return True
    except ApiError as failure:
        _end_with(exchange, relay, blame(failure, lease), dialect)
    except ClientStalledError as error:
        exchange.client_left()
        exchange.error = str(error)
        cut(request)
    except (UpstreamError, EventTooLongError) as error:
        lease.broken = isinstance(error, UpstreamError) and error.hung_up
        _end_with(exchange, relay, blame(broken(error, exchange), lease), dialect)
        if dialect is None:
            cut(request)
    return False


def _check_end(exchange: Exchange, relay: Relay, end: End) -> None:
    """Look at the last events, once a stream. Raises `ApiError` for what the client must be told."""
    held = relay.take_held()
    came = outcome(relay.tail + held, end)
    if came.failure is None:
        relay.end_with(held)
    elif came.told:
        relay.end_with(held)
        exchange.failed(broken_off(to_api_error(came.failure)))
    else:
        raise named(broken_off(to_api_error(came.failure)), exchange)


def _end_with(exchange: Exchange, relay: Relay, failure: ApiError, dialect: Dialect | None) -> None:
    exchange.failed(failure)
    if dialect is not None:
        failure = dialect.reword(failure, exchange.model or "")
        relay.end_with(dialect.frame(failure, exchange.request_id))


async def end_relay(request: web.Request, client: web.StreamResponse) -> None:
    """End the answer, if the client is still there."""
    if request.transport is not None and not request.transport.is_closing():
        await client.write_eof()


async def first_event(response: UpstreamResponse, *, keep_progress: bool) -> bytes:
    """What has come when the first real event has. Raises `ApiError` if that is an error.

    Raises `BadAnswerError` if it is no JSON object, or if there is none.
    """
    prelude = Prelude(response, keep_progress=keep_progress)
    response.attach(prelude.feed)
    await response.until(lambda: prelude.first is not None)
    come = prelude.first_bytes
    first = parse_event(prelude.first if prelude.first is not None else come)
    if first is None or first.data == b"[DONE]":
        raise BadAnswerError("the model server's stream ended with no answer in it")
    try:
        data = read_object(first.data)
    except UnreadableError as error:
        message = f"the model server's stream makes no sense: {error}: {first.data[:80]!r}"
        raise BadAnswerError(message) from None
    if (told := data.get("error")) is not None:
        raise upstream_error(500, told if isinstance(told, dict) else {"message": str(told)})
    if first.type == "error":
        raise upstream_error(500, data)
    return come


def cut(request: web.Request) -> None:
    """Close the client's connection so that it cannot take what it got for the whole."""
    if request.transport is not None:
        request.transport.abort()
