"""An answer whose client and whose model's server do not speak the same: through events, as they come."""

import asyncio
import time
from collections.abc import Callable

import msgspec
from aiohttp import web

from actors.messages import ServerAddress
from actors.supervisor import Lease
from agents.events import AnswerCollector, AnswerFailed, AnswerStarted, Done, Event, Usage
from proxy.answers.call import RenderRequest, broken_off, named, post
from proxy.answers.client_stream import (
    begin_relay,
    check_stream,
    collected,
    end_relay,
    json_response,
    run_relay,
)
from proxy.answers.keep_alive import Waiting
from proxy.apis.codec import Asked, Codec, Decoder, Dialect, Embedder, Encoder, Request, Server
from proxy.apis.embeddings import Embed, Embeddings, shortened
from proxy.apis.failures import of_api_error, to_api_error
from proxy.apis.fields import FieldError
from proxy.apis.table import SERVERS
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.wire.upstream_connection import BadAnswerError, UpstreamResponse


class AnswerOverError(Exception):
    """The client has its whole answer, although the model server has not come to its end."""


class Translation:
    """From events to the client's bytes, and what an account of the answer needs."""

    def __init__(self, encoder: Encoder) -> None:
        self.usage: Usage | None = None
        self.failure: AnswerFailed | None = None
        self.complete = False
        self._encoder = encoder

    def encode(self, events: list[Event]) -> bytes:
        """The events in the client's words."""
        now = time.time()
        pieces = []
        for event in events:
            match event:
                case Usage():
                    self.usage = event
                case AnswerFailed():
                    self.failure = event
                case Done():
                    self.complete = True
                case _:
                    pass
            pieces.append(self._encoder.encode(event, now))
        return b"".join(pieces)


class _Opening:
    """Holds a stream back until its first real event, so that an early error can carry its status."""

    def __init__(self, decoder: Decoder, response: UpstreamResponse) -> None:
        self.events: list[Event] = []
        self.open = False
        self._decoder = decoder
        self._response = response

    def feed(self, payload: bytes, _raw: bytes | None) -> None:
        """Sink of the response until the client's stream begins."""
        self.events += self._decoder.feed(payload)
        if any(not isinstance(event, AnswerStarted) for event in self.events):
            self.open = True
            self._response.detach()
            self._response.notify()

    async def wait(self) -> list[Event]:
        """What has come when there is something to tell. Raises `ApiError` if that is an error."""
        self._response.attach(self.feed)
        await self._response.until(lambda: self.open)
        if not self.open:
            self.events += self._decoder.end()
        raise_early(self.events)
        return self.events


def raise_early(events: list[Event]) -> None:
    """Raise `ApiError` if the first real event is an error: its status can still be told."""
    for event in events:
        if isinstance(event, AnswerFailed):
            raise to_api_error(event)
        if not isinstance(event, AnswerStarted):
            return


def asked_of(exchange: Exchange, model: str, *, include_usage: bool = False) -> Asked:
    """What the answer needs to know, once the model is granted."""
    return Asked(
        model=model,
        request_id=exchange.request_id,
        started=exchange.started,
        load_seconds=exchange.loaded,
        include_usage=include_usage,
    )


def chat_renderer(exchange: Exchange, chat: Request) -> RenderRequest:
    """Renders a chat in the API of the leased server; `ApiError` for what that API cannot say."""

    def render(address: ServerAddress) -> bytes:
        try:
            path, body = SERVERS[address.api].ask(chat, address)
        except FieldError as error:
            raise unmeant(error) from None
        return post(exchange, path, body, address)

    return render


def embeddings_renderer(exchange: Exchange, embed: Embed) -> RenderRequest:
    """Renders a request for embeddings in the API of the leased server."""

    def render(address: ServerAddress) -> bytes:
        path, body = SERVERS[address.api].embed(embed, address)
        return post(exchange, path, body, address)

    return render


def decoded(codec: Codec, body: bytes) -> Request:
    """The canonical request. Raises `ApiError`."""
    try:
        return codec.decode(body)
    except FieldError as error:
        raise unmeant(error) from None


def unmeant(error: FieldError) -> ApiError:
    """The answer to a request that cannot be meant."""
    return ApiError(400, str(error), param=error.field)


def server_of(lease: Lease) -> Server:
    """How the granted server is spoken with."""
    return SERVERS[lease.grant.endpoint.api]


class _Naming:
    """A decoder whose failures name the model, if its server did not tell them itself."""

    def __init__(self, decoder: Decoder, exchange: Exchange) -> None:
        self._decoder = decoder
        self._exchange = exchange
        self._has_begun = False

    def feed(self, data: bytes) -> list[Event]:
        return self._named(self._decoder.feed(data))

    def end(self) -> list[Event]:
        return self._named(self._decoder.end())

    def _named(self, events: list[Event]) -> list[Event]:
        if events and isinstance(last := events[-1], AnswerFailed):
            error = named(to_api_error(last), self._exchange)
            has_begun = self._has_begun or not all(
                isinstance(event, AnswerStarted | AnswerFailed) for event in events
            )
            events[-1] = of_api_error(broken_off(error) if has_begun else error)
        elif not self._has_begun:
            self._has_begun = not all(isinstance(event, AnswerStarted) for event in events)
        return events


def decoder_of(lease: Lease, exchange: Exchange) -> Decoder:
    """What reads the granted server's stream."""
    return _Naming(server_of(lease).decoder(exchange.request_id), exchange)


async def checked(lease: Lease, response: UpstreamResponse) -> None:
    """Raise `ApiError` if the server refuses, or `BadAnswerError` if it sends no stream."""
    server = server_of(lease)
    await check_stream(lease, response, server.media_type, server.failure)


async def streamed(
    request: web.Request,
    exchange: Exchange,
    lease: Lease,
    response: UpstreamResponse,
    client: web.StreamResponse,
    waiting: Waiting,
    encoder: Encoder,
    decoder: Decoder,
    *,
    dialect: Dialect,
    write_timeout: float,
) -> web.StreamResponse:
    """Stream to the client, which waits until there is something to tell."""
    await checked(lease, response)
    translation = Translation(encoder)
    first = translation.encode(await _Opening(decoder, response).wait())
    waiting.end()
    exchange.first_byte()
    exchange.status = 200

    def translate(payload: bytes) -> bytes:
        return translation.encode(decoder.feed(payload))

    relay = await begin_relay(request, exchange, response, client, patch=translate)
    relay.end_with(first)
    response.attach(relay.feed)
    try:
        if await run_relay(
            request, exchange, lease, relay, write_timeout=write_timeout, dialect=dialect
        ) and (last := translation.encode(decoder.end())):
            relay.end_with(last)
    except AnswerOverError:
        lease.served = True
    except asyncio.CancelledError:
        exchange.complete = lease.served = translation.complete
        raise
    finally:
        exchange.tokens = tokens_of(translation.usage)
        if translation.failure is not None:
            exchange.failed(to_api_error(translation.failure))
            lease.served = translation.failure.status < 500
    await end_relay(request, client)
    return client


async def gather(
    exchange: Exchange,
    lease: Lease,
    response: UpstreamResponse,
    decoder: Decoder,
    take: Callable[[Event], None],
) -> None:
    """Take all the events of an answer."""
    await checked(lease, response)

    def feed(payload: bytes, _raw: bytes | None) -> None:
        for event in decoder.feed(payload):
            exchange.first_byte()
            take(event)

    response.attach(feed)
    await response.finish()
    for event in decoder.end():
        take(event)


async def gathered(
    exchange: Exchange, lease: Lease, response: UpstreamResponse, codec: Codec, asked: Asked
) -> web.StreamResponse:
    """Answer as a whole."""
    collector = AnswerCollector()
    await gather(exchange, lease, response, decoder_of(lease, exchange), collector.feed)
    if collector.failure is not None:
        raise to_api_error(collector.failure)
    lease.served = True
    answer = collector.answer()
    exchange.status = 200
    exchange.tokens = tokens_of(answer.usage)
    return json_response(msgspec.json.encode(codec.encode_answer(answer, asked, time.time())))


async def embedded(
    exchange: Exchange, lease: Lease, response: UpstreamResponse, embedder: Embedder, embed: Embed
) -> web.StreamResponse:
    """Answer with vectors."""
    answer = await collect_vectors(exchange, lease, response, len(embed.inputs))
    exchange.first_byte()
    exchange.status = 200
    exchange.tokens = {"prompt_tokens": answer.prompt}
    return vectors(exchange, embedder, embed, shortened(answer, embed.dimensions))


async def collect_vectors(
    exchange: Exchange, lease: Lease, response: UpstreamResponse, wanted: int
) -> Embeddings:
    """The vectors of so many texts. Raises `ApiError`, or `BadAnswerError` if there are more or less."""
    server = server_of(lease)
    answer = server.decode_embeddings(await collected(lease, response, server.failure))
    if isinstance(answer, AnswerFailed):
        raise named(to_api_error(answer), exchange)
    if len(answer.vectors) != wanted:
        message = f"the model server gave {len(answer.vectors)} vectors for {wanted} texts"
        raise BadAnswerError(message)
    return answer


def vectors(exchange: Exchange, embedder: Embedder, embed: Embed, answer: Embeddings) -> web.Response:
    """The answer to a request for embeddings."""
    asked = asked_of(exchange, embed.model)
    return json_response(msgspec.json.encode(embedder.encode_answer(answer, embed, asked, time.time())))


def tokens_of(usage: Usage | None) -> dict[str, int]:
    """For the account of the exchange."""
    if usage is None:
        return {}
    return {
        "prompt_tokens": max(0, usage.prompt),
        "cached_tokens": max(0, usage.cached),
        "completion_tokens": max(0, usage.completion),
    }
