"""The actor of one model: owns its server, and reports the server's state to the supervisor."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, assert_never

import structlog

from actors.errors import Failure
from actors.hub.cache import ModelFiles
from actors.memory.prediction.results import Prediction
from actors.messages import (
    BecameReady,
    Event,
    Exited,
    Fetched,
    FetchFiles,
    Hung,
    Learn,
    Order,
    Spawned,
    StartServer,
    StopServer,
)
from actors.placement.fit import Placement
from actors.placement.options import Demand
from actors.progress import Progress
from actors.prompts.keeping import Prompts
from actors.runtime import Actor, spawn
from actors.servers import Appraised, Backend, ModelServer, StartError, Trial
from actors.servers.liveness import NO_REQUESTS, Requests, Watch
from actors.servers.ports import PORT_TRIES

log = structlog.get_logger("model")

POLL_FIRST = 0.01
"""Seconds between the first health checks. The pauses grow to `POLL_LAST`, since large models load slowly."""
POLL_LAST = 0.25
POLL_GROWTH = 1.2


class ModelActor(Actor[Order]):
    """Runs at most one server, in the epoch that the supervisor set.

    Loading is judged by progress: it fails when the server has logged nothing for `stall_timeout` seconds
    without becoming healthy. The whole load may take any time.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        report: Callable[[Event], None],
        *,
        stall_timeout: float,
        requests: Requests = NO_REQUESTS,
        prompts: Prompts | None = None,
        watch: Callable[[ModelServer, Requests], Watch] = Watch,
    ) -> None:
        super().__init__(f"model {name}")
        self.model = name
        self._backend = self.latest = backend
        self._report = report
        self._stall_timeout = stall_timeout
        self._requests = requests
        self._prompts = prompts
        self._watch = watch
        self._epoch = 0
        self._task: asyncio.Task[Failure | None] | None = None
        self._files: ModelFiles | None = None
        self._demand: Demand | None = None
        self._cleaning_up = False
        """`latest`: the backend of the next server."""
        self.progress: Progress | None = None
        """The progress of the files' download; None if there is no download."""

    def use(self, backend: Backend, *, stall_timeout: float) -> None:
        """Use this backend for the next server; a running one, or a download, goes on with the old one."""
        self.latest, self._stall_timeout = backend, stall_timeout
        if self._files is None and (self._task is None or self._task.done()):
            self._backend = backend

    def handle(self, message: Order) -> None:
        """Start or stop the server. Orders of another epoch are ignored."""
        match message:
            case FetchFiles(epoch=epoch):
                if epoch > self._epoch:
                    self._epoch, self._backend = epoch, self.latest
                    self._begin(self._fetch(epoch, self._task), "fetching", epoch)
            case StartServer(epoch=epoch, placement=placement):
                if epoch == self._epoch and self._files is not None:
                    files, self._files = self._files, None
                    self._begin(self._run(epoch, files, placement), "server", epoch)
            case Learn(file=file, settings=settings, surcharge=surcharge):
                self._backend.learn(file, settings, surcharge)
            case StopServer(epoch=epoch):
                if epoch == self._epoch and self._task is not None and not self._cleaning_up:
                    self._task.cancel()
            case _:
                assert_never(message)

    def _begin(self, work: Coroutine[Any, Any, Failure | None], what: str, epoch: int) -> None:
        self._cleaning_up = False
        self._task = spawn(work, name=f"{what} of {self.model}, epoch {epoch}")
        # Not at the end of the task itself: a task that is cancelled before its first step never runs.
        self._task.add_done_callback(lambda task: self._ended(epoch, task))

    async def stop(self) -> None:
        """Stop the mailbox loop, the server, and any download of its files, and report nothing more."""
        await super().stop()
        self._report = lambda _: None
        if self._task is not None and not self._task.done():
            if not self._cleaning_up:
                self._task.cancel()
            await asyncio.wait([self._task])

    def _ended(self, epoch: int, task: "asyncio.Task[Failure | None]") -> None:
        failure: Failure | None = None
        if self._files is not None and not task.cancelled():
            self._report(Fetched(model=self.model, epoch=epoch, demand=self._demand))
            return
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

    async def _fetch(self, epoch: int, previous: "asyncio.Task[Failure | None] | None") -> Failure | None:
        """Fetch the files, after the work of an earlier epoch has ended."""
        if previous is not None and not previous.done():
            await asyncio.wait([previous])

        def on_progress(progress: Progress) -> None:
            if self._epoch == epoch:
                self.progress = progress

        self._files = self._demand = None
        try:
            files = await self._backend.fetch(on_progress)
            self._demand = await self._backend.appraise(files)
            self._files = files
        except StartError as error:
            return error.failure
        finally:
            self.progress = None
        return None

    async def files(self) -> ModelFiles | None:
        """Return the model's files if they are on the disk. Raises `StartError`."""
        return await self._backend.find()

    async def appraise(self) -> Demand | None:
        """Return the memory that the model would take, by its files; None if they are not on the disk.

        Raises `StartError` if the files are not a model.
        """
        files = await self._backend.find()
        return None if files is None else await self._backend.appraise(files)

    async def try_out(self, trial: Trial) -> Appraised | None:
        """Return what the model would take with other settings; None if its files are not on the disk.

        Raises `StartError`.
        """
        files = await self._backend.find()
        return None if files is None else await self._backend.try_out(files, trial)

    def predict(self, placement: Placement) -> Prediction | None:
        """Predict llama.cpp's allocation at a placement, for the latest files. Takes some milliseconds."""
        return self._backend.predict(placement)

    async def _run(self, epoch: int, files: ModelFiles, placement: Placement | None) -> Failure | None:
        """Run one server from start to end. When this returns, none of its processes is left."""
        server: ModelServer | None = None
        hung = False
        started = time.monotonic()
        try:
            for tries_left in reversed(range(PORT_TRIES)):
                server = await self._backend.start(epoch, files, placement)
                self._report(Spawned(model=self.model, epoch=epoch, process=server.process))
                try:
                    await self._wait_healthy(server)
                    break
                except StartError:
                    if not (server.lost_port and tries_left):
                        raise
                    log.warning("port was taken", model=self.model, epoch=epoch, port=server.endpoint.port)
                    await server.stop()
            assert server is not None
            server.became_ready()
            if self._prompts is not None:
                self._prompts.opened(self.model, server.cache, server.endpoint)
            log.info(
                "model is ready",
                model=self.model,
                epoch=epoch,
                seconds=round(time.monotonic() - started, 3),
                endpoint=f"{server.endpoint.host}:{server.endpoint.port}",
            )
            self._report(
                BecameReady(
                    model=self.model,
                    epoch=epoch,
                    endpoint=server.endpoint,
                    variant=files.label or None,
                    figures=server.figures(),
                )
            )
            reason = await self._watch(server, self._requests).until_gone()
            if reason is None:
                failure = server.explain_exit("while it was serving")
                self._requests.abandon_silent(server.endpoint, failure.message)
                return failure
            hung = True
            self._report(Hung(model=self.model, epoch=epoch))
            self._requests.abandon(server.endpoint, reason)
            return Failure(message=reason, log_tail=server.log_tail())
        except StartError as error:
            return error.failure
        except asyncio.CancelledError:
            # Only StopServer and `stop` cancel this task; `_ended` reports the end of the server.
            self._cleaning_up = True
            if self._prompts is not None and server is not None:
                await self._prompts.save(server.endpoint)
            return None
        finally:
            self._cleaning_up = True
            if server is not None:
                await server.stop(at_once=hung)
                if self._prompts is not None:
                    self._prompts.gone(server.endpoint)

    async def _wait_healthy(self, server: ModelServer) -> None:
        pause = POLL_FIRST
        while not await server.is_healthy():
            if server.exited or server.lost_port:
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
