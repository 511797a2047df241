"""The supervisor: one mailbox in front of the planner, and the effects it orders.

`Supervisor.lease` is the only thing that a request needs:

    async with supervisor.lease("demo") as lease:
        ...  # speak HTTP with lease.grant.endpoint
        lease.served = True
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, assert_never

import structlog

from actors.errors import LoadFailed, RejectedError, Rejection
from actors.gpu.observer import Observer
from actors.hub.cache import ModelFiles
from actors.messages import (
    Acquire,
    Cancel,
    Drain,
    Effect,
    Event,
    FetchFiles,
    Grant,
    Learn,
    Look,
    Measured,
    Misplaced,
    RanOut,
    Reject,
    Released,
    ServerApiName,
    Shutdown,
    ShutDownComplete,
    StartServer,
    StopServer,
    Tick,
)
from actors.model_actor import ModelActor
from actors.placement.ledger import Ledger
from actors.progress import Progress
from actors.runtime import Actor, spawn
from actors.scheduler.explain import explain
from actors.scheduler.model_states import ModelSpec, ModelStatus, Outlook
from actors.scheduler.planner import SAMPLE_WAIT, Planner

log = structlog.get_logger("supervisor")


class Lease:
    """The right to use a model's server until the end of the `async with` block.

    Set `served` when the server answered to the end: it tells a working server from a failing one. Set
    `broken` when it hung up or took no connection: it may be dying, and gets no lease until that is clear.
    """

    __slots__ = ("_is_overdue", "broken", "grant", "served")

    def __init__(self, grant: Grant, is_overdue: Callable[[], bool] = lambda: False) -> None:
        self.grant = grant
        self.served = False
        self.broken = False
        self._is_overdue = is_overdue

    @property
    def overdue(self) -> bool:
        """Whether the supervisor stops the server in spite of it, so as to shut down."""
        return self._is_overdue()


Adopted = tuple[ModelSpec, ModelActor]

ADOPTED_LIMIT = 64
"""Models that only requests named, at the same time."""


class Supervisor(Actor[Event]):
    """Owns the planner and the model actors. All times are those of the monotonic clock.

    `adopt` makes a model of a name that is not configured, if it may be had. Without an `observer` nothing is
    known of any memory.
    """

    def __init__(
        self,
        planner: Planner,
        models: dict[str, ModelActor],
        adopt: Callable[[str], "Adopted | None"] = lambda _: None,
        observer: Observer | None = None,
    ) -> None:
        super().__init__("supervisor")
        self._observer = observer
        self._adopt = adopt
        self._adopted: deque[str] = deque()
        self._planner = planner
        self._models = models
        self._tickets = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Grant | Rejection]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self.finished = asyncio.Event()
        self.on_message: Callable[[Event | Effect], None] = lambda _: None
        """Told of each event and effect; it raises nothing."""

    def add(self, spec: ModelSpec, actor: ModelActor) -> None:
        """One more model that is configured, whose names are free; before `start`."""
        self._planner.add(spec)
        self._models[spec.name] = actor

    def start(self) -> None:
        """Start the model actors, then this one."""
        for model in self._models.values():
            model.start()
        super().start()
        if self._observer is not None:
            self._observer.attach(self.tell)

    async def shut_down(self, grace: float) -> None:
        """Stop every model when its leases end, and at the latest after `grace` seconds."""
        self.tell(Shutdown(deadline=time.monotonic() + grace))
        await self.finished.wait()
        for model in self._models.values():
            await model.stop()
        await self.stop()
        if self._timer is not None:
            self._timer.cancel()

    def hasten(self) -> None:
        """End the leases that `shut_down` still waits for."""
        self.tell(Shutdown(deadline=time.monotonic()))

    @asynccontextmanager
    async def lease(
        self,
        model: str,
        *,
        timeout: float,
        slot: bool = True,
        load: bool = True,
        keep_alive: float | None = None,
        on_ticket: Callable[[int], None] = lambda _: None,
    ) -> AsyncIterator[Lease]:
        """Wait for a lease on a model, at most `timeout` seconds; it is given back when the block ends.

        `on_ticket` is told the number by which `outlook` knows what is waited for. `keep_alive`: seconds that
        the model stays loaded after it.
        Raises `RejectedError`. A requester that is cancelled while it waits leaves the queue at once.
        """
        ticket = next(self._tickets)
        reply: asyncio.Future[Grant | Rejection] = asyncio.get_running_loop().create_future()
        self._replies[ticket] = reply
        on_ticket(ticket)
        self.tell(
            Acquire(
                ticket=ticket,
                model=model,
                deadline=time.monotonic() + timeout,
                slot=slot,
                load=load,
                keep_alive=keep_alive,
            )
        )
        try:
            answer = await reply
        except asyncio.CancelledError:
            # The grant may have been made in the same breath; Cancel gives it back in either case.
            self._replies.pop(ticket, None)
            self.tell(Cancel(ticket=ticket))
            raise
        if isinstance(answer, Rejection):
            raise RejectedError(answer)
        lease = Lease(answer, lambda: self._planner.overdue(time.monotonic()))
        try:
            yield lease
        finally:
            self.tell(Released(ticket=ticket, served=lease.served, broken=lease.broken))

    def resolve(self, name: str) -> str | None:
        """The canonical name of a known model or alias."""
        return self._planner.resolve(name)

    def api_of(self, name: str) -> ServerApiName | None:
        """What the server of a known model or alias speaks."""
        return self._planner.api_of(name)

    def would_adopt(self, name: str) -> bool:
        """Whether a request for this unknown name would be let in."""
        return self._adopt(name) is not None

    async def files(self, name: str) -> ModelFiles | None:
        """A known model's files, if they are on the disk. Raises `StartError`."""
        canonical = self.resolve(name)
        return await self._models[canonical].files() if canonical is not None else None

    def progress(self, model: str) -> Progress | None:
        """How far the download of a model's files is; None when there is none."""
        return self._models[model].progress

    def outlook(self, ticket: int) -> Outlook | None:
        """What a request waits for; None if it does not."""
        return self._planner.outlook(ticket, time.monotonic())

    def describe(self) -> list[ModelStatus]:
        """Every model's status now. Reading it changes nothing and keeps nothing alive."""
        return self._planner.describe(time.monotonic())

    async def plan(self, name: str) -> dict[str, Any] | None:
        """What would be decided if somebody asked for this model now; None if its files are not on the disk.

        Nothing is changed or downloaded. Raises `StartError` for files that are no model.
        """
        actor = self._models[name]
        if self._observer is not None and self._planner.measures_first:
            await self._observer.monitor.wait_fresh(SAMPLE_WAIT)
        demand = await actor.appraise()
        if demand is None:
            return None
        now = time.monotonic()
        (status,) = [status for status in self._planner.describe(now) if status.name == name]
        decision = None if status.placement else self._planner.plan(name, demand, now)
        placement = status.placement if decision is None else decision.placement
        predicted = await asyncio.to_thread(actor.predict, placement) if placement else None
        return explain(name, demand, decision, placement, predicted, self._planner.ledger)

    @property
    def ledger(self) -> Ledger:
        """Who has what memory. To be read, not to be kept or changed."""
        return self._planner.ledger

    @property
    def waiting(self) -> int:
        """How many requests wait for a lease."""
        return self._planner.waiting

    @property
    def closing(self) -> bool:
        """Whether shut down has begun."""
        return self._planner.closing

    def handle(self, message: Event) -> None:
        """Let the planner decide, do what it says, and set the timer for its next concern."""
        now = time.monotonic()
        if isinstance(message, Acquire) and self._planner.resolve(message.model) is None:
            self._adopt_model(message.model)
        self.on_message(message)
        for effect in self._planner.handle(message, now):
            self.on_message(effect)
            self._perform(effect)
        self._set_timer(self._planner.next_wake(now))

    def _adopt_model(self, name: str) -> None:
        """Take a model in that a request named; the longest known one that nobody uses makes room."""
        if self.closing or (adopted := self._adopt(name)) is None:
            return
        if len(self._adopted) >= ADOPTED_LIMIT:
            forgotten = next((known for known in self._adopted if self._planner.forget(known)), None)
            if forgotten is None:
                return
            self._adopted.remove(forgotten)
            _ = spawn(self._models.pop(forgotten).stop(), name=f"end of {forgotten}")
        spec, actor = adopted
        self._planner.add(spec)
        self._models[spec.name] = actor
        self._adopted.append(spec.name)
        actor.start()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Grant(ticket=ticket):
                self._answer(ticket, effect)
            case Reject(ticket=ticket, reason=reason):
                if isinstance(reason, LoadFailed):
                    log.info("request rejected", reason=reason.message)
                self._answer(ticket, reason)
            case FetchFiles(model=model):
                self._models[model].tell(effect)
            case StartServer(model=model):
                self._log_start(effect)
                self._models[model].tell(effect)
            case Drain(model=model, epoch=epoch, why=why):
                log.info("model drains", model=model, epoch=epoch, why=why)
            case StopServer(model=model, epoch=epoch, why=why):
                log.info("model stops", model=model, epoch=epoch, why=why)
                self._models[model].tell(effect)
            case Misplaced(model=model, epoch=epoch, place=place, instead_of=instead_of):
                log.warning(
                    "model server does not use its GPU",
                    model=model,
                    epoch=epoch,
                    place=place,
                    instead_of=instead_of,
                    advice="use a build of llama.cpp, or an image, that has CUDA; or gpu_layers: 0",
                )
            case Measured() | RanOut() | Look():
                self._observe(effect)
            case ShutDownComplete():
                self.finished.set()
            case _:
                assert_never(effect)

    def _log_start(self, effect: StartServer) -> None:
        placement = effect.placement
        shares = placement.shares if placement is not None else ()
        managed = placement is not None and placement.managed
        spilled = managed and effect.place.endswith("host") and self._planner.ledger.devices
        getattr(log, "warning" if spilled else "info")(
            "model starts",
            model=effect.model,
            epoch=effect.epoch,
            place=effect.place,
            why=effect.why,
            context=placement.option.context if placement is not None else None,
            set_aside={share.device: share.bytes for share in shares},
            certainty=placement.option.certainty if placement is not None else None,
        )

    def _observe(self, effect: Measured | RanOut | Look) -> None:
        match effect:
            case RanOut(model=model, surcharge=surcharge, demand=demand, placement=placement):
                log.warning("model ran out of memory", model=model, next_time_more=surcharge)
                order = Learn(
                    file=demand.file, settings=demand.settings_key(placement.option), surcharge=surcharge
                )
                self._models[model].tell(order)
            case Measured() if self._observer is not None:
                self._observer.learn(effect)
            case Look(delay=delay) if self._observer is not None:
                self._observer.monitor.ask_soon(delay)
            case _:
                pass

    def _answer(self, ticket: int, answer: Grant | Rejection) -> None:
        reply = self._replies.pop(ticket, None)
        # A reply that nobody awaits any more has sent its Cancel, which gives the grant back.
        if reply is not None and not reply.done():
            reply.set_result(answer)

    def _set_timer(self, at: float) -> None:
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, at
        if at != float("inf"):
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._wake)

    def _wake(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        self.tell(Tick())
