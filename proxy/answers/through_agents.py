"""A chat request that has agents: what they make of it, the model's answer through them, or one of their own.

A model is leased after the last `before`, never while an agent works: one that calls a model itself would
wait for what its own request holds.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from agents.chat import Chat
from agents.errors import AgentError
from agents.events import AnswerFailed, AnswerStarted, Done, Event
from agents.guard.strings import clean_value
from agents.host.host import AgentHost
from agents.host.pipeline import Run
from proxy.answers import client_stream as answers
from proxy.answers import translate as translated
from proxy.answers.call import ModelCaller
from proxy.answers.keep_alive import Waiting
from proxy.answers.translate import AnswerOverError, Translation
from proxy.apis.codec import Codec, Decoder, Endpoint
from proxy.apis.failures import to_api_error
from proxy.apis.fields import FieldError, decode
from proxy.door.bodies import breathe
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.models import Catalog
from proxy.wire.upstream_connection import UpstreamResponse


class _Filtered:
    """A decoder whose events go through the agents. When they end the answer early, its server is left."""

    def __init__(self, decoder: Decoder, run: Run, response: UpstreamResponse) -> None:
        self._decoder = decoder
        self._run = run
        self._response = response

    def feed(self, data: bytes) -> list[Event]:
        events = self._decoder.feed(data)
        passed = [one for event in events for one in self._run.feed(event)]
        if self._run.ended and not any(isinstance(event, Done | AnswerFailed) for event in events):
            # Not at once: what they passed on is still to be written.
            asyncio.get_running_loop().call_soon(self._leave)
        return passed

    def _leave(self) -> None:
        if not self._response.finished:  # else its connection may serve another request already
            self._response.give_up(AnswerOverError())

    def end(self) -> list[Event]:
        return [one for event in self._decoder.end() for one in self._run.feed(event)]


class Accompanied:
    """Answers requests that have agents."""

    def __init__(self, caller: ModelCaller, catalog: Catalog) -> None:
        self._caller = caller
        self._catalog = catalog

    async def whole(self, exchange: Exchange, codec: Codec, run: Run) -> web.StreamResponse:
        """The whole answer."""
        outcome = await _before(exchange, run)
        if isinstance(outcome, Chat):
            await self._gather(exchange, outcome, run)
        else:
            async with aclosing(outcome) as events:
                async for event in events:
                    exchange.first_byte()
                    run.feed(event)
                    if run.ended:
                        break
        if run.failure is not None:
            raise to_api_error(run.failure)
        exchange.status = 200
        exchange.tokens = translated.tokens_of(run.answer.usage)
        asked = translated.asked_of(exchange, run.chat.model)
        return answers.json_response(msgspec.json.encode(codec.encode_answer(run.answer, asked, time.time())))

    async def _gather(self, exchange: Exchange, chat: Chat, run: Run) -> None:
        known = await self._catalog.find(chat.model)
        render = translated.chat_renderer(exchange, chat)
        async with self._caller.response(exchange, known.name, render, keep_alive=chat.keep_alive) as (
            lease,
            response,
        ):
            decoder = _Filtered(translated.decoder_of(lease, exchange), run, response)
            with contextlib.suppress(AnswerOverError):
                # The run keeps what it passes on.
                await translated.gather(exchange, lease, response, decoder, lambda _: None)
            lease.served = True

    async def streamed(
        self,
        request: web.Request,
        exchange: Exchange,
        endpoint: Endpoint,
        codec: Codec,
        run: Run,
        waiting: Waiting,
        client: web.StreamResponse,
    ) -> web.StreamResponse:
        """The answer as it comes."""
        outcome = await _before(exchange, run)
        if not isinstance(outcome, Chat):
            async with aclosing(outcome) as events:
                asked = translated.asked_of(exchange, run.chat.model, include_usage=run.chat.include_usage)
                translation = Translation(codec.encoder(asked))
                return await self._reply(request, exchange, events, run, translation, waiting, client)
        known = await self._catalog.find(outcome.model)
        render = translated.chat_renderer(exchange, outcome)
        async with self._caller.response(exchange, known.name, render, keep_alive=outcome.keep_alive) as (
            lease,
            response,
        ):
            asked = translated.asked_of(exchange, run.chat.model, include_usage=run.chat.include_usage)
            decoder = _Filtered(translated.decoder_of(lease, exchange), run, response)
            return await translated.streamed(
                request,
                exchange,
                lease,
                response,
                client,
                waiting,
                codec.encoder(asked),
                decoder,
                dialect=endpoint.dialect,
                write_timeout=self._caller.limits.write_timeout,
            )

    async def _reply(
        self,
        request: web.Request,
        exchange: Exchange,
        events: AsyncGenerator[Event, None],
        run: Run,
        translation: Translation,
        waiting: Waiting,
        client: web.StreamResponse,
    ) -> web.StreamResponse:
        """Write an agent's own answer. An error before its first piece has a status."""
        held: list[Event] = []
        has_begun = False
        try:
            async for event in events:
                held += run.feed(event)
                if not has_begun and all(isinstance(one, AnswerStarted) for one in held):
                    continue
                if not has_begun:
                    translated.raise_early(held)
                    has_begun = True
                    waiting.end()
                    exchange.first_byte()
                    exchange.status = 200
                    client.headers.update(exchange.headers)
                    await client.prepare(request)
                await self._write(client, translation.encode(held))
                held = []
                if run.ended:
                    break
        except TimeoutError:
            exchange.client_left()
            exchange.error = "the client took nothing for too long"
            answers.cut(request)
        except asyncio.CancelledError:
            exchange.complete = translation.complete
            raise
        finally:
            exchange.tokens = translated.tokens_of(translation.usage)
        if translation.failure is not None:
            exchange.failed(to_api_error(translation.failure))
        await answers.end_relay(request, client)
        return client

    async def _write(self, client: web.StreamResponse, data: bytes) -> None:
        async with asyncio.timeout(self._caller.limits.write_timeout or None):
            await client.write(data)


async def _before(exchange: Exchange, run: Run) -> Chat | AsyncGenerator[Event, None]:
    exchange.phase = "agents"
    try:
        return await run.before()
    except AgentError as error:
        raise of_agent(error) from None


def refuse_to_go_around(host: AgentHost, model: str, path: str) -> None:
    """Raise `ApiError` if a model has agents for all its requests that this path would go around."""
    if guards := host.guards_of(model):
        message = (
            f"model {model!r} is only served with the agent {guards[0]!r}, which {path} would go around; "
            "use /v1/chat/completions, /v1/messages or /api/chat"
        )
        raise ApiError(403, message, code="agent_required", param="model")


async def guard_body(host: AgentHost, model: str, body: bytes, request_id: str) -> bytes:
    """A JSON body for an endpoint that generates nothing, as the guards of the model's requests leave it.

    Raises `ApiError` if they refuse it.
    """
    texts: list[str] = []

    def collect(text: str) -> str:
        texts.append(text)
        return text

    try:
        fields = decode(body, dict[str, Any])
        kept = {"model": fields.pop("model", None)}
        clean_value(fields, collect)
        await breathe(body)
        passed = iter(await host.guard_texts(model, texts, request_id=request_id))
        await breathe(body)
        return msgspec.json.encode(kept | clean_value(fields, lambda _: next(passed)))
    except AgentError as error:
        raise of_agent(error) from None
    except FieldError as error:
        raise translated.unmeant(error) from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None


def of_agent(error: AgentError) -> ApiError:
    """What an agent says no with, as the client is told."""
    return ApiError(
        error.status, error.message, code=error.code, param=error.param, retry_after=error.retry_after
    )
