"""A parsed request to a model, and the call of the model: a lease and the server's response."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import get_args

import msgspec
from aiohttp import web

from actors.config.schema import Config, LoadingState
from actors.errors import NotLoaded, RejectedError, ShuttingDown
from actors.messages import ServerAddress
from actors.progress import Progress
from actors.prompts.keeping import Prompts
from actors.scheduler.lifecycle import State
from actors.scheduler.loading import LoadingLines
from actors.scheduler.model_states import Outlook
from actors.supervisor import Lease, Supervisor
from proxy.answers.relay import BodyCollector
from proxy.apis.fields import FieldError
from proxy.apis.interface import Endpoint, ServerApi
from proxy.apis.requests import ModelRequest, invalid_field
from proxy.apis.server_errors import to_api_error
from proxy.apis.table import SERVERS
from proxy.catalog import Known
from proxy.errors import ApiError, from_rejection
from proxy.exchange import Exchange
from proxy.prompts import look_at_raw, remembered
from proxy.wire.http1 import length_of
from proxy.wire.sse import EventTooLongError
from proxy.wire.upstream import Upstream, render_request
from proxy.wire.upstream_connection import (
    BadAnswerError,
    UnreachableError,
    UpstreamError,
    UpstreamResponse,
    UpstreamTimeoutError,
)

RenderRequest = Callable[[ServerAddress], bytes]
"""Renders a request for the leased server, whose API and name of the model are known only then."""

LOADING_HEADER = "X-Loading-State"
"""The header by which a request says how its stream shall tell what it waits for."""

UNLOAD_PATIENCE = 10.0
UNLOAD_POLL = 0.02
"""Seconds between checks, and in all, while an unload is awaited."""

ANSWER_LIMIT = 512 * 1024 * 1024
"""Most bytes of a whole answer."""
ERROR_LIMIT = 1024 * 1024


class RequestLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a request; sizes in bytes, times in seconds."""

    body: int
    queue_timeout: float
    write_timeout: float
    keepalive_interval: float
    loading_state: LoadingState = "comments"
    telling_interval: float = 1.0
    """Seconds between two looks for news that a waiting client is told as reasoning."""

    @classmethod
    def of(cls, config: Config) -> "RequestLimits":
        """Return the limits of the configuration."""
        return cls(
            body=config.server.max_body_mb * 2**20,
            queue_timeout=config.server_pool.queue_timeout,
            write_timeout=config.server.write_timeout,
            keepalive_interval=config.server.keepalive_interval,
            loading_state=config.server.loading_state,
        )


class Conversation(msgspec.Struct, frozen=True):
    """A request with its parsed body and its model."""

    request: web.Request
    exchange: Exchange
    endpoint: Endpoint
    body: bytes
    parsed: ModelRequest
    known: Known

    @property
    def speaks_its_api(self) -> bool:
        """Whether the model's server speaks the client's API."""
        return self.known.api == self.endpoint.api

    def loading_state(self, default: LoadingState) -> LoadingState:
        """How the stream tells what it waits for: as the request says, or the model. Raises `ApiError`."""
        asked = self.request.headers.get(LOADING_HEADER)
        if asked is None:
            return self.known.loading_state or default
        for state in get_args(LoadingState):
            if asked.strip().lower() == state:
                found: LoadingState = state
                return found
        message = f"{LOADING_HEADER}: {asked[:40]!r} is none of {', '.join(get_args(LoadingState))}"
        raise ApiError(400, message, code="invalid_value", param=LOADING_HEADER)

    @property
    def keep_alive(self) -> float | None:
        """The seconds that the model should stay loaded, if the request sets them. Raises `ApiError`."""
        try:
            return self.parsed.stays_loaded
        except FieldError as error:
            raise invalid_field(error) from None


class UpstreamRequest(msgspec.Struct, frozen=True):
    """A request to a model's server, and its lease.

    `slot`: the work occupies one of the model's slots. `load`: the model is loaded if necessary, and stays
    loaded for `keep_alive` seconds. `raw`: the response's body is passed on unread, so any content encoding
    is allowed.
    """

    model: str
    render: RenderRequest
    slot: bool = True
    load: bool = True
    keep_alive: float | None = None
    raw: bool = False


class ModelCall(msgspec.Struct, frozen=True):
    """A running call of a model: the lease on its server, and the server's response."""

    exchange: Exchange
    lease: Lease
    response: UpstreamResponse

    @property
    def server(self) -> ServerApi:
        """The API of the server."""
        return SERVERS[self.lease.grant.endpoint.api]

    async def collect(self) -> bytes:
        """Return the whole body. Raises `ApiError`, with the server's message, for an error.

        Raises `BadAnswerError` for a redirection, which is never followed.
        """
        head = self.response.head
        limit = ANSWER_LIMIT if head.status < 400 else ERROR_LIMIT
        if (length_of(head) or 0) > limit:
            raise BadAnswerError(f"the model server announced an answer of more than {limit} bytes")
        collector = BodyCollector(limit)
        self.response.attach(collector.feed)
        await self.response.finish()
        if head.status >= 400:
            error = to_api_error(self.server.failure(collector.body, head.status))
            # A server may answer 500 to what its client did wrong.
            self.lease.served = error.status < 500
            raise error
        self.lease.served = head.status < 300
        if head.status >= 300:
            raise BadAnswerError(f"the model server answered with status {head.status}")
        return collector.body

    async def check_stream(self) -> None:
        """Raise `ApiError` if the server refuses, `BadAnswerError` if the body is not of this media type."""
        head = self.response.head
        if head.status >= 300:
            await self.collect()
        if head.content_type != self.server.media_type:
            kind = head.content_type or "a body of no type"
            raise BadAnswerError(f"the model server answered {head.status} with {kind}, and no stream")


class ModelCaller:
    """Sends requests to models, each with its own lease."""

    def __init__(
        self,
        supervisor: Supervisor,
        upstream: Upstream,
        limits: RequestLimits,
        on_hang_up: Callable[[ServerAddress], None] = lambda _: None,
        prompts: Prompts | None = None,
    ) -> None:
        self.limits = limits
        self._supervisor = supervisor
        self._upstream = upstream
        self._on_hang_up = on_hang_up
        self._prompts = prompts

    @asynccontextmanager
    async def call(self, exchange: Exchange, question: UpstreamRequest) -> AsyncIterator[ModelCall]:
        """Lease the model, send the request to its server, and yield the call. Raises `ApiError`.

        A server that refuses the connection has died after the grant without seeing the request, so the
        request is sent once more. The second lease waits until the server has restarted.
        """
        try:
            for last_try in (False, True):
                async with self._lease(
                    exchange,
                    question.model,
                    slot=question.slot,
                    load=question.load,
                    keep_alive=question.keep_alive,
                ) as lease:
                    exchange.granted(lease.grant)
                    address = lease.grant.endpoint
                    try:
                        request = question.render(address)
                        if question.raw:
                            look_at_raw(self._prompts, address, request)
                        prompts = self._prompts if question.slot and not question.raw else None
                        async with remembered(prompts, exchange, address, request) as sent:
                            response = await self._upstream.send(address, sent)
                            try:
                                if not question.raw:
                                    _refuse_encoded(response)
                                yield ModelCall(exchange, lease, response)
                            finally:
                                self._upstream.give_back(address, response)
                        return
                    except UpstreamError as error:
                        lease.broken = error.hung_up
                        if error.hung_up:
                            self._on_hang_up(address)
                        if last_try or not isinstance(error, UnreachableError):
                            raise blame(broken(error, exchange), lease) from None
                    except EventTooLongError as error:
                        raise broken(error, exchange) from None
                    except ApiError as error:
                        raise blame(error, lease) from None
        except RejectedError as rejected:
            raise from_rejection(rejected.reason, exchange.may_use) from None

    def _lease(
        self, exchange: Exchange, model: str, *, slot: bool, load: bool, keep_alive: float | None
    ) -> AbstractAsyncContextManager[Lease]:
        if exchange.key is not None:
            check_may_use(exchange, exchange.model or model, self._supervisor.names_of(model))
        exchange.phase = "queue"
        return self._supervisor.lease(
            model,
            client=exchange.client,
            timeout=self.limits.queue_timeout,
            slot=slot,
            load=load,
            keep_alive=keep_alive,
            on_ticket=exchange.queued_as,
        )

    async def keep(self, exchange: Exchange, model: str, keep_alive: float | None) -> None:
        """Keep a model loaded for `keep_alive` seconds; 0 unloads it. Raises `ApiError`."""
        unload = keep_alive == 0
        try:
            async with self._lease(
                exchange, model, slot=False, load=not unload, keep_alive=keep_alive
            ) as lease:
                exchange.granted(lease.grant)
                lease.served = True
        except RejectedError as rejected:
            if unload and isinstance(rejected.reason, NotLoaded):
                return
            raise from_rejection(rejected.reason, exchange.may_use) from None
        if unload:
            await self._until_unloaded(model)

    async def _until_unloaded(self, model: str) -> None:
        """Wait, for a limited time, until an unloaded model is gone or serves another request."""
        deadline = time.monotonic() + UNLOAD_PATIENCE
        while time.monotonic() < deadline:
            await asyncio.sleep(UNLOAD_POLL)
            status = next((s for s in self._supervisor.describe() if s.name == model), None)
            if status is None or status.busy or status.state in (State.STOPPED, State.FAILED):
                return

    def next_line(self, exchange: Exchange, lines: LoadingLines) -> str | None:
        """Return a line about what a request waits for, if there is any news."""
        outlook = self._outlook(exchange) if exchange.phase == "queue" else None
        if outlook is None:
            return None
        return lines.next(outlook, self._supervisor.progress(outlook.model), time.monotonic())

    def what_happens(self, exchange: Exchange) -> str:
        """Describe what a request waits for, for its client."""
        if exchange.phase == "agents":
            return "the agents are at work"
        if exchange.phase == "answer":
            return "the model has sent nothing for a while"
        if exchange.phase != "queue":
            return "the model reads the prompt"
        outlook = self._outlook(exchange)
        if outlook is None:
            return "waiting"
        doing = why_it_waits(outlook, self._supervisor.progress(outlook.model))
        turn = f"place {outlook.position} in its queue, about {outlook.seconds:.0f} s"
        return f"waiting for {outlook.model}: {doing}; {turn}".replace("\n", " ")

    def _outlook(self, exchange: Exchange) -> Outlook | None:
        outlook = self._supervisor.outlook(exchange.ticket)
        return None if outlook is None else as_told_to(exchange.may_use, outlook)


def as_told_to(may_use: Callable[..., bool], outlook: Outlook) -> Outlook:
    """Return an outlook without the names of models that no list shows to its client.

    `may_use`: whether the client may use the model with these names.
    """
    why = outlook.why
    for other in outlook.others:
        if why is not None and (other.hidden or not may_use(other.name, *other.aliases)):
            why = why.replace(repr(other.name), "another model")
    return msgspec.structs.replace(outlook, why=why)


WAITS_FOR = {
    State.FETCHING: "its files are being found",
    State.FETCHED: "a place for it is being found",
    State.STARTING: "it is being loaded",
    State.DRAINING: "it ends its requests, stops, and is loaded again",
    State.STOPPING: "it stops, and is loaded again",
}
"""What a request waits for, by the state of its model."""


def why_it_waits(outlook: Outlook, progress: Progress | None) -> str:
    """Say what a waiting request waits for. `progress`: of its model's download, if there is one."""
    if progress is not None:
        return f"downloading, {progress}"
    if outlook.state is State.READY:
        return "its slots are busy"
    return outlook.why or WAITS_FOR.get(outlook.state, str(outlook.state))


def check_may_use(exchange: Exchange, asked: str, names: Iterable[str]) -> None:
    """Check that the request's key may use the model `asked` for, by any of its names. Raises `ApiError`."""
    if not exchange.may_use(asked, *names):
        message = f"the API key may not use model {asked[:200]!r}"
        raise ApiError(403, message, code="model_not_allowed", param="model")


def post(exchange: Exchange, path: str, body: bytes, address: ServerAddress) -> bytes:
    """Make a POST request with a JSON body."""
    headers = {
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
        "X-Request-Id": exchange.request_id,
    }
    if exchange.trace is not None:
        headers |= exchange.trace.headers
    return render_request("POST", path, headers, body, address)


def check_gives_vectors(address: ServerAddress) -> None:
    """Raise `ApiError` for a model that ranks: llama.cpp gives whatever lies behind a text's score."""
    if address.gives == "scores":
        message = "this model does not support embeddings: it ranks texts (/v1/rerank)"
        raise ApiError(400, message, code="not_supported", param="model")


def check_gives_text(address: ServerAddress) -> None:
    """Raise `ApiError` for a model that embeds or ranks: llama.cpp would answer with nonsense."""
    if address.gives != "text":
        does = (
            "it embeds texts (/v1/embeddings)"
            if address.gives == "vectors"
            else "it ranks texts (/v1/rerank)"
        )
        message = f"this model does not support text generation: {does}"
        raise ApiError(400, message, code="not_supported", param="model")


def _refuse_encoded(response: UpstreamResponse) -> None:
    encoding = response.head.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        message = f"the model server's answer is encoded ({encoding[:40]}), which nobody asked for"
        raise BadAnswerError(message)


def broken(error: Exception, exchange: Exchange) -> ApiError:
    """Convert an upstream's failure into an error that names the model."""
    status = 504 if isinstance(error, UpstreamTimeoutError) else 502
    code = "upstream_timeout" if status == 504 else "upstream_error"
    return ApiError(status, f"model {exchange.model!r}: {error}", code=code)


def blame(error: ApiError, lease: Lease) -> ApiError:
    """Replace an error if the server was stopped by the gateway's shutdown."""
    if error.code != "upstream_error" or not lease.overdue:
        return error
    message = "the gateway is shutting down, and could not wait longer for this answer (server.drain_timeout)"
    return from_rejection(ShuttingDown(message=message, retry_after=5))


def broken_off(error: ApiError) -> ApiError:
    """Make the error for an answer that the server broke off; 502, because 500 would mean our own fault."""
    if error.status == 500:
        error.status = 502
    return error


def named(error: ApiError, exchange: Exchange) -> ApiError:
    """Add the model's name to an error about its server."""
    if error.code == "upstream_error" and not error.message.startswith("model "):
        error.message = f"model {exchange.model!r}: {error.message}"
    return error
