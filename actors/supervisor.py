"""The supervisor: a mailbox in front of the planner, and the execution of its effects.

A request only needs `Supervisor.lease`:

    async with supervisor.lease("demo") as lease:
        ...  # speak HTTP with lease.grant.endpoint
        lease.served = True
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Container, Iterable
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
    Forgotten,
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
from actors.prompts.keeping import Prompts
from actors.runtime import Actor, spawn
from actors.scheduler.allocator import Decision
from actors.scheduler.explain import explain
from actors.scheduler.model_states import ModelSpec, ModelStatus, Outlook, Policy
from actors.scheduler.planner import SAMPLE_WAIT, Planner
from actors.servers import Appraised, Trial

log = structlog.get_logger("supervisor")


class Lease:
    """The right to use a model's server until the end of the `async with` block.

    Set `served` when the server has answered completely: it distinguishes a working server from a failing
    one. Set `broken` when the server closed or refused the connection: it may be dying, and gets no lease
    for a while.
    """

    __slots__ = ("_is_overdue", "broken", "grant", "served")

    def __init__(self, grant: Grant, is_overdue: Callable[[], bool] = lambda: False) -> None:
        self.grant = grant
        self.served = False
        self.broken = False
        self._is_overdue = is_overdue

    @property
    def overdue(self) -> bool:
        """Whether the supervisor stops the server in spite of this lease, because of the shutdown."""
        return self._is_overdue()


Adopted = tuple[ModelSpec, ModelActor]

ADOPTED_LIMIT = 64
"""Most models at a time that are known only from requests."""


class Supervisor(Actor[Event]):
    """Owns the planner and the model actors. All times are those of the monotonic clock.

    `adopt` makes a model for a name that is not configured, if it is allowed. Without an `observer` no
    memory is measured.
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
        self.prompts: Prompts | None = None
        """What is saved of what models have read."""
        self.on_message: Callable[[Event | Effect], None] = lambda _: None
        """Called with each event and effect; must not raise."""

    def add(self, spec: ModelSpec, actor: ModelActor) -> None:
        """Add a configured model, before `start`. Its names must be free."""
        self._planner.add(spec)
        self._models[spec.name] = actor

    def actor_of(self, name: str) -> ModelActor | None:
        """Return the actor of a model by its canonical name."""
        return self._models.get(name)

    @property
    def adopted(self) -> tuple[str, ...]:
        """The models that are known only from requests."""
        return tuple(self._adopted)

    def reconfigure(
        self, policy: Policy, models: Iterable[Adopted], adopted: Iterable[str], changed: Container[str]
    ) -> None:
        """Take new settings and models, of which `adopted` are known only from requests.

        The servers of `changed` models are replaced after their requests. A model that is not among `models`
        gets no more requests, and its actor ends with its server.
        """
        specs: list[ModelSpec] = []
        for spec, actor in models:
            specs.append(spec)
            if spec.name not in self._models:
                self._models[spec.name] = actor
                actor.start()
        self._adopted = deque(adopted)
        now = time.monotonic()
        self._carry_out(self._planner.reconfigure(policy, specs, changed, now), now)

    def start(self) -> None:
        """Start the model actors, then this actor."""
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
        """End the leases for which `shut_down` still waits."""
        self.tell(Shutdown(deadline=time.monotonic()))

    @asynccontextmanager
    async def lease(
        self,
        model: str,
        *,
        timeout: float,
        client: str = "",
        slot: bool = True,
        load: bool = True,
        keep_alive: float | None = None,
        on_ticket: Callable[[int], None] = lambda _: None,
    ) -> AsyncIterator[Lease]:
        """Wait at most `timeout` seconds for a lease on a model; it ends with the block.

        Turns are shared between clients. `on_ticket` is called with the ticket's number, for `outlook`.
        `keep_alive`: seconds that the model stays loaded after this request. Raises `RejectedError`. A
        requester that is cancelled while it waits leaves the queue at once.
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
                client=client,
                slot=slot,
                load=load,
                keep_alive=keep_alive,
            )
        )
        try:
            answer = await reply
        except asyncio.CancelledError:
            # The grant may have been made at the same time; Cancel returns it in either case.
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
        """Return the canonical name of a known model or alias."""
        return self._planner.resolve(name)

    def names_of(self, name: str) -> tuple[str, ...]:
        """Return a model's canonical name and its aliases; the name alone of an unknown model."""
        return self._planner.names_of(name)

    def api_of(self, name: str) -> ServerApiName | None:
        """Return the API that the server of a known model or alias speaks."""
        return self._planner.api_of(name)

    def would_adopt(self, name: str) -> bool:
        """Whether a request for this unknown name would be accepted."""
        return self._adopt(name) is not None

    async def files(self, name: str) -> ModelFiles | None:
        """Return a known model's files, if they are on the disk. Raises `StartError`."""
        canonical = self.resolve(name)
        return await self._models[canonical].files() if canonical is not None else None

    def progress(self, model: str) -> Progress | None:
        """Return the progress of a model's download; None if there is no download."""
        return self._models[model].progress

    def outlook(self, ticket: int) -> Outlook | None:
        """Return a waiting request's place and time; None if it does not wait."""
        return self._planner.outlook(ticket, time.monotonic())

    def queue(self) -> list[Outlook]:
        """Return the place and time of every waiting request."""
        return self._planner.queue(time.monotonic())

    def describe(self) -> list[ModelStatus]:
        """Return every model's present status. Reading it does not reset idle time-outs."""
        return self._planner.describe(time.monotonic())

    async def plan(self, name: str, trial: Trial | None = None) -> dict[str, Any] | None:
        """Return the decision for this model if a request came now; None if its files are not on the disk.

        With a `trial`, as if the model did not run and had these settings. Changes and downloads nothing.
        Raises `StartError` if the files are not a model, or if settings cannot be tried.
        """
        actor = self._models[name]
        if self._observer is not None and self._planner.measures_first:
            await self._observer.monitor.wait_fresh(SAMPLE_WAIT)
        if trial is not None:
            if (tried := await actor.try_out(trial)) is None:
                return None
            return await self._explain(name, tried, self._planner.plan(name, tried.demand, time.monotonic()))
        demand = await actor.appraise()
        if demand is None:
            return None
        now = time.monotonic()
        (status,) = [status for status in self._planner.describe(now) if status.name == name]
        decision = None if status.placement else self._planner.plan(name, demand, now)
        placement = status.placement if decision is None else decision.placement
        predicted = await asyncio.to_thread(actor.predict, placement) if placement else None
        return explain(name, demand, decision, placement, predicted, self._planner.ledger)

    async def consider(self, spec: ModelSpec, found: Appraised) -> dict[str, Any]:
        """Return the decision for a model that is not known, as `plan` does."""
        decision = self._planner.consider(spec, found.demand, time.monotonic())
        return await self._explain(spec.name, found, decision)

    async def _explain(self, name: str, found: Appraised, decision: Decision) -> dict[str, Any]:
        placement = decision.placement
        predicted = await asyncio.to_thread(found.predict, placement) if placement else None
        return explain(name, found.demand, decision, placement, predicted, self._planner.ledger)

    @property
    def ledger(self) -> Ledger:
        """The ledger of memory. Do not change or keep it."""
        return self._planner.ledger

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a lease."""
        return self._planner.waiting

    @property
    def closing(self) -> bool:
        """Whether the shutdown has begun."""
        return self._planner.closing

    def handle(self, message: Event) -> None:
        """Let the planner decide, carry out its effects, and set the timer for its next `Tick`."""
        now = time.monotonic()
        if isinstance(message, Acquire) and self._planner.resolve(message.model) is None:
            self._adopt_model(message.model)
        self.on_message(message)
        self._carry_out(self._planner.handle(message, now), now)

    def _carry_out(self, effects: Iterable[Effect], now: float) -> None:
        for effect in effects:
            self.on_message(effect)
            self._perform(effect)
        self._set_timer(self._planner.next_wake(now))

    def forget(self, name: str) -> bool:
        """Remove a model that a request named; return false for others, or if it runs or is waited for."""
        if name not in self._adopted or not self._planner.forget(name):
            return False
        self._adopted.remove(name)
        _ = spawn(self._models.pop(name).stop(), name=f"end of {name}")
        return True

    def _adopt_model(self, name: str) -> None:
        """Add a model that a request named. If there are too many, the oldest unused one is removed."""
        if self.closing or (adopted := self._adopt(name)) is None:
            return
        if len(self._adopted) >= ADOPTED_LIMIT and not any(map(self.forget, tuple(self._adopted))):
            return
        spec, actor = adopted
        if spec.name in self._models:
            return  # a model of that name was configured, and its server ends
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
            case Forgotten(model=model):
                log.info("model removed", model=model)
                _ = spawn(self._models.pop(model).stop(), name=f"end of {model}")
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
        # A requester that no longer waits has sent its Cancel, which returns the grant.
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
