"""The planner itself, driven as the supervisor drives it: nothing of it is copied or made simpler here."""

import math
from collections import deque

from actors.messages import (
    Acquire,
    BecameReady,
    Event,
    Exited,
    Fetched,
    FetchFiles,
    Grant,
    Look,
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
from tests.bench.scheduler.machine import Machine, Request
from tests.bench.scheduler.trace import Spec

SAMPLED_EACH = 5.0
"""Seconds between two looks at the memory that nobody asked for."""

LAYERS = 40
"""Of a model that is split."""

POLICY = Policy(size=0, queue_size=1 << 30)
"""The settings as they are by default; only the queue has no limit here, as with the peers."""

NOWHERE = ServerAddress("127.0.0.1", 9)


def demand_of(spec: Spec) -> Demand:
    """As predicted: exact, and on GPUs only. That a load takes so long was learned from earlier ones."""
    count = LAYERS if spec.split else 1
    shared = 0 if spec.split else None
    whole = Option(how="whole", context=4096, layers=(spec.size // count,) * count, shared=shared)
    return Demand(options=(whole,), load_seconds=spec.load)


class Ours:
    """Plays the door, the model actors and the monitor of the GPUs."""

    def __init__(self, machine: Machine, policy: Policy = POLICY) -> None:
        self._machine = machine
        specs = [ModelSpec(name=spec.name, slots=spec.slots) for spec in machine.trace.specs]
        self._planner = Planner(policy, specs)
        self._epochs: dict[str, int] = {}
        self._requests: dict[int, Request] = {}
        self._tickets: dict[Request, int] = {}
        self._wake = math.inf
        machine.at(0.0, self._sample_and_repeat)

    def asked(self, request: Request) -> None:
        """A ticket for each time that it is asked."""
        ticket = len(self._requests)
        self._requests[ticket] = request
        self._tickets[request] = ticket
        self._send(Acquire(ticket=ticket, model=request.model, deadline=math.inf))

    def finished(self, request: Request) -> None:
        """The lease is given back."""
        self._send(Released(ticket=self._tickets[request], served=True))

    def ready(self, model: str) -> None:
        """Tell so."""
        self._send(BecameReady(model=model, epoch=self._epochs[model], endpoint=NOWHERE))

    def gone(self, model: str) -> None:
        """Tell so."""
        self._send(Exited(model=model, epoch=self._epochs[model], failure=None))

    def _send(self, event: Event) -> None:
        events = deque([event])
        while events:
            for effect in self._planner.handle(events.popleft(), self._machine.now):
                match effect:
                    case FetchFiles(model=model, epoch=epoch):
                        demand = demand_of(self._machine.specs[model])
                        events.append(Fetched(model=model, epoch=epoch, demand=demand))
                    case StartServer(model=model, epoch=epoch, placement=placement):
                        assert placement is not None
                        self._epochs[model] = epoch
                        shares = {int(share.device): share.bytes for share in placement.shares}
                        process = self._machine.load(model, shares)
                        events.append(Spawned(model=model, epoch=epoch, process=process.number))
                    case StopServer(model=model):
                        self._machine.stop(model)
                    case Look(delay=delay):
                        self._machine.at(self._machine.now + delay, self._sample)
                    case Grant(ticket=ticket):
                        self._machine.serve(self._requests[ticket])
                    case Reject(ticket=ticket):
                        self._machine.lose(self._requests[ticket])
                    case _:
                        pass
        self._sleep()

    def _sleep(self) -> None:
        wake = self._planner.next_wake(self._machine.now)
        if wake != self._wake:
            self._wake = wake
            if wake < math.inf:
                self._machine.at(wake, lambda: self._tick(wake))

    def _tick(self, due: float) -> None:
        if due == self._wake:
            self._wake = math.inf
            self._send(Tick())

    def _sample(self) -> None:
        machine = self._machine
        devices = tuple(
            Device(
                id=str(gpu),
                index=gpu,
                name="simulated",
                total=total,
                used=machine.used[gpu],
                groups={
                    process.number: process.shares[gpu]
                    for process in machine.processes.values()
                    if gpu in process.shares
                },
            )
            for gpu, total in enumerate(machine.trace.gpus)
        )
        self._send(MemorySampled(asked_at=machine.now, devices=devices))

    def _sample_and_repeat(self) -> None:
        self._sample()
        self._machine.at(self._machine.now + SAMPLED_EACH, self._sample_and_repeat)
