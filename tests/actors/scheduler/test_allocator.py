"""Playbooks of placement and eviction: the planner with GPUs. Sizes are GiB."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from actors.errors import Failure, LoadFailed, NeverFits, NoGpu, Rejection
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
    Grant,
    Look,
    MemorySampled,
    Misplaced,
    RanOut,
    Reject,
    Released,
    ServerAddress,
    Spawned,
    StartServer,
    StopServer,
    Tick,
)
from actors.placement.fit import Wish
from actors.placement.ledger import Device, HostMemory
from actors.placement.options import Demand, Option
from actors.scheduler.allocator import MakeRoom, Refuse, Seat, Wait
from actors.scheduler.lifecycle import State
from actors.scheduler.measuring import LEARNED
from actors.scheduler.model_states import ModelSpec, ModelStatus, Policy
from actors.scheduler.planner import SAMPLE_WAIT, Planner
from actors.scheduler.promotion import SETTLED

GIB = 1 << 30
WHERE = ServerAddress("127.0.0.1", 9)


def gib(size: float) -> int:
    return int(size * GIB)


def option(
    how: Any = "whole", *layers: float, context: int = 4096, shared: float | None = 0, **rest: Any
) -> Option:
    """One way; `layers` are GiB on GPUs, `pinned` and `mapped` of the host."""
    sizes: dict[str, Any] = {
        name: gib(value) if name in ("pinned", "mapped", "compute") else value for name, value in rest.items()
    }
    return Option(
        how=how,
        context=context,
        layers=tuple(gib(layer) for layer in layers),
        shared=None if shared is None else gib(shared),
        **sizes,
    )


HOST = option("host", gpu_layers=0, pinned=1)


def whole(size: float, layers: int = 1) -> Demand:
    """It runs on GPUs, whole, or on the host."""
    return Demand(options=(option("whole", *[size / layers] * layers), HOST))


def any_part(size: float) -> Demand:
    """It has layers of 1 GiB, as many on GPUs as there is room for."""
    layers = [option("partial", *[1.0] * count, gpu_layers=count) for count in range(int(size) - 1, 0, -1)]
    return Demand(options=(option("whole", *[1.0] * int(size)), *layers, HOST))


def with_more(demand: Demand, size: int) -> Demand:
    """What a backend predicts after memory ran out."""
    return Demand(
        options=tuple(
            one
            if one.how == "host"
            else msgspec.structs.replace(one, compute=one.compute + size, shared=(one.shared or 0) + size)
            for one in demand.options
        )
    )


class World:
    """A planner with GPUs, the processes on them, a clock; `demands` are the models that there are.

    A process takes of each GPU what was predicted, from its start on, and returns it when it ends.
    """

    def __init__(
        self,
        gpus: Sequence[float],
        demands: Mapping[str, Demand | None],
        specs: dict[str, dict[str, Any]] | None = None,
        *,
        host: float | None = None,
        overhead: float = 0,
        **policy: Any,
    ) -> None:
        settings: dict[str, Any] = {
            "size": 0,
            "min_residency": 2,
            "patience": 10,
            "on_no_gpu": "fail",
            **policy,
        }
        said = specs or {}
        self.planner = Planner(
            Policy(**settings), [ModelSpec(name=name, **said.get(name, {})) for name in demands]
        )
        self.demands = dict(demands)
        self.gpus: dict[str, float] = {f"g{nth}": size for nth, size in enumerate(gpus)}
        self.foreign = dict.fromkeys(self.gpus, 0.0)
        self.lag = dict.fromkeys(self.gpus, 0.0)
        self.host = host
        self.overhead = gib(overhead)
        self.now = 0.0
        self.tickets = 0
        self.running: dict[str, StartServer] = {}
        self.notices: list[Effect] = []
        self.sample()
        self.now = 100.0

    # Events

    def send(self, event: Event, after: float = 0.0) -> list[Effect]:
        self.now += after
        effects: list[Effect] = []
        pending = self.planner.handle(event, self.now)
        while pending:
            effect, *pending = pending
            match effect:
                case FetchFiles(model=model, epoch=epoch):
                    fetched = Fetched(model=model, epoch=epoch, demand=self.demands[model])
                    pending += self.planner.handle(fetched, self.now)
                case StartServer(model=model, epoch=epoch):
                    assert model not in self.running
                    self.running[model] = effect
                    spawned = Spawned(model=model, epoch=epoch, process=self.group(model))
                    pending += self.planner.handle(spawned, self.now)
                    effects.append(effect)
                case Grant() | Reject() | StopServer():
                    effects.append(effect)
                case RanOut(model=model, surcharge=surcharge):
                    self.demands[model] = with_more(effect.demand, surcharge)
                    self.notices.append(effect)
                case _:
                    self.notices.append(effect)
        return effects

    def group(self, model: str) -> int:
        return list(self.demands).index(model) + 1

    def ask(self, model: str, *, client: str = "", wait: float = 1000) -> list[Effect]:
        self.tickets += 1
        return self.send(Acquire(ticket=self.tickets, model=model, deadline=self.now + wait, client=client))

    def ready(self, model: str, after: float = 0.0) -> list[Effect]:
        return self.send(BecameReady(model=model, epoch=self.running[model].epoch, endpoint=WHERE), after)

    def gone(
        self,
        model: str,
        failure: Failure | None = None,
        after: float = 0.0,
        *,
        look: bool = True,
        lag: bool = False,
    ) -> list[Effect]:
        """It ends, and unless it is otherwise said its memory is back, and seen to be."""
        start = self.running.pop(model)
        if lag:
            for share in start.placement.shares if start.placement else ():
                self.lag[share.device] += share.bytes / GIB
        effects = self.send(Exited(model=model, epoch=start.epoch, failure=failure), after)
        return effects + self.sample() if look else effects

    def sample(self, after: float = 0.0) -> list[Effect]:
        devices = []
        for index, (name, size) in enumerate(self.gpus.items()):
            groups = {
                self.group(model): share.bytes + self.overhead
                for model, start in self.running.items()
                if start.placement is not None
                for share in start.placement.shares
                if share.device == name
            }
            used = sum(groups.values()) + gib(self.foreign[name]) + gib(self.lag[name])
            devices.append(
                Device(
                    id=name,
                    index=index,
                    name="GPU",
                    total=gib(size),
                    used=used,
                    groups=groups,
                    overhead=self.overhead,
                )
            )
        host = None if self.host is None else HostMemory(total=gib(self.host), available=gib(self.host))
        asked_at = self.now + after
        return self.send(MemorySampled(asked_at=asked_at, devices=tuple(devices), host=host), after + 0.001)

    def release(self, ticket: int, after: float = 0.0) -> list[Effect]:
        return self.send(Released(ticket=ticket, served=True), after)

    def tick(self, after: float = 0.0) -> list[Effect]:
        return self.send(Tick(), after)

    def wake(self) -> list[Effect]:
        """Let time pass until the planner wants to look again."""
        due = self.planner.next_wake(self.now)
        assert due < math.inf
        return self.tick(due - self.now)

    def loaded(self, *models: str) -> None:
        """Load each, with one request that is over, and let the residency pass."""
        for model in models:
            assert started(self.ask(model)) == [model]
            self.ready(model, after=1)
            self.sample(after=0.1)
            self.release(self.tickets)
        self.now += 10

    # What is to be seen

    def status(self, model: str) -> ModelStatus:
        return next(status for status in self.planner.describe(self.now) if status.name == model)

    def where(self, model: str) -> str:
        """The devices of a model that runs, or host."""
        placement = self.status(model).placement
        assert placement is not None
        return " ".join(share.device for share in placement.shares) or "host"

    def why(self, ticket: int | None = None) -> str:
        outlook = self.planner.outlook(ticket or self.tickets, self.now)
        assert outlook is not None
        return outlook.why or ""


def granted(effects: list[Effect]) -> list[int]:
    return [effect.ticket for effect in effects if isinstance(effect, Grant)]


def started(effects: list[Effect]) -> list[str]:
    return [effect.model for effect in effects if isinstance(effect, StartServer)]


def stopped(effects: list[Effect]) -> list[str]:
    return [effect.model for effect in effects if isinstance(effect, StopServer)]


def refused(effects: list[Effect]) -> list[Rejection]:
    return [effect.reason for effect in effects if isinstance(effect, Reject)]


# Where it goes


def test_it_goes_to_the_smallest_gap() -> None:
    world = World([24, 10, 12], {"a": whole(9), "b": whole(9), "c": whole(9)})
    assert started(world.ask("a") + world.ask("b") + world.ask("c")) == ["a", "b", "c"]
    assert [world.where(model) for model in "abc"] == ["g1", "g2", "g0"]
    assert world.status("a").place == "GPU 1"
    assert world.status("a").memory == {"g1": gib(9)}


def test_it_is_split_over_as_few_as_will_do() -> None:
    world = World([8, 12, 10], {"a": whole(20, layers=20)})
    assert started(world.ask("a")) == ["a"]
    assert world.where("a") == "g1 g2"
    assert world.status("a").place == "GPU 1, 2"


def test_loads_with_disjoint_needs_start_together() -> None:
    world = World([10, 10], {"x": whole(19, layers=19), "a": whole(9), "b": whole(9)})
    world.loaded("x")
    assert stopped(world.ask("a")) == ["x"]
    assert stopped(world.ask("b")) == []
    assert started(world.gone("x")) == ["a", "b"]


def test_what_a_device_is_wished_for() -> None:
    specs = {"a": {"wish": Wish(devices=("1",))}, "b": {"wish": Wish(devices=("g1", "g0"), split=(1.0, 3.0))}}
    world = World([24, 24], {"a": whole(9), "b": whole(8, layers=8)}, specs)
    world.foreign["g0"] = 10
    world.sample()
    world.ask("a")
    world.ask("b")
    assert world.where("a") == "g1"
    placement = world.status("b").placement
    assert placement is not None
    assert [(share.device, share.layers) for share in placement.shares] == [("g1", 2), ("g0", 6)]
    assert placement.environment == {"CUDA_VISIBLE_DEVICES": "g1,g0"}


def test_distribute() -> None:
    world = World([24, 24], {"a": whole(8, layers=8)}, strategy="distribute")
    world.ask("a")
    assert world.where("a") == "g0 g1"


def test_headroom_stays_free() -> None:
    world = World([10], {"a": whole(9.5)}, headroom=GIB)
    assert [type(reason) for reason in refused(world.ask("a"))] == [NeverFits]


def test_memory_of_others_is_respected_and_used_when_it_is_free() -> None:
    world = World([10, 10], {"a": whole(8)})
    world.foreign = {"g0": 5, "g1": 0}
    world.sample()
    world.ask("a")
    assert world.where("a") == "g1"


def test_a_model_of_which_nothing_is_known_runs_as_before() -> None:
    world = World([10], {"a": None, "b": None}, size=1)
    assert started(world.ask("a")) == ["a"]
    assert world.where("a") == "host"


# Who makes room


def test_the_victim_is_on_the_right_gpu_whoever_was_used_last() -> None:
    demands = {"old": whole(9), "new": whole(19), "want": whole(18)}
    world = World([10, 20], demands)
    world.loaded("old")
    world.now += 100
    world.loaded("new")
    assert world.where("new") == "g1"
    assert stopped(world.ask("want")) == ["new"], "the place of the older one is too small"
    assert started(world.gone("new")) == ["want"]


def test_it_is_the_cheapest_that_makes_room() -> None:
    demands = {"slow": whole(9), "quick": whole(9), "want": whole(9)}
    world = World([10, 10], demands)
    for model, load in (("slow", 60), ("quick", 2)):
        world.ask(model)
        world.ready(model, after=load)
        world.release(world.tickets)
    world.now += 100
    # slow was used before quick, and would take a minute to have back.
    assert stopped(world.ask("want")) == ["quick"]


def test_idle_for_long_is_cheap_although_its_reload_is_slow() -> None:
    demands = {"slow": whole(9), "quick": whole(9), "want": whole(9)}
    world = World([10, 10], demands)
    world.ask("slow")
    world.ready("slow", after=10)
    world.release(1)
    world.now += 10_000
    world.ask("quick")
    world.ready("quick", after=2)
    world.release(2)
    world.now += 60
    assert stopped(world.ask("want")) == ["slow"]


def test_no_more_are_evicted_than_needed() -> None:
    demands = {"a": whole(3), "b": whole(3), "c": whole(3), "big": whole(5), "all": whole(9.5)}
    world = World([10], demands)
    world.loaded("a", "b", "c")
    assert len(stopped(world.ask("big"))) == 2
    world = World([10], demands)
    world.loaded("a", "b", "c")
    assert sorted(stopped(world.ask("all"))) == ["a", "b", "c"]
    assert started(world.gone("a") + world.gone("b")) == []
    assert started(world.gone("c")) == ["all"]


def test_one_large_rather_than_many_small() -> None:
    demands = {"a": whole(2), "b": whole(2), "large": whole(5.5), "want": whole(5)}
    world = World([10], demands)
    world.loaded("large", "a", "b")
    assert stopped(world.ask("want")) == ["large"]


def test_a_model_on_two_gpus_makes_room_on_both() -> None:
    world = World([10, 10], {"two": whole(18, layers=18), "a": whole(9), "b": whole(9)})
    world.loaded("two")
    assert stopped(world.ask("a")) == ["two"]
    assert stopped(world.ask("b")) == [], "one victim is enough for both"
    assert started(world.gone("two")) == ["a", "b"]
    assert {world.where("a"), world.where("b")} == {"g0", "g1"}


def test_two_small_ones_make_room_for_one_that_is_split() -> None:
    world = World([10, 10], {"a": whole(9), "b": whole(9), "two": whole(18, layers=18)})
    world.loaded("a", "b")
    assert sorted(stopped(world.ask("two"))) == ["a", "b"]
    assert started(world.gone("a")) == []
    assert started(world.gone("b")) == ["two"]


def test_a_busy_one_is_not_evicted_while_an_idle_one_will_do() -> None:
    world = World([10, 10], {"idle": whole(9), "busy": whole(9), "want": whole(9)})
    world.loaded("busy")
    world.now += 500
    world.loaded("idle")
    world.ask("busy")
    assert stopped(world.ask("want")) == ["idle"]


def test_it_waits_for_its_memory_to_be_seen_back() -> None:
    world = World([10], {"a": whole(9), "b": whole(9)})
    world.loaded("a")
    assert stopped(world.ask("b")) == ["a"]
    world.ask("b")
    assert world.why() == "the memory that it needs is being freed by 'a'"
    assert started(world.gone("a", look=False)) == []
    assert world.notices[-1] == Look(0.0)
    assert world.why() == "the memory that it needs is being freed"
    assert started(world.sample(after=0.05)) == ["b"]


def test_where_the_memory_is_not_watched_it_is_measured_before_each_decision() -> None:
    world = World([10], {"a": whole(4), "b": whole(4)}, measures_first=True, on_no_gpu="cpu")
    assert started(world.ask("a")) == []
    assert world.notices[-1] == Look(0.0)
    assert started(world.ask("b")) == []
    assert world.notices.count(Look(0.0)) == 1, "one question for both"
    world.foreign["g0"] = 9
    assert started(world.sample()) == ["a", "b"]
    assert (world.where("a"), world.where("b")) == ("host", "host")


def test_a_decision_does_not_wait_for_its_sample_for_ever() -> None:
    world = World([10], {"a": whole(4)}, measures_first=True)
    world.ask("a")
    assert started(world.wake()) == ["a"]
    assert world.now == pytest.approx(100 + SAMPLE_WAIT)


def test_who_waits_for_a_gpu_has_it_looked_for() -> None:
    world = World([10], {"a": whole(4)}, measures_first=True, on_no_gpu="queue")
    world.foreign["g0"] = 9
    world.ask("a")
    assert started(world.sample()) == []
    world.foreign["g0"] = 0
    count = len(world.notices)
    assert started(world.wake()) == []
    assert world.notices[count:] == [Look(0.0)]
    assert started(world.sample()) == ["a"]


def test_memory_that_comes_back_late_makes_nobody_impossible() -> None:
    world = World([10], {"a": whole(9), "b": whole(9)})
    world.loaded("a")
    world.ask("b")
    effects = world.gone("a", lag=True)
    assert started(effects) == []
    assert refused(effects) == []
    assert world.notices[-1] == Look(0.1), "look again soon"
    world.lag["g0"] = 0
    assert started(world.sample(after=0.1)) == ["b"]


def test_memory_that_comes_back_late_makes_nobody_partial() -> None:
    world = World([10], {"a": whole(9), "b": any_part(9)}, on_no_gpu="cpu")
    world.loaded("a")
    world.ask("b")
    world.lag["g0"] = 0
    assert started(world.gone("a", lag=True)) == []
    world.lag["g0"] = 0
    world.sample(after=0.1)
    placement = world.status("b").placement
    assert placement is not None
    assert placement.option.how == "whole"


def test_a_sample_from_before_the_exit_makes_nobody_impossible() -> None:
    world = World([10], {"a": whole(9), "b": whole(9)})
    world.loaded("a")
    world.ask("b")
    start = world.running["a"]
    before = MemorySampled(
        asked_at=world.now,
        devices=(Device(id="g0", index=0, name="GPU", total=gib(10), used=gib(9), groups={1: gib(9)}),),
    )
    del world.running["a"]
    world.send(Exited(model="a", epoch=start.epoch, failure=None), after=0.01)
    effects = world.send(before, after=0.01)
    assert refused(effects) == []
    assert started(effects) == []
    assert started(world.sample(after=0.1)) == ["b"]


def test_a_sample_from_before_the_exit_gives_no_memory_away() -> None:
    world = World([10], {"a": whole(9), "b": whole(5)})
    world.ask("a")
    early = MemorySampled(
        asked_at=world.now,
        devices=(Device(id="g0", index=0, name="GPU", total=gib(10), used=gib(1), groups={1: gib(1)}),),
    )
    # It took the rest of its 9 GiB, and ended, and they are not back yet.
    start = world.running.pop("a")
    world.lag["g0"] = 9
    world.send(Exited(model="a", epoch=start.epoch, failure=Failure(message="killed")), after=1)
    assert started(world.ask("b")) == []
    assert started(world.send(early, after=0.01)) == []
    assert started(world.sample(after=0.1)) == []
    world.lag["g0"] = 0
    assert started(world.sample(after=0.1)) == ["b"]


def test_nobody_else_makes_room_for_memory_that_is_only_late() -> None:
    world = World([10, 10], {"a": whole(9), "b": whole(9), "c": whole(9)})
    world.loaded("a", "b")
    (victim,) = stopped(world.ask("c"))
    assert stopped(world.gone(victim, lag=True)) == []
    world.lag = dict.fromkeys(world.lag, 0.0)
    assert started(world.sample(after=0.1)) == ["c"]


def test_memory_that_does_not_come_back_is_not_waited_for_for_ever() -> None:
    world = World([10, 10], {"a": whole(9), "b": whole(9), "c": whole(9)})
    world.loaded("a", "b")
    (victim,) = stopped(world.ask("c"))
    (other,) = {"a", "b"} - {victim}
    world.gone(victim, lag=True)
    effects = world.sample(after=3) + world.sample(after=3)
    assert stopped(effects) == [other]
    assert started(world.gone(other)) == ["c"]


def test_what_each_process_takes_beside_its_buffers_counts_for_each() -> None:
    """Two that start at once on one GPU have a CUDA context each."""
    world = World([10], {"x": whole(9), "a": whole(4.5), "b": whole(4.5)}, overhead=0.5)
    world.loaded("x")
    world.ask("a")
    world.ask("b")
    assert started(world.gone("x")) == ["a", "b"]
    world = World([10], {"x": whole(9), "a": whole(4.5), "b": whole(4.6)}, overhead=0.5)
    world.loaded("x")
    world.ask("a")
    world.ask("b")
    assert started(world.gone("x")) == ["a"]


def test_who_loads_without_being_told_apart_makes_nobody_impossible() -> None:
    world = World([10], {"a": whole(9), "b": whole(8)})
    world.ask("a")
    unseen = Device(id="g0", index=0, name="GPU", total=gib(10), used=gib(6))
    world.send(MemorySampled(asked_at=world.now, devices=(unseen,)), after=0.1)
    assert refused(world.ask("b")) == []


def test_what_was_measured_while_it_loaded_gives_its_memory_to_nobody() -> None:
    world = World([10], {"a": whole(9), "b": whole(5), "c": whole(0.5)})
    world.ask("a")
    # One of its 9 GiB is there so far.
    early = Device(id="g0", index=0, name="GPU", total=gib(10), used=gib(1), groups={1: gib(1)})
    world.send(MemorySampled(asked_at=world.now, devices=(early,)), after=0.1)
    world.ready("a", after=5)
    world.ask("c")
    assert started(world.ask("b")) == []


def test_never_evict_is_never_evicted() -> None:
    demands = {"kept": whole(6), "other": whole(3), "want": whole(3.5), "big": whole(8)}
    world = World([10], demands, {"kept": {"never_evict": True}})
    world.loaded("kept", "other")
    assert stopped(world.ask("want")) == ["other"]
    (reason,) = refused(world.ask("big"))
    assert isinstance(reason, NeverFits)
    assert "it needs 8,192 MiB of a GPU at least, and the GPUs have at most 4,096 MiB" in reason.message


def test_a_model_that_has_served_stays_for_its_residency() -> None:
    world = World([10], {"a": whole(9), "b": whole(9)}, min_residency=5)
    world.ask("a")
    world.ready("a")
    world.release(1, after=1)
    assert world.ask("b") == []
    assert world.planner.next_wake(world.now) == world.now + 4
    assert stopped(world.wake()) == ["a"]


def test_a_model_that_nobody_came_for_stays_not_at_all() -> None:
    world = World([10], {"a": whole(9), "b": whole(9)}, min_residency=5)
    world.ask("a")
    world.send(Cancel(ticket=1))
    world.ready("a")
    assert stopped(world.ask("b")) == ["a"]


def test_busy_ones_yield_after_patience_and_serve_who_came_before() -> None:
    world = World([10], {"a": whole(9), "b": whole(9)})
    world.loaded("a")
    first = granted(world.ask("a"))
    world.ask("a")  # came before b, and waits for the slot
    earlier = world.tickets
    world.now += 1
    world.ask("b")
    world.now += 0.1
    world.ask("a")
    later = world.tickets
    assert world.tick(after=9.8) == []
    assert world.status("a").state is State.READY
    world.wake()
    assert world.status("a").state is State.DRAINING
    assert any(isinstance(effect, Drain) for effect in world.notices)
    assert granted(world.release(first[0])) == [earlier], "older than b, and still served"
    effects = world.release(earlier)
    assert granted(effects) == []
    assert stopped(effects) == ["a"]
    effects = world.gone("a")
    assert started(effects) == ["b"]
    world.ready("b", after=1)
    assert world.planner.outlook(later, world.now) is not None


def test_the_claim_of_an_older_one_is_not_taken_by_a_younger_one() -> None:
    demands = {"x": whole(6), "y": whole(6), "large": whole(9), "small": whole(3)}
    world = World([10], demands)
    world.loaded("x")
    assert granted(world.ask("x"))
    assert world.ask("large") == [], "it waits for x, which is busy"
    world.tick(after=10)
    assert world.status("x").state is State.DRAINING
    # There is room for it now, but not beside the large one.
    assert started(world.ask("small")) == []
    assert stopped(world.release(2)) == ["x"]
    assert started(world.gone("x")) == ["large"]


def test_a_younger_one_with_disjoint_needs_does_not_wait() -> None:
    demands = {"x": whole(9), "large": whole(9), "small": whole(3)}
    world = World([10, 4], demands)
    world.loaded("x")
    world.ask("x")
    world.ask("large")
    world.tick(after=10)
    assert started(world.ask("small")) == ["small"]
    assert world.where("small") == "g1"


def test_who_waits_in_vain_holds_up_nobody() -> None:
    """The large one waits for a busy model that has not yet to yield: the rest is free until then."""
    demands = {"x": whole(6), "large": whole(9), "small": whole(3)}
    world = World([10], demands)
    world.loaded("x")
    world.ask("x")
    world.ask("large")
    assert started(world.ask("small")) == ["small"]


@pytest.mark.parametrize(("priority", "first"), [(0, "a"), (1, "b")])
def test_of_two_that_wait_the_higher_priority_comes_first(priority: int, first: str) -> None:
    demands = {"x": whole(9), "a": whole(9), "b": whole(9)}
    world = World([10], demands, {"b": {"priority": priority}})
    world.loaded("x")
    world.ask("x")
    world.ask("a")
    world.now += 1
    world.ask("b")
    assert stopped(world.release(2)) == ["x"]
    assert started(world.gone("x")) == [first]


def test_priority_does_not_starve() -> None:
    demands = {"x": whole(9), "a": whole(9), "b": whole(9)}
    world = World([10], demands, {"b": {"priority": 5}})
    world.loaded("x")
    world.ask("x")
    world.ask("a")
    world.now += 10
    world.ask("b")
    assert stopped(world.release(2)) == ["x"]
    assert started(world.gone("x")) == ["a"], "it has waited for its patience"


def test_a_higher_priority_stays_longer() -> None:
    demands = {"a": whole(9), "b": whole(9), "want": whole(9)}
    world = World([10, 10], demands, {"a": {"priority": 8}})
    world.loaded("a", "b")
    world.now += 30
    assert stopped(world.ask("want")) == ["b"]


# What only partly fits


@pytest.mark.parametrize(
    ("partial", "layers"), [("last", 14), ("first", 14), ("never", None)], ids=["last", "first", "never"]
)
def test_what_is_larger_than_the_gpus(partial: str, layers: int | None) -> None:
    world = World([14], {"a": any_part(20)}, partial=partial, on_no_gpu="cpu")
    assert started(world.ask("a")) == ["a"]
    placement = world.status("a").placement
    assert placement is not None
    assert placement.option.gpu_layers == (layers or 0)
    assert world.status("a").place == ("GPU 0 and host" if layers else "host")


@pytest.mark.parametrize(
    ("partial", "evicted", "layers"),
    [("last", ["x"], None), ("first", [], 4), ("never", ["x"], None)],
    ids=["last", "first", "never"],
)
def test_partly_before_or_after_somebody_is_evicted(
    partial: str, evicted: list[str], layers: int | None
) -> None:
    world = World([10], {"x": whole(6), "a": any_part(8)}, partial=partial)
    world.loaded("x")
    assert stopped(world.ask("a")) == evicted
    for model in evicted:
        world.gone(model)
    placement = world.status("a").placement
    assert placement is not None
    assert placement.option.gpu_layers == layers


def test_layers_that_the_user_chose_are_no_matter_of_policy() -> None:
    demand = Demand(options=(option("partial", 1, 1, 1, gpu_layers=3, pinned=1),))
    world = World([10], {"a": demand}, partial="never")
    assert started(world.ask("a")) == ["a"]


def test_an_automatic_context_shrinks_only_if_the_gpu_is_too_small() -> None:
    shrinking = Demand(options=(option("whole", 9, context=64), option("whole", 6, context=32), HOST))
    world = World([10], {"x": whole(3), "a": shrinking})
    world.loaded("x")
    assert stopped(world.ask("a")) == ["x"], "there would be room for a shorter one"
    world.gone("x")
    placement = world.status("a").placement
    assert placement is not None
    assert placement.option.context == 64
    world = World([8], {"a": shrinking})
    world.ask("a")
    placement = world.status("a").placement
    assert placement is not None
    assert placement.option.context == 32
    assert "context of 32 instead of 64" in placement.why


# No GPU, and never


@pytest.mark.parametrize(
    ("on_no_gpu", "starts", "reason"), [("cpu", ["a"], None), ("queue", [], None), ("fail", [], NoGpu)]
)
def test_without_a_gpu(on_no_gpu: str, starts: list[str], reason: type[Rejection] | None) -> None:
    world = World([], {"a": whole(9)}, on_no_gpu=on_no_gpu)
    effects = world.ask("a")
    assert started(effects) == starts
    assert [type(refusal) for refusal in refused(effects)] == ([reason] if reason else [])
    if on_no_gpu == "queue":
        assert world.why().startswith("model 'a' cannot run on a GPU: there is no GPU")
        # It appears.
        world.gpus["g0"] = 10
        world.foreign["g0"] = world.lag["g0"] = 0
        assert started(world.sample()) == ["a"]
        assert world.where("a") == "g0"


@pytest.mark.parametrize(
    ("on_no_gpu", "starts", "reason"), [("cpu", ["a"], None), ("queue", [], None), ("fail", [], NeverFits)]
)
def test_larger_than_all_gpus(on_no_gpu: str, starts: list[str], reason: type[Rejection] | None) -> None:
    world = World([10, 10], {"x": whole(9), "a": whole(30)}, on_no_gpu=on_no_gpu)
    world.loaded("x")
    effects = world.ask("a")
    assert started(effects) == starts
    assert [type(refusal) for refusal in refused(effects)] == ([reason] if reason else [])
    assert stopped(effects) == [], "nobody is evicted in vain"
    for refusal in refused(effects):
        assert "needs 30,720 MiB of a GPU at least, and the GPUs have at most 10,240 MiB" in refusal.message


def test_a_place_on_the_host_needs_no_gpu_and_no_room_on_one() -> None:
    world = World([10], {"x": whole(10), "a": Demand(options=(HOST,))}, host=64)
    world.loaded("x")
    assert started(world.ask("a")) == ["a"]
    assert world.status("a").place == "host"


def test_devices_that_are_wished_for_and_not_there() -> None:
    world = World([10], {"a": whole(5)}, {"a": {"wish": Wish(devices=("3",))}})
    (reason,) = refused(world.ask("a"))
    assert isinstance(reason, NoGpu)
    assert "none of its devices (3) is there" in reason.message


def test_a_server_that_may_have_other_gpus_is_not_refused_for_want_of_host_memory() -> None:
    demand = Demand(options=(option("host", gpu_layers=0, pinned=20),), other_gpus=True)
    world = World([], {"a": demand}, host=16)
    assert started(world.ask("a")) == ["a"]


def test_the_host_has_too_little_whoever_makes_room() -> None:
    demand = Demand(options=(option("host", gpu_layers=0, pinned=20),))
    world = World([], {"x": Demand(options=(option("host", pinned=8),)), "a": demand}, host=16)
    world.loaded("x")
    effects = world.ask("a")
    (reason,) = refused(effects)
    assert isinstance(reason, NeverFits)
    assert "needs 20,480 MiB of the host's memory" in reason.message
    assert stopped(effects) == []


def test_models_on_the_host_make_room_for_each_other() -> None:
    def on_host(size: float) -> Demand:
        return Demand(options=(option("host", gpu_layers=0, pinned=1, mapped=size),))

    world = World([], {"x": on_host(9), "y": on_host(3), "a": on_host(6)}, host=16)
    world.loaded("x", "y")
    assert stopped(world.ask("a")) == ["x"]
    assert started(world.gone("x")) == ["a"]


def test_what_is_larger_than_the_host_runs_from_the_disk() -> None:
    demand = Demand(options=(option("host", gpu_layers=0, pinned=1, mapped=200),))
    world = World([], {"a": demand}, host=16)
    assert started(world.ask("a")) == ["a"]


# A better place


def partly(world: World, *, worked: float = 0.0) -> None:
    """Model a runs with 4 of its 9 layers on the GPU, while others have more than half; then these leave."""
    world.foreign["g0"] = 5.5
    world.sample()
    assert started(world.ask("a")) == ["a"]
    assert world.status("a").place == "GPU 0 and host"
    world.ready("a", after=2)
    world.sample(after=0.1)
    world.release(world.tickets, after=worked)
    world.foreign["g0"] = 0
    world.sample(after=0.1)


def pass_time(world: World, seconds: float) -> list[Effect]:
    """With a sample each second; what was done."""
    done: list[Effect] = []
    for _ in range(round(seconds)):
        done += world.sample(after=1)
    return done


def test_a_partly_offloaded_model_moves_when_its_gpu_empties() -> None:
    world = World([10], {"a": any_part(9)})
    partly(world, worked=3)
    effects = pass_time(world, 4)
    assert stopped(effects) == ["a"], "its own memory counts as free, or it would not fit beside itself"
    (stop,) = [effect for effect in effects if isinstance(effect, StopServer)]
    assert stop.why.startswith("GPU 0 has room for it now")
    # Nobody has to ask for it: it is there again before the next request.
    assert started(world.gone("a")) == ["a"]
    assert world.status("a").place == "GPU 0"
    world.ready("a", after=2)
    assert world.status("a").idle_seconds == pytest.approx(6, abs=0.5), "since its last request"
    assert granted(world.ask("a")) != []


def test_one_that_has_hardly_worked_moves_when_it_is_idle_for_long() -> None:
    world = World([10], {"a": any_part(9)})
    partly(world)
    # A load takes 2 s, an unload half of one.
    assert stopped(pass_time(world, 4)) == []
    assert stopped(pass_time(world, 4)) == ["a"]


def test_it_does_not_move_while_it_works_or_anybody_waits() -> None:
    world = World([10], {"a": any_part(9), "b": whole(20)}, on_no_gpu="queue")
    partly(world, worked=3)
    world.ask("a")
    assert stopped(pass_time(world, 20)) == []
    world.ask("b")
    world.release(world.tickets - 1)
    assert stopped(pass_time(world, 20)) == []


def test_room_that_comes_and_goes_moves_nobody() -> None:
    world = World([10], {"a": any_part(9)})
    partly(world, worked=3)
    effects: list[Effect] = []
    for _ in range(20):
        world.foreign["g0"] = 5.5
        effects += pass_time(world, 1)
        world.foreign["g0"] = 0
        effects += pass_time(world, 1)
    assert stopped(effects) == []


def test_it_does_not_flap() -> None:
    world = World([10], {"a": any_part(9)}, min_residency=0)
    partly(world, worked=3)
    assert stopped(pass_time(world, 4)) == ["a"]
    world.gone("a")
    world.ready("a", after=2)
    # It crashes, and comes back to a GPU that is crowded again; then it empties again.
    world.gone("a", Failure(message="killed"))
    world.now += 10
    partly(world, worked=10)
    assert stopped(pass_time(world, 20)) == [], "it has just been moved"
    assert stopped(pass_time(world, 60)) == ["a"]


def test_a_few_layers_are_not_worth_a_reload() -> None:
    world = World([20], {"a": any_part(18)})
    world.foreign["g0"] = 10.5
    world.sample()
    world.ask("a")
    world.ready("a", after=2)
    world.sample(after=0.1)
    world.release(1, after=30)
    world.foreign["g0"] = 8.5
    assert stopped(pass_time(world, 30)) == [], "two of eighteen"
    world.foreign["g0"] = 7.5
    assert stopped(pass_time(world, 30)) == ["a"], "three"


def test_a_smaller_context_grows_when_there_is_room() -> None:
    ways = (option("whole", 9, context=32768), option("whole", 5, context=16384, shrunk=True))
    world = World([10], {"a": Demand(options=(*ways, HOST))})
    world.foreign["g0"] = 4
    world.sample()
    world.ask("a")
    world.ready("a", after=2)
    world.sample(after=0.1)
    world.release(1, after=3)
    world.foreign["g0"] = 0
    assert stopped(pass_time(world, 4)) == ["a"]
    (start,) = world.gone("a")
    assert isinstance(start, StartServer)
    assert start.placement is not None
    assert start.placement.option.context == 32768


def test_a_move_whose_room_is_gone_is_given_up() -> None:
    world = World([10], {"a": any_part(9)})
    partly(world, worked=3)
    assert stopped(pass_time(world, 4)) == ["a"]
    world.foreign["g0"] = 9.9
    assert started(world.gone("a") + pass_time(world, 10)) == []
    assert world.status("a").state is State.STOPPED
    world.foreign["g0"] = 0
    world.sample()
    assert started(world.ask("a")) == ["a"]


def test_one_that_will_be_stopped_soon_is_not_moved() -> None:
    world = World([10], {"a": any_part(9)}, idle_timeout=4)
    partly(world, worked=3)
    effects = pass_time(world, 6)
    assert [effect.why for effect in effects if isinstance(effect, StopServer)] == ["idle for 4 s"]
    assert started(world.gone("a")) == []


def test_where_the_memory_is_not_watched_it_is_measured_for_a_move() -> None:
    world = World([10], {"a": any_part(9)}, measures_first=True)
    world.foreign["g0"] = 5.5
    world.ask("a")
    world.sample(after=0.01)
    world.ready("a", after=2)
    world.sample(after=0.1)
    world.foreign["g0"] = 0
    count = len(world.notices)
    world.release(1, after=3)
    world.wake()
    assert world.notices[count:] == [Look(0.0)]
    assert stopped(world.sample(after=0.01)) == []
    assert world.notices[-1] == Look(SETTLED)
    assert stopped(world.sample(after=SETTLED)) == ["a"]


def test_one_that_its_server_runs_on_the_host_stays_there() -> None:
    world = World([10], {"a": whole(9)})
    (start,) = world.ask("a")
    assert isinstance(start, StartServer)
    ready = BecameReady(model="a", epoch=start.epoch, endpoint=WHERE, figures=Figures(on_host=True))
    world.send(ready, after=1)
    world.running["a"] = msgspec.structs.replace(start, placement=None)
    world.release(1, after=30)
    assert stopped(pass_time(world, 60)) == []


# Servers that cannot use what there is


def test_a_server_without_support_runs_on_the_host() -> None:
    world = World([10], {"a": Demand(options=(HOST,), no_gpu="it has no CUDA")}, on_no_gpu="cpu", host=16)
    (start,) = world.ask("a")
    assert isinstance(start, StartServer)
    assert (world.where("a"), start.place, start.why) == ("host", "host", "it has no CUDA")


@pytest.mark.parametrize("on_no_gpu", ["fail", "queue"])
def test_a_server_without_support_is_refused_where_the_host_is_not_allowed(on_no_gpu: str) -> None:
    world = World([10], {"a": Demand(options=(HOST,), no_gpu="it has no CUDA")}, on_no_gpu=on_no_gpu)
    (reason,) = refused(world.ask("a"))
    assert isinstance(reason, NoGpu)
    assert "it has no CUDA" in reason.message


def test_a_server_with_gpus_of_another_maker_finds_them_itself() -> None:
    world = World([10], {"a": msgspec.structs.replace(whole(9), elsewhere=True), "b": whole(9)})
    assert started(world.ask("a")) == ["a"]
    placement = world.status("a").placement
    assert placement is not None
    assert (placement.managed, placement.shares, placement.environment) == (False, (), {})
    assert started(world.ask("b")) == ["b"], "it takes nothing of NVIDIA's"


def test_a_server_that_turns_out_to_run_on_the_host() -> None:
    demand = Demand(options=(option("whole", 9), option("host", gpu_layers=0, pinned=3, mapped=9)))
    world = World([10], {"a": demand, "b": whole(9)}, host=32)
    assert started(world.ask("a")) == ["a"]
    start = world.running["a"]
    world.running["a"] = msgspec.structs.replace(start, placement=None)  # NVML sees nothing of it
    ready = BecameReady(model="a", epoch=start.epoch, endpoint=WHERE, figures=Figures(on_host=True))
    (grant,) = world.send(ready, after=1)
    assert isinstance(grant, Grant)
    assert grant.place == "host"
    assert Misplaced("a", start.epoch, "host", "GPU 0") in world.notices
    status = world.status("a")
    assert (status.place, status.memory) == ("host", {})
    assert status.placement is not None
    assert status.placement.host == gib(12), "what a way on the host takes"
    assert started(world.ask("b")) == ["b"], "the GPU is free"


# Out of memory


def test_out_of_memory_is_tried_once_more_with_more() -> None:
    world = World([10], {"a": whole(9)})
    world.ask("a")
    ran_out = Failure(message="cudaMalloc failed: out of memory", kind="out_of_memory")
    effects = world.gone("a", ran_out)
    assert refused(effects) == []
    assert started(effects) == ["a"]
    # At least half a GiB, and a tenth of what it had.
    assert world.status("a").memory == {"g0": gib(9) + gib(0.9)}
    (notice,) = [effect for effect in world.notices if isinstance(effect, RanOut)]
    assert notice.surcharge == gib(0.9)
    effects = world.gone("a", ran_out)
    assert [type(reason) for reason in refused(effects)] == [LoadFailed]
    assert started(effects) == []


@pytest.mark.parametrize(("lacking", "more"), [(None, LEARNED), (gib(0.75), gib(0.75))])
def test_it_learns_how_much_it_lacked(lacking: int | None, more: int) -> None:
    world = World([10], {"a": whole(2)})
    world.ask("a")
    world.gone("a", Failure(message="out of memory", kind="out_of_memory", lacking=lacking))
    assert world.status("a").memory == {"g0": gib(2) + more}
    # It is so for good.
    world.ready("a")
    world.release(1)
    world.now += 100
    world.gone("a", Failure(message="killed"))
    world.ask("a")
    assert world.status("a").memory == {"g0": gib(2) + more}


def test_with_more_it_may_not_fit_any_longer() -> None:
    world = World([10], {"a": whole(9.5)})
    world.ask("a")
    effects = world.gone("a", Failure(message="out of memory", kind="out_of_memory"))
    assert [type(reason) for reason in refused(effects)] == [NeverFits]


def test_it_never_loops() -> None:
    world = World([80], {"a": whole(9)})
    world.ask("a")
    starts = 1
    for _ in range(20):
        if "a" not in world.running:
            break
        effects = world.gone("a", Failure(message="out of memory", kind="out_of_memory"))
        starts += len(started(effects))
    assert starts == 2
    assert world.planner.waiting == 0
    # Whoever comes next waits for the end of the pause, and it is tried once again.
    assert started(world.ask("a")) == []
    assert started(world.wake()) == ["a"]
    assert [type(reason) for reason in refused(world.gone("a", Failure(message="no")))] == [LoadFailed]


def test_out_of_memory_at_work_is_learned_from_too() -> None:
    world = World([20], {"a": whole(9)})
    world.loaded("a")
    world.ask("a")
    world.ask("a")
    effects = world.gone("a", Failure(message="out of memory", kind="out_of_memory"))
    assert started(effects) == ["a"]
    assert world.status("a").memory["g0"] > gib(9)
    assert granted(world.ready("a")) == [3]


# Loads that nobody waits for any more


def test_a_load_without_requesters_goes_on_and_serves_who_comes() -> None:
    world = World([10], {"a": whole(9)})
    world.ask("a")
    assert world.send(Cancel(ticket=1)) == []
    world.ready("a", after=3)
    assert granted(world.ask("a")) == [2]


def test_a_load_without_requesters_is_stopped_after_its_grace_when_there_is_need() -> None:
    world = World([10], {"a": whole(9), "b": whole(9)}, load_grace=30)
    world.ask("a")
    world.send(Cancel(ticket=1))
    assert world.ask("b") == []
    assert world.planner.next_wake(world.now) == world.now + 30
    assert world.tick(after=29.9) == []
    assert stopped(world.tick(after=0.1)) == ["a"]
    assert started(world.gone("a")) == ["b"]


def test_a_load_that_somebody_waits_for_is_not_stopped() -> None:
    world = World([10], {"a": whole(9), "b": whole(9)}, load_grace=30)
    world.ask("a")
    world.send(Cancel(ticket=1))
    world.now += 20
    world.ask("a")
    world.ask("b")
    assert world.tick(after=100) == []
    assert granted(world.ready("a")) == [2]


def test_what_was_loaded_in_vain_goes_first() -> None:
    world = World([10, 10], {"used": whole(9), "vain": whole(9), "want": whole(9)})
    world.ask("used")
    world.ready("used", after=0.1)
    world.release(1)
    world.now += 1000
    world.ask("vain")
    world.send(Cancel(ticket=2))
    world.ready("vain", after=60)
    assert stopped(world.ask("want")) == ["vain"]


# Swaps


def swaps(world: World, models: Sequence[str], seconds: float, *, hold: float, load: float) -> Counter[str]:
    """One client of each model, who asks again when it is served. How often each was loaded and served."""
    seen: Counter[str] = Counter()
    due: list[tuple[float, int, Any, Any]] = []
    owners: dict[int, str] = {}
    end = world.now + seconds

    def take(effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case StartServer(model=model):
                    seen[f"load {model}"] += 1
                    due.append((world.now + load, len(due), "ready", model))
                case StopServer(model=model):
                    due.append((world.now + 0.1, len(due), "gone", model))
                case Grant(ticket=ticket, model=model):
                    seen[model] += 1
                    due.append((world.now + hold, len(due), "done", ticket))
                case _:
                    raise AssertionError(effect)

    def ask(model: str) -> None:
        owners[world.tickets + 1] = model
        take(world.ask(model, wait=1e6))

    for model in models:
        ask(model)
    while world.now < end:
        wake = world.planner.next_wake(world.now)
        following = min((entry[0] for entry in due), default=math.inf)
        assert min(wake, following) < math.inf, "everybody waits, for nothing"
        if wake < following:
            take(world.tick(wake - world.now))
            continue
        entry = min(due)
        due.remove(entry)
        world.now = max(world.now, entry[0])
        match entry[2]:
            case "ready":
                take(world.ready(entry[3]))
            case "gone":
                take(world.gone(entry[3]))
            case _:
                take(world.release(entry[3]))
                ask(owners[entry[3]])
    return seen


def test_a_b_a_b_becomes_a_a_b_b() -> None:
    world = World([10], {"a": whole(9), "b": whole(9)}, patience=60)
    seen = swaps(world, "ab", 600, hold=0.5, load=2)
    assert seen["a"] > 200
    assert seen["b"] > 200
    assert seen["load a"] + seen["load b"] < 60, "each swap costs two seconds, and most of the time is work"


def test_nobody_waits_for_much_longer_than_patience() -> None:
    world = World([10], {"a": whole(9), "b": whole(9), "c": whole(9)}, patience=5)
    seen = swaps(world, "abc", 300, hold=0.5, load=4)
    assert min(seen[model] for model in "abc") >= 10


def test_a_cold_model_is_swapped_at_once() -> None:
    world = World([10], {"a": whole(9), "b": whole(9)}, patience=60)
    world.loaded("a")
    for _ in range(5):
        world.ask("a")
        world.release(world.tickets, after=0.5)
    world.now += 30
    assert stopped(world.ask("b")) == ["a"]


def test_a_model_in_demand_stays_for_a_while() -> None:
    world = World([10], {"a": whole(9), "b": whole(9)}, patience=60)
    world.loaded("a")
    for _ in range(5):
        world.ask("a")
        world.release(world.tickets, after=0.5)
    asked_at = world.now
    assert world.ask("b") == []
    assert "'a' would have to make room, and will in" in world.why()
    assert stopped(world.wake()) == ["a"]
    assert asked_at < world.now <= asked_at + 2, "its requests came every half a second, and come no more"


# Keys


def test_turns_are_shared_by_weights() -> None:
    world = World([10], {"a": whole(9)}, weights={"light": 1.0, "heavy": 3.0})
    order: dict[int, str] = {}
    world.ask("a", client="x")
    for client in ("light", "heavy"):
        for _ in range(40):
            world.ask("a", client=client)
            order[world.tickets] = client
    (ticket,) = granted(world.ready("a"))
    served: list[str] = []
    while len(served) < 50:
        (ticket,) = granted(world.release(ticket, after=1))
        served.append(order[ticket])
    # Both have something to do throughout: three to one in each window, within one turn.
    for window in (4, 8, 20, 40):
        for at in range(len(served) - window):
            light = served[at : at + window].count("light")
            assert abs(light - window / 4) <= 1, (window, at)


def test_a_newcomer_does_not_wait_for_the_whole_queue_of_another() -> None:
    world = World([10], {"a": whole(9)})
    for _ in range(30):
        world.ask("a", client="crowd")
    (ticket,) = granted(world.ready("a"))
    for _ in range(5):
        (ticket,) = granted(world.release(ticket, after=1))
    world.ask("a", client="newcomer")
    newcomer = world.tickets
    nth = 0
    while ticket != newcomer:
        (ticket,) = granted(world.release(ticket, after=1))
        nth += 1
    assert nth <= 2


def test_who_was_idle_has_saved_nothing_up() -> None:
    world = World([10], {"a": whole(9)})
    world.loaded("a")
    order: dict[int, str] = {}
    (ticket,) = granted(world.ask("a", client="one"))
    for _ in range(20):
        world.ask("a", client="one")
        order[world.tickets] = "one"
    for _ in range(10):
        (ticket,) = granted(world.release(ticket, after=1))
    for _ in range(20):
        world.ask("a", client="two")
        order[world.tickets] = "two"
    served: list[str] = []
    for _ in range(20):
        (ticket,) = granted(world.release(ticket, after=1))
        served.append(order[ticket])
    assert 9 <= served[:20].count("two") <= 11


def test_cancelled_requests_use_up_no_turns() -> None:
    world = World([10], {"a": whole(9)})
    world.ask("a", client="x")
    for _ in range(20):
        world.ask("a", client="fickle")
        world.send(Cancel(ticket=world.tickets))
    world.ask("a", client="fickle")
    fickle = world.tickets
    for _ in range(20):
        world.ask("a", client="steady")
    (ticket,) = granted(world.ready("a"))
    for _ in range(3):
        (ticket,) = granted(world.release(ticket, after=1))
        if ticket == fickle:
            return
    raise AssertionError("it pays for turns that it never had")


# Looks


def snapshot(world: World) -> object:
    ledger = world.planner.ledger
    return world.planner.describe(world.now), ledger.rooms(), world.planner.next_wake(world.now)


def test_a_plan_changes_nothing() -> None:
    demands = {"x": whole(9), "seat": whole(3), "room": whole(9), "never": whole(30)}
    world = World([10, 4], demands)
    world.loaded("x")
    before = snapshot(world)
    decisions = {
        name: world.planner.plan(name, demand, world.now) for name, demand in demands.items() if name != "x"
    }
    assert isinstance(decisions["seat"], Seat)
    assert isinstance(decisions["room"], MakeRoom)
    assert [model.spec.name for model in decisions["room"].idle] == ["x"]
    assert isinstance(decisions["never"], Refuse)
    assert snapshot(world) == before
    assert world.tick() == []
    assert started(world.ask("seat")) == ["seat"]


def test_a_plan_for_what_is_busy() -> None:
    world = World([10], {"x": whole(9), "a": whole(9)})
    world.loaded("x")
    world.ask("x")
    decision = world.planner.plan("a", world.demands["a"], world.now)
    assert isinstance(decision, Wait)
    assert decision.placement is not None
    assert decision.placement.shares[0].device == "g0"


def test_the_outlook_of_those_who_wait() -> None:
    world = World([10], {"x": whole(9), "a": whole(9)})
    world.loaded("x")
    world.ask("x")
    world.ask("a")
    world.ask("a")
    first = world.planner.outlook(world.tickets - 1, world.now)
    second = world.planner.outlook(world.tickets, world.now)
    assert first is not None
    assert second is not None
    assert (first.model, first.state, first.position, second.position) == ("a", State.FETCHED, 1, 2)
    assert first.seconds < second.seconds
    assert "'x' would have to make room" in (first.why or "")
    assert [other.name for other in first.others] == ["x"]
    assert world.planner.outlook(2, world.now) is None, "it has its lease"
    assert world.planner.outlook(99, world.now) is None


# Counts


def test_memory_alone_decides_how_many_run() -> None:
    demands = {f"m{nth}": whole(1) for nth in range(12)}
    world = World([10], demands, size=0)
    starts = [name for name in demands if started(world.ask(name))]
    assert len(starts) == 10


def test_the_size_of_the_pool_is_a_limit_too() -> None:
    world = World([100], {"a": whole(1), "b": whole(1), "c": whole(1)}, size=2)
    world.loaded("a", "b")
    assert stopped(world.ask("c")) == ["a"]
    assert started(world.gone("a")) == ["c"]


def test_where_llama_cpp_decides_it_is_only_counted() -> None:
    world = World([10], {"a": whole(9), "b": whole(9)}, managed=False, size=2)
    effects = world.ask("a") + world.ask("b")
    assert started(effects) == ["a", "b"]
    for effect in effects:
        assert isinstance(effect, StartServer)
        assert effect.placement is not None
        assert effect.placement.arguments == []


def test_layers_for_gpus_are_no_reason_to_wait_where_there_is_no_gpu() -> None:
    demand = Demand(options=(option("partial", 4, gpu_layers=7),))
    world = World([], {"a": demand}, host=16, on_no_gpu="cpu")
    assert started(world.ask("a")) == ["a"]
