"""Answers chat requests with agents: passes the request and the model's answer through them.

A model is leased after the last `before`, never while an agent works: an agent that calls a model itself
would wait for the lease of its own request.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager

import msgspec
from aiohttp import web

from agents.chat import Chat
from agents.errors import AgentError
from agents.events import AnswerFailed, Done, Event
from agents.host.host import AgentHost
from agents.host.pipeline import Run
from proxy.answers import translate
from proxy.answers.agent_guards import of_agent, refuse_to_go_around
from proxy.answers.call import Conversation, ModelCall, ModelCaller, UpstreamRequest
from proxy.answers.client_stream import AnswerOverError, ClientStream
from proxy.answers.translate import Translation
from proxy.apis.interface import Codec, Decoder, Encoder
from proxy.apis.server_errors import to_api_error
from proxy.catalog import Catalog
from proxy.door.bodies import LARGE
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.wire.upstream_connection import UpstreamResponse

AGENTS_HEADER = "X-Agents"
"""The header that names agents, separated by commas; in the answer, it reports their work."""


class AgentAnswers:
    """Answers requests that have agents."""

    def __init__(self, caller: ModelCaller, catalog: Catalog, agents: AgentHost) -> None:
        self._caller = caller
        self._catalog = catalog
        self._agents = agents

    def plan(self, conversation: Conversation) -> Run | None:
        """Return the agents of a chat request, if any. A request that cannot have agents is not parsed."""
        body, model = conversation.body, conversation.known.name
        header = conversation.request.headers.get(AGENTS_HEADER)
        codec, agents = conversation.endpoint.codec, self._agents
        # Searching a large body for commands could take seconds; parsing its last message does not.
        mark = body if len(body) <= LARGE else b""
        if codec is None or not (
            agents.may_apply(mark, header, model) or (mark is not body and agents.asks_for(body))
        ):
            return None
        try:
            chat = translate.decode(codec, body)
        except ApiError:
            # Text that only resembles a call of an agent must not fail a request that a model would accept.
            if header or agents.may_apply(b"", None, model) or agents.asks_for(body):
                raise
            return None
        if not isinstance(chat, Chat):
            refuse_to_go_around(agents, model, conversation.request.path)
            return None
        try:
            return agents.plan(
                chat,
                model=model,
                header=header,
                key=conversation.exchange.client,
                may_name=conversation.exchange.may_use_agent,
                request_id=conversation.exchange.request_id,
            )
        except AgentError as error:
            raise of_agent(error) from None

    async def answer(self, conversation: Conversation, run: Run) -> web.StreamResponse:
        """Answer as a stream or as a whole."""
        exchange, codec = conversation.exchange, conversation.endpoint.codec
        assert codec is not None, "an endpoint without one has no agents"
        with _accounted(exchange, run):
            if not run.chat.stream:
                return await self._whole(exchange, codec, run)
            stream = ClientStream.to(conversation, self._caller)
            return await stream.carry(self._stream(stream, exchange, codec, run))

    async def take_events(self, conversation: Conversation, run: Run, take: Callable[[Event], None]) -> None:
        """Pass the events of the answer to `take` as they come. Raises `ApiError`."""
        with _accounted(conversation.exchange, run):
            await self._take(conversation.exchange, run, take)

    async def _take(self, exchange: Exchange, run: Run, take: Callable[[Event], None]) -> None:
        outcome = await _before(exchange, run)
        if isinstance(outcome, Chat):
            async with self._caller.call(exchange, await self._question(exchange, outcome)) as call:
                await translate.gather(call, _Filtered(call, run, outcome), take)
                call.lease.served = True
            return
        async with aclosing(outcome) as events:
            async for event in events:
                exchange.first_byte()
                for passed in run.feed(event):
                    take(passed)
                if run.ended:
                    break

    async def _whole(self, exchange: Exchange, codec: Codec, run: Run) -> web.StreamResponse:
        await self._take(exchange, run, lambda _: None)  # the run keeps the events that it passes on
        if run.failure is not None:
            raise to_api_error(run.failure)
        return translate.whole_answer(exchange, codec, _as_asked(run), run.answer)

    async def _stream(self, stream: ClientStream, exchange: Exchange, codec: Codec, run: Run) -> None:
        outcome = await _before(exchange, run)
        if not isinstance(outcome, Chat):
            async with aclosing(outcome) as events:
                await _reply(
                    stream, exchange, events, run, translate.encoder_of(exchange, codec, _as_asked(run))
                )
            return
        question = await self._question(exchange, outcome)
        stream.tell_by(codec, translate.encoder_of(exchange, codec, _as_asked(run)))
        async with self._caller.call(exchange, question) as call:
            encoder = translate.encoder_of(exchange, codec, _as_asked(run))
            await translate.relay(stream, call, encoder, _Filtered(call, run, outcome))

    async def _question(self, exchange: Exchange, chat: Chat) -> UpstreamRequest:
        exchange.model = chat.model  # an agent may choose another model, which the key must allow
        known = await self._catalog.find(chat.model)
        exchange.preset = known.preset
        return translate.chat_question(exchange, known, chat)


@contextmanager
def _accounted(exchange: Exchange, run: Run) -> Iterator[None]:
    """Tell the exchange of the run, and the run of the answer's end."""
    exchange.run = run
    exchange.stream = run.chat.stream
    exchange.ignore(run.chat.ignored)
    try:
        yield
    except ApiError as error:
        exchange.failed(error)
        raise
    finally:
        # Only queues the work, so that a client that leaves at the last byte cancels nothing.
        run.finish(model=exchange.model, place=exchange.place, failure=exchange.error or "the client left")


class _Filtered:
    """A decoder whose events pass the agents. When these end the answer early, the server is left."""

    def __init__(self, call: ModelCall, run: Run, chat: Chat) -> None:
        self._decoder: Decoder = translate.decoder_of(call, chat)
        self._run = run
        self._response: UpstreamResponse = call.response

    def feed(self, data: bytes) -> list[Event]:
        events = self._decoder.feed(data)
        passed = [one for event in events for one in self._run.feed(event)]
        if self._run.ended and not any(isinstance(event, Done | AnswerFailed) for event in events):
            # Later: the events passed on so far are still to be written.
            asyncio.get_running_loop().call_soon(self._leave)
        return passed

    def _leave(self) -> None:
        if not self._response.finished:  # otherwise the connection may already serve another request
            self._response.give_up(AnswerOverError())

    def end(self) -> list[Event]:
        return [one for event in self._decoder.end() for one in self._run.feed(event)]


async def _reply(
    stream: ClientStream, exchange: Exchange, events: AsyncGenerator[Event, None], run: Run, encoder: Encoder
) -> None:
    """Write an agent's own answer."""
    translation = Translation(encoder)
    has_begun = False
    try:
        async for event in events:
            passed = run.feed(event)
            if has_begun:
                await stream.write(translation.encode(passed))
            elif translation.hold(passed):
                first = translation.open()
                has_begun = True
                await stream.begin()
                await stream.write(first)
            if run.ended:
                break
    except asyncio.CancelledError:
        exchange.complete = translation.is_complete
        raise
    finally:
        translation.account(exchange)
    await stream.end()


def _as_asked(run: Run) -> Chat:
    """Copy the fields that the answer must repeat from the client's request to an agent's request."""
    return msgspec.structs.replace(run.chat, echo=run.asked.echo)


async def _before(exchange: Exchange, run: Run) -> Chat | AsyncGenerator[Event, None]:
    exchange.phase = "agents"
    try:
        return await run.before()
    except AgentError as error:
        raise of_agent(error) from None
