"""Call a model: lease it, and send its server a request under the lease."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec

from actors.errors import NotLoaded, RejectedError, ShuttingDown
from actors.messages import ServerAddress
from actors.scheduler.lifecycle import State
from actors.supervisor import Lease, Supervisor
from proxy.errors import ApiError, from_rejection
from proxy.exchange import Exchange
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
"""Renders a request for the leased server; its API and its own name for the model are known only then."""


UNLOAD_PATIENCE = 10.0
UNLOAD_POLL = 0.02
"""Seconds, both."""


class RequestLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of each request; sizes in bytes, times in seconds."""

    body: int
    queue_timeout: float
    write_timeout: float
    keepalive_interval: float


class ModelCaller:
    """Sends requests to models, each under a lease of its own."""

    def __init__(
        self,
        supervisor: Supervisor,
        upstream: Upstream,
        limits: RequestLimits,
        on_hang_up: Callable[[ServerAddress], None] = lambda _: None,
    ) -> None:
        self.limits = limits
        self._supervisor = supervisor
        self._upstream = upstream
        self._on_hang_up = on_hang_up

    @asynccontextmanager
    async def response(
        self,
        exchange: Exchange,
        model: str,
        render: RenderRequest,
        *,
        slot: bool = True,
        load: bool = True,
        keep_alive: float | None = None,
        raw: bool = False,
    ) -> AsyncIterator[tuple[Lease, UpstreamResponse]]:
        """Lease the model, send it what `render` returns, and yield the response. Raises `ApiError`.

        `raw`: the body of the response is passed on unread, so it may have any content encoding.

        A server that refuses the connection died after the grant. It has not seen the request, so it is safe
        to send it once more; the second lease waits until the server has been started again.
        """
        try:
            for last_try in (False, True):
                async with self._lease(exchange, model, slot, load, keep_alive) as lease:
                    exchange.granted(lease.grant)
                    address = lease.grant.endpoint
                    try:
                        response = await self._upstream.send(address, render(address))
                        try:
                            if not raw:
                                _refuse_encoded(response)
                            yield lease, response
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
            raise from_rejection(rejected.reason) from None

    def _lease(
        self, exchange: Exchange, model: str, slot: bool, load: bool, keep_alive: float | None
    ) -> AbstractAsyncContextManager[Lease]:
        exchange.phase = "queue"
        return self._supervisor.lease(
            model,
            timeout=self.limits.queue_timeout,
            slot=slot,
            load=load,
            keep_alive=keep_alive,
            on_ticket=exchange.queued_as,
        )

    async def keep(self, exchange: Exchange, model: str, keep_alive: float | None) -> None:
        """Have a model loaded for so long; 0 lets it go, and does not load it for that. Raises `ApiError`."""
        unload = keep_alive == 0
        try:
            async with self._lease(exchange, model, False, not unload, keep_alive) as lease:
                exchange.granted(lease.grant)
                lease.served = True
        except RejectedError as rejected:
            if unload and isinstance(rejected.reason, NotLoaded):
                return
            raise from_rejection(rejected.reason) from None
        if unload:
            await self._until_unloaded(model)

    async def _until_unloaded(self, model: str) -> None:
        """Return when a model that was let go is gone, or works for somebody, or after a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNLOAD_PATIENCE):
                while True:
                    await asyncio.sleep(UNLOAD_POLL)
                    status = next((s for s in self._supervisor.describe() if s.name == model), None)
                    if status is None or status.busy or status.state in (State.STOPPED, State.FAILED):
                        return

    def what_happens(self, exchange: Exchange) -> str:
        """What a request waits for, in words for its client."""
        if exchange.phase == "agents":
            return "the agents are at work"
        if exchange.phase != "queue":
            return "the model reads the prompt"
        outlook = self._supervisor.outlook(exchange.ticket)
        if outlook is None:
            return "waiting"
        progress = self._supervisor.progress(outlook.model)
        doing = f"downloading, {progress}" if progress else outlook.why or str(outlook.state)
        turn = f"place {outlook.position} in its queue, about {outlook.seconds:.0f} s"
        return f"waiting for {outlook.model}: {doing}; {turn}".replace("\n", " ")


def post(exchange: Exchange, path: str, body: bytes, address: ServerAddress) -> bytes:
    """A request with a JSON body."""
    headers = {
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
        "X-Request-Id": exchange.request_id,
    }
    return render_request("POST", path, headers, body, address)


def _refuse_encoded(response: UpstreamResponse) -> None:
    encoding = response.head.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        message = f"the model server's answer is encoded ({encoding[:40]}), which nobody asked for"
        raise BadAnswerError(message)


def broken(error: Exception, exchange: Exchange) -> ApiError:
    """An upstream's failure, in words that name the model."""
    status = 504 if isinstance(error, UpstreamTimeoutError) else 502
    code = "upstream_timeout" if status == 504 else "upstream_error"
    return ApiError(status, f"model {exchange.model!r}: {error}", code=code)


def blame(error: ApiError, lease: Lease) -> ApiError:
    """The error as it is told: what its server did is not its fault if it was stopped so as to shut down."""
    if error.code != "upstream_error" or not lease.overdue:
        return error
    message = "the gateway is shutting down, and could not wait longer for this answer (server.drain_timeout)"
    return from_rejection(ShuttingDown(message=message, retry_after=5))


def broken_off(error: ApiError) -> ApiError:
    """The model server's error that ends an answer which had begun. A 500 would be taken for our own."""
    if error.status == 500:
        error.status = 502
    return error


def named(error: ApiError, exchange: Exchange) -> ApiError:
    """The same error, with the model's name if it is about what its server sent."""
    if error.code == "upstream_error" and not error.message.startswith("model "):
        error.message = f"model {exchange.model!r}: {error.message}"
    return error
