"""The planner's state: its policy, each model, and each waiting request."""

import math
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from actors.config import schema as config
from actors.config.schema import Config, Strategy
from actors.errors import Failure, Forbidden, LoadFailed, NeverFits, Rejection, UnknownModel
from actors.messages import Acquire, BecameReady, Figures, ServerAddress, ServerApiName
from actors.placement.fit import Placement, Wish
from actors.placement.ledger import Ledger
from actors.placement.options import Demand
from actors.scheduler.lifecycle import Life, Move, State

OnNoGpu = Literal["cpu", "queue", "fail"]
Partial = Literal["last", "first", "never"]

OFTEN = 5.0
"""Largest interval between samples, in seconds, at which decisions may rely on the latest sample."""

MANY_CLIENTS = 1000
"""Number of clients whose turns a model remembers; beyond it, clients without requests are forgotten."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The planner's settings, with times in seconds. See `server_pool` and `gpu` in config.yaml.

    `size` 0: only memory limits how many models run. `weights`: shares of clients; the default is 1.
    `managed` false: the gateway does not place models, llama.cpp decides. `headroom`: bytes of each GPU.
    `measures_first`: samples are too rare, so one is taken before each decision about a place.
    """

    size: int
    queue_size: int = 256
    min_residency: float = 0.0
    patience: float = 10.0
    idle_timeout: float = 0.0
    fetch_grace: float = 300.0
    retry_delay: float = 1.0
    retry_delay_max: float = 60.0
    load_grace: float = 30.0
    weights: Mapping[str, float] = {}
    managed: bool = True
    strategy: Strategy = "single-gpu-preferred"
    on_no_gpu: OnNoGpu = "cpu"
    partial: Partial = "last"
    headroom: int = 0
    measures_first: bool = False

    @classmethod
    def of(cls, settings: Config, weights: Mapping[str, float] | None = None) -> "Policy":
        """Make the policy from the configuration. `weights` may change while the planner uses it."""
        pool, gpu = settings.server_pool, settings.gpu
        return cls(
            size=pool.size,
            queue_size=pool.queue_size,
            min_residency=pool.min_residency,
            patience=pool.patience,
            idle_timeout=pool.idle_timeout,
            fetch_grace=settings.hub.grace,
            retry_delay=pool.retry_delay,
            retry_delay_max=pool.retry_delay_max,
            load_grace=pool.load_grace,
            managed=gpu.managed,
            strategy=gpu.strategy,
            on_no_gpu=gpu.without_gpu,
            partial=gpu.partial_offload,
            headroom=gpu.headroom << 20,
            weights={} if weights is None else weights,
            measures_first=not 0 < gpu.monitoring_interval <= OFTEN,
        )


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model's settings, as the planner needs them. `slots`: number of requests served at once.

    Of two models that wait for room, the one with the higher `priority` comes first; it also stays longer.
    `idle_timeout`: idle seconds before the unload, 0 for never; None: the policy's. `presets`: names of its
    presets, by which it is found too. `hidden`: no list names it.
    """

    name: str
    aliases: tuple[str, ...] = ()
    presets: tuple[str, ...] = ()
    hidden: bool = False
    slots: int = 1
    wish: Wish = Wish()
    priority: int = 0
    never_evict: bool = False
    idle_timeout: float | None = None
    api: ServerApiName = "llama.cpp"

    @classmethod
    def of(cls, name: str, model: config.Model, aliases: Iterable[str] = ()) -> "ModelSpec":
        """Make the spec of a llama.cpp model."""
        return cls(
            name=name,
            aliases=tuple(aliases),
            presets=tuple(model.named_presets(name)),
            hidden=model.hidden,
            slots=model.parallel,
            wish=Wish(devices=tuple(map(str, model.devices)), split=tuple(model.tensor_split)),
            priority=model.priority,
            never_evict=model.never_evict,
            idle_timeout=model.idle_timeout,
        )

    @classmethod
    def of_ollama(
        cls, name: str, model: config.OllamaModel, aliases: Iterable[str], parallel: int
    ) -> "ModelSpec":
        """Make the spec of an Ollama model; `parallel` is the default number of slots."""
        return cls(
            name=name,
            aliases=tuple(aliases),
            presets=tuple(model.named_presets(name)),
            hidden=model.hidden,
            slots=model.parallel or parallel,
            priority=model.priority,
            never_evict=model.never_evict,
            idle_timeout=model.idle_timeout,
            api="ollama",
        )


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One model in `Planner.describe`. Seconds count from now; `error` is the last failure."""

    name: str
    aliases: tuple[str, ...]
    hidden: bool
    api: ServerApiName
    state: State
    epoch: int
    slots: int
    busy: int
    waiting: int
    endpoint: ServerAddress | None
    ready_seconds: float | None
    load_seconds: float | None
    idle_seconds: float | None
    keep_alive: float | None
    """Idle seconds before the unload, from the latest request; None: as `idle_timeout` says."""
    idle_timeout: float
    """Idle seconds before the unload, as configured; 0 for never."""
    pinned: bool
    """Whether it stays loaded until somebody unpins it."""
    failures: int
    retry_in: float | None
    error: str | None
    place: str | None
    """The model's place in words."""
    placement: Placement | None
    memory: Mapping[str, int]
    """Bytes reserved for the model on each GPU."""


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """A waiting request's place in its model's queue (1 is next), and the seconds until its turn.

    `why` is the last decision about the model's place; `others` are the models that it names. `waited`:
    seconds since the request came. `load_seconds`: those that a load is expected to take; `loading`: those
    since its start, if it runs.
    """

    model: str
    state: State
    position: int
    seconds: float
    why: str | None
    others: tuple["ModelSpec", ...] = ()
    ticket: int = 0
    client: str = ""
    waited: float = 0.0
    loading: float | None = None
    load_seconds: float = 0.0


class Ticket:
    """A request that waits for a lease. `turn` orders the queue of its model: lower comes first.

    `since` is when it began to wait for its turn, not counting the time of a download.
    """

    __slots__ = (
        "asked_at",
        "client",
        "deadline",
        "end",
        "id",
        "keep_alive",
        "model",
        "since",
        "slot",
        "turn",
    )

    def __init__(self, message: Acquire, model: "ModelState", now: float, turn: float) -> None:
        self.id = message.ticket
        self.model = model
        self.asked_at = self.since = now
        self.deadline = message.deadline
        self.slot = message.slot
        self.client = message.client
        self.keep_alive = message.keep_alive
        self.turn = self.end = turn


class ModelState:
    """The planner's state of one model. Times are monotonic seconds.

    `holders`: the start of each ticket's lease. `queue`: the waiting tickets, in the order of their turns.
    `gap`: mean seconds from the end of the model's work to its next request. `used`: it has served since its
    load. `keep_alive`: idle seconds before the unload, if the latest request set them. `outlook`: the last
    decision about its place, and `in_the_way` the models that it names. `yields_to`: the model for which it
    drains; requests from before `yields_since` are still served. `worked`: seconds of all requests since its
    load. `moving`: it is being reloaded in a better place without a waiting request; `moved_at`: its last
    move. `better_since`: when a better place appeared; `compared_at`: the last sample that was checked for
    one. `finish`: the virtual finish time of each client's latest request under fair sharing, in turns of
    this model. `outdated`: why its server, which has older settings than the model, is drained and stopped.
    `leaving`: the model is no longer configured. `pinned`: it is never evicted and never idle for too long.
    `unloads`: why it stops as soon as its requests have ended.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.life = Life(spec.name)
        self.endpoint: ServerAddress | None = None
        self.variant: str | None = None
        self.queue: list[Ticket] = []
        self.holders: dict[int, float] = {}
        self.busy = 0
        self.failure: Failure | None = None
        self.failures = 0
        self.retry_at = 0.0
        self.fetch_began = 0.0
        self.fetch_ended = 0.0
        self.unwanted_since: float | None = None
        self.started_at = 0.0
        self.ready_at = 0.0
        self.last_used = 0.0
        self.keep_alive: float | None = None
        self.stop_began = 0.0
        self.suspect_until = 0.0
        self.used = False
        self.yields_to: ModelState | None = None
        self.yields_since = 0.0
        self.demand: Demand | None = None
        self.ran_out = 0
        self.worked = 0.0
        self.moving = False
        self.moved_at = -math.inf
        self.outdated: str | None = None
        self.leaving = False
        self.better_since = math.inf
        self.compared_at = -math.inf
        self.figures = Figures()
        self.measured = False
        self.gap = math.inf
        self.mean_load = 5.0
        self.mean_unload = 0.5
        self.mean_hold = 5.0
        self.turn = 0.0
        self.finish: dict[str, float] = {}
        self.outlook: str | None = None
        self.in_the_way: tuple[ModelSpec, ...] = ()
        self.pinned = False
        self.unloads: str | None = None

    @property
    def never_evict(self) -> bool:
        """Whether nobody else may have its memory."""
        return self.pinned or self.spec.never_evict

    @property
    def has_served_all(self) -> bool:
        """Whether it runs, or is about to, for nobody whom it still serves before it is unloaded."""
        if self.life.state is State.DRAINING:
            return not self.holders
        return self.life.state in (State.FETCHING, State.STARTING) and not self.queue

    def enqueue(self, message: Acquire, now: float, weight: float) -> Ticket:
        """Queue a ticket: between clients by start-time fair queueing, within one client by arrival."""
        if not self.queue and not self.holders:
            self.finish.clear()
        if len(self.finish) > MANY_CLIENTS:
            self.finish = {client: turn for client, turn in self.finish.items() if turn > self.turn}
        start = max(self.turn, self.finish.get(message.client, 0.0))
        ticket = Ticket(message, self, now, start)
        ticket.end = self.finish[message.client] = start + 1.0 / weight
        insort(self.queue, ticket, key=lambda queued: (queued.turn, queued.id))
        return ticket

    def take_back(self, ticket: int, now: float, *, slot: bool, served: bool) -> None:
        """Note that a lease is over."""
        held = now - self.holders.pop(ticket)
        self.worked += held
        self.busy -= slot
        if served:
            self.failures = self.ran_out = 0
            self.failure = None
            if slot:
                self.mean_hold += 0.2 * (held - self.mean_hold)

    def became_ready(self, event: BecameReady, now: float) -> None:
        """Note that the server answers."""
        self.life.move(Move.READY)
        self.endpoint, self.variant, self.figures = event.endpoint, event.variant, event.figures
        self.ready_at = now
        self.suspect_until = 0.0
        self.worked = 0.0
        if self.moving:
            self.moving, self.moved_at = False, now
        else:
            self.last_used = now
            self.used = False
            self.keep_alive = None
        if not event.figures.taken_over:
            self.mean_load = now - self.started_at

    def ended(self, failure: Failure | None, now: float, policy: Policy) -> None:
        """Note that the server is gone, or that the files could not be fetched."""
        was = self.life.state
        self.endpoint = None
        self.holders.clear()
        self.busy = 0
        self.moving = self.moving and was is State.STOPPING
        if was is State.STOPPING:
            self.life.move(Move.STOPPED)
            self.mean_unload = now - self.stop_began
            return
        self.life.move(Move.FAIL)
        self.failure = failure or Failure(message="the model server ended without being told to")
        self.failures += 1
        # A server that had been working is restarted at once the first time. A server that does not
        # start, or dies
        # again before it has answered anything, backs off.
        doublings = self.failures - (2 if was in (State.READY, State.DRAINING) else 1)
        at_once = doublings < 0 or not self.failure.retryable or self.tries_again
        delay = min(policy.retry_delay * 2.0 ** min(doublings, 30), policy.retry_delay_max)
        self.retry_at = now + (0.0 if at_once else delay)

    @property
    def tries_again(self) -> bool:
        """Whether the model ran out of memory for the first time, so that it gets one more try."""
        return self.ran_out == 1 and self.failure is not None and self.failure.kind == "out_of_memory"

    def withdraw(self, ticket: Ticket) -> None:
        """Remove a ticket that will have no turn, without charging its client for it."""
        self.queue.remove(ticket)
        if self.finish.get(ticket.client) == ticket.end:
            ends = [queued.end for queued in self.queue if queued.client == ticket.client]
            self.finish[ticket.client] = max(ends, default=ticket.turn)

    def asked(self, now: float) -> None:
        """Note a request, to estimate how often the loaded model is used."""
        if self.last_used and not self.holders and not self.queue:
            gap = now - self.last_used
            self.gap = gap if math.isinf(self.gap) else self.gap + 0.5 * (gap - self.gap)

    def oldest(self) -> float:
        """Since when the oldest waiting ticket has waited for its turn."""
        return min(ticket.since for ticket in self.queue)

    def accepts(self, ticket: Ticket, now: float) -> bool:
        """Whether the ticket can have a lease at once."""
        if self.life.state is State.DRAINING:
            # Requests from before the one that it yields to are not overtaken.
            if ticket.since >= self.yields_since:
                return False
        elif self.life.state is not State.READY:
            return False
        return now >= self.suspect_until and (not ticket.slot or self.busy < self.spec.slots)

    def idle_timeout(self, policy: Policy) -> float:
        """Idle seconds before the unload, as configured; 0 for never."""
        return policy.idle_timeout if self.spec.idle_timeout is None else self.spec.idle_timeout

    def status(self, policy: Policy, ledger: Ledger, now: float) -> ModelStatus:
        """Describe the model for `/health`."""
        holding = ledger.holdings.get(self.spec.name)
        state = self.life.state
        up = state in (State.READY, State.DRAINING)
        return ModelStatus(
            name=self.spec.name,
            aliases=self.spec.aliases,
            hidden=self.spec.hidden,
            api=self.spec.api,
            state=state,
            epoch=self.life.epoch,
            slots=self.spec.slots,
            busy=self.busy,
            waiting=len(self.queue),
            endpoint=self.endpoint,
            ready_seconds=now - self.ready_at if up else None,
            load_seconds=self.ready_at - self.started_at if up else None,
            idle_seconds=now - self.last_used if up and not self.holders else None,
            keep_alive=self.keep_alive,
            idle_timeout=self.idle_timeout(policy),
            pinned=self.pinned,
            failures=self.failures,
            retry_in=max(0.0, self.retry_at - now) if state is State.FAILED else None,
            error=self.failure.message if self.failure else None,
            place=self.place(ledger),
            placement=holding.placement if holding else None,
            memory={device: ledger.taken(holding, device) for device in holding.reserved} if holding else {},
        )

    def place(self, ledger: Ledger) -> str | None:
        """The model's place in words; None if it does not run."""
        if (holding := ledger.holdings.get(self.spec.name)) is None:
            return None
        placement = holding.placement
        if not placement.managed and self.figures.devices:
            return ", ".join(self.figures.devices)
        where = ledger.where(placement.shares)
        return f"{where} and host" if placement.how in ("partial", "experts on host") else where

    def refusal(self, now: float) -> Rejection:
        """Return the refusal that a request gets for the model's failure."""
        failure = self.failure or Failure(message="unknown reason")
        if failure.kind == "not_found":
            return UnknownModel(message=failure.message)
        if failure.kind == "forbidden":
            return Forbidden(message=failure.message)
        if failure.kind == "too_large":
            return NeverFits(message=failure.message)
        return LoadFailed(
            message=f"model {self.spec.name!r} could not be loaded: {failure.message}",
            retry_after=max(1, math.ceil(self.retry_at - now)) if failure.retryable else None,
            log_tail=failure.log_tail,
        )


class Roster:
    """The known models by name and alias, in the order in which they were added."""

    def __init__(self, specs: Iterable[ModelSpec]) -> None:
        self.named: dict[str, ModelState] = {}
        """The models by their canonical names."""
        self.leaving: list[ModelState] = []
        """Models that are no longer configured, and still run."""
        self._names: dict[str, ModelState] = {}
        for spec in specs:
            self.add(spec)

    def __iter__(self) -> Iterator[ModelState]:
        return iter(self.named.values())

    def add(self, spec: ModelSpec) -> None:
        """Add a model. Its names must be free."""
        self._take(ModelState(spec))

    def replace(self, specs: Iterable[ModelSpec]) -> None:
        """Know these models, in this order. Others stay as `leaving`, without a name, until `remove`."""
        before, self.named, self._names = self.named, {}, {}
        for spec in specs:
            model = before.pop(spec.name, None) or ModelState(spec)
            model.spec, model.leaving = spec, False
            self._take(model)
        self.leaving = list(before.values())
        for model in self.leaving:
            model.leaving = True
        self.named |= before

    def _take(self, model: ModelState) -> None:
        spec = model.spec
        self.named[spec.name] = model
        for name in (spec.name, *spec.aliases, *spec.presets):
            self._names[name] = model
            if "/" in name:  # as on the hub, letter case does not matter
                self._names.setdefault(name.casefold(), model)

    def find(self, name: str) -> ModelState | None:
        """Return the model with this name or alias, or that of a preset."""
        return self._names.get(name) or self._names.get(name.casefold() if "/" in name else name)

    def remove(self, model: ModelState) -> None:
        """Remove a model."""
        del self.named[model.spec.name]
        self.leaving = [other for other in self.leaving if other is not model]
        self._names = {known: other for known, other in self._names.items() if other is not model}
