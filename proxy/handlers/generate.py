"""The endpoints that a model answers: read a request, check it, and choose the way of its answer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from aiohttp import web

from actors.config.schema import RequestSettings
from agents.events import Event
from agents.host.host import AgentHost
from proxy.access.gate import GATE
from proxy.answers import count, embed, load_only, translate, unchanged
from proxy.answers.agent_guards import guard_body, refuse_to_go_around
from proxy.answers.call import Conversation, ModelCaller, RequestLimits, check_may_use
from proxy.answers.through_agents import AgentAnswers
from proxy.apis.fields import FieldError, encode
from proxy.apis.interface import Endpoint
from proxy.apis.requests import fields_of, invalid_field, parse_body
from proxy.catalog import Catalog
from proxy.door.bodies import BODIES, breathe
from proxy.door.tap import begin_capture
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.parameters import answer_limit, set_in_body, set_in_ollama_body


@contextmanager
def subject_of(endpoint: Endpoint) -> Iterator[None]:
    """Name the endpoint's subject as the faulty field of a request that names none."""
    try:
        yield
    except ApiError as error:
        if error.status == 400:
            error.param = error.param or endpoint.subject
        raise


class Generate:
    """The handler of all these endpoints."""

    def __init__(self, caller: ModelCaller, catalog: Catalog, agents: AgentHost) -> None:
        self._caller = caller
        self._catalog = catalog
        self._agents = agents
        self._through_agents = AgentAnswers(caller, catalog, agents)

    @property
    def limits(self) -> RequestLimits:
        """The limits of a request."""
        return self._caller.limits

    async def answer(
        self, request: web.Request, exchange: Exchange, endpoint: Endpoint
    ) -> web.StreamResponse:
        """Answer a POST to one of the endpoints."""
        with subject_of(endpoint):
            body = await request.app[BODIES].json(request, any_type=endpoint.any_media_type)
            return await self.respond(await self.read(request, exchange, endpoint, body))

    async def respond(self, asked: Conversation) -> web.StreamResponse:
        """Choose the way of an answer, and answer. Raises `ApiError`."""
        try:
            return await self._respond(asked)
        except ApiError as error:
            error.param = error.param or asked.parsed.field_of(error.code)
            raise

    async def _respond(self, asked: Conversation) -> web.StreamResponse:
        endpoint = asked.endpoint
        if endpoint.embedder is not None:
            return await embed.answer(self._caller, asked, endpoint.embedder)
        if endpoint.counter is not None and not asked.speaks_its_api:
            return await count.answer(self._caller, asked, endpoint.counter)
        if asked.parsed.needs:
            await self._check_capabilities(asked)
        if endpoint.load_answer is not None and not asked.parsed.says_anything:
            return await load_only.answer(self._caller, asked, endpoint.load_answer)
        await breathe(asked.body)
        if (run := self._through_agents.plan(asked)) is not None:
            return await self._through_agents.answer(asked, run)
        await breathe(asked.body)
        if not asked.speaks_its_api or not self._catalog.answers_as(asked.parsed.model, asked.known):
            return await translate.answer(self._caller, asked)
        if asked.known.request is not None and endpoint.generates:
            asked = _with_parameters(asked, asked.known.request)
        if endpoint.codec is not None and asked.parsed.needs_translation:
            return await translate.answer(self._caller, asked)
        return await unchanged.answer(self._caller, asked)

    async def _check_capabilities(self, asked: Conversation) -> None:
        """Raise `ApiError` for what a llama.cpp model is known to lack; daemons say it themselves."""
        if asked.known.api == "llama.cpp":
            capabilities = (await self._catalog.card_of(asked.known.name)).capabilities
            lacking = [need for need in asked.parsed.needs if capabilities and need not in capabilities]
            if lacking:
                message = f'"{asked.parsed.model[:200]}" does not support {lacking[0]}'
                raise ApiError(400, message, code="not_supported")

    async def take_events(self, asked: Conversation, take: Callable[[Event], None]) -> None:
        """Pass the events of an answer to `take` as they come, whoever wants them. Raises `ApiError`."""
        if (run := self._through_agents.plan(asked)) is not None:
            await self._through_agents.take_events(asked, run, take)
        else:
            await translate.take_events(self._caller, asked, take)

    async def read(
        self, request: web.Request, exchange: Exchange, endpoint: Endpoint, body: bytes
    ) -> Conversation:
        """Check a body and the key's limits, and find the model. Raises `ApiError`."""
        parsed = parse_body(body, endpoint.request)
        exchange.model = asked = parsed.model
        begin_capture(request, exchange, lambda: self._catalog.names_meant(asked), body)
        await breathe(body)
        try:
            parsed.check()
        except FieldError as error:
            raise invalid_field(error) from None
        known = await self._catalog.find(parsed.model)
        exchange.preset = known.preset
        if not endpoint.generates and self._agents.guards_of(known.name):
            body = await guard_body(self._agents, known.name, body, exchange.request_id)
            parsed = parse_body(body, endpoint.request)
        if endpoint.generates and endpoint.codec is None:
            refuse_to_go_around(self._agents, known.name, endpoint.path)
        conversation = Conversation(request, exchange, endpoint, body, parsed, known)
        self._admit(conversation)
        return conversation

    def _admit(self, asked: Conversation) -> None:
        """Check the key's limits before any work is done. Raises `ApiError`."""
        exchange = asked.exchange
        exchange.generates = asked.endpoint.generates
        if exchange.key is None:
            return
        check_may_use(exchange, asked.parsed.model, self._catalog.names_of(asked.known))
        limit = answer_limit(asked.parsed.answer_limit, asked.known.request) if exchange.generates else 0
        asked.request.app[GATE].admit(exchange, len(asked.body), limit, asked.parsed.answers)


def _with_parameters(asked: Conversation, settings: RequestSettings) -> Conversation:
    """Return a request that needs no translation, changed as its model's settings say."""
    change = set_in_ollama_body if asked.known.api == "ollama" else set_in_body
    body = encode(change(fields_of(asked.body), settings))
    parsed = parse_body(body, asked.endpoint.request)
    return msgspec.structs.replace(asked, body=body, parsed=parsed)
