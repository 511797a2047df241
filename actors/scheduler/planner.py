"""The supervisor's decisions. Pure: `handle(event, now)` returns the effects to carry out.

Every event ends in one idempotent reconciliation over the whole state, in this order:

1. Tickets whose deadline has passed are rejected.
2. For each model with waiting requests that does not run, the files are fetched and the memory is predicted.
   A download is given up when nobody has waited for it for `fetch_grace`.
3. Waiting tickets get a lease if their model is ready and has a free slot: between clients by their shares,
   within one client in the order of arrival.
4. Models with waiting requests and fetched files get a place, the oldest request's model first.
   `actors.scheduler.allocator` decides where, and which models make room.
5. Drained models, those that the operator unloads, and models idle for `idle_timeout` are stopped; on
   shutdown, all models.
6. When no request waits, idle models in a worse place than possible are reloaded in a better one.
"""

import math
from collections.abc import Container, Iterable

from actors.errors import (
    Failure,
    NotLoaded,
    QueueFull,
    QueueTimeout,
    Rejection,
    ShuttingDown,
    UnknownModel,
)
from actors.messages import (
    Acquire,
    BecameReady,
    Cancel,
    Drain,
    Effect,
    Event,
    Exited,
    Fetched,
    FetchFiles,
    Figures,
    Forgotten,
    Grant,
    Hung,
    Look,
    MemorySampled,
    Pin,
    Reject,
    Released,
    Reset,
    ServerApiName,
    Shutdown,
    ShutDownComplete,
    Spawned,
    StartServer,
    StopServer,
    Tick,
    Unload,
    Unusable,
)
from actors.placement.fit import Placement
from actors.placement.ledger import LAG, Holding, Ledger
from actors.placement.options import Demand
from actors.scheduler.allocator import Allocator, Decision, MakeRoom, Refuse, Seat, Wait
from actors.scheduler.estimates import in_words, outlook, retry_after
from actors.scheduler.lifecycle import AT_REST, RUNNING, Move, State
from actors.scheduler.measuring import measured, move_to_host, ran_out
from actors.scheduler.model_states import ModelSpec, ModelState, ModelStatus, Outlook, Policy, Roster, Ticket
from actors.scheduler.promotion import SETTLED, due, is_better, is_stuck
from actors.scheduler.tickets import TicketQueue

WORTH_WAITING = 5.0
"""Longest back-off of a failed model, in seconds, for which a request waits instead of being rejected."""

SUSPICION = 0.5
"""Seconds without new leases after a server closed a connection: a dying server's connections end first."""

FRESH = 1.0
"""Seconds for which a sample is valid if memory is only measured before decisions."""

SAMPLE_WAIT = 2.0
"""Most seconds that a decision waits for its sample."""

LOOKAHEAD = 16
"""Most waiting models that are considered for a place at a time, the oldest first."""


class Planner:
    """Owns the queue, the leases, the ledger of memory, and the state of every model."""

    def __init__(self, policy: Policy, specs: Iterable[ModelSpec]) -> None:
        self._policy = policy
        self._models = Roster(specs)
        self.ledger = Ledger(policy.headroom)
        self._tickets = TicketQueue()
        self._leases: dict[int, tuple[ModelState, int, bool]] = {}
        self._effects: list[Effect] = []
        self._awake: list[ModelState] = []
        """All models but those at rest, which are nearly all where many are configured."""
        self._look_again = math.inf
        self._asked_at = -math.inf
        self._promote_at = math.inf
        self._last_exit = -math.inf
        self._closing_at: float | None = None
        self._finished = False

    # Models

    def add(self, spec: ModelSpec) -> None:
        """Add a model. Its names must be free."""
        self._models.add(spec)

    def forget(self, name: str) -> bool:
        """Remove a model; return false if it runs or a request waits for it."""
        model = self._models.named[name]
        idle = model.life.state in (State.STOPPED, State.FAILED) and not model.queue
        if idle:
            self._models.remove(model)
        return idle

    def reconfigure(
        self, policy: Policy, specs: Iterable[ModelSpec], changed: Container[str], now: float
    ) -> list[Effect]:
        """Take new settings and models; return the effects in the order to carry them out.

        The server of a `changed` model is replaced when its requests have ended; waiting requests get the new
        one. A model that is not in `specs` gets no more requests, and is `Forgotten` when its server is gone.
        """
        self._effects = []
        self._policy = policy
        self.ledger.headroom = policy.headroom
        self._models.replace(specs)
        for model in self._models:
            if model.leaving:
                self._reject_waiting(model.queue, self._unknown(model.spec.name))
                self._outdate(model, "it is no longer configured", now)
            elif model.spec.name in changed:
                self._outdate(model, "its settings have changed", now)
        self._reconcile(now)
        return self._effects

    def _outdate(self, model: ModelState, why: str, now: float) -> None:
        """Stop what runs of a model with its old settings, after its requests, and forget its failures."""
        model.demand, model.failure, model.failures, model.ran_out = None, None, 0, 0
        model.moving = False
        match model.life.state:
            case State.FETCHING | State.STARTING:
                self._stop(model, why, now)
            case State.FETCHED | State.FAILED:
                model.life.move(Move.STOP)
            case State.READY | State.DRAINING if model.holders:
                model.outdated, model.yields_to, model.yields_since = why, None, -math.inf
                if model.life.state is State.READY:
                    model.life.move(Move.DRAIN)
                why = f"{why}; {len(model.holders)} requests finish first"
                self._effects.append(Drain(model.spec.name, model.life.epoch, why))
            case State.READY | State.DRAINING:
                self._replace(model, why, now)
            case State.STOPPED | State.STOPPING:
                pass

    def _replace(self, model: ModelState, why: str, now: float) -> None:
        """Stop an idle server with old settings; it is loaded again at once, unless others wait for room."""
        model.outdated = None
        model.moving = not model.leaving
        self._stop(model, why, now)

    def _forget_leaving(self) -> None:
        for model in self._models.leaving:
            if model.life.state in AT_REST:
                self._models.remove(model)
                self._effects.append(Forgotten(model.spec.name))

    def api_of(self, name: str) -> ServerApiName | None:
        """Return the API that the server of a model or alias speaks."""
        model = self._models.find(name)
        return model.spec.api if model else None

    def resolve(self, name: str) -> str | None:
        """Return the canonical name of a model or alias."""
        model = self._models.find(name)
        return model.spec.name if model else None

    def names_of(self, name: str) -> tuple[str, ...]:
        """Return the canonical name of a model and its aliases; the name alone of an unknown model."""
        model = self._models.find(name)
        return (model.spec.name, *model.spec.aliases) if model else (name,)

    # Events

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Handle one event at the monotonic time `now`; return the effects in the order to carry them out."""
        self._effects = []
        match event:
            case Acquire():
                self._acquire(event, now)
            case Released():
                self._give_back(event.ticket, now, served=event.served, broken=event.broken)
            case Cancel():
                if not self._take_out(event.ticket):
                    self._give_back(event.ticket, now)
            case MemorySampled():
                self._sampled(event, now)
            case Shutdown():
                self._closing_at = event.deadline
                self._reject_waiting(self._tickets, _shutting_down())
            case Unusable():
                model = self._models.named.get(event.model)
                if model is not None and model.life.state is State.STOPPED and not model.queue:
                    model.ended(event.failure, now, self._policy)
            case Unload() | Pin() | Reset():
                if (model := self._models.find(event.model)) is not None:
                    self._obey(model, event, now)
            case Tick():
                pass
            case _:
                self._happened(event, now)
        self._reconcile(now)
        return self._effects

    def _obey(self, model: ModelState, event: Unload | Pin | Reset, now: float) -> None:
        """Do what the operator says."""
        match event:
            case Pin(pinned=pinned):
                model.pinned = pinned
            case Reset():
                model.failure, model.failures, model.ran_out, model.retry_at = None, 0, 0, 0.0
                if model.life.state is State.FAILED:
                    model.life.move(Move.STOP)
            case Unload(at_once=at_once):
                self._unload(model, now, at_once=at_once)

    def _unload(self, model: ModelState, now: float, *, at_once: bool) -> None:
        """Stop a model. Unless `at_once`, those who hold a lease or wait for one are served first."""
        state, why = model.life.state, "the operator unloads it"
        model.moving = False
        if state in AT_REST or state is State.STOPPING:
            return
        if (model.holders or model.queue) and not at_once:
            model.unloads = why
        elif state is State.FETCHED:
            model.life.move(Move.STOP)
        else:
            self._stop(model, why, now)

    def _happened(self, event: Fetched | Spawned | BecameReady | Hung | Exited, now: float) -> None:
        """Handle an event about a model's run; ignore it if its epoch or model is gone."""
        model = self._models.named.get(event.model)
        if model is None or model.life.epoch != event.epoch:
            return
        state = model.life.state
        match event:
            case Fetched() if state is State.FETCHING:
                self._fetched(model, event, now)
            case Spawned() if state is State.STARTING:
                self.ledger.spawned(event.model, event.process)
            case BecameReady() if state is State.STARTING:
                self._became_ready(model, event, now)
            case Hung() if state in RUNNING:
                model.suspect_until = math.inf  # until it is started again
            case Exited() if state in (*RUNNING, State.FETCHING):
                self._exited(model, event, now)
            case _:
                pass

    def _acquire(self, event: Acquire, now: float) -> None:
        model = self._models.find(event.model)
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
            model.asked(now)
            # A request that can be served at once does not count against the queue.
            full = len(self._tickets) >= self._policy.queue_size
            if full and not model.accepts(Ticket(event, model, now, 0.0), now):
                self._effects.append(Reject(event.ticket, self._queue_full(model)))
                return
            ticket = model.enqueue(event, now, self._policy.weights.get(event.client, 1.0))
            self._tickets.add(ticket)

    def _take_out(self, number: int) -> bool:
        ticket = self._tickets.get(number)
        if ticket is None:
            return False
        self._tickets.remove(ticket)
        ticket.model.withdraw(ticket)
        return True

    def _give_back(self, ticket: int, now: float, *, served: bool = False, broken: bool = False) -> None:
        if (lease := self._leases.pop(ticket, None)) is None:
            return
        model, epoch, slot = lease
        model.last_used = now
        if epoch != model.life.epoch or ticket not in model.holders:
            return
        model.take_back(ticket, now, slot=slot, served=served)
        if broken:
            model.suspect_until = max(model.suspect_until, now + SUSPICION)

    def _fetched(self, model: ModelState, event: Fetched, now: float) -> None:
        model.life.move(Move.FETCHED)
        model.fetch_ended = now
        if (demand := event.demand) is not None:
            model.demand = demand
            if demand.load_seconds is not None and not model.ready_at:
                model.mean_load = demand.load_seconds
        for ticket in model.queue:
            # The time limit of a waiting request does not run while its model downloads.
            self._tickets.delay(ticket, now - max(ticket.asked_at, model.fetch_began))

    def _became_ready(self, model: ModelState, event: BecameReady, now: float) -> None:
        model.became_ready(event, now)
        holding = self.ledger.holdings[event.model]
        holding.ready_at = now
        if event.figures.on_host and holding.placement.shares:
            self._effects.append(move_to_host(model, self.ledger))
        self._effects.append(Look(1.0))
        if not holding.placement.shares:
            self._measure(model, holding)

    def _sampled(self, event: MemorySampled, now: float) -> None:
        self.ledger.sample(event.devices, event.host, event.asked_at)
        for name, holding in self.ledger.holdings.items():
            model = self._models.named[name]
            ready = holding.ready_at is not None and holding.ready_at < event.asked_at
            if ready and holding.placement.shares:
                self._measure(model, holding)
        blocked = any(
            model.life.state is State.FETCHED and (model.queue or model.moving) for model in self._models
        )
        if blocked and now - self._last_exit < LAG + 1.0:
            self._effects.append(Look(0.1))

    def _measure(self, model: ModelState, holding: Holding, *, ended: bool = False) -> None:
        if (report := measured(model, holding, ended=ended)) is not None:
            self._effects.append(report)

    def _exited(self, model: ModelState, event: Exited, now: float) -> None:
        state = model.life.state
        if state is not State.FETCHING:
            self._release(model, event.failure, now)
        model.ended(event.failure, now, self._policy)
        # Requests wait for an immediate restart; a failure to start is reported to them.
        if (
            model.life.state is State.FAILED
            and state in (State.FETCHING, State.STARTING)
            and not model.tries_again
        ):
            self._reject_waiting(model.queue, model.refusal(now))

    def _release(self, model: ModelState, failure: Failure | None, now: float) -> None:
        """Release the memory of an ended model, and record it if memory ran out."""
        holding = self.ledger.release(model.spec.name, now)
        self._last_exit = now
        if holding is not None and model.measured and holding.peaks:
            self._measure(model, holding, ended=True)
        if self.ledger.leaving:
            self._effects.append(Look(0.0))
        if failure is not None and failure.kind == "out_of_memory":
            lesson = ran_out(model, holding, failure)
            self._effects += [lesson] if lesson is not None else []

    # Reconciliation

    def _reconcile(self, now: float) -> None:
        self._forget_leaving()
        self._awake = [
            model for model in self._models if model.life.state not in AT_REST or model.queue or model.moving
        ]
        self._expire(now)
        self._fetch_wanted(now)
        self._drain_unloading(now)
        self._resume()
        self._grant_waiting(now)
        if self._closing_at is not None:
            self._close(now)
        else:
            self._place_wanted(now)
            self._stop_unwanted(now)
            self._promote(now)

    def _drain_unloading(self, now: float) -> None:
        """Give no new leases on the models that the operator unloads. Those who wait already are served."""
        for model in self._awake:
            if model.unloads is not None and model.life.state is State.READY:
                model.life.move(Move.DRAIN)
                model.yields_to, model.yields_since = None, math.nextafter(now, math.inf)
                why = f"{model.unloads}; {len(model.holders) + len(model.queue)} requests finish first"
                self._effects.append(Drain(model.spec.name, model.life.epoch, why))

    def _resume(self) -> None:
        """Stop draining a model if no request waits for the room any more."""
        for model in self._awake:
            drains = model.life.state is State.DRAINING and not (model.outdated or model.unloads)
            if drains and self._closing_at is None:
                heir = model.yields_to
                if heir is None or not heir.queue or heir.life.state is not State.FETCHED:
                    model.life.move(Move.RESUME)

    def _grant_waiting(self, now: float) -> None:
        for model in self._awake:
            if model.queue and model.life.state in (State.READY, State.DRAINING):
                for ticket in [queued for queued in model.queue if model.accepts(queued, now)]:
                    if model.accepts(ticket, now):
                        self._grant(ticket, now)

    def _stop_unwanted(self, now: float) -> None:
        for model in self._awake:
            state = model.life.state
            if state is State.FETCHING and self._fetch_until(model) <= now:
                self._stop(model, "nobody waits for its files any more", now)
            elif model.unloads is not None and model.has_served_all:
                self._stop(model, model.unloads, now)
            elif state is State.DRAINING and not model.holders:
                if model.outdated:
                    self._replace(model, model.outdated, now)
                else:
                    assert model.yields_to is not None
                    why = f"drained, so that {model.yields_to.spec.name!r} gets its turn"
                    self._stop(model, why, now, evicts=True)
            elif state is State.READY and self._idle_until(model) <= now:
                self._stop(model, f"idle for {self._keep_alive(model):g} s", now)

    def _expire(self, now: float) -> None:
        """Reject tickets that have waited too long. The end of a download sets new deadlines."""
        for ticket in self._tickets.overdue(now):
            if ticket.model.life.state is State.FETCHING:
                continue
            reason = QueueTimeout(
                message=f"model {ticket.model.spec.name!r} had no turn for this request within "
                f"{now - ticket.asked_at:.0f} s (it is {ticket.model.life.state})",
                retry_after=retry_after(ticket.model),
            )
            self._reject_waiting([ticket], reason)

    def _fetch_wanted(self, now: float) -> None:
        """Start the downloads that requests wait for, and note since when no request has waited for one."""
        for model in self._awake:
            state = model.life.state
            if state in (State.FETCHING, State.FETCHED, State.STARTING):
                if model.queue or (model.moving and state is not State.STARTING and self._closing_at is None):
                    model.unwanted_since = None
                elif state is State.FETCHED:
                    model.life.move(Move.STOP)
                elif model.unwanted_since is None:
                    model.unwanted_since = now
            elif (
                (model.queue or model.moving)
                and self._closing_at is None
                and (state is State.STOPPED or (state is State.FAILED and model.retry_at <= now))
            ):
                model.life.move(Move.FETCH)
                model.outdated = model.unloads = None
                model.fetch_began = now
                model.unwanted_since = None
                self._effects.append(FetchFiles(model.spec.name, model.life.epoch))

    def _fetch_until(self, model: ModelState) -> float:
        if model.life.state is not State.FETCHING or model.unwanted_since is None:
            return math.inf
        return model.unwanted_since + self._policy.fetch_grace

    def _wanted(self, now: float) -> list[tuple[ModelState, float]]:
        """Return the models to start, and since when they are wanted; those with impatient requests first."""
        found = [
            (model, model.oldest())
            for model in self._awake
            if model.queue and model.life.state is State.FETCHED
        ]

        def rank(entry: tuple[ModelState, float]) -> tuple[bool, int, float]:
            model, since = entry
            late = now - since >= self._policy.patience
            return (not late, 0 if late else -model.spec.priority, since)

        return sorted(found, key=rank)

    def _place_wanted(self, now: float) -> None:
        self._look_again = math.inf
        wanted = self._wanted(now)
        if not self._tickets:
            moving = [model for model in self._awake if model.moving]
            wanted = [(model, now) for model in moving if model.life.state is State.FETCHED]
        if not wanted or self._awaits_sample(wanted, now):
            return
        allocator = Allocator(self._policy, self.ledger, self._models, now)
        for model, since in wanted[:LOOKAHEAD]:
            decision = allocator.decide(model, since)
            model.outlook = in_words(decision)
            victims = decision.victims if isinstance(decision, Wait) else ()
            model.in_the_way = tuple(victim.spec for victim in victims)
            if not isinstance(decision, Seat) and self._gives_up_move(model, decision, now):
                continue
            match decision:
                case Seat(placement=placement):
                    self._start(model, placement, now)
                case MakeRoom():
                    self._make_room(model, since, decision, now)
                case Refuse(reason=reason):
                    self._reject_waiting(model.queue, reason)
                case Wait(until=until):
                    sampled_again = now + FRESH if self._policy.measures_first else math.inf
                    self._look_again = min(self._look_again, until, sampled_again)

    def _gives_up_move(self, model: ModelState, decision: Decision, now: float) -> bool:
        """Whether the model is only being moved.

        The move is given up unless its own old memory is still expected.
        """
        if model.queue:
            return False
        if not isinstance(decision, Wait) or now - self._last_exit > LAG:
            model.moving = False
            model.life.move(Move.STOP)
        return True

    def _promote(self, now: float) -> None:
        """Reload idle models that have a better place now: see `actors.scheduler.promotion`."""
        self._promote_at = math.inf
        if self._tickets or self._closing_at is not None:
            return
        for name, holding in self.ledger.holdings.items():
            model = self._models.named[name]
            if not is_stuck(model, holding):
                model.better_since = math.inf
                continue
            at = due(model)
            if self._idle_until(model) <= max(at, now) + model.mean_load:
                continue  # by then its idle time-out stops it
            if at > now:
                self._promote_at = min(self._promote_at, at)
            elif self.ledger.sampled_at < at:
                if model.compared_at < at:
                    model.compared_at = at  # requested once
                    self._effects.append(Look(0.0))
            elif self.ledger.sampled_at > model.compared_at:
                model.compared_at = self.ledger.sampled_at
                self._compare(model, holding, now)

    def _compare(self, model: ModelState, holding: Holding, now: float) -> None:
        assert model.demand is not None
        sampled_at = self.ledger.sampled_at
        decision = self._probe(model, None, now, moves=model.spec.name)
        if not isinstance(decision, Seat) or not is_better(
            model.demand, holding.placement, decision.placement
        ):
            model.better_since = math.inf
        elif sampled_at - model.better_since >= SETTLED:
            model.moving, model.moved_at = True, now
            where = self.ledger.where(decision.placement.shares)
            self._stop(model, f"{where} has room for it now: {decision.placement.why}", now)
        elif model.better_since == math.inf:
            model.better_since = sampled_at
            self._effects.append(Look(SETTLED))

    def _awaits_sample(self, wanted: Iterable[tuple[ModelState, float]], now: float) -> bool:
        """Whether memory must be measured before a model gets a place; if so, request it."""
        needed = max(model.fetch_ended for model, _ in wanted)
        sampled_at = self.ledger.sampled_at
        if not self._policy.measures_first or sampled_at >= max(needed, now - FRESH):
            return False
        if self._asked_at <= sampled_at or self._asked_at < needed:
            self._asked_at = now
            self._effects.append(Look(0.0))
        self._look_again = self._asked_at + SAMPLE_WAIT
        return now < self._look_again

    def _make_room(self, model: ModelState, since: float, decision: MakeRoom, now: float) -> None:
        for victim in decision.idle:
            how = "idle" if victim.life.state is State.READY else "wanted by nobody"
            idle = now - victim.last_used
            why = f"{decision.why}; {how} for {idle:.1f} s, reload {victim.mean_load:.1f} s"
            self._stop(victim, why, now, evicts=True)
        for victim in decision.busy:
            victim.life.move(Move.DRAIN)
            victim.yields_to, victim.yields_since = model, max(since, victim.ready_at)
            why = f"{decision.why}; {len(victim.holders)} requests finish first"
            self._effects.append(Drain(victim.spec.name, victim.life.epoch, why))

    def _idle_until(self, model: ModelState) -> float:
        if model.life.state is not State.READY or model.holders or model.queue or model.pinned:
            return math.inf
        return model.last_used + self._keep_alive(model)

    def _keep_alive(self, model: ModelState) -> float:
        """Return the seconds that an idle model stays loaded."""
        if model.keep_alive is not None:
            return model.keep_alive
        return model.idle_timeout(self._policy) or math.inf

    def _close(self, now: float) -> None:
        overdue = self.overdue(now)
        for model in self._awake:
            state = model.life.state
            if state in (State.STARTING, State.FETCHING) or (
                state in (State.READY, State.DRAINING) and (overdue or not model.holders)
            ):
                self._stop(model, "the gateway is shutting down", now)
            elif state is State.READY:
                model.life.move(Move.DRAIN)
        if not self._finished and not any(model.life.state in RUNNING for model in self._awake):
            self._finished = True
            self._effects.append(ShutDownComplete())

    # Steps

    def _grant(self, ticket: Ticket, now: float) -> None:
        model = ticket.model
        assert model.endpoint is not None
        self._tickets.remove(ticket)
        model.queue.remove(ticket)
        model.turn = max(model.turn, ticket.turn)
        self._leases[ticket.id] = (model, model.life.epoch, ticket.slot)
        model.holders[ticket.id] = now
        model.busy += ticket.slot
        model.last_used = now
        model.used = True
        if ticket.slot or ticket.keep_alive is not None:
            model.keep_alive = ticket.keep_alive
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
                place=model.place(self.ledger) or "host",
            )
        )

    def _start(self, model: ModelState, placement: Placement, now: float) -> None:
        model.life.move(Move.START)
        model.measured = False
        model.started_at = now
        model.unwanted_since = None
        self.ledger.reserve(model.spec.name, placement)
        model.figures = Figures()
        place = model.place(self.ledger) or "host"
        self._effects.append(StartServer(model.spec.name, model.life.epoch, placement.why, placement, place))

    def _stop(self, model: ModelState, why: str, now: float, *, evicts: bool = False) -> None:
        model.life.move(Move.STOP)
        model.stop_began = now
        self._effects.append(StopServer(model.spec.name, model.life.epoch, why, evicts))

    def _reject_waiting(self, tickets: Iterable[Ticket], reason: Rejection) -> None:
        for ticket in list(tickets):
            self._take_out(ticket.id)
            self._effects.append(Reject(ticket.id, reason))

    def _queue_full(self, model: ModelState) -> QueueFull:
        return QueueFull(
            message=f"{len(self._tickets)} requests are waiting already (server_pool.queue_size)",
            retry_after=retry_after(model),
        )

    def _unknown(self, name: str) -> UnknownModel:
        names = sorted(model.spec.name for model in self._models if not (model.leaving or model.spec.hidden))
        return UnknownModel(message=f"model {name[:200]!r} not found", known=tuple(names))

    # Questions

    def next_wake(self, now: float) -> float:
        """Return when the next `Tick` is due if no event comes before; infinity for never."""
        times = [self._look_again, self._promote_at, self._tickets.next_deadline()]
        if self._closing_at is not None:
            times.append(self._closing_at)
        for model in self._awake:
            if model.queue:
                times += (model.suspect_until, model.retry_at)
            times += (self._idle_until(model), self._fetch_until(model))
        # Everything due by now has been handled as far as possible, and must not cause another wake.
        return min((time for time in times if time > now), default=math.inf)

    def plan(self, name: str, demand: Demand | None, now: float) -> Decision:
        """Return the decision for this model if a request came now and it did not run. Changes nothing."""
        moves = name if name in self.ledger.holdings else None
        return self._probe(self._models.named[name], demand, now, moves=moves)

    def consider(self, spec: ModelSpec, demand: Demand, now: float) -> Decision:
        """Return the decision for a model that is not known, if a request came now. Changes nothing."""
        return self._probe(ModelState(spec), demand, now)

    def _probe(
        self, model: ModelState, demand: Demand | None, now: float, *, moves: str | None = None
    ) -> Decision:
        probe = ModelState(model.spec)
        probe.demand = demand or model.demand
        probe.mean_load = model.mean_load
        if demand is not None and demand.load_seconds is not None:
            probe.mean_load = demand.load_seconds
        others = [other for other in self._models if other is not model]
        return Allocator(self._policy, self.ledger, others, now, moves).decide(probe, now)

    def outlook(self, ticket_id: int, now: float) -> Outlook | None:
        """Return a waiting request's place and time; None if it does not wait."""
        ticket = self._tickets.get(ticket_id)
        if ticket is None:
            return None
        return outlook(ticket, ticket.model.queue.index(ticket), now)

    def queue(self, now: float) -> list[Outlook]:
        """Return the place and time of every waiting request, each model's in the order of their turns."""
        return [
            outlook(ticket, ahead, now) for model in self._awake for ahead, ticket in enumerate(model.queue)
        ]

    def describe(self, now: float) -> list[ModelStatus]:
        """Describe every model, in the order of the configuration."""
        return [model.status(self._policy, self.ledger, now) for model in self._models]

    @property
    def measures_first(self) -> bool:
        """Whether memory is measured only before decisions, so that the latest sample may be old."""
        return self._policy.measures_first

    @property
    def waiting(self) -> int:
        """The number of waiting requests."""
        return len(self._tickets)

    @property
    def closing(self) -> bool:
        """Whether the shutdown has begun."""
        return self._closing_at is not None

    def overdue(self, now: float) -> bool:
        """Whether the shutdown's deadline has passed, so that servers are stopped in spite of leases."""
        return self._closing_at is not None and now >= self._closing_at


def _shutting_down() -> ShuttingDown:
    return ShuttingDown(message="the gateway is shutting down", retry_after=5)
