"""The endpoints of the Responses API: new answers, which may continue a kept one, and kept answers."""

import secrets
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import msgspec
from aiohttp import HttpVersion11, web

from agents.chat import Chat
from proxy.answers.client_stream import STREAM_HEADERS
from proxy.answers.translate import answer_context, decode
from proxy.apis.fields import FieldError, Json, encode
from proxy.apis.interface import Endpoint
from proxy.apis.requests import invalid_field, parse_body
from proxy.apis.responses import answer as writer
from proxy.apis.responses.body import ResponsesRequest
from proxy.apis.responses.endpoints import CODEC
from proxy.apis.responses.kept import (
    TOKEN,
    input_of,
    listed,
    page,
    references,
    refers,
    resolved,
    response_of,
    stream_of,
    with_input,
)
from proxy.door.bodies import BODIES, breathe
from proxy.errors import ApiError
from proxy.exchange import EXCHANGE, Exchange
from proxy.handlers.generate import Generate
from proxy.handlers.responses.background import Job
from proxy.handlers.responses.recording import recorded
from proxy.handlers.responses.store import Kept, ResponseStore
from proxy.running import REQUESTS

T = TypeVar("T")

STOPPED = {"code": "server_error", "message": "the gateway was stopped meanwhile"}
FINISHED = 16
"""Jobs that are remembered with all their events, each of at most `LARGEST` bytes."""
LARGEST = 4 * 1024 * 1024
RUNNING = ("queued", "in_progress")


class _Asked(msgspec.Struct, frozen=True):
    """A request for an answer. `items` is all of its input if it is kept, `token` is in the answer's ids."""

    request: web.Request
    exchange: Exchange
    endpoint: Endpoint
    items: list[Json]
    token: str


class Responses:
    """The handlers."""

    def __init__(self, generate: Generate, store: ResponseStore) -> None:
        self._generate = generate
        self._store = store
        self._jobs: dict[str, Job] = {}
        self._finished: deque[str] = deque()

    async def answer(
        self, request: web.Request, exchange: Exchange, endpoint: Endpoint
    ) -> web.StreamResponse:
        """Answer a POST request that needs a model."""
        body = await request.app[BODIES].json(request)
        parsed = parse_body(body, ResponsesRequest)
        if parsed.background:
            self._check_is_on("background", "background")
            if parsed.store is False:
                raise ApiError(400, "background needs store, which must not be false", param="store")
        await breathe(body)
        needs_more = parsed.previous_response_id is not None or _in_words(refers, body)
        items: list[Json] = []
        if needs_more or self._store.is_on:
            items = await self._complete(_in_words(input_of, body), parsed, owner_of(request))
        if needs_more:
            body = with_input(body, items)
        if not endpoint.generates:
            return await self._generate.respond(await self._generate.read(request, exchange, endpoint, body))
        asked = _Asked(request, exchange, endpoint, items, secrets.token_hex(TOKEN // 2))
        if parsed.store and not self._store.is_on:
            exchange.ignore(["store"])
        if parsed.background:
            return await self._begin(asked, body)
        if parsed.store is not False:
            endpoint = recorded(endpoint, asked.token, self._keeper(asked))
        return await self._generate.respond(await self._generate.read(request, exchange, endpoint, body))

    async def _complete(self, items: list[Json], parsed: ResponsesRequest, owner: str | None) -> list[Json]:
        """Return the input, with the items and the response to which it refers. Raises `ApiError`."""
        if parsed.previous_response_id is not None:
            self._check_is_on("previous_response_id", "previous_response_id")
            previous = await self._find(parsed.previous_response_id, owner)
            if previous is None or previous.fields["status"] in RUNNING:
                state = "is still being answered" if previous else "not found"
                message = f"previous response {parsed.previous_response_id[:100]!r} {state}"
                code = "previous_response_not_found"
                raise ApiError(400, message, code=code, param="previous_response_id")
            items = [*previous.items, *previous.fields["output"], *items]
        known: dict[str, Json] = {}
        for response_id in dict.fromkeys(map(response_of, references(items))):
            if (kept := await self._find(response_id, owner)) is not None:
                known |= {item["id"]: item for item in kept.fields["output"]}
        return resolved(items, known)

    def _keeper(self, asked: _Asked) -> Callable[[Json], None]:
        created, owner = time.time(), owner_of(asked.request)
        # Without the setting nobody can ask for more than the items of the answer.
        items = encode(listed(asked.items, asked.token)) if self._store.is_on else b"[]"

        def keep(response: Json) -> None:
            self._store.keep(Kept(response["id"], owner, created, encode(response), items))

        return keep

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the routes of kept responses."""
        for base in ("/v1/responses", "/responses"):
            router.add_get(f"{base}/{{id}}", self.retrieve)
            router.add_delete(f"{base}/{{id}}", self.delete)
            router.add_get(f"{base}/{{id}}/input_items", self.input_items)
            router.add_post(f"{base}/{{id}}/cancel", self.cancel)

    # In the background

    async def _begin(self, asked: _Asked, body: bytes) -> web.StreamResponse:
        generate, exchange = self._generate, asked.exchange
        inner = Exchange("POST", exchange.path, exchange.request_id, exchange.accounts)
        inner.endpoint, inner.key, inner.recorded = exchange.endpoint, exchange.key, exchange.recorded
        inner.trace = exchange.trace
        chat = decode(CODEC, body)
        assert isinstance(chat, Chat)
        budget = asked.request.app[BODIES].budget
        budget.take(len(body), 0)
        try:
            conversation = await generate.read(asked.request, inner, asked.endpoint, body)
        except BaseException:
            budget.held -= len(body)
            raise
        exchange.model = inner.model
        exchange.recorded = False  # the row is that of the answer
        exchange.ignore(chat.ignored)
        context = msgspec.structs.replace(answer_context(inner, chat.model, chat), token=asked.token)
        job = Job(inner, writer.Encoder(context), self._keeper(asked), asked.request.app[REQUESTS])
        self._jobs[job.response["id"]] = job

        def over() -> None:
            budget.held -= len(body)
            self._over(job)

        job.start(partial(generate.take_events, conversation), over)
        return await self._follow(asked.request, job, -1) if chat.stream else _json(job.response)

    def _over(self, job: Job) -> None:
        """Keep the events of the last jobs, for clients that continue to read their streams."""
        self._finished.append(job.response["id"])
        if job.size > LARGEST:
            self._jobs.pop(job.response["id"], None)
        if len(self._finished) > FINISHED:
            self._jobs.pop(self._finished.popleft(), None)

    async def close(self) -> None:
        """Stop all background answers, which count as failed, and close the store."""
        for job in list(self._jobs.values()):
            await job.cancel(status="failed", error=STOPPED)
        await self._store.close()

    # Kept responses

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/responses/{id}`; with `stream=true` its events after number `starting_after`."""
        kept = await self._kept(request)
        if request.query.get("stream", "").lower() not in ("true", "1"):
            return _json(self._current(kept))
        try:
            after = int(request.query.get("starting_after", -1))
        except ValueError:
            raise ApiError(400, "starting_after: must be a number", param="starting_after") from None
        return await self._follow(request, self._jobs.get(kept.id) or self._current(kept), after)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """`DELETE /v1/responses/{id}`: stop the answer if it is running, and delete it."""
        kept = await self._kept(request)
        if (job := self._jobs.get(kept.id)) is not None:
            await job.cancel(status="cancelled")
            del self._jobs[kept.id]
        async with _usable():
            await self._store.delete(kept.id)
        return _json({"id": kept.id, "object": "response", "deleted": True})

    async def input_items(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/responses/{id}/input_items`."""
        kept = await self._kept(request)
        try:
            return _json(page(kept.items, request.query))
        except FieldError as error:
            raise invalid_field(error) from None

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/responses/{id}/cancel`."""
        kept = await self._kept(request)
        if not kept.fields.get("background"):
            raise ApiError(400, f"response {kept.id!r} is not answered in the background", param="id")
        if (job := self._jobs.get(kept.id)) is not None:
            await job.cancel(status="cancelled")
            return _json(job.response)
        return _json(self._current(kept))

    async def _kept(self, request: web.Request) -> Kept:
        self._check_is_on("GET, DELETE and cancel", None)
        request[EXCHANGE].quiet = request.method == "GET"
        response_id = request.match_info["id"]
        if (kept := await self._find(response_id, owner_of(request))) is None:
            message = f"response {response_id[:100]!r} not found"
            raise ApiError(404, message, code="response_not_found", param="id")
        return kept

    async def _find(self, response_id: str, owner: str | None) -> Kept | None:
        async with _usable():
            return await self._store.find(response_id, owner)

    def _current(self, kept: Kept) -> Json:
        """Return the response so far. One that was running when the gateway was stopped has failed."""
        if (job := self._jobs.get(kept.id)) is not None:
            return job.response
        response = kept.fields
        if response["status"] in RUNNING:
            response |= {"status": "failed", "error": STOPPED}
        return response

    def _check_is_on(self, what: str, param: str | None) -> None:
        if not self._store.is_on:
            cure = "set server.keep_responses in config.yaml to some seconds"
            message = f"{what}: responses are not kept here; {cure}"
            raise ApiError(400, message, code="not_supported", param=param)

    async def _follow(self, request: web.Request, answer: Job | Json, after: int) -> web.StreamResponse:
        """Stream the events of an answer that come after number `after`."""
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", **STREAM_HEADERS})
        stream.headers.update(request[EXCHANGE].headers)
        if request.version < HttpVersion11:
            stream.force_close()
        await stream.prepare(request)
        if isinstance(answer, Job):
            async for frame in answer.follow(after, self._generate.limits.keepalive_interval):
                await stream.write(frame)
        else:
            await stream.write(b"".join(stream_of(answer, after)))
        await stream.write_eof()
        return stream


def owner_of(request: web.Request) -> str | None:
    """Return the name of the request's key, which alone may read its responses; None without a key."""
    return request[EXCHANGE].client or None


@asynccontextmanager
async def _usable() -> AsyncIterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        message = f"the kept responses cannot be used: {error}"
        raise ApiError(503, message, code="responses_unusable", retry_after=5) from error


def _in_words(read: Callable[[bytes], T], body: bytes) -> T:
    """Read something of a body. Raises `ApiError` (400) for an invalid one."""
    try:
        return read(body)
    except FieldError as error:
        raise invalid_field(error) from None


def _json(value: Json) -> web.Response:
    return web.Response(body=encode(value), content_type="application/json")
