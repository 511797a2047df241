"""The planner under random schedules with faults: crashes, late and stale messages, cancels, shut down.

`PlannerMachine` has models of which nothing is known, counted; `GpuMachine` has GPUs and models with sizes.
"""

from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.config.schema import Strategy
from actors.errors import Failure, FailureKind, QueueTimeout, Rejection
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
    Forgotten,
    Grant,
    Look,
    Measured,
    MemorySampled,
    Misplaced,
    Pin,
    RanOut,
    Reject,
    Released,
    Reset,
    ServerAddress,
    Shutdown,
    ShutDownComplete,
    Spawned,
    StartServer,
    StopServer,
    Tick,
    Unload,
)
from actors.placement.fit import Placement, Wish
from actors.placement.ledger import Device, HostMemory
from actors.placement.options import Demand, Option
from actors.scheduler.lifecycle import RUNNING
from actors.scheduler.model_states import ModelSpec, OnNoGpu, Partial, Policy
from actors.scheduler.planner import Planner
from actors.scheduler.promotion import PAUSE
from tests.effort import examples

MODELS = ("a", "b", "c", "d")
SIZE = 2
SLOTS = 2
QUEUE = 8
SELDOM = st.sampled_from([False, False, False, True])


class Schedule(RuleBasedStateMachine):
    """Plays the door and the model actors, and keeps its own book of who holds what."""

    models: tuple[str, ...] = MODELS

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy(size=SIZE)
        self.specs: list[ModelSpec] = []
        self.planner = Planner(self.policy, [])
        self.now = 0.0
        self.tickets = 0
        self.waiting: set[int] = set()
        self.refused: dict[int, Rejection] = {}
        self.held: dict[int, tuple[str, int]] = {}
        self.processes: dict[str, int] = {}
        self.stopping: set[str] = set()
        self.moved: dict[str, float] = {}
        self.fetching: dict[str, int] = {}
        self.fetched: dict[str, int] = {}
        self.deadline: float | None = None
        self.pinned: set[str] = set()
        self.forced = ""
        """The model that the operator unloads at once."""
        self.finished = 0

    def start(self, effect: StartServer) -> None:
        """A server is started."""

    def load(self, model: str, growth: int) -> None:
        """Its server has loaded it, and will take so much more at work."""

    def move(self, model: str) -> None:
        """It is stopped to be loaded again in a better place."""
        assert not self.waiting
        assert self.deadline is None
        assert self.now - self.moved.get(model, -PAUSE) >= PAUSE, "it flaps"
        self.moved[model] = self.now

    def end(self, model: str) -> None:
        """Its processes are gone."""
        del self.processes[model]
        self.stopping.discard(model)

    def demand(self, model: str) -> Demand | None:
        """What its files say that it takes."""
        return None

    def send(self, event: Event) -> None:
        self.carry_out(self.planner.handle(event, self.now))

    def carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Grant(ticket=ticket, model=model, epoch=epoch):
                    self.waiting.remove(ticket)
                    assert self.processes[model] == epoch
                    assert model not in self.stopping
                    self.held[ticket] = (model, epoch)
                case Reject(ticket=ticket, reason=reason):
                    self.waiting.remove(ticket)
                    self.refused[ticket] = reason
                case FetchFiles(model=model, epoch=epoch):
                    assert model not in self.processes
                    assert self.fetching.get(model, 0) < epoch
                    self.fetching[model] = epoch
                case StartServer(model=model, epoch=epoch):
                    assert model not in self.processes
                    assert self.fetched.pop(model) == epoch
                    self.processes[model] = epoch
                    self.start(effect)
                case StopServer(model=model, epoch=epoch) if self.fetching.get(model) == epoch:
                    del self.fetching[model]
                case StopServer(model=model, epoch=epoch):
                    assert self.processes[model] == epoch
                    assert model not in self.stopping
                    overdue = self.deadline is not None and self.now >= self.deadline
                    assert (model, epoch) not in self.held.values() or overdue or model == self.forced, (
                        "a busy model is never evicted"
                    )
                    assert not (effect.evicts and model in self.pinned)
                    assert not (effect.why.startswith("idle for") and model in self.pinned)
                    if "has room for it now" in effect.why:
                        self.move(model)
                    self.stopping.add(model)
                case Forgotten(model=model):
                    assert model not in self.processes
                    assert model not in self.fetching
                case ShutDownComplete():
                    self.finished += 1
                case Drain() | Look() | Measured() | RanOut() | Misplaced():
                    pass

    @rule(
        data=st.data(),
        slot=st.booleans(),
        wait=st.floats(0.5, 50),
        client=st.sampled_from(["", "x", "y"]),
        load=st.sampled_from([True, True, True, False]),
    )
    def ask(self, data: st.DataObject, slot: bool, wait: float, client: str, load: bool) -> None:
        self.tickets += 1
        self.waiting.add(self.tickets)
        model = data.draw(st.sampled_from(self.models))
        deadline = self.now + wait
        self.send(
            Acquire(ticket=self.tickets, model=model, slot=slot, deadline=deadline, client=client, load=load)
        )

    @rule(data=st.data(), again=st.integers(1, 3))
    def ask_for_several(self, data: st.DataObject, again: int) -> None:
        for _ in range(again):
            self.ask(data=data, slot=True, wait=20, client="", load=True)

    @precondition(lambda self: bool(self.held))
    @rule(data=st.data(), served=st.booleans(), broken=st.booleans())
    def release(self, data: st.DataObject, served: bool, broken: bool) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.held)))
        del self.held[ticket]
        self.send(Released(ticket=ticket, served=served, broken=broken))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ticket = data.draw(st.integers(1, self.tickets + 1))
        self.waiting.discard(ticket)
        self.held.pop(ticket, None)
        self.send(Cancel(ticket=ticket))

    @precondition(lambda self: bool(self.fetching))
    @rule(data=st.data(), fails=SELDOM, late=SELDOM)
    def end_fetch(self, data: st.DataObject, fails: bool, late: bool) -> None:
        model = data.draw(st.sampled_from(sorted(self.fetching)))
        if late:
            self.send(Fetched(model=model, epoch=self.fetching[model] - 1, demand=self.demand(model)))
            return
        epoch = self.fetching.pop(model)
        if fails:
            self.send(Exited(model=model, epoch=epoch, failure=Failure(message="the disk is full")))
        else:
            self.fetched[model] = epoch
            self.send(Fetched(model=model, epoch=epoch, demand=self.demand(model)))

    @precondition(lambda self: bool(self.processes))
    @rule(data=st.data(), late=st.sampled_from([0, 0, 0, 1, 2]), growth=st.integers(0, 3))
    def become_ready(self, data: st.DataObject, late: int, growth: int) -> None:
        model = data.draw(st.sampled_from(sorted(self.processes)))
        if late == 0:
            self.load(model, growth)
        self.send(
            BecameReady(model=model, epoch=self.processes[model] - late, endpoint=ServerAddress("x", 1))
        )

    @rule(data=st.data())
    def end_of_another_run(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.models))
        self.send(Exited(model=model, epoch=self.processes.get(model, 1) - 1, failure=None))

    @precondition(lambda self: bool(self.processes))
    @rule(
        data=st.data(),
        retryable=st.booleans(),
        kind=st.sampled_from(["failed", "failed", "out_of_memory"]),
        expected=st.booleans(),
    )
    def exit(self, data: st.DataObject, retryable: bool, kind: FailureKind, expected: bool) -> None:
        """A server ends: one that was told to, if there is one and it shall be one of these."""
        expected = expected and bool(self.stopping)
        model = data.draw(st.sampled_from(sorted(self.stopping if expected else self.processes)))
        epoch, expected = self.processes[model], model in self.stopping
        self.end(model)
        failure = None if expected else Failure(message="crashed", retryable=retryable, kind=kind)
        self.send(Exited(model=model, epoch=epoch, failure=failure))

    @rule(data=st.data(), at_once=st.booleans())
    def unload(self, data: st.DataObject, at_once: bool) -> None:
        model = data.draw(st.sampled_from(self.models))
        self.forced = model if at_once else ""
        self.send(Unload(model=model, at_once=at_once))
        self.forced = ""

    @rule(data=st.data(), pinned=st.booleans())
    def pin(self, data: st.DataObject, pinned: bool) -> None:
        model = data.draw(st.sampled_from(self.models))
        is_known = self.planner.resolve(model) is not None
        (self.pinned.add if pinned and is_known else self.pinned.discard)(model)
        self.send(Pin(model=model, pinned=pinned))

    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        self.send(Reset(model=data.draw(st.sampled_from(self.models))))

    @rule(seconds=st.floats(0.01, 30))
    def pass_time(self, seconds: float) -> None:
        wake = self.planner.next_wake(self.now)
        assert wake > self.now
        self.now = min(self.now + seconds, wake)
        self.send(Tick())

    @rule(kept=st.sets(st.sampled_from(range(5)), min_size=2), changed=st.sets(st.sampled_from(MODELS)))
    def reload(self, kept: set[int], changed: set[str]) -> None:
        specs = [spec for nth, spec in enumerate(self.specs) if nth in kept]
        self.carry_out(self.planner.reconfigure(self.policy, specs, changed, self.now))
        there_are = {spec.name for spec in specs}
        assert there_are == set(filter(self.planner.resolve, self.models))
        known = {model.name for model in self.planner.describe(self.now)}
        self.pinned &= known  # one that is forgotten and comes again is a new one

    @rule()
    def shut_down(self) -> None:
        if self.tickets > 30 and self.deadline is None:
            self.deadline = self.now + 10
            self.send(Shutdown(deadline=self.deadline))

    @invariant()
    def everybody_is_accounted_for(self) -> None:
        status = self.planner.describe(self.now)
        assert sum(model.state in RUNNING for model in status) == len(self.processes)
        assert all(0 <= model.busy <= model.slots for model in status)
        assert sum(model.waiting for model in status) == self.planner.waiting == len(self.waiting) <= QUEUE
        assert self.finished <= 1
        for model in status:
            holders = [holder for holder in self.held.values() if holder == (model.name, model.epoch)]
            assert model.busy <= len(holders)
            # Whoever runs has its memory reserved, and nobody else.
            assert (model.placement is not None) == (model.name in self.processes)

    def settle(self) -> None:
        """One more round of servers that do what they should."""
        for ticket in list(self.held):
            del self.held[ticket]
            self.send(Released(ticket=ticket, served=True))
        for model, epoch in list(self.fetching.items()):
            del self.fetching[model]
            self.fetched[model] = epoch
            self.send(Fetched(model=model, epoch=epoch, demand=self.demand(model)))
        for model, epoch in list(self.processes.items()):
            if model in self.stopping:
                self.end(model)
                self.send(Exited(model=model, epoch=epoch, failure=None))
            else:
                self.load(model, 0)
                self.send(BecameReady(model=model, epoch=epoch, endpoint=ServerAddress("x", 1)))

    def teardown(self) -> None:
        """With working servers and time, everybody is served, or at least answered."""
        for model in sorted(self.pinned):
            self.pinned.discard(model)
            self.send(Pin(model=model, pinned=False))
        for _ in range(400):
            self.settle()
            if not self.waiting and not self.held and (self.deadline is None or not self.processes):
                break
            self.now = min(self.now + 1, self.planner.next_wake(self.now))
            self.send(Tick())
        assert not self.waiting
        assert not self.held
        assert self.finished == (self.deadline is not None)


class PlannerMachine(Schedule):
    """So many models at a time, whatever they take."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy(
            size=SIZE, queue_size=QUEUE, min_residency=1, patience=3, idle_timeout=20, fetch_grace=5
        )
        self.specs = [ModelSpec(name=name, slots=SLOTS) for name in MODELS]
        self.planner = Planner(self.policy, self.specs)

    @invariant()
    def no_more_run_than_may(self) -> None:
        assert len(self.processes) <= SIZE


TestPlanner = PlannerMachine.TestCase
TestPlanner.settings = settings(max_examples=examples(100), stateful_step_count=50)


UNIT = 100 << 20
"""Bytes: three of these are as much as a server may grow."""
GPUS = {"g0": 50, "g1": 30, "g2": 30}
HOST = 60
OVERHEAD = 2


def part(layers: int, size: int, total: int) -> Option:
    return Option(
        how="whole" if layers == total else "partial",
        context=1,
        gpu_layers=None if layers == total else layers,
        layers=(size * UNIT,) * layers,
        shared=2 * UNIT,
        compute=UNIT,
        pinned=(1 + total - layers) * UNIT,
    )


@st.composite
def demands(draw: st.DrawFn) -> Demand | None:
    """Whole or in parts, some larger than any GPU or than all, with and without a way on the host."""
    if draw(st.integers(0, 9)) == 0:
        return None
    total, size = draw(st.integers(1, 6)), draw(st.sampled_from([1, 5, 10, 20]))
    counts = [total]
    if draw(st.booleans()):
        counts += range(total - 1, 0, -1)
    options = [part(count, size, total) for count in counts] if draw(st.integers(0, 7)) else []
    if draw(st.booleans()) or not options:
        pinned, mapped = draw(st.integers(1, 20)), draw(st.integers(0, 60))
        options.append(
            Option(how="host", context=1, gpu_layers=0, pinned=pinned * UNIT, mapped=mapped * UNIT)
        )
    return Demand(options=tuple(options))


class Process:
    """What a server has of the machine: more and more while it loads, never more than was predicted."""

    def __init__(self, placement: Placement, group: int) -> None:
        self.group = group
        self.most = {share.device: share.bytes + OVERHEAD * UNIT for share in placement.shares}
        self.has = dict.fromkeys(self.most, 0)
        self.pinned = placement.option.pinned
        self.is_loaded = False


class GpuMachine(Schedule):
    """Two or three GPUs, and models of all sizes. The planner knows what the latest sample told."""

    models = ("a", "b", "c", "d", "e")

    def __init__(self) -> None:
        super().__init__()
        self.demands: dict[str, Demand | None] = {}
        self.gpus: dict[str, int] = {}
        self.lost: set[str] = set()
        self.live: dict[str, Process] = {}
        self.ghosts: list[Process] = []
        self.groups = 0
        self.foreign: dict[str, int] = {}
        self.known: dict[str, int] = {}
        """What others had of each GPU that is there, as of the latest sample."""
        self.on_its_way: tuple[MemorySampled, dict[str, int]] | None = None

    @initialize(
        sizes=st.tuples(*[demands() for _ in range(5)]),
        gpus=st.integers(2, 3),
        strategy=st.sampled_from(["single-gpu-preferred", "distribute"]),
        on_no_gpu=st.sampled_from(["cpu", "queue", "fail"]),
        partial=st.sampled_from(["last", "first", "never"]),
        size=st.sampled_from([0, 0, 2]),
        headroom=st.sampled_from([0, 3]),
        wish=st.sampled_from([(), ("0",), ("g1", "0")]),
        kept=st.booleans(),
        tells_groups=st.booleans(),
        measures_first=st.booleans(),
    )
    def begin(
        self,
        sizes: tuple[Demand | None, ...],
        gpus: int,
        strategy: Strategy,
        on_no_gpu: OnNoGpu,
        partial: Partial,
        size: int,
        headroom: int,
        wish: tuple[str, ...],
        kept: bool,
        tells_groups: bool,
        measures_first: bool,
    ) -> None:
        self.policy = Policy(
            size=size,
            queue_size=QUEUE,
            min_residency=1,
            patience=3,
            load_grace=4,
            fetch_grace=5,
            idle_timeout=20,
            weights={"x": 3},
            strategy=strategy,
            on_no_gpu=on_no_gpu,
            partial=partial,
            headroom=headroom * UNIT,
            measures_first=measures_first,
        )
        self.specs = [
            ModelSpec(
                name=name,
                slots=1 + nth % SLOTS,
                wish=Wish(devices=wish) if name == "b" else Wish(),
                never_evict=kept and name == "c",
                priority=int(name == "d"),
            )
            for nth, name in enumerate(self.models)
        ]
        self.planner = Planner(self.policy, self.specs)
        self.headroom = headroom * UNIT
        self.demands = dict(zip(self.models, sizes, strict=True))
        self.gpus = {name: size * UNIT for name, size in list(GPUS.items())[:gpus]}
        self.tells_groups = tells_groups
        self.foreign = dict.fromkeys(self.gpus, 0)
        self.sample(late=False)

    def demand(self, model: str) -> Demand | None:
        return self.demands[model]

    # The true machine

    def start(self, effect: StartServer) -> None:
        assert effect.placement is not None
        self.groups += 1
        process = self.live[effect.model] = Process(effect.placement, self.groups)
        for device in process.most:
            assert device in self.known, "a GPU that is not there"
            ours = sum(other.most.get(device, 0) for other in self.live.values())
            back = sum(ghost.has.get(device, 0) for ghost in self.ghosts)
            room = self.gpus[device] - self.headroom - self.known[device]
            assert ours + back <= room, f"{effect.model} over-commits {device}"
        assert sum(other.pinned for other in self.live.values()) <= HOST * UNIT, "the host is over-committed"

    def load(self, model: str, growth: int) -> None:
        process = self.live[model]
        process.is_loaded = True
        for device, most in process.most.items():
            # Where processes cannot be told apart, nobody could know that there is more to come.
            process.has[device] = max(process.has[device], most - self.tells_groups * growth * UNIT)
        self.send(Spawned(model=model, epoch=self.processes[model], process=process.group))

    def end(self, model: str) -> None:
        super().end(model)
        process = self.live.pop(model)
        if any(process.has.values()):
            self.ghosts.append(process)

    def measure(self) -> tuple[MemorySampled, dict[str, int]]:
        devices, known = [], {}
        for index, (name, total) in enumerate(self.gpus.items()):
            if name in self.lost:
                continue
            ours = sum(process.has.get(name, 0) for process in (*self.live.values(), *self.ghosts))
            used = min(total, self.foreign[name] + ours)
            known[name] = max(0, used - ours)
            groups = {process.group: process.has.get(name, 0) for process in self.live.values()}
            devices.append(
                Device(
                    id=name,
                    index=index,
                    name="GPU",
                    total=total,
                    used=used,
                    groups={group: size for group, size in groups.items() if size and self.tells_groups},
                    overhead=OVERHEAD * UNIT,
                )
            )
        pinned = sum(process.pinned for process in self.live.values() if process.is_loaded)
        host = HostMemory(total=HOST * UNIT, available=HOST * UNIT - pinned)
        return MemorySampled(asked_at=self.now, devices=tuple(devices), host=host), known

    @rule(late=st.booleans())
    def sample(self, late: bool) -> None:
        """Measured now, and told now or after what happens next; samples overtake none."""
        self.arrive()
        self.on_its_way = self.measure()
        self.now += 0.001
        if not late:
            self.arrive()

    @precondition(lambda self: self.on_its_way is not None)
    @rule()
    def arrive(self) -> None:
        if self.on_its_way is not None:
            (sample, self.known), self.on_its_way = self.on_its_way, None
            self.send(sample)

    @precondition(lambda self: bool(self.live))
    @rule(data=st.data(), much=st.sampled_from([0.2, 0.5, 1]), known=st.booleans(), seen=st.booleans())
    def take_memory(self, data: st.DataObject, much: float, known: bool, seen: bool) -> None:
        """A server that loads, or works, takes some of what it may, and holds it; that may be noticed."""
        model = data.draw(st.sampled_from(sorted(self.live)))
        process = self.live[model]
        if known:
            self.send(Spawned(model=model, epoch=self.processes[model], process=process.group))
        for device, most in process.most.items():
            process.has[device] = max(process.has[device], int(most * much))
        if seen:
            self.sample(late=False)

    @precondition(lambda self: bool(self.live))
    @rule(data=st.data())
    def spawned_before(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(sorted(self.live)))
        epoch, process = self.processes[model], self.live[model].group
        self.send(Spawned(model=model, epoch=epoch - 1, process=process - 1))

    @rule(emptied=st.booleans(), works=st.booleans())
    def a_quiet_while(self, emptied: bool, works: bool) -> None:
        """Nobody asks for anything; what runs may have work, and others may leave."""
        if emptied:
            self.foreign = dict.fromkeys(self.gpus, 0)
        for _ in range(3 if works else 1):
            self.settle()
        for _ in range(6):
            self.now = min(self.now + 2, self.planner.next_wake(self.now))
            self.send(Tick())
            self.sample(late=False)

    @precondition(lambda self: bool(self.ghosts))
    @rule()
    def memory_comes_back(self) -> None:
        self.ghosts.pop(0)

    @rule(data=st.data(), share=st.sampled_from([0, 0, 0.2, 0.5, 1]))
    def others_take_memory(self, data: st.DataObject, share: float) -> None:
        device = data.draw(st.sampled_from(sorted(self.gpus)))
        ours = sum(process.most.get(device, 0) for process in (*self.live.values(), *self.ghosts))
        self.foreign[device] = int(max(0, self.gpus[device] - ours) * share)

    @rule(data=st.data(), lost=st.booleans())
    def gpu_is_lost_or_found(self, data: st.DataObject, lost: bool) -> None:
        device = data.draw(st.sampled_from(sorted(self.gpus)))
        (self.lost.add if lost else self.lost.discard)(device)
        self.sample(late=False)

    @invariant()
    def what_runs_is_reserved(self) -> None:
        assert set(self.planner.ledger.holdings) == set(self.live)

    # The end

    def settle(self) -> None:
        self.ghosts.clear()
        super().settle()
        self.sample(late=False)

    def teardown(self) -> None:
        """On a machine that works, whoever asks is served, or told that it cannot be."""
        self.lost.clear()
        self.foreign = dict.fromkeys(self.gpus, 0)
        super().teardown()
        if self.deadline is not None:
            return
        mine = {}
        for model in sorted(self.demands):
            self.tickets += 1
            mine[self.tickets] = model
            self.waiting.add(self.tickets)
            self.send(Acquire(ticket=self.tickets, model=model, deadline=self.now + 1000))
        for _ in range(300):
            if not self.waiting & set(mine):
                break
            self.settle()
            self.now = min(self.now + 1, self.planner.next_wake(self.now))
            self.send(Tick())
        for ticket in self.waiting:
            outlook = self.planner.outlook(ticket, self.now)
            assert outlook is not None
            assert "on_no_gpu: queue" in (outlook.why or ""), (mine[ticket], outlook)
        for ticket in mine:
            assert not isinstance(self.refused.get(ticket), QueueTimeout)


TestGpus = GpuMachine.TestCase
TestGpus.settings = settings(max_examples=examples(300), stateful_step_count=60)
