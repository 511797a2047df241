"""Passes request and answer on unchanged, except for the gateway's additions: both sides speak one API."""

import re
import secrets
from collections.abc import Callable

import msgspec
from aiohttp import web

from actors.messages import ServerAddress
from agents.events import AnswerStarted
from proxy.answers.call import (
    Conversation,
    ModelCall,
    ModelCaller,
    RenderRequest,
    UpstreamRequest,
    broken_off,
    check_gives_text,
    check_gives_vectors,
    named,
    post,
)
from proxy.answers.client_stream import ClientStream
from proxy.answers.relay import Relay, count_tokens, is_event_stream
from proxy.answers.whole import PROGRESS, assemble_whole, pass_whole
from proxy.apis.answer_json import UnreadableError, read_object
from proxy.apis.assemble import Assembler
from proxy.apis.fields import Json, encode
from proxy.apis.interface import AnswerContext
from proxy.apis.openai.server_errors import upstream_error
from proxy.apis.requests import fields_of, given, with_fields
from proxy.apis.server_errors import to_api_error
from proxy.apis.stream_end import StreamEnd, is_whole, outcome
from proxy.apis.table import SERVERS, STREAM_ENDS
from proxy.catalog import Known
from proxy.errors import ApiError
from proxy.wire.sse import BUFFER_LIMIT, BlockSplitter, EventTooLongError, parse_event
from proxy.wire.upstream_connection import BadAnswerError, UpstreamResponse

DELIMITERS = {"text/event-stream": b"\n\n", "application/x-ndjson": b"\n"}
"""The end of an event or line, by the media type of the stream."""
_ROLE = re.compile(rb'"role":\s?"assistant",\s?|,\s?"role":\s?"assistant"')
_NO_CHOICES = re.compile(rb'"choices":\s?\[\s?\]')
"""Marks an event without content: OpenAI's form for other data, such as the usage."""


class Unchanged(msgspec.Struct, frozen=True):
    """Content that is passed on unparsed, after `first`. It is whole only if `stream_end` arrives.

    `patch` renames the model in each event.
    """

    first: bytes = b""
    delimiter: bytes = b""
    stream_end: StreamEnd | None = None
    patch: Callable[[bytes], bytes] | None = None

    def begin(self, relay: Relay, call: ModelCall) -> None:
        """Attach the relay, from socket to socket if nothing has to be changed."""
        if self.first:
            relay.feed(self.first, None)
        call.response.attach(relay.feed, relay if self.patch is None else None)

    def end(self, relay: Relay, call: ModelCall) -> None:
        """Check the last events, once per stream. Raises `ApiError` for an error that the client must see."""
        if self.stream_end is None:
            return
        held = relay.take_held()
        came = outcome(relay.tail + held, self.stream_end)
        if came.failure is None:
            relay.end_with(held + came.missing)
        elif came.told:
            relay.end_with(held)
            call.exchange.failed(broken_off(to_api_error(came.failure)))
        else:
            raise named(broken_off(to_api_error(came.failure)), call.exchange)

    def fail(self, _error: ApiError) -> None:
        """Return None: content that is passed on unparsed has no state of its own."""

    def is_whole(self, relay: Relay) -> bool:
        """Whether the end of the stream has arrived; without a `stream_end`, that of any API counts."""
        return is_whole(relay.tail, STREAM_ENDS if self.stream_end is None else (self.stream_end,))

    def account(self, relay: Relay, call: ModelCall) -> None:
        """Report the tokens that the server counted."""
        call.exchange.tokens = count_tokens(self.first[:4096], relay.tail)


async def answer(caller: ModelCaller, conversation: Conversation) -> web.StreamResponse:
    """Answer as a stream, or as a whole made of a stream."""
    endpoint, parsed, exchange = conversation.endpoint, conversation.parsed, conversation.exchange
    exchange.stream = bool(endpoint.generates and parsed.stream)
    body, kinds = conversation.body, endpoint.kinds
    assembler: Assembler | None = None
    if parsed.is_answered_with_a_list:
        kinds = (list,)
    elif endpoint.assembler is not None:
        if not parsed.stream and not parsed.is_never_streamed:
            assembler = endpoint.assembler(parsed)
        given_fields = fields_of(body)
        exchange.ignore(given(given_fields, parsed.unheard))
        body = with_fields(given_fields, _own_fields(conversation) | parsed.corrections(body))
    question = UpstreamRequest(
        conversation.known.name,
        _body_renderer(conversation, body),
        slot=endpoint.slot,
        keep_alive=conversation.keep_alive,
    )
    if exchange.stream:
        stream = ClientStream.to(conversation, caller)
        if (codec := endpoint.codec) is not None:
            stream.tell_by(codec, codec.encoder(_answer_context(conversation)))
        return await stream.carry(_relay(stream, caller, conversation, question))
    async with caller.call(exchange, question) as call:
        head = call.response.head
        if assembler is not None and head.content_type in DELIMITERS and head.status < 300:
            response = await assemble_whole(call, assembler)
        else:
            response = await pass_whole(call, kinds, endpoint.stream_end if assembler is not None else None)
        if (patch := _renaming(conversation.known)) is not None and isinstance(response.body, bytes):
            response.body = patch(response.body)
        return response


def _renaming(known: Known) -> Callable[[bytes], bytes] | None:
    """Return what gives a preset's answers its name; llama.cpp answers under the name of the model.

    A quote inside a JSON string is escaped, so generated text cannot be mistaken for the field.
    """
    if known.preset is None:
        return None
    own = re.compile(rb'"model":\s?' + re.escape(encode(known.name)))
    named = b'"model":' + encode(known.preset)
    return lambda data: own.sub(lambda _: named, data)


def _own_fields(conversation: Conversation) -> dict[str, bytes]:
    """What the gateway asks of the server, whatever the client asks."""
    endpoint, parsed = conversation.endpoint, conversation.parsed
    if parsed.is_never_streamed:
        return {"stream": b"false"}
    fields = {"stream": b"true"}
    if endpoint.api == "llama.cpp" and parsed.may_have_progress:
        fields["return_progress"] = b"true"
    if endpoint.usage_option and not parsed.stream:
        fields["stream_options"] = b'{"include_usage":true}'
    return fields


async def _relay(
    stream: ClientStream, caller: ModelCaller, conversation: Conversation, question: UpstreamRequest
) -> None:
    endpoint = conversation.endpoint
    async with caller.call(conversation.exchange, question) as call:
        await call.check_stream()
        first, patch = b"", _renaming(conversation.known)
        if is_event_stream(call.response.head):
            keep_progress = bool(getattr(conversation.parsed, "return_progress", False))
            first, data = await _first_event(call.response, keep_progress=keep_progress)
            if (told := stream.was_told) is not None:
                first = _ROLE.sub(b"", first, count=1)  # the client has it already
                patch = _continuing(told.started, data, patch)
        end = endpoint.stream_end and endpoint.stream_end.of(conversation.parsed.answers)
        delimiter = DELIMITERS[endpoint.media_type]
        await stream.relay(call, Unchanged(first, delimiter, end, patch))


def _answer_context(conversation: Conversation) -> AnswerContext:
    """Return the data for the beginning of an answer that the model server goes on with."""
    exchange, known = conversation.exchange, conversation.known
    own_name = known.name if known.api == "llama.cpp" else conversation.parsed.model
    return AnswerContext(
        model=known.preset or own_name,
        request_id=exchange.request_id,
        started=exchange.started,
        load_seconds=0.0,
        token=secrets.token_hex(16),
    )


def _continuing(
    started: AnswerStarted, first: Json, also: Callable[[bytes], bytes] | None
) -> Callable[[bytes], bytes]:
    """Return what gives the server's events the id and the time of the answer that has begun already."""
    pairs = [
        (re.compile(rb'"id":\s?' + re.escape(encode(first.get("id")))), b'"id":' + encode(started.id)),
        (
            re.compile(rb'"created":\s?' + re.escape(encode(first.get("created"))) + rb"(?!\d)"),
            b'"created":' + encode(started.created),
        ),
    ]

    def patch(data: bytes) -> bytes:
        for own, continued in pairs:
            data = own.sub(continued, data)
        return data if also is None else also(data)

    return patch


async def _first_event(response: UpstreamResponse, *, keep_progress: bool) -> tuple[bytes, Json]:
    """Return the bytes up to the first real event, and its data. Raises `ApiError` if that is an error.

    Raises `BadAnswerError` if it is not a JSON object, or if there is none.
    """
    prelude = _Prelude(keep_progress=keep_progress)
    await response.hold(prelude.feed)
    come = prelude.first_bytes
    first = parse_event(prelude.first if prelude.first is not None else come)
    if first is None or first.data == b"[DONE]":
        raise BadAnswerError("the model server's stream ended with no answer in it")
    try:
        data = read_object(first.data)
    except UnreadableError as error:
        message = f"the model server's stream makes no sense: {error}: {first.data[:80]!r}"
        raise BadAnswerError(message) from None
    if (reported := data.get("error")) is not None:
        raise upstream_error(500, reported if isinstance(reported, dict) else {"message": str(reported)})
    if first.type == "error":
        raise upstream_error(500, data)
    return come, data


class _Prelude:
    """Reads the events before the first real one.

    Every llama.cpp stream is requested with prompt progress, because only then does the server notice
    between batches that its client left during the prompt. These events end with the first token, and are
    removed here.
    """

    def __init__(self, *, keep_progress: bool) -> None:
        self._keep_progress = keep_progress
        self._splitter = BlockSplitter()
        self._kept_size = 0
        self._kept: list[bytes] = []
        """The whole events to pass on."""
        self.first: bytes | None = None
        """The first real event, once it has arrived."""

    def feed(self, payload: bytes) -> bool:
        """Read a piece of the body; return whether it contains the first real event."""
        blocks = self._splitter.feed(payload)
        for index, block in enumerate(blocks):
            if self._is_first(block):
                self._kept.extend(blocks[index:])
                self.first = block
                return True
        return False

    def _is_first(self, block: bytes) -> bool:
        if PROGRESS in block:
            return self._keep_progress
        if _NO_CHOICES.search(block):
            self._kept.append(block)
            self._kept_size += len(block)
            if self._kept_size > BUFFER_LIMIT:
                raise EventTooLongError(f"more than {BUFFER_LIMIT} bytes before the first answer")
            return False
        return parse_event(block) is not None

    @property
    def first_bytes(self) -> bytes:
        """Return the bytes to pass on so far."""
        return b"".join(self._kept) + self._splitter.rest()


def _body_renderer(conversation: Conversation, body: bytes) -> RenderRequest:
    """Return a renderer of the client's body, as the leased server needs it."""
    asked = conversation.parsed.model

    def render(address: ServerAddress) -> bytes:
        if conversation.endpoint.embedder is not None:
            check_gives_vectors(address)
        elif conversation.endpoint.codec is not None:
            check_gives_text(address)
        sent = SERVERS[address.api].rewrite(body, asked, address)
        return post(conversation.exchange, conversation.endpoint.path, sent, address)

    return render
