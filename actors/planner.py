"""The supervisor's decisions, pure: `handle(event, now)` returns what is to be done.

Every event ends in one idempotent reconciliation over the whole state, in this order:

1. Tickets whose deadline has passed are rejected.
2. Each model that somebody waits for and that does not run has its files fetched. That takes no room in
   the pool. When nobody has waited for `fetch_grace` any more, it is given up.
3. Waiting tickets are granted, oldest first, where their model is ready and has a free slot.
4. For each model that somebody waits for and whose files are there, oldest waiter first:
   a. start it, if the pool has room;
   b. else leave it to a model that is on its way out already;
   c. else stop the idle model that was used least recently. Never one that is leased, nor one that
      has been ready for less than `min_residency`;
   d. else, when its oldest waiter has waited for `patience`, fence the model that has been ready
      longest: it gets no new leases, drains, and yields. Without this a steady stream of requests
      to one model would starve another one for ever.
5. Drained models, models idle for `idle_timeout`, and on shut down all of them, are stopped.
"""

import math
from collections.abc import Iterable, Iterator

from actors.errors import (
    Failure,
    NotLoaded,
    QueueFull,
    QueueTimeout,
    Rejection,
    ShuttingDown,
    UnknownModel,
)
from actors.lifecycle import RUNNING, Move, State
from actors.messages import (
    Acquire,
    BecameReady,
    Cancel,
    Effect,
    Event,
    Exited,
    Fetch,
    Fetched,
    Finished,
    Grant,
    Halt,
    Reject,
    Released,
    Shutdown,
    Start,
    Tick,
)
from actors.roster import Model, ModelSpec, ModelStatus, Policy, Ticket

WORTH_WAITING = 5.0
"""Seconds of a failed model's back-off that a request waits for, rather than being rejected."""

SUSPICION = 0.5
"""Seconds without new leases after a server hung up: a dead one's connections end before its process."""


class Planner:
    """Owns the queue, the leases, and its view of every model's life."""

    def __init__(self, policy: Policy, specs: Iterable[ModelSpec]) -> None:
        self._policy = policy
        self._models: dict[str, Model] = {}
        self._names: dict[str, Model] = {}
        for spec in specs:
            self.add(spec)
        self._waiting: dict[int, Ticket] = {}
        self._leases: dict[int, tuple[Model, int, bool]] = {}
        self._effects: list[Effect] = []
        self._closing_at: float | None = None
        self._finished = False

    # Models

    def add(self, spec: ModelSpec) -> None:
        """One more model, whose names are free."""
        model = self._models[spec.name] = Model(spec)
        for name in (spec.name, *spec.aliases):
            self._names[name] = model
            if "/" in name:  # as on the hub, where letter case does not matter
                self._names.setdefault(name.casefold(), model)

    def _look_up(self, name: str) -> Model | None:
        return self._names.get(name) or self._names.get(name.casefold() if "/" in name else name)

    def forget(self, name: str) -> bool:
        """Drop a model that does not run and that nobody waits for; false if it is not so."""
        model = self._models[name]
        idle = model.life.state in (State.STOPPED, State.FAILED)
        if not idle or any(ticket.model is model for ticket in self._waiting.values()):
            return False
        del self._models[name]
        self._names = {known: other for known, other in self._names.items() if other is not model}
        return True

    def resolve(self, name: str) -> str | None:
        """The canonical name of a model or alias."""
        model = self._look_up(name)
        return model.spec.name if model else None

    # Events

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at the monotonic time `now`; return the effects, in the order to perform them."""
        self._effects = []
        match event:
            case Acquire():
                self._acquire(event, now)
            case Released():
                self._give_back(event.ticket, now, served=event.served, broken=event.broken)
            case Cancel():
                if self._waiting.pop(event.ticket, None) is None:
                    self._give_back(event.ticket, now)
            case Fetched():
                self._fetched(event, now)
            case BecameReady():
                self._became_ready(event, now)
            case Exited():
                self._exited(event, now)
            case Shutdown():
                self._closing_at = event.deadline
                self._reject_waiting(self._waiting.values(), _shutting_down())
            case Tick():
                pass
        self._reconcile(now)
        return self._effects

    def _acquire(self, event: Acquire, now: float) -> None:
        model = self._look_up(event.model)
        if self._closing_at is not None:
            self._effects.append(Reject(event.ticket, _shutting_down()))
        elif model is None:
            self._effects.append(Reject(event.ticket, self._unknown(event.model)))
        elif not event.load and model.life.state is not State.READY:
            reason = NotLoaded(message=f"model {model.spec.name!r} is not loaded ({model.life.state})")
            self._effects.append(Reject(event.ticket, reason))
        elif model.life.state is State.FAILED and model.retry_at - now > WORTH_WAITING:
            self._effects.append(Reject(event.ticket, model.refusal(now)))
        else:
            ticket = Ticket(event, model, now)
            # Nobody is overtaken: whoever waits for a free slot got it when it became free.
            if model.accepts(ticket, now):
                self._grant(ticket, now)
            elif len(self._waiting) >= self._policy.queue_size:
                self._effects.append(Reject(event.ticket, self._queue_full(model)))
            else:
                self._waiting[ticket.id] = ticket

    def _give_back(self, ticket: int, now: float, *, served: bool = False, broken: bool = False) -> None:
        if (lease := self._leases.pop(ticket, None)) is None:
            return
        model, epoch, slot = lease
        model.last_used = now
        if epoch != model.life.epoch or ticket not in model.holders:
            return
        held = now - model.holders.pop(ticket)
        model.busy -= slot
        if broken:
            model.suspect_until = now + SUSPICION
        if served:
            model.failures = 0
            model.failure = None
            if slot:
                model.mean_hold += 0.2 * (held - model.mean_hold)

    def _concerned(self, event: Fetched | BecameReady | Exited) -> Model | None:
        """The model that an event is about, unless it is stale: of an earlier epoch, or a model forgotten."""
        model = self._models.get(event.model)
        return model if model is not None and model.life.epoch == event.epoch else None

    def _fetched(self, event: Fetched, now: float) -> None:
        model = self._concerned(event)
        if model is None or model.life.state is not State.FETCHING:
            return
        model.life.move(Move.FETCHED)
        model.fetch_ended = now
        for ticket in self._waiting.values():
            if ticket.model is model:
                # The time in which a request waits for its turn does not run while its model downloads.
                ticket.deadline += now - max(ticket.asked_at, model.fetch_began)

    def _became_ready(self, event: BecameReady, now: float) -> None:
        model = self._concerned(event)
        if model is None or model.life.state is not State.STARTING:
            return
        model.life.move(Move.READY)
        model.endpoint = event.endpoint
        model.variant = event.variant
        model.ready_at = model.last_used = now
        model.suspect_until = 0.0
        model.mean_load = now - model.started_at

    def _exited(self, event: Exited, now: float) -> None:
        model = self._concerned(event)
        if model is None or model.life.state not in (*RUNNING, State.FETCHING):
            return
        model.endpoint = None
        model.holders.clear()
        model.busy = 0
        if model.life.state is State.STOPPING:
            model.life.move(Move.STOPPED)
            return
        served = model.life.state in (State.READY, State.DRAINING)
        model.life.move(Move.FAIL)
        model.failure = event.failure or Failure(message="the model server ended without being told to")
        model.failures += 1
        # A server that had been working gets its first restart at once; one that does not even start,
        # or dies again before it has answered anything, backs off.
        doublings = model.failures - (2 if served else 1)
        delay = min(self._policy.retry_delay * 2.0 ** min(doublings, 30), self._policy.retry_delay_max)
        model.retry_at = now + (0.0 if doublings < 0 or not model.failure.retryable else delay)
        if not served:
            mine = [ticket for ticket in self._waiting.values() if ticket.model is model]
            self._reject_waiting(mine, model.refusal(now))

    # Reconciliation

    def _reconcile(self, now: float) -> None:
        if self._waiting:
            self._expire(now)
        self._fetch_wanted(now)
        wanted = list(self._wanted())
        for model in self._models.values():
            if model.life.state is State.DRAINING and not wanted and self._closing_at is None:
                model.life.move(Move.RESUME)
        for ticket in list(self._waiting.values()):
            if ticket.model.accepts(ticket, now):
                del self._waiting[ticket.id]
                self._grant(ticket, now)
        if self._closing_at is not None:
            self._close(now)
            return
        self._make_room(wanted, now)
        for model in self._models.values():
            if self._fetch_until(model) <= now:
                self._halt(model, "nobody waits for its files any more")
            elif model.life.state is State.DRAINING and not model.holders:
                self._halt(model, "drained, so that another model gets its turn")
            elif self._idle_until(model) <= now:
                self._halt(model, f"idle for {self._policy.idle_timeout:g} s")

    def _expire(self, now: float) -> None:
        for ticket in list(self._waiting.values()):
            if ticket.deadline <= now and ticket.model.life.state is not State.FETCHING:
                state = ticket.model.life.state
                reason = QueueTimeout(
                    message=f"model {ticket.model.spec.name!r} had no turn for this request within "
                    f"{now - ticket.asked_at:.0f} s (it is {state})",
                    retry_after=self._estimate(ticket.model),
                )
                self._reject_waiting([ticket], reason)

    def _fetch_wanted(self, now: float) -> None:
        """Begin to fetch what somebody waits for; note since when nobody waits for what is being fetched."""
        wanted = {ticket.model.spec.name for ticket in self._waiting.values()}
        for model in self._models.values():
            state = model.life.state
            if state in (State.FETCHING, State.FETCHED):
                if model.spec.name in wanted:
                    model.unwanted_since = None
                elif state is State.FETCHED:
                    model.life.move(Move.STOP)
                elif model.unwanted_since is None:
                    model.unwanted_since = now
            elif (
                self._closing_at is None
                and model.spec.name in wanted
                and (state is State.STOPPED or (state is State.FAILED and model.retry_at <= now))
            ):
                model.life.move(Move.FETCH)
                model.fetch_began = now
                model.unwanted_since = None
                self._effects.append(Fetch(model.spec.name, model.life.epoch))

    def _fetch_until(self, model: Model) -> float:
        if model.life.state is not State.FETCHING or model.unwanted_since is None:
            return math.inf
        return model.unwanted_since + self._policy.fetch_grace

    def _wanted(self) -> Iterator[tuple[Model, float]]:
        """Models that could be started for somebody, and since when their oldest waiter waits for that."""
        seen: set[str] = set()
        for ticket in self._waiting.values():
            model = ticket.model
            if model.spec.name not in seen and model.life.state is State.FETCHED:
                seen.add(model.spec.name)
                yield model, _since(ticket)

    def _make_room(self, wanted: list[tuple[Model, float]], now: float) -> None:
        if not wanted:
            return
        running = [model for model in self._models.values() if model.life.state in RUNNING]
        free = self._policy.size - len(running)
        leaving = sum(model.life.state in (State.STOPPING, State.DRAINING) for model in running)
        for model, since in wanted:
            if free > 0:
                free -= 1
                self._start(model, now)
            elif leaving > 0:
                leaving -= 1
            elif victim := self._idle_victim(now):
                self._halt(victim, f"least recently used, to make room for {model.spec.name!r}")
            elif now - since >= self._policy.patience and (victim := self._busy_victim()):
                victim.life.move(Move.DRAIN)
            else:
                return

    def _idle_victim(self, now: float) -> Model | None:
        idle = [
            model
            for model in self._models.values()
            if model.life.state is State.READY
            and not model.holders
            and now - model.ready_at >= self._policy.min_residency
        ]
        return min(idle, key=lambda model: model.last_used, default=None)

    def _busy_victim(self) -> Model | None:
        busy = [model for model in self._models.values() if model.life.state is State.READY and model.holders]
        return min(busy, key=lambda model: model.ready_at, default=None)

    def _idle_until(self, model: Model) -> float:
        if self._policy.idle_timeout <= 0 or model.life.state is not State.READY or model.holders:
            return math.inf
        return model.last_used + self._policy.idle_timeout

    def _close(self, now: float) -> None:
        overdue = self._closing_at is not None and now >= self._closing_at
        for model in self._models.values():
            state = model.life.state
            if state in (State.STARTING, State.FETCHING) or (
                state in (State.READY, State.DRAINING) and (overdue or not model.holders)
            ):
                self._halt(model, "the gateway is shutting down")
            elif state is State.READY:
                model.life.move(Move.DRAIN)
        if not self._finished and not any(model.life.state in RUNNING for model in self._models.values()):
            self._finished = True
            self._effects.append(Finished())

    # Steps

    def _grant(self, ticket: Ticket, now: float) -> None:
        model = ticket.model
        assert model.endpoint is not None
        self._leases[ticket.id] = (model, model.life.epoch, ticket.slot)
        model.holders[ticket.id] = now
        model.busy += ticket.slot
        model.last_used = now
        waited_for_load = ticket.asked_at < model.ready_at
        load_began = max(model.started_at, ticket.asked_at)
        fetched = max(0.0, model.fetch_ended - max(model.fetch_began, ticket.asked_at))
        self._effects.append(
            Grant(
                ticket=ticket.id,
                model=model.spec.name,
                epoch=model.life.epoch,
                endpoint=model.endpoint,
                variant=model.variant,
                queued=(load_began - fetched if waited_for_load else now) - ticket.asked_at,
                fetched=fetched if waited_for_load else 0.0,
                loaded=model.ready_at - load_began if waited_for_load else 0.0,
            )
        )

    def _start(self, model: Model, now: float) -> None:
        model.life.move(Move.START)
        model.started_at = now
        self._effects.append(Start(model.spec.name, model.life.epoch, "asked for"))

    def _halt(self, model: Model, why: str) -> None:
        model.life.move(Move.STOP)
        self._effects.append(Halt(model.spec.name, model.life.epoch, why))

    def _reject_waiting(self, tickets: Iterable[Ticket], reason: Rejection) -> None:
        for ticket in list(tickets):
            del self._waiting[ticket.id]
            self._effects.append(Reject(ticket.id, reason))

    def _estimate(self, model: Model) -> int:
        """Seconds, from measured times, until a newcomer to this model would have its turn."""
        ahead = sum(ticket.model is model for ticket in self._waiting.values())
        seconds = model.mean_hold * (ahead + 1) / model.spec.slots
        if model.life.state is not State.READY:
            seconds += model.mean_load
        return max(1, min(120, math.ceil(seconds)))

    def _queue_full(self, model: Model) -> QueueFull:
        return QueueFull(
            message=f"{len(self._waiting)} requests are waiting already (server_pool.queue_size)",
            retry_after=self._estimate(model),
        )

    def _unknown(self, name: str) -> UnknownModel:
        known = ", ".join(repr(known) for known in sorted(self._models)[:20]) or "none"
        return UnknownModel(message=f"model {name[:200]!r} not found; there are: {known}")

    # Views

    def next_wake(self, now: float) -> float:
        """When the next `Tick` is due although nothing happens; infinity for never."""
        due = [ticket.deadline for ticket in self._waiting.values()]
        if self._closing_at is not None:
            due.append(self._closing_at)
        if self._waiting:
            for ticket in self._waiting.values():
                due += (_since(ticket) + self._policy.patience, ticket.model.suspect_until)
            for model in self._models.values():
                if model.life.state is State.FAILED:
                    due.append(model.retry_at)
                elif model.life.state is State.READY and not model.holders:
                    due.append(model.ready_at + self._policy.min_residency)
        if self._policy.idle_timeout > 0:
            due.extend(self._idle_until(model) for model in self._models.values())
        due.extend(self._fetch_until(model) for model in self._models.values())
        # What was due by now has been seen to, as far as it could be; it must not wake anybody again.
        return min((time for time in due if time > now), default=math.inf)

    def describe(self, now: float) -> list[ModelStatus]:
        """Every model, in the order of the configuration."""
        waiting: dict[str, int] = {}
        for ticket in self._waiting.values():
            waiting[ticket.model.spec.name] = waiting.get(ticket.model.spec.name, 0) + 1
        return [model.status(waiting.get(name, 0), now) for name, model in self._models.items()]

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def closing(self) -> bool:
        """Whether shut down has begun."""
        return self._closing_at is not None


def _since(ticket: Ticket) -> float:
    """Since when a ticket waits for room for its model."""
    return max(ticket.asked_at, ticket.model.fetch_ended)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown(message="the gateway is shutting down", retry_after=5)
