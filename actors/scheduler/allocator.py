"""Decides where a model goes, and which models make room for it. Pure; the planner carries it out.

A model with waiting requests gets, in this order:

1. free memory, if there is enough (`placement.fit`);
2. the memory of models that are already leaving;
3. the memory of idle models: the set that costs least, by the seconds of a reload and the chance of use;
4. the memory of busy models, which take no new requests, finish their work, and leave.

Swaps are weighed. A model in demand stays for `STAY` times the seconds that its swap costs, so that A B A B
becomes A A B B, but at most until a request has waited for `patience`. A model that is not in demand is
evicted at once.

Memory for an older request is set aside before a younger one is considered. Models that need different
memory load at the same time.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from actors.errors import NeverFits, NoGpu, Rejection
from actors.placement.fit import Placement, Share, fit, mib
from actors.placement.ledger import Ledger
from actors.placement.options import Demand, Option
from actors.scheduler.lifecycle import RUNNING, State
from actors.scheduler.model_states import ModelState, Policy

STAY = 6.0
"""A model in demand stays for this multiple of its swap's seconds, so that little time goes to swaps."""

LEAST = 0.5
"""Least such multiple, even for an impatient request; otherwise slow loads would leave no time for work."""

SOON = 2.0
"""A model with a request every n seconds is expected to be used again within this multiple of n."""

BREATH = 0.5
"""Least seconds without a request after which a model in demand counts as idle."""

ANYWHERE = Demand(options=(Option(how="host", context=0),))
"""The demand of a model of which nothing is known: no memory."""


class Seat(msgspec.Struct, frozen=True):
    """There is room: start the model at `placement`."""

    placement: Placement


class MakeRoom(msgspec.Struct, frozen=True):
    """Stop the idle and drain the busy models, so that there will be room."""

    idle: tuple[ModelState, ...]
    busy: tuple[ModelState, ...]
    why: str
    placement: Placement | None = None
    """The placement once there is room."""


class Wait(msgspec.Struct, frozen=True):
    """Wait. `until`: when to decide again if no event comes before."""

    why: str
    until: float = math.inf
    placement: Placement | None = None
    victims: tuple[ModelState, ...] = ()
    """The models that will make room then."""


class Refuse(msgspec.Struct, frozen=True):
    """The model can never run on this machine as it is."""

    reason: Rejection
    placement: None = None


Decision = Seat | MakeRoom | Wait | Refuse


class Allocator:
    """Decides for one wanted model after the other, the oldest request first, on the state of one moment."""

    def __init__(
        self,
        policy: Policy,
        ledger: Ledger,
        models: Iterable[ModelState],
        now: float,
        moves: str | None = None,
    ) -> None:
        """`moves`: a model that is being moved, so its present memory counts as free."""
        self._policy = policy
        self._ledger = ledger
        self._now = now
        self._placing = policy.managed and bool(ledger.devices)
        self._running = [model for model in models if model.life.state in RUNNING]
        self._kept = frozenset(model.spec.name for model in self._running if model.never_evict)
        self._capacities = ledger.capacities(self._kept)
        self._alone = [device.id for device in ledger.devices.values() if device.alone]
        size = policy.size or math.inf
        leaving = [model for model in self._running if model.life.state in (State.STOPPING, State.DRAINING)]
        # The memory free now, and the memory free when all leaving models have left.
        self._rooms = ledger.rooms()
        self._moves = frozenset([moves] if moves is not None else [])
        if moves is not None:
            _add(self._rooms, ledger.frees(moves))
        self._free = size - len(self._running)
        self._later = dict(self._rooms)
        _add(self._later, ledger.returns())
        _add(self._later, ledger.untold())
        self._leaving: dict[str, dict[str, int]] = {}
        """What becomes free on each GPU, by the models that leave."""
        for model in leaving:
            self._leaves(model)
        self._later_free = self._free + len(leaving)
        self._claimed_host = 0
        self._host_capacity = ledger.host_capacity(self._kept)

    def decide(self, model: ModelState, since: float) -> Decision:
        """Decide for a model whose oldest request has waited since `since`.

        Sets aside the memory it will get.
        """
        chosen = self._choose(model)
        if not isinstance(chosen, Option):
            return chosen
        if seat := self._seat(model, chosen):
            return seat
        shares = self._fit(model, chosen, self._later)
        if shares is not None and self._later_free > 0 and self._host_fits(chosen, self._leaving):
            placement = self._placed(model, chosen, shares)
            self._claim(chosen, shares)
            leaving = [
                f"{name!r}"
                for name, freed in sorted(self._leaving.items())
                if any(share.device in freed for share in shares)
            ]
            by = f" by {' and '.join(leaving)}" if leaving else ""
            return Wait(f"the memory that it needs is being freed{by}", placement=placement)
        return self._evict(model, chosen, since)

    # Choosing an option

    def _choose(self, model: ModelState) -> Option | Wait | Refuse:
        demand = model.demand or ANYWHERE
        ways = demand.on_gpus if self._policy.managed else ()
        # If there is no GPU to place it on, a server that needs one chooses by itself.
        host = demand.on_host or (() if self._placing else demand.options[:1])
        if demand.no_gpu and self._placing:
            return self._without_gpu(model, demand.no_gpu, host, NoGpu)
        if demand.elsewhere and self._placing:
            return self._on_host(model, demand.options[:1])
        if not ways:
            return self._on_host(model, host)
        if not self._ledger.devices:
            return self._without_gpu(model, "there is no GPU", host, NoGpu)
        rooms = self._ordered(model, self._capacities)
        wished = model.spec.wish
        if not rooms or (wished.split and len(rooms) < len(wished.devices)):
            how_many = "not every one" if rooms else "none"
            missing = f"{how_many} of its devices ({', '.join(wished.devices)}) is there"
            return self._without_gpu(model, missing, host, NoGpu)
        for option in ways:
            # The first option is the one that the user's settings describe.
            allowed = option is ways[0] or option.how == "whole" or self._policy.partial != "never"
            if allowed and self._fit(model, option, rooms) is not None:
                return self._on_host(model, [option])
        needed = min(option.on_one for option in ways)
        why = (
            f"it needs {mib(needed)} of a GPU at least, and the GPUs have at most "
            f"{mib(max(0, *rooms.values()))} for it"
        )
        # Memory in use by others may be returned.
        empty = {device: room + self._ledger.foreign[device] for device, room in rooms.items()}
        later = any(self._fit(model, option, empty) is not None for option in ways)
        return self._without_gpu(model, why, demand.on_host, NoGpu if later else NeverFits)

    def _without_gpu(
        self, model: ModelState, why: str, host: Sequence[Option], kind: type[NoGpu | NeverFits]
    ) -> Option | Wait | Refuse:
        message = (
            f"model {model.spec.name!r} cannot run on a GPU: {why} (gpu.on_no_gpu: {self._policy.on_no_gpu})"
        )
        barred = model.demand is not None and model.demand.no_gpu  # no such GPU will ever come
        if self._policy.on_no_gpu == "queue" and not barred:
            return Wait(message)
        if self._policy.on_no_gpu == "cpu" and host:
            return self._on_host(model, host)
        return Refuse(kind(message=message))

    def _on_host(self, model: ModelState, options: Sequence[Option]) -> Option | Refuse:
        """Return the first option whose pinned memory the host could ever provide."""
        room = self._host_capacity
        for option in options:
            if option.pinned <= room:
                return option
        if not self._ledger.devices and model.demand is not None and model.demand.other_gpus:
            return options[-1]
        message = (
            f"model {model.spec.name!r} needs {mib(option.pinned)} of the host's memory with a context of "
            f"{option.context:,}, and the host has {mib(max(0, int(room)))} for it"
        )
        return Refuse(NeverFits(message=message))

    # Fitting

    def _ordered(self, model: ModelState, rooms: dict[str, int]) -> dict[str, int]:
        """Return the rooms of the devices that the model may use, in the order of its wish."""
        wished = model.spec.wish.devices
        if not wished:
            return rooms
        place: dict[str, int] = {}
        for device in rooms:
            names = (device, str(self._ledger.devices[device].index))
            if name := next((name for name in names if name in wished), None):
                place[device] = wished.index(name)
        return {device: rooms[device] for device in sorted(place, key=place.__getitem__)}

    def _fit(self, model: ModelState, option: Option, rooms: dict[str, int]) -> tuple[Share, ...] | None:
        if not self._places(model):
            return ()
        return fit(
            option,
            self._ordered(model, rooms),
            strategy=self._policy.strategy,
            wish=model.spec.wish,
            alone=self._alone,
        )

    def _places(self, model: ModelState) -> bool:
        """Whether the gateway places the model; otherwise its server chooses its GPUs."""
        return self._placing and not (model.demand is not None and model.demand.elsewhere)

    def _host_fits(self, option: Option, gone: Collection[str] = ()) -> bool:
        gone = self._moves.union(gone)
        if not self._claimed_host and self._ledger.holdings.keys() <= gone:
            return True  # it has the host for itself, so any size is accepted
        room = self._ledger.host_room(gone) - self._claimed_host
        # A model larger than all memory runs from the disk, whoever makes room.
        whole = option.pinned + option.mapped <= self._host_capacity
        return (option.pinned + option.mapped if whole else option.pinned) <= room

    def _seat(self, model: ModelState, chosen: Option) -> Seat | None:
        if self._free <= 0:
            return None
        ways = [chosen]
        if self._policy.partial == "first" and model.demand is not None and chosen.how == "whole":
            ways += [way for way in model.demand.on_gpus if way.how != "whole"]
        for option in ways:
            shares = self._fit(model, option, self._rooms)
            if shares is not None and self._host_fits(option):
                placement = self._placed(model, option, shares)
                self._claim(option, shares)
                return Seat(placement)
        return None

    def _placed(self, model: ModelState, option: Option, shares: tuple[Share, ...]) -> Placement:
        why = self._reason(model, option, shares)
        return Placement(option=option, shares=shares, why=why, managed=self._places(model))

    def _reason(self, model: ModelState, option: Option, shares: Sequence[Share]) -> str:
        if not shares:
            if not self._places(model) and self._placing:
                return "its server has GPUs of its own"
            if model.demand is not None and model.demand.no_gpu:
                return model.demand.no_gpu
            if model.demand is None or len(model.demand.options) == 1:
                return "as its settings say"
            return "there is no GPU" if not self._ledger.devices else "no GPU has room for any of it"
        context = ""
        assert model.demand is not None
        if (whole := model.demand.options[0].context) != option.context:
            context = f", with a context of {option.context:,} instead of {whole:,}"
        if option.how == "whole" and len(shares) == 1:
            return f"the fullest GPU that it fits{context}"
        if option.how == "whole":
            return f"split over {len(shares)} GPUs{context}"
        if option.how == "experts on host":
            return f"with its experts it fits nowhere; they are on the host{context}"
        return f"{option.gpu_layers} of its layers fit; the others are on the host{context}"

    def _claim(self, option: Option, shares: Iterable[Share]) -> None:
        self._free -= 1
        self._later_free -= 1
        self._claimed_host += option.pinned + option.mapped
        for share in shares:
            taken = share.bytes + self._ledger.devices[share.device].overhead
            self._rooms[share.device] -= taken
            self._later[share.device] -= taken

    def _leaves(self, model: ModelState) -> None:
        """Count a model's memory as free later."""
        freed = self._leaving[model.spec.name] = self._ledger.frees(model.spec.name)
        _add(self._later, freed)

    # Choosing who makes room

    def _evict(self, model: ModelState, option: Option, since: float) -> Decision:
        def fits(victims: Sequence[ModelState]) -> tuple[Share, ...] | None:
            names = {*self._leaving, *(victim.spec.name for victim in victims)}
            if self._later_free + len(victims) <= 0 or not self._host_fits(option, names):
                return None
            rooms = dict(self._later)
            for victim in victims:
                _add(rooms, self._ledger.frees(victim.spec.name))
            return self._fit(model, option, rooms)

        idle, busy, protected_until = self._candidates(model)
        victims = _cheapest(idle, self._cost, fits) or _cheapest([*idle, *busy], self._cost, fits)
        late = self._now - since >= self._policy.patience
        if not victims:
            # No request overtakes an impatient one: its memory is set aside.
            if late and (shares := self._fit(model, option, self._capacities)) is not None:
                self._claim(option, shares)
            return Wait("it waits for models that have only just been loaded", protected_until)
        shares = fits(victims)
        assert shares is not None
        placement = self._placed(model, option, shares)
        due = {victim.spec.name: self._due(victim, model, since) for victim in victims}
        latest = max(due.values())
        if latest > self._now:
            names = ", ".join(repr(victim.spec.name) for victim in victims)
            why = f"{names} would have to make room, and will in {latest - self._now:.1f} s"
            if late:
                self._claim(option, shares)
            return Wait(why, latest, placement, tuple(victims))
        for victim in victims:
            self._leaves(victim)
        self._later_free += len(victims)
        self._claim(option, shares)
        return MakeRoom(
            idle=tuple(victim for victim in victims if not victim.holders),
            busy=tuple(victim for victim in victims if victim.holders),
            why=self._why(model, shares, self._now - since),
            placement=placement,
        )

    def _candidates(self, model: ModelState) -> tuple[list[ModelState], list[ModelState], float]:
        """Return the idle and busy models that could make room, and when the next protected one could."""
        idle, busy, protected_until = [], [], math.inf
        for other in self._running:
            name = other.spec.name
            if other is model or name in self._kept or name in self._leaving:
                continue
            if other.life.state is State.STARTING:
                if other.unwanted_since is None:
                    continue
                until = other.unwanted_since + self._policy.load_grace
            elif other.life.state is State.READY:
                until = other.ready_at + (self._policy.min_residency if other.used else 0.0)
            else:
                continue
            if until > self._now:
                protected_until = min(protected_until, until)
            elif other.holders:
                busy.append(other)
            else:
                idle.append(other)
        return idle, busy, protected_until

    def _cost(self, model: ModelState) -> float:
        """Return the cost of evicting a model: its reload's seconds, times the chance of a request."""
        if model.life.state is State.STARTING or not model.used:
            return 0.0
        idle = 0.0 if model.holders else self._now - model.last_used
        away = max(1.0, idle, model.gap if math.isfinite(model.gap) else 0.0)
        return 2.0**model.spec.priority * max(model.mean_load, 0.001) / away

    def _due(self, victim: ModelState, model: ModelState, since: float) -> float:
        """Return when the model has stayed long enough."""
        swap = model.mean_load + victim.mean_unload + (victim.mean_hold if victim.holders else 0.0)
        # A model that has not been idle yet has no measured gap.
        gap = victim.gap if math.isfinite(victim.gap) else 0.0
        idle_until = victim.last_used + max(SOON * gap, BREATH)
        in_demand = victim.holders or (victim.used and gap < swap and idle_until > self._now)
        if not in_demand or victim.life.state is State.STARTING:
            return self._now
        late = max(since + self._policy.patience, victim.ready_at + LEAST * swap)
        due = min(victim.ready_at + STAY * swap, late)
        return due if victim.holders else min(due, idle_until)

    def _why(self, model: ModelState, shares: Sequence[Share], waited: float) -> str:
        needs = ", ".join(f"{mib(share.bytes)} of {self._ledger.where([share])}" for share in shares)
        return f"room for {model.spec.name!r}, which needs {needs or 'a place'} and waits for {waited:.1f} s"


def _add(rooms: dict[str, int], more: dict[str, int]) -> None:
    for device, size in more.items():
        if device in rooms:
            rooms[device] += size


def _cheapest(
    candidates: Sequence[ModelState],
    cost: Callable[[ModelState], float],
    fits: Callable[[Sequence[ModelState]], object | None],
) -> list[ModelState]:
    """Return the cheapest single model that frees enough, or a set, without those that are not needed."""
    ranked = sorted(candidates, key=cost)
    for model in ranked:
        if fits([model]) is not None:
            return [model]
    chosen: list[ModelState] = []
    for model in ranked:
        chosen.append(model)
        if len(chosen) > 1 and fits(chosen) is not None:
            break
    else:
        return []
    for model in reversed(chosen[:-1]):
        fewer = [other for other in chosen if other is not model]
        if fits(fewer) is not None:
            chosen = fewer
    return chosen
