"""The actor of one model: owns the process of its server, and reports what becomes of it."""

import asyncio
import time
from collections.abc import Callable
from typing import assert_never

import structlog

from actors.backends import Backend, ModelServer, StartError
from actors.errors import Failure
from actors.messages import BecameReady, EnsureReady, Event, Exited, Order, Stop
from actors.runtime import Actor, spawn

log = structlog.get_logger("model")

POLL_FIRST = 0.01
"""Seconds between the first health checks; they grow to `POLL_LAST`, because big models load slowly."""
POLL_LAST = 0.25
POLL_GROWTH = 1.2

PORT_TRIES = 3
"""Between the check that a port is free and the server's bind, another process can take it."""


class ModelActor(Actor[Order]):
    """Runs at most one server, under the epoch that the supervisor gave it.

    Loading is judged by progress: it fails when the server has neither logged nor become healthy for
    `stall_timeout` seconds, however long the whole of it takes.
    """

    def __init__(
        self, name: str, backend: Backend, report: Callable[[Event], None], *, stall_timeout: float
    ) -> None:
        super().__init__(f"model {name}")
        self.model = name
        self._backend = backend
        self._report = report
        self._stall_timeout = stall_timeout
        self._epoch = 0
        self._task: asyncio.Task[Failure | None] | None = None
        self._cleaning_up = False

    def handle(self, message: Order) -> None:
        """Start or stop the server; an order about another epoch than the present one is stale."""
        match message:
            case EnsureReady(epoch=epoch):
                if epoch > self._epoch:
                    self._epoch = epoch
                    self._cleaning_up = False
                    self._task = spawn(self._run(epoch), name=f"server of {self.model}, epoch {epoch}")
                    # Not at the end of _run: a task that is cancelled before its first step never runs.
                    self._task.add_done_callback(lambda task: self._ended(epoch, task))
            case Stop(epoch=epoch):
                if epoch == self._epoch and self._task is not None and not self._cleaning_up:
                    self._task.cancel()
            case _:
                assert_never(message)

    def _ended(self, epoch: int, task: "asyncio.Task[Failure | None]") -> None:
        failure: Failure | None = None
        if not task.cancelled():
            error = task.exception()
            failure = Failure(message=f"{type(error).__name__}: {error}") if error else task.result()
        if failure is not None:
            log.warning(
                "model failed",
                model=self.model,
                epoch=epoch,
                reason=failure.message,
                server_log=list(failure.log_tail),
            )
        self._report(Exited(model=self.model, epoch=epoch, failure=failure))

    async def _run(self, epoch: int) -> Failure | None:
        """The whole life of one server; when it returns, no process of it is left."""
        server: ModelServer | None = None
        started = time.monotonic()
        try:
            for tries_left in reversed(range(PORT_TRIES)):
                server = await self._backend.start(epoch)
                try:
                    await self._until_healthy(server)
                    break
                except StartError:
                    if not (server.lost_port and tries_left):
                        raise
                    log.warning("port was taken", model=self.model, epoch=epoch, port=server.endpoint.port)
                    await server.stop()
            assert server is not None
            server.became_ready()
            log.info(
                "model is ready",
                model=self.model,
                epoch=epoch,
                seconds=round(time.monotonic() - started, 3),
                endpoint=f"{server.endpoint.host}:{server.endpoint.port}",
            )
            self._report(BecameReady(model=self.model, epoch=epoch, endpoint=server.endpoint))
            await server.wait_exited()
            return server.explain_exit("while it was serving")
        except StartError as error:
            return error.failure
        except asyncio.CancelledError:
            # Stop is the only one who cancels; the server's end is reported by _ended.
            return None
        finally:
            self._cleaning_up = True
            if server is not None:
                await server.stop()

    async def _until_healthy(self, server: ModelServer) -> None:
        pause = POLL_FIRST
        while not await server.is_healthy():
            if server.exited:
                raise StartError(server.explain_exit("before it was ready"))
            quiet = time.monotonic() - server.last_progress
            if quiet > self._stall_timeout:
                message = (
                    f"the model server made no progress for {quiet:.0f} s while loading "
                    "(server_pool.health_timeout)"
                )
                raise StartError(Failure(message=message, log_tail=server.log_tail()))
            await server.wait_exited(timeout=pause)
            pause = min(POLL_LAST, pause * POLL_GROWTH)
