"""What the planner keeps in its head: its policy, each model, and each waiting request."""

import math

import msgspec

from actors.errors import Failure, Forbidden, LoadFailed, NeverFits, Rejection, UnknownModel
from actors.lifecycle import Life, State
from actors.messages import Acquire, Endpoint


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the planner; all times in seconds. See `server_pool` in config.yaml."""

    size: int
    queue_size: int = 256
    min_residency: float = 2.0
    patience: float = 10.0
    idle_timeout: float = 0.0
    fetch_grace: float = 300.0
    retry_delay: float = 1.0
    retry_delay_max: float = 60.0


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the planner knows of a model before it runs. `slots`: requests that it serves at once."""

    name: str
    aliases: tuple[str, ...] = ()
    slots: int = 1


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One model in `Planner.describe`. Seconds count from now; `error` is its last failure."""

    name: str
    aliases: tuple[str, ...]
    state: State
    epoch: int
    slots: int
    busy: int
    waiting: int
    endpoint: Endpoint | None
    ready_seconds: float | None
    load_seconds: float | None
    idle_seconds: float | None
    failures: int
    retry_in: float | None
    error: str | None


class Ticket:
    """A request that waits for a lease."""

    __slots__ = ("asked_at", "deadline", "id", "model", "slot")

    def __init__(self, message: Acquire, model: "Model", now: float) -> None:
        self.id = message.ticket
        self.model = model
        self.asked_at = now
        self.deadline = message.deadline
        self.slot = message.slot


class Model:
    """What the planner knows of one model. `holders`: since when each ticket has its lease."""

    __slots__ = (
        "busy",
        "endpoint",
        "failure",
        "failures",
        "fetch_began",
        "fetch_ended",
        "holders",
        "last_used",
        "life",
        "mean_hold",
        "mean_load",
        "ready_at",
        "retry_at",
        "spec",
        "started_at",
        "suspect_until",
        "unwanted_since",
        "variant",
    )

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.life = Life(spec.name)
        self.endpoint: Endpoint | None = None
        self.variant: str | None = None
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
        self.suspect_until = 0.0
        self.mean_load = 5.0
        self.mean_hold = 5.0

    def accepts(self, ticket: Ticket, now: float) -> bool:
        """Whether the ticket could have a lease at once."""
        if self.life.state is not State.READY or now < self.suspect_until:
            return False
        return not ticket.slot or self.busy < self.spec.slots

    def status(self, waiting: int, now: float) -> ModelStatus:
        """What is told of it; `waiting` requests wait for it."""
        state = self.life.state
        up = state in (State.READY, State.DRAINING)
        return ModelStatus(
            name=self.spec.name,
            aliases=self.spec.aliases,
            state=state,
            epoch=self.life.epoch,
            slots=self.spec.slots,
            busy=self.busy,
            waiting=waiting,
            endpoint=self.endpoint,
            ready_seconds=now - self.ready_at if up else None,
            load_seconds=self.ready_at - self.started_at if up else None,
            idle_seconds=now - self.last_used if up and not self.holders else None,
            failures=self.failures,
            retry_in=max(0.0, self.retry_at - now) if state is State.FAILED else None,
            error=self.failure.message if self.failure else None,
        )

    def refusal(self, now: float) -> Rejection:
        """What its failure means for a request."""
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
