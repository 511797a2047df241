"""The way of a request through the gateway: check, lease, ask, and answer as a stream or as a whole."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from actors.messages import ServerAddress
from actors.servers.ollama.client import canonical
from agents.chat import Chat
from agents.errors import AgentError
from agents.host.host import AgentHost
from agents.host.pipeline import Run
from proxy.answers import client_stream as answers
from proxy.answers import translate as translated
from proxy.answers.call import ModelCaller, RenderRequest, post
from proxy.answers.keep_alive import Waiting
from proxy.answers.relay import is_event_stream
from proxy.answers.through_agents import Accompanied, guard_body, of_agent, refuse_to_go_around
from proxy.apis.assemble import Assembler
from proxy.apis.codec import Codec, Endpoint
from proxy.apis.durations import keep_alive
from proxy.apis.embeddings import Embeddings
from proxy.apis.fields import FieldError
from proxy.apis.ollama import answer as ollama_answer
from proxy.apis.ollama.body import OllamaChatRequest, OllamaGenerateRequest, OllamaRequest
from proxy.apis.ollama.errors import OLLAMA
from proxy.apis.ollama.server import rewritten
from proxy.apis.requests import parse_body, with_fields
from proxy.apis.table import SERVERS
from proxy.door.bodies import BODIES, LARGE, breathe
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.models import Catalog, Known

AGENTS_HEADER = "X-Agents"
"""Names agents, with commas between them; in the answer, what they did."""

ENDINGS = {"text/event-stream": b"\n\n", "application/x-ndjson": b"\n"}
"""How an event ends, or a line."""


class Gateway:
    """What the handlers share."""

    def __init__(
        self,
        caller: ModelCaller,
        catalog: Catalog,
        agents: AgentHost,
    ) -> None:
        self.limits = caller.limits
        self.catalog = catalog
        self.caller = caller
        self.agents = agents
        self._accompanied = Accompanied(caller, catalog)

    async def answer(
        self, request: web.Request, exchange: Exchange, endpoint: Endpoint
    ) -> web.StreamResponse:
        """Answer a POST to one of the endpoints."""
        body = await request.app[BODIES].json(request, any_type=endpoint.dialect is OLLAMA)
        parsed: Any = parse_body(body, endpoint.request)
        exchange.model = parsed.model
        await breathe(body)
        known = await self.catalog.find(parsed.model)
        if endpoint.assembler is None and self.agents.guards_of(known.name):
            body = await guard_body(self.agents, known.name, body, exchange.request_id)
            parsed = parse_body(body, endpoint.request)
        if endpoint.assembler is not None and endpoint.codec is None:
            refuse_to_go_around(self.agents, known.name, endpoint.path)
        if endpoint.embedder is not None and (known.api != endpoint.api or endpoint.dialect is OLLAMA):
            return await self._embed(request, exchange, endpoint, body, parsed, known)
        if isinstance(parsed, OllamaChatRequest | OllamaGenerateRequest) and not parsed.says_anything:
            return await self._load(exchange, endpoint, parsed, known)
        await breathe(body)
        if endpoint.codec is not None and (
            run := self._agents_of(request, exchange, endpoint.codec, body, known.name)
        ):
            return await self._with_agents(request, exchange, endpoint, endpoint.codec, run)
        await breathe(body)
        if known.api == endpoint.api and self.catalog.answers_as(parsed.model, known):
            return await self._as_it_is(request, exchange, endpoint, body, parsed, known)
        if endpoint.codec is None:
            message = f"model {parsed.model!r} is served by {known.api}, which has no {endpoint.path}"
            raise ApiError(400, message, code="not_supported", param="model")
        return await self._translate(request, exchange, endpoint, endpoint.codec, body, known)

    # With agents

    def _agents_of(
        self, request: web.Request, exchange: Exchange, codec: Codec, body: bytes, model: str
    ) -> Run | None:
        """The agents of a chat request. One that can have none is not even read for them."""
        header = request.headers.get(AGENTS_HEADER)
        # To search a large body for commands could take seconds; to look at the last message does not.
        mark = body if len(body) <= LARGE else b""
        if not self.agents.may_apply(mark, header, model) and not (
            mark is not body and self.agents.asks_for(body)
        ):
            return None
        try:
            chat = translated.decoded(codec, body)
        except ApiError:
            # What is only like a call of an agent must not make a request fail that a model would take.
            if header or self.agents.may_apply(b"", None, model) or self.agents.asks_for(body):
                raise
            return None
        if not isinstance(chat, Chat):
            refuse_to_go_around(self.agents, model, request.path)
            return None
        try:
            return self.agents.plan(chat, model=model, header=header, request_id=exchange.request_id)
        except AgentError as error:
            raise of_agent(error) from None

    async def _with_agents(
        self, request: web.Request, exchange: Exchange, endpoint: Endpoint, codec: Codec, run: Run
    ) -> web.StreamResponse:
        exchange.run = run
        exchange.stream = run.chat.stream
        try:
            if not run.chat.stream:
                return await self._accompanied.whole(exchange, codec, run)
            async with self._waiting(request, exchange, endpoint) as (waiting, client):
                return await self._accompanied.streamed(
                    request, exchange, endpoint, codec, run, waiting, client
                )
            return client
        except ApiError as error:
            exchange.failed(error)
            raise
        finally:
            # Hands over and returns, so that a client that leaves at the last byte cancels none of it.
            run.finish(
                model=exchange.model, place=exchange.place, failure=exchange.error or "the client left"
            )

    # The server speaks the client's API

    async def _as_it_is(
        self,
        request: web.Request,
        exchange: Exchange,
        endpoint: Endpoint,
        body: bytes,
        parsed: Any,
        known: Known,
    ) -> web.StreamResponse:
        """Pass the request and the answer on byte for byte, but for what the gateway must say itself."""
        streams = endpoint.assembler is not None
        exchange.stream = bool(streams and parsed.stream)
        assembler: Assembler | None = None
        keep_progress = False
        kinds = endpoint.kinds
        if endpoint.assembler is not None and _answers_with_a_list(endpoint, parsed):
            kinds = (list,)
        elif endpoint.assembler is not None:
            keep_progress = bool(parsed.stream and getattr(parsed, "return_progress", False))
            fields = {"stream": b"true"}
            if endpoint.api == "llama.cpp":
                fields["return_progress"] = b"true"
            if not parsed.stream:
                assembler = endpoint.assembler(parsed)
                if endpoint.usage_option:
                    fields["stream_options"] = b'{"include_usage":true}'
            body = with_fields(body, fields)
        render = _body_renderer(exchange, endpoint.path, body, parsed.model)
        wish = _keep_alive(parsed)
        if exchange.stream:
            return await self._relay(
                request, exchange, endpoint, known, render, keep_progress=keep_progress, keep_alive=wish
            )
        async with self.caller.response(
            exchange, known.name, render, slot=endpoint.slot, keep_alive=wish
        ) as (
            lease,
            response,
        ):
            if assembler is not None and response.head.content_type in ENDINGS and response.head.status < 300:
                return await answers.assembled(exchange, lease, response, assembler)
            end = endpoint.end if assembler is not None else None
            return await answers.whole(exchange, lease, response, SERVERS[known.api].failure, kinds, end)

    async def _relay(
        self,
        request: web.Request,
        exchange: Exchange,
        endpoint: Endpoint,
        known: Known,
        render: RenderRequest,
        *,
        keep_progress: bool,
        keep_alive: float | None,
    ) -> web.StreamResponse:
        """Answer with a stream, whose head waits for the first real event or for the first comment."""
        async with (
            self._waiting(request, exchange, endpoint) as (waiting, client),
            self.caller.response(exchange, known.name, render, slot=endpoint.slot, keep_alive=keep_alive) as (
                lease,
                response,
            ),
        ):
            await answers.check_stream(lease, response, endpoint.media_type, SERVERS[known.api].failure)
            first = b""
            if is_event_stream(response.head):
                first = await answers.first_event(response, keep_progress=keep_progress)
            waiting.end()
            exchange.first_byte()
            exchange.status = 200
            return await answers.relayed(
                request,
                exchange,
                lease,
                response,
                client,
                write_timeout=self.limits.write_timeout,
                dialect=endpoint.dialect,
                ending=ENDINGS[endpoint.media_type],
                end=endpoint.end,
                first=first,
            )
        return client

    @asynccontextmanager
    async def _waiting(
        self, request: web.Request, exchange: Exchange, endpoint: Endpoint
    ) -> AsyncIterator[tuple[Waiting, web.StreamResponse]]:
        """Tell the client of a stream that it waits. Once that has begun, an error is the stream's end."""
        client = answers.stream_response(request, exchange, endpoint.media_type)
        comment = partial(_comment, self.caller, exchange, endpoint)
        waiting = Waiting(request, client, self.limits.keepalive_interval, comment)
        try:
            yield waiting, client
        except ApiError as error:
            if not waiting.begun:
                raise
            waiting.end()
            exchange.failed(error)
            sent = endpoint.dialect.reword(error, exchange.model or "")
            await client.write(endpoint.dialect.frame(sent, exchange.request_id))
            await client.write_eof()
        finally:
            waiting.end()

    # It speaks another one

    async def _translate(
        self,
        request: web.Request,
        exchange: Exchange,
        endpoint: Endpoint,
        codec: Codec,
        body: bytes,
        known: Known,
    ) -> web.StreamResponse:
        chat = translated.decoded(codec, body)
        if isinstance(chat, Chat) and not chat.messages:
            raise ApiError(400, "messages: is empty", param="messages")
        exchange.stream = chat.stream
        await breathe(body)
        render = translated.chat_renderer(exchange, chat)
        if not chat.stream:
            async with self.caller.response(exchange, known.name, render, keep_alive=chat.keep_alive) as (
                lease,
                response,
            ):
                asked = translated.asked_of(exchange, chat.model)
                return await translated.gathered(exchange, lease, response, codec, asked)
        async with (
            self._waiting(request, exchange, endpoint) as (waiting, client),
            self.caller.response(exchange, known.name, render, keep_alive=chat.keep_alive) as (
                lease,
                response,
            ),
        ):
            asked = translated.asked_of(exchange, chat.model, include_usage=chat.include_usage)
            return await translated.streamed(
                request,
                exchange,
                lease,
                response,
                client,
                waiting,
                codec.encoder(asked),
                translated.decoder_of(lease, exchange),
                dialect=endpoint.dialect,
                write_timeout=self.limits.write_timeout,
            )
        return client

    async def _load(
        self, exchange: Exchange, endpoint: Endpoint, parsed: OllamaRequest, known: Known
    ) -> web.StreamResponse:
        """Answer one of Ollama's requests without a prompt: load the model, or let it go."""
        wish = _keep_alive(parsed)
        await self.caller.keep(exchange, known.name, wish)
        exchange.status = 200
        answer = ollama_answer.encode_load(
            "unload" if wish == 0 else "load", parsed.model, now=time.time(), api=_api_of(endpoint)
        )
        return answers.json_response(msgspec.json.encode(answer))

    async def _embed(
        self,
        request: web.Request,
        exchange: Exchange,
        endpoint: Endpoint,
        body: bytes,
        parsed: Any,
        known: Known,
    ) -> web.StreamResponse:
        assert endpoint.embedder is not None
        try:
            embed = endpoint.embedder.decode(body)
        except FieldError as error:
            raise translated.unmeant(error) from None
        if embed.inputs and known.api == endpoint.api:
            return await self._as_it_is(request, exchange, endpoint, body, parsed, known)
        if not embed.inputs:
            await self.caller.keep(exchange, known.name, embed.keep_alive)
            exchange.status = 200
            return translated.vectors(exchange, endpoint.embedder, embed, Embeddings([]))

        render = translated.embeddings_renderer(exchange, embed)
        async with self.caller.response(exchange, known.name, render, keep_alive=embed.keep_alive) as (
            lease,
            response,
        ):
            return await translated.embedded(exchange, lease, response, endpoint.embedder, embed)


def _body_renderer(exchange: Exchange, path: str, body: bytes, asked: str) -> RenderRequest:
    """Renders the client's body; a server of several models gets its own name for the model, and options."""

    def render(address: ServerAddress) -> bytes:
        sent = body
        if (own_name := address.model) is not None:
            # It answers under the name that it was asked by.
            name = asked if canonical(asked) == canonical(own_name) else own_name
            sent = rewritten(body, name, dict(address.options))
        return post(exchange, path, sent, address)

    return render


def _comment(caller: ModelCaller, exchange: Exchange, endpoint: Endpoint) -> bytes:
    """What tells a waiting client that it is not forgotten. Lines of JSON have no comments."""
    if endpoint.media_type == "text/event-stream":
        return f": {caller.what_happens(exchange)}\n\n".encode()
    return ollama_answer.encode_waiting(exchange.model or "", now=time.time(), api=_api_of(endpoint))


def _api_of(endpoint: Endpoint) -> ollama_answer.Api:
    return "chat" if endpoint.path == "/api/chat" else "generate"


def _keep_alive(parsed: Any) -> float | None:
    try:
        return keep_alive(parsed.keep_alive) if isinstance(parsed, OllamaRequest) else None
    except FieldError as error:
        raise translated.unmeant(error) from None


def _answers_with_a_list(endpoint: Endpoint, parsed: Any) -> bool:
    """llama.cpp answers several prompts on its own API with a list, which no stream can be made into."""
    prompt = getattr(parsed, "prompt", None)
    if parsed.stream or not isinstance(prompt, list) or endpoint.path.startswith("/v1/"):
        return False
    return len(prompt) > 1 and not all(isinstance(token, int) for token in prompt)
