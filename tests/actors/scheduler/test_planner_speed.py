"""A decision takes less than a millisecond, also on a large machine with a long queue or with many models."""

import random
import statistics
import sys
import time
from types import FrameType

from actors.messages import (
    Acquire,
    BecameReady,
    Cancel,
    Event,
    Exited,
    Fetched,
    FetchFiles,
    Grant,
    MemorySampled,
    Reject,
    Released,
    ServerAddress,
    Spawned,
    StartServer,
    StopServer,
    Tick,
)
from actors.placement.ledger import Device
from actors.placement.options import Demand, Option
from actors.scheduler.model_states import ModelSpec, Policy
from actors.scheduler.planner import Planner

MODELS, GPUS, WAITING, EVENTS = 200, 16, 1000, 4000
GIB = 1 << 30
DEMAND = Demand(options=(Option(how="whole", context=8192, layers=(GIB // 2,) * 36, compute=GIB),))
KINDS = ("acquire", "released", "cancel", "tick", "sampled", "ready", "exited")


class Crowd:
    """Plays everybody, and times each decision. About four models fit on each GPU."""

    def __init__(self) -> None:
        self.rng = random.Random(1)
        specs = [ModelSpec(name=f"model-{number}", slots=4) for number in range(MODELS)]
        self.planner = Planner(Policy(size=0, queue_size=10 * WAITING), specs)
        self.now = 0.0
        self.tickets = 0
        self.waiting: set[int] = set()
        self.held: set[int] = set()
        self.starting: dict[str, int] = {}
        self.running: dict[str, tuple[int, dict[str, int]]] = {}
        self.stopping: dict[str, int] = {}
        self.times: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "fetched", "spawned")}

    def send(self, kind: str, event: Event) -> None:
        began = time.thread_time()
        effects = self.planner.handle(event, self.now)
        self.times[kind].append(time.thread_time() - began)
        for effect in effects:
            match effect:
                case FetchFiles(model=model, epoch=epoch):
                    self.send("fetched", Fetched(model=model, epoch=epoch, demand=DEMAND))
                case StartServer(model=model, epoch=epoch, placement=placement):
                    assert placement is not None
                    self.starting[model] = epoch
                    self.running[model] = epoch, {share.device: share.bytes for share in placement.shares}
                    self.send(
                        "spawned", Spawned(model=model, epoch=epoch, process=epoch * MODELS + len(model))
                    )
                case StopServer(model=model, epoch=epoch):
                    self.starting.pop(model, None)
                    self.stopping[model] = epoch
                case Grant(ticket=ticket):
                    self.waiting.remove(ticket)
                    self.held.add(ticket)
                case Reject(ticket=ticket):
                    self.waiting.remove(ticket)
                case _:
                    pass

    def acquire(self) -> None:
        self.tickets += 1
        self.waiting.add(self.tickets)
        model = f"model-{self.rng.randrange(MODELS)}"
        self.send("acquire", Acquire(ticket=self.tickets, model=model, deadline=self.now + 1e6))

    def sample(self) -> None:
        used = dict.fromkeys(map(str, range(GPUS)), 0)
        for _, shares in self.running.values():
            for device, size in shares.items():
                used[device] += size
        devices = tuple(
            Device(id=device, index=int(device), name="x", total=80 * GIB, used=size)
            for device, size in used.items()
        )
        self.send("sampled", MemorySampled(asked_at=self.now, devices=devices))

    def one(self, kind: str) -> None:
        """An event of this kind, if there can be one."""
        if kind == "acquire" and len(self.waiting) < WAITING:
            self.acquire()
        elif kind == "released" and self.held:
            ticket = self.rng.choice(sorted(self.held))
            self.held.remove(ticket)
            self.send(kind, Released(ticket=ticket, served=True))
        elif kind == "cancel" and self.waiting:
            ticket = self.rng.choice(sorted(self.waiting))
            self.waiting.remove(ticket)
            self.send(kind, Cancel(ticket=ticket))
        elif kind == "tick":
            self.send(kind, Tick())
        elif kind == "sampled":
            self.sample()
        elif kind == "ready" and self.starting:
            model, epoch = self.starting.popitem()
            self.send(kind, BecameReady(model=model, epoch=epoch, endpoint=ServerAddress("127.0.0.1", 9)))
        elif kind == "exited" and self.stopping:
            model, epoch = self.stopping.popitem()
            del self.running[model]
            self.send(kind, Exited(model=model, epoch=epoch, failure=None))
            self.sample()


def test_a_decision_takes_less_than_a_millisecond() -> None:
    crowd = Crowd()
    crowd.sample()
    while len(crowd.waiting) < WAITING:
        crowd.acquire()
    for times in crowd.times.values():
        times.clear()
    for _ in range(EVENTS):
        crowd.now += crowd.rng.expovariate(20)
        crowd.one(crowd.rng.choices(KINDS, (70, 30, 5, 10, 5, 10, 10))[0])
    everything = sorted(time for times in crowd.times.values() for time in times)
    print(f"\n{len(crowd.waiting)} wait, {len(crowd.running)} of {MODELS} models run; milliseconds:")
    for kind, times in [*crowd.times.items(), ("all", everything)]:
        if times:
            ranked = sorted(times)
            worst = f"p99 {ranked[int(len(ranked) * 0.99)] * 1e3:.2f}, max {ranked[-1] * 1e3:.2f}"
            print(f"{kind:9} {len(times):5}: median {statistics.median(times) * 1e3:.3f}, {worst}")
    assert all(crowd.times[kind] for kind in KINDS)
    assert statistics.median(everything) < 1e-3


def steps_of_a_request(models: int) -> int:
    """Function calls that one request to a loaded model costs, where so many are configured."""
    planner = Planner(Policy(size=1), [ModelSpec(name=f"model-{number}") for number in range(models)])
    address = ServerAddress("127.0.0.1", 9)
    steps = 0

    def count(_frame: FrameType, event: str, _what: object) -> None:
        nonlocal steps
        steps += event == "call"

    def handle(event: Event) -> None:
        planner.handle(event, 1.0)
        planner.next_wake(1.0)

    handle(Acquire(ticket=1, model="model-0", deadline=10))
    handle(Fetched(model="model-0", epoch=1))
    handle(BecameReady(model="model-0", epoch=1, endpoint=address))
    handle(Released(ticket=1, served=True))
    sys.setprofile(count)
    try:
        handle(Acquire(ticket=2, model="model-0", deadline=10))
        handle(Released(ticket=2, served=True))
    finally:
        sys.setprofile(None)
    return steps


def test_models_at_rest_make_no_request_dearer() -> None:
    assert steps_of_a_request(MODELS) == steps_of_a_request(1)
