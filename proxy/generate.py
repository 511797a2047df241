"""The way of a request through the gateway: check, lease, ask, and answer as a stream or as a whole."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from aiohttp import HttpVersion11, web

from actors.errors import RejectedError
from actors.messages import Endpoint as Address
from actors.supervisor import Lease, Supervisor
from proxy.assemble import Assembler, Json, StreamedError
from proxy.dialects import Dialect, upstream_error
from proxy.endpoints import Endpoint
from proxy.errors import ApiError, from_rejection
from proxy.exchange import Exchange
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
from proxy.requests import parse_body, read_body, with_fields
from proxy.sse import EventSplitter, EventTooLongError
from proxy.upstream import (
    UnreachableError,
    Upstream,
    UpstreamError,
    UpstreamResponse,
    UpstreamTimeoutError,
    render_request,
)
from proxy.waiting import Waiting

ANSWER_LIMIT = 512 * 1024 * 1024
ERROR_LIMIT = 1024 * 1024
LAST_EVENTS = (b"data: [DONE]", b'"type":"message_stop"', b'"type":"response.completed"', b'"stop":true')
FORBIDDEN_IN = {
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "accept-encoding",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
}
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


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Of the front door; sizes in bytes, times in seconds."""

    body: int
    queue_timeout: float
    write_timeout: float
    keepalive_interval: float


class Gateway:
    """What the handlers share."""

    def __init__(self, supervisor: Supervisor, upstream: Upstream, limits: Limits) -> None:
        self.supervisor = supervisor
        self.upstream = upstream
        self.limits = limits

    async def answer(
        self, request: web.Request, exchange: Exchange, endpoint: Endpoint
    ) -> web.StreamResponse:
        """Answer a POST to one of the endpoints."""
        body = await read_body(request, self.limits.body)
        parsed: Any = parse_body(body, endpoint.request)
        exchange.model = parsed.model
        streams = endpoint.assembler is not None
        exchange.stream = bool(streams and parsed.stream)
        assembler: Assembler | None = None
        keep_progress = False
        if streams and endpoint.assembler is not None and not _answers_with_a_list(endpoint, parsed):
            keep_progress = bool(parsed.stream and getattr(parsed, "return_progress", False))
            fields = {"stream": b"true", "return_progress": b"true"}
            if not parsed.stream:
                assembler = endpoint.assembler(parsed)
                if endpoint.usage_option:
                    fields["stream_options"] = b'{"include_usage":true}'
            body = with_fields(body, fields)
        headers = {"Content-Type": "application/json", "X-Request-Id": exchange.request_id}
        ask = partial(render_request, "POST", endpoint.path, headers, body)
        if exchange.stream:
            return await self._stream(request, exchange, endpoint, ask, keep_progress=keep_progress)
        async with self._response(exchange, parsed.model, ask, slot=endpoint.slot) as (lease, response):
            if assembler is not None and is_event_stream(response.head):
                return await self._assemble(exchange, lease, response, assembler)
            return await self._whole(exchange, lease, response)

    @asynccontextmanager
    async def _response(
        self,
        exchange: Exchange,
        model: str,
        ask: Callable[[Address], bytes],
        *,
        slot: bool,
        load: bool = True,
    ) -> AsyncIterator[tuple[Lease, UpstreamResponse]]:
        """Lease the model, send it what `ask` renders, and yield the response. Raises `ApiError`.

        A server that takes no connection has died since it was granted. Nothing is lost by asking again,
        and the second lease waits until the server has been started anew.
        """
        try:
            for last_try in (False, True):
                exchange.phase = "queue"
                async with self.supervisor.lease(
                    model,
                    timeout=self.limits.queue_timeout,
                    slot=slot,
                    load=load,
                    on_ticket=exchange.queued_as,
                ) as lease:
                    exchange.granted(lease.grant)
                    address = lease.grant.endpoint
                    try:
                        response = await self.upstream.send(address, ask(address))
                        try:
                            yield lease, response
                        finally:
                            self.upstream.give_back(address, response)
                        return
                    except UpstreamError as error:
                        lease.broken = error.hung_up
                        if last_try or not isinstance(error, UnreachableError):
                            raise
        except RejectedError as rejected:
            raise from_rejection(rejected.reason) from None
        except (UpstreamError, EventTooLongError) as error:
            raise _broken(error, exchange) from None

    async def probe(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        """Answer GET /props or /slots of the model that `?model=` names."""
        query = request.query
        exchange.model = query.get("model")
        if not exchange.model:
            raise ApiError(400, "name a model: " + request.path + "?model=NAME", param="model")
        load = query.get("autoload", "true").lower() not in ("false", "0")
        return await self._forward(request, exchange, exchange.model, request.path, slot=False, load=load)

    async def pass_through(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        """Answer /upstream/{model}/...: any method, any path of the model's server, unchanged."""
        model, target = self._split_upstream_path(request)
        exchange.model = model
        slot = request.method not in ("GET", "HEAD", "OPTIONS")
        return await self._forward(request, exchange, model, target, slot=slot, load=True)

    def _split_upstream_path(self, request: web.Request) -> tuple[str, str]:
        """Find the model whose name, which may contain slashes, the path begins with; the longest wins."""
        rest = request.match_info["rest"]
        parts = rest.split("/")
        known = (
            n for n in range(len(parts), 0, -1) if self.supervisor.resolve("/".join(parts[:n])) is not None
        )
        count = next(known, 2 if self.supervisor.would_adopt("/".join(parts[:2])) else 1)
        raw = request.rel_url.raw_path.split("/")
        target = "/" + "/".join(raw[2 + count :])
        query = request.rel_url.raw_query_string
        return "/".join(parts[:count]), f"{target}?{query}" if query else target

    async def _forward(
        self, request: web.Request, exchange: Exchange, model: str, target: str, *, slot: bool, load: bool
    ) -> web.StreamResponse:
        body: bytes | None = None
        if request.can_read_body:
            if (request.content_length or 0) > self.limits.body:
                raise ApiError(413, "the body is too large (server.max_body_mb)")
            body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in FORBIDDEN_IN}
        headers["X-Request-Id"] = exchange.request_id
        ask = partial(render_request, request.method, target, headers, body)
        async with self._response(exchange, model, ask, slot=slot, load=load) as (lease, response):
            return await self._raw(request, exchange, lease, response)

    # Ways to answer

    async def _whole(
        self, exchange: Exchange, lease: Lease, response: UpstreamResponse
    ) -> web.StreamResponse:
        """Pass on an answer that is no stream; an error is put into the client's dialect."""
        status = response.head.status
        collector = Collector(ANSWER_LIMIT if status < 400 else ERROR_LIMIT)
        response.attach(collector.feed)
        await response.finish()
        lease.served = status < 500
        body = collector.body
        if status >= 400:
            raise upstream_error(status, _error_object(body))
        exchange.first_byte()
        exchange.status = status
        exchange.tokens = count_tokens(body[-4096:])
        content_type = response.head.headers.get("content-type", "application/json")
        return web.Response(status=status, body=body, headers={"Content-Type": content_type})

    async def _assemble(
        self, exchange: Exchange, lease: Lease, response: UpstreamResponse, assembler: Assembler
    ) -> web.StreamResponse:
        splitter = EventSplitter()

        def feed(payload: bytes, _raw: bytes | None) -> None:
            if PROGRESS not in payload:
                exchange.first_byte()
            for event in splitter.feed(payload):
                try:
                    assembler.feed(event)
                except (msgspec.DecodeError, LookupError, TypeError, AttributeError) as error:
                    message = f"the model server's stream makes no sense: {error}: {event.data[:200]!r}"
                    raise UpstreamError(message) from error

        try:
            response.attach(feed)
            await response.finish()
        except StreamedError as error:
            raise upstream_error(500, error.error) from None
        lease.served = True
        exchange.status = 200
        body = msgspec.json.encode(assembler.result())
        exchange.tokens = count_tokens(body)
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    async def _stream(
        self,
        request: web.Request,
        exchange: Exchange,
        endpoint: Endpoint,
        ask: Callable[[Address], bytes],
        *,
        keep_progress: bool,
    ) -> web.StreamResponse:
        """Answer with a stream, whose head waits for the first real event or for the first comment."""
        assert exchange.model is not None
        client = _stream_response(request, exchange)
        waiting = Waiting(
            request, client, self.limits.keepalive_interval, partial(self._what_happens, exchange)
        )
        try:
            async with self._response(exchange, exchange.model, ask, slot=endpoint.slot) as (lease, response):
                if not is_event_stream(response.head):
                    whole = await self._whole(exchange, lease, response)
                    if waiting.begun:
                        raise ApiError(502, f"model {exchange.model!r} gave no stream", code="upstream_error")
                    return whole
                first = await _first_event(response, keep_progress=keep_progress)
                waiting.end()
                exchange.first_byte()
                exchange.status = 200
                return await self._relay(
                    request, exchange, lease, response, client, endpoint.dialect, first=first
                )
        except ApiError as error:
            if not waiting.begun:
                raise
            waiting.end()
            exchange.failed(error)
            await client.write(endpoint.dialect.frame(error, exchange.request_id))
            await client.write_eof()
            return client
        finally:
            waiting.end()

    def _what_happens(self, exchange: Exchange) -> str:
        """What a request waits for, in words for its client."""
        if exchange.phase != "queue":
            return "the model reads the prompt"
        outlook = self.supervisor.outlook(exchange.ticket)
        if outlook is None:
            return "waiting"
        progress = self.supervisor.progress(outlook.model)
        doing = f"downloading, {progress}" if progress else outlook.why or str(outlook.state)
        turn = f"place {outlook.position} in its queue, about {outlook.seconds:.0f} s"
        return f"waiting for {outlook.model}: {doing}; {turn}".replace("\n", " ")

    async def _raw(
        self, request: web.Request, exchange: Exchange, lease: Lease, response: UpstreamResponse
    ) -> web.StreamResponse:
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
        return await self._relay(request, exchange, lease, response, client, None)

    async def _relay(
        self,
        request: web.Request,
        exchange: Exchange,
        lease: Lease,
        response: UpstreamResponse,
        client: web.StreamResponse,
        dialect: Dialect | None,
        *,
        first: bytes = b"",
    ) -> web.StreamResponse:
        """Stream to the client. Once its head is out, an error can only be a last frame, or a cut."""
        if not client.prepared:
            client.headers.update(exchange.headers)
        await client.prepare(request)
        relay = Relay(
            request,
            response,
            events=dialect is not None,
            chunked=client.headers.get("Transfer-Encoding") == "chunked",
            patch=dialect.patch if dialect else None,
        )
        if first:
            relay.feed(first, None)
        response.attach(relay.feed, relay)
        try:
            await relay.run(self.limits.write_timeout)
            lease.served = True
        except ClientStalledError as error:
            exchange.client_left()
            exchange.error = str(error)
            _cut(request)
        except (UpstreamError, EventTooLongError) as error:
            lease.broken = isinstance(error, UpstreamError) and error.hung_up
            broken = _broken(error, exchange)
            exchange.failed(broken)
            if dialect is None:
                _cut(request)
            else:
                relay.end_with(dialect.frame(broken, exchange.request_id))
        except asyncio.CancelledError:
            # A client may close at the last event, before the connection's end has come from upstream.
            exchange.complete = lease.served = any(mark in relay.tail[-200:] for mark in LAST_EVENTS)
            raise
        finally:
            exchange.tokens = count_tokens(first[:4096], relay.tail)
        if request.transport is not None and not request.transport.is_closing():
            await client.write_eof()
        return client


def _stream_response(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    client = web.StreamResponse(headers={"Content-Type": "text/event-stream", **STREAM_HEADERS})
    client.headers["X-Request-Id"] = exchange.request_id
    if request.version < HttpVersion11:
        client.force_close()  # the end of the connection is the end of the body
    return client


async def _first_event(response: UpstreamResponse, *, keep_progress: bool) -> bytes:
    """What has come when the first real event has. Raises `ApiError` if that is an error."""
    prelude = Prelude(response, keep_progress=keep_progress)
    response.attach(prelude.feed)
    while not prelude.open and not response.finished:
        await response.changed()
        if not prelude.open and not response.finished:
            await response.finish()  # raises: nothing but an error wakes us before either
    _raise_early_error(prelude.first_bytes)
    return prelude.first_bytes


def _answers_with_a_list(endpoint: Endpoint, parsed: Any) -> bool:
    """llama.cpp answers several prompts on its own API with a list, which no stream can be made into."""
    prompt = getattr(parsed, "prompt", None)
    if parsed.stream or not isinstance(prompt, list) or endpoint.path.startswith("/v1/"):
        return False
    return len(prompt) > 1 and not all(isinstance(token, int) for token in prompt)


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


def _error_object(body: bytes) -> Json:
    try:
        data = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        return {"message": body[:500].decode("utf-8", "replace").strip()}
    error = data.get("error", data)
    return error if isinstance(error, dict) else {"message": str(error)}


def _broken(error: Exception, exchange: Exchange) -> ApiError:
    """An upstream's failure, in words that name the model."""
    status = 504 if isinstance(error, UpstreamTimeoutError) else 502
    code = "upstream_timeout" if status == 504 else "upstream_error"
    return ApiError(status, f"model {exchange.model!r}: {error}", code=code)


def _cut(request: web.Request) -> None:
    """Close the client's connection so that it cannot take what it got for the whole."""
    if request.transport is not None:
        request.transport.abort()
