"""`/admin/queue` and `/admin/requests`: waiting and running requests, and their cancellation."""

import time
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec
from aiohttp import web

from actors.supervisor import Supervisor
from proxy.admin.routes import Route, json_answer
from proxy.answers.call import why_it_waits
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.running import RunningRequests

MOST_LISTED = 1000
"""Most requests in a list."""


class WaitingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that waits for a lease. `place` is its place in its model's queue; 1 is next.

    `id` is None for work of the gateway itself, such as an agent's call of a model.
    """

    id: str | None
    model: str
    key: str | None
    place: int
    reason: str
    eta_seconds: float
    waited_seconds: float


class Queue(msgspec.Struct, frozen=True):
    """The waiting requests."""

    waiting: Sequence[WaitingRequest]


class RunningRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request about a model, from its head to the end of its answer.

    `phase`: reading, queue, agents, prompt or answer. `first_token_seconds` is the time from the head to the
    first token. `completion_tokens` are the tokens so far, counted by the pieces in which they come.
    """

    id: str
    key: str | None
    model: str | None
    endpoint: str
    phase: str
    started_at: float
    seconds: float
    first_token_seconds: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    tokens_per_second: float | None
    agents: tuple[str, ...]
    place: str | None
    stream: bool | None

    @classmethod
    def of(cls, exchange: Exchange, now: float) -> "RunningRequest":
        """Describe a request at the monotonic time `now`."""
        made = exchange.count_tokens() if exchange.count_tokens is not None else None
        first = exchange.first_byte_at
        answering = now - first if first is not None else 0.0
        return cls(
            id=exchange.listed_as,
            key=exchange.client or None,
            model=exchange.model,
            endpoint=exchange.endpoint,
            phase=exchange.phase,
            started_at=exchange.started,
            seconds=round(now - exchange.started_at, 3),
            first_token_seconds=None if first is None else round(first - exchange.started_at, 3),
            prompt_tokens=exchange.tokens.get("prompt_tokens"),
            completion_tokens=made,
            tokens_per_second=round(made / answering, 2) if made and answering > 0 else None,
            agents=exchange.agents,
            place=exchange.place,
            stream=exchange.stream,
        )


class RequestList(msgspec.Struct, frozen=True):
    """The running requests."""

    requests: Sequence[RunningRequest]


def is_shown(exchange: Exchange) -> bool:
    """Whether a request is about a model, and no mere question."""
    return exchange.model is not None and not exchange.quiet


class Requests:
    """The handlers."""

    def __init__(self, supervisor: Supervisor, running: RunningRequests) -> None:
        self._supervisor = supervisor
        self._running = running

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        return (
            Route(method="GET", path="/admin/queue", handler=self.queue, answer=Queue),
            Route(method="GET", path="/admin/requests", handler=self.requests, answer=RequestList),
            Route(method="DELETE", path="/admin/requests/{id:.+}", handler=self.cancel),
        )

    async def queue(self, _request: web.Request) -> web.Response:
        """List the waiting requests, with place, reason and the expected seconds."""
        return json_answer(Queue(self.waiting()))

    async def requests(self, _request: web.Request) -> web.Response:
        """List the requests that run or wait."""
        return json_answer(RequestList(self.running()))

    async def cancel(self, request: web.Request) -> web.Response:
        """End a running or waiting request. Its client gets an error."""
        asked = request.match_info["id"]
        exchange = self._running.get(asked)
        if exchange is None or not is_shown(exchange):
            message = f"no request {asked[:200]!r} is running; it may have ended"
            raise ApiError(404, message, code="request_not_found")
        # A status for which clients do not try again by themselves.
        exchange.cancel(ApiError(403, "the operator cancelled this request", code="request_cancelled"))
        return web.Response(status=204)

    def waiting(self) -> list[WaitingRequest]:
        """Describe the requests that wait, at most `MOST_LISTED`."""
        outlooks = self._supervisor.queue()[:MOST_LISTED]
        if not outlooks:
            return []
        ids = {exchange.ticket: exchange.listed_as for exchange in self._running}
        return [
            WaitingRequest(
                id=ids.get(outlook.ticket),
                model=outlook.model,
                key=outlook.client or None,
                place=outlook.position,
                reason=why_it_waits(outlook, self._supervisor.progress(outlook.model)),
                eta_seconds=round(outlook.seconds, 1),
                waited_seconds=round(outlook.waited, 1),
            )
            for outlook in outlooks
        ]

    def running(self) -> list[RunningRequest]:
        """Describe the running requests, at most `MOST_LISTED`."""
        now = time.monotonic()
        return [RunningRequest.of(exchange, now) for exchange in self.shown()]

    def shown(self) -> Iterator[Exchange]:
        """The running requests about models, at most `MOST_LISTED`."""
        return islice(filter(is_shown, self._running), MOST_LISTED)
