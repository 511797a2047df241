"""Translates an answer, event by event, when client and server speak different APIs."""

import secrets
import time
from collections.abc import Callable

import msgspec
from aiohttp import web

from actors.messages import ServerAddress
from agents.answer_tool import AnswerToolReader, with_answer_tool
from agents.events import Answer, AnswerCollector, AnswerFailed, AnswerStarted, Done, Event, Usage
from proxy.answers.call import (
    Conversation,
    ModelCall,
    ModelCaller,
    UpstreamRequest,
    broken_off,
    check_gives_text,
    named,
    post,
)
from proxy.answers.client_stream import AnswerOverError, ClientStream
from proxy.answers.relay import EVENTS, Relay
from proxy.answers.whole import json_response
from proxy.apis.fields import FieldError
from proxy.apis.interface import AnswerContext, Codec, Decoder, Encoder, Request
from proxy.apis.requests import check_request, invalid_field, without_lines_in
from proxy.apis.server_errors import of_api_error, to_api_error
from proxy.apis.table import SERVERS
from proxy.catalog import Known
from proxy.door.bodies import breathe
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.parameters import with_parameters


async def answer(caller: ModelCaller, conversation: Conversation) -> web.StreamResponse:
    """Answer as a stream or as a whole. Raises `ApiError` if the endpoint cannot be translated."""
    exchange = conversation.exchange
    codec, chat = await _read(conversation)
    if not chat.stream:
        collector = AnswerCollector()
        await _take(caller, conversation, chat, collector.feed)
        return whole_answer(exchange, codec, chat, collector.answer())

    async def write() -> None:
        stream.tell_by(codec, encoder_of(exchange, codec, chat))
        async with caller.call(exchange, chat_question(exchange, conversation.known, chat)) as call:
            await relay(stream, call, encoder_of(exchange, codec, chat), decoder_of(call, chat))

    stream = ClientStream.to(conversation, caller)
    return await stream.carry(write())


async def take_events(caller: ModelCaller, conversation: Conversation, take: Callable[[Event], None]) -> None:
    """Pass the events of an answer to `take` as they come. Raises `ApiError`, also if it breaks off."""
    _, chat = await _read(conversation)
    await _take(caller, conversation, chat, take)


async def _read(conversation: Conversation) -> tuple[Codec, Request]:
    exchange, codec = conversation.exchange, conversation.endpoint.codec
    if codec is None:
        path, model = conversation.endpoint.path, conversation.parsed.model
        message = f"model {model!r} is served by {conversation.known.api}, which has no {path}"
        raise ApiError(400, message, code="not_supported", param="model")
    chat = decode(codec, conversation.body)
    exchange.stream = chat.stream
    exchange.ignore(chat.ignored)
    await breathe(conversation.body)
    return codec, chat


async def _take(
    caller: ModelCaller, conversation: Conversation, chat: Request, take: Callable[[Event], None]
) -> None:
    exchange = conversation.exchange
    failure: AnswerFailed | None = None

    def feed(event: Event) -> None:
        nonlocal failure
        if isinstance(event, AnswerFailed):
            failure = event
        else:
            take(event)

    async with caller.call(exchange, chat_question(exchange, conversation.known, chat)) as call:
        await gather(call, decoder_of(call, chat), feed)
        if failure is not None:
            raise to_api_error(failure)
        call.lease.served = True


# Requests


def decode(codec: Codec, body: bytes) -> Request:
    """Read the body into a canonical request. Raises `ApiError`."""
    try:
        request = without_lines_in(codec.decode(body))
        check_request(request)
    except FieldError as error:
        raise invalid_field(error) from None
    return request


def chat_question(exchange: Exchange, known: Known, chat: Request) -> UpstreamRequest:
    """Render a chat in the API of the leased server, with the parameters that its model's settings give.

    Raises `ApiError` for parts that this API lacks.
    """
    asked = with_answer_tool(with_parameters(chat, known.request))

    def render(address: ServerAddress) -> bytes:
        check_gives_text(address)
        server = SERVERS[address.api]
        exchange.ignore(server.ignored(asked, address))
        try:
            path, body = server.ask(asked, address)
        except FieldError as error:
            raise invalid_field(error) from None
        return post(exchange, path, body, address)

    return UpstreamRequest(known.name, render, keep_alive=chat.keep_alive)


# Answers


def answer_context(exchange: Exchange, model: str, chat: Request | None = None) -> AnswerContext:
    """Return the data that the answer needs of the request and the grant."""
    return AnswerContext(
        model=model,
        request_id=exchange.request_id,
        started=exchange.started,
        load_seconds=exchange.loaded,
        include_usage=chat is not None and chat.include_usage,
        token=secrets.token_hex(16),
        echo=chat.echo if chat is not None else {},
    )


def encoder_of(exchange: Exchange, codec: Codec, chat: Request) -> Encoder:
    """Return the writer of the client's stream."""
    return codec.encoder(answer_context(exchange, chat.model, chat))


def decoder_of(call: ModelCall, chat: Request) -> Decoder:
    """Return the reader of the granted server's stream, which answers this request."""
    asked = with_answer_tool(chat)
    decoder = call.server.decoder(call.exchange.request_id, asked)
    return _Naming(decoder, call.exchange, AnswerToolReader() if asked is not chat else None)


class _Naming:
    """A decoder that adds the model's name to failures that the server did not report itself."""

    def __init__(self, decoder: Decoder, exchange: Exchange, reader: AnswerToolReader | None) -> None:
        self._decoder = decoder
        self._exchange = exchange
        self._reader = reader
        self._has_begun = False

    def feed(self, data: bytes) -> list[Event]:
        return self._named(self._decoder.feed(data))

    def end(self) -> list[Event]:
        return self._named(self._decoder.end())

    def _named(self, events: list[Event]) -> list[Event]:
        if self._reader is not None:
            events = self._reader.read(events)
        if events and isinstance(last := events[-1], AnswerFailed):
            error = named(to_api_error(last), self._exchange)
            has_begun = self._has_begun or not all(
                isinstance(event, AnswerStarted | AnswerFailed) for event in events
            )
            events[-1] = of_api_error(broken_off(error) if has_begun else error)
        elif not self._has_begun:
            self._has_begun = not all(isinstance(event, AnswerStarted) for event in events)
        return events


class Translation:
    """Encodes events for the client, and keeps the data for the account of the answer.

    `has_begun`: the encoder has begun the answer already, with what the client waited for.
    """

    def __init__(self, encoder: Encoder, *, has_begun: bool = False) -> None:
        self.is_complete = False
        self._has_begun = has_begun
        self._encoder = encoder
        self._held: list[Event] = []
        self._usage: Usage | None = None
        self._failure: AnswerFailed | None = None

    def hold(self, events: list[Event]) -> bool:
        """Keep events for `open`; return whether one of all so far has content for the client."""
        self._held += events
        return any(not isinstance(event, AnswerStarted) for event in self._held)

    def open(self) -> bytes:
        """Encode the held events. Raises `ApiError` if the first is an error, which then gets its status."""
        held, self._held = self._held, []
        first = next((event for event in held if not isinstance(event, AnswerStarted)), None)
        if isinstance(first, AnswerFailed):
            raise to_api_error(first)
        return self.encode(held)

    def encode(self, events: list[Event]) -> bytes:
        """Encode events for the client."""
        now = time.time()
        pieces = []
        for event in events:
            match event:
                case Usage():
                    self._usage = event
                case AnswerFailed():
                    self._failure = event
                case Done():
                    self.is_complete = True
                case AnswerStarted() if self._has_begun:
                    continue
                case _:
                    pass
            pieces.append(self._encoder.encode(event, now))
        return b"".join(pieces)

    def account(self, exchange: Exchange) -> ApiError | None:
        """Report tokens and the failure to the exchange; return the failure."""
        exchange.tokens = tokens_of(self._usage)
        if self._failure is None:
            return None
        error = to_api_error(self._failure)
        exchange.failed(error)
        return error


class _Translated:
    """Content that is translated event by event."""

    delimiter = b""

    def __init__(self, translation: Translation, decoder: Decoder, first: bytes) -> None:
        self._translation = translation
        self._decoder = decoder
        self._first = first

    def patch(self, payload: bytes) -> bytes:
        return self._translation.encode(self._decoder.feed(payload))

    def begin(self, relay: Relay, call: ModelCall) -> None:
        relay.end_with(self._first)
        call.response.attach(relay.feed)

    def end(self, relay: Relay, _call: ModelCall) -> None:
        relay.end_with(self._translation.encode(self._decoder.end()))

    def fail(self, error: ApiError) -> bytes:
        return self._translation.encode([of_api_error(error)])

    def is_whole(self, _relay: Relay) -> bool:
        return self._translation.is_complete

    def account(self, _relay: Relay, call: ModelCall) -> None:
        if (error := self._translation.account(call.exchange)) is not None:
            call.lease.served = error.status < 500


async def relay(stream: ClientStream, call: ModelCall, encoder: Encoder, decoder: Decoder) -> None:
    """Stream a model's answer to the client, beginning with the first event that has content.

    If the client has been told something meanwhile, the answer goes on with the encoder that told it.
    """
    await call.check_stream()
    if (told := stream.was_told) is not None and stream.head.content_type == EVENTS:
        translation = Translation(told.encoder, has_begun=True)
    else:  # lines of JSON have no beginning
        translation = Translation(encoder)
    if not await call.response.hold(lambda payload: translation.hold(decoder.feed(payload))):
        translation.hold(decoder.end())
    await stream.relay(call, _Translated(translation, decoder, translation.open()))


async def gather(call: ModelCall, decoder: Decoder, take: Callable[[Event], None]) -> None:
    """Collect the events of an answer, until the decoder has enough."""
    await call.check_stream()
    taken = 0

    def pass_on(event: Event) -> None:
        if isinstance(event, Usage):
            call.exchange.tokens = tokens_of(event)
        take(event)

    def feed(payload: bytes, _raw: bytes | None) -> None:
        nonlocal taken
        for event in decoder.feed(payload):
            call.exchange.first_byte()
            pass_on(event)
            taken += 1

    call.exchange.count_tokens = lambda: taken

    call.response.attach(feed)
    try:
        await call.response.finish()
    except AnswerOverError:
        return
    for event in decoder.end():
        pass_on(event)


def whole_answer(exchange: Exchange, codec: Codec, chat: Request, answer: Answer) -> web.Response:
    """Make an answer that is not streamed."""
    exchange.status = 200
    exchange.tokens = tokens_of(answer.usage)
    asked = answer_context(exchange, chat.model, chat)
    return json_response(msgspec.json.encode(codec.encode_answer(answer, asked, time.time())))


def tokens_of(usage: Usage | None) -> dict[str, int]:
    """Return the token counts for the account of the exchange."""
    if usage is None:
        return {}
    return {
        "prompt_tokens": max(0, usage.prompt),
        "cached_tokens": max(0, usage.cached),
        "completion_tokens": max(0, usage.completion),
    }
