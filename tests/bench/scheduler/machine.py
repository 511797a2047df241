"""The simulated machine: a clock, GPUs with bytes, model servers with slots, and the clients that ask.

Kept simple: the busy slots of a model all run at full speed, models do not slow each other down, a load has
all its bytes from its first moment, and what a server had comes back `LAG` seconds after its end.
"""

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from tests.bench.scheduler.trace import Spec, Step, Trace

LAG = 0.2
"""Seconds after a server's end in which the driver still counts its memory."""

RETRY = 1.0
"""Seconds after which a client whose request was lost asks again."""

FORESIGHT = 50
"""So many steps of a client's script are looked ahead."""


@dataclass(eq=False, slots=True)
class Request:
    """One request; `asked_at` is when it was asked for the first time."""

    id: int
    model: str
    seconds: float
    asked_at: float
    client: int | None = None
    started_at: float | None = None
    done_at: float | None = None


@dataclass(eq=False, slots=True)
class Process:
    """A model server. What it is given beyond its slots waits in its own queue, as in llama-server."""

    number: int
    spec: Spec
    shares: Mapping[int, int]
    ready: bool = False
    stopping: bool = False
    running: set[Request] = field(default_factory=set)
    queue: deque[Request] = field(default_factory=deque)
    read: set[int | None] = field(default_factory=set)
    """The clients whose conversations it has."""


class Policy(Protocol):
    """What a scheduler is told. It answers with `Machine.load`, `stop`, `serve` and `at`."""

    def asked(self, request: Request) -> None:
        """Somebody asks."""

    def finished(self, request: Request) -> None:
        """A request that was served is over."""

    def ready(self, model: str) -> None:
        """A load is over."""

    def gone(self, model: str) -> None:
        """A server that was told to stop has ended."""


class Machine:
    """Plays everything but the scheduler, over the seconds of one trace."""

    def __init__(self, trace: Trace, policy: "Callable[[Machine], Policy]") -> None:
        self.trace = trace
        self.now = 0.0
        self.specs = {spec.name: spec for spec in trace.specs}
        self.processes: dict[str, Process] = {}
        self.used = [0] * len(trace.gpus)
        self.overcommitted = 0
        self.loads = 0
        self.lost = 0
        self.requests: list[Request] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._starts = 0
        self._moving = [0] * len(trace.gpus)
        self._moved = 0.0
        self._moved_until = 0.0
        self._positions = [0] * len(trace.scripts)
        self._next_asks: list[float | None] = [None] * len(trace.scripts)
        self._arrivals: dict[str, list[float]] = {spec.name: [] for spec in trace.specs}
        self._policy = policy(self)

    def run(self) -> "Machine":
        """Everything that happens within the trace's seconds."""
        for step in self.trace.arrivals:
            self._arrivals[step.model].append(step.think)
            self.at(step.think, partial(self._ask, step))
        for client in range(len(self.trace.scripts)):
            self._go_on(client)
        while self._heap and self._heap[0][0] <= self.trace.seconds:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = self.trace.seconds
        self._account()
        return self

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do something at a time; of those at the same time, what was asked for first."""
        self._sequence += 1
        heapq.heappush(self._heap, (time, self._sequence, action))

    # Servers

    def load(self, model: str, shares: Mapping[int, int]) -> Process:
        """Start a model's server with so many bytes of each GPU."""
        assert model not in self.processes, f"{model} runs already"
        self._starts += 1
        self.loads += 1
        process = self.processes[model] = Process(self._starts, self.specs[model], shares)
        for gpu, size in shares.items():
            self.used[gpu] += size
            self.overcommitted = max(self.overcommitted, self.used[gpu] - self.trace.gpus[gpu])
        self._move(process, 1)
        self.at(self.now + process.spec.load, lambda: self._loaded(process))
        return process

    def _loaded(self, process: Process) -> None:
        if not process.stopping:
            self._move(process, -1)
            process.ready = True
            self._policy.ready(process.spec.name)

    def stop(self, model: str) -> None:
        """End a server. Requests that it has are lost, and asked again."""
        process = self.processes[model]
        assert not process.stopping, f"{model} stops already"
        if process.ready:
            self._move(process, 1)
        process.ready, process.stopping = False, True
        for request in (*process.running, *process.queue):
            self.lose(request)
        process.running.clear()
        process.queue.clear()
        self.at(self.now + process.spec.unload, lambda: self._ended(process))

    def _ended(self, process: Process) -> None:
        self._move(process, -1)
        del self.processes[process.spec.name]
        self.at(self.now + LAG, lambda: self._freed(process))
        self._policy.gone(process.spec.name)

    def _freed(self, process: Process) -> None:
        for gpu, size in process.shares.items():
            self.used[gpu] -= size

    def serve(self, request: Request) -> None:
        """Give a request to the server of its model, which is ready."""
        process = self.processes[request.model]
        assert process.ready, f"{request.model} is not ready"
        if len(process.running) < process.spec.slots:
            self._begin(request, process)
        else:
            process.queue.append(request)

    def _begin(self, request: Request, process: Process) -> None:
        process.running.add(request)
        request.started_at = self.now
        reads = 0.0 if request.client in process.read else process.spec.reads
        process.read.add(request.client)
        self.at(self.now + reads + request.seconds, lambda: self._finish(request, process))

    def _finish(self, request: Request, process: Process) -> None:
        if request not in process.running:
            return
        process.running.remove(request)
        request.done_at = self.now
        if process.queue:
            self._begin(process.queue.popleft(), process)
        self._policy.finished(request)
        if request.client is not None:
            self._go_on(request.client)

    # Room

    def rooms(self, models: Iterable[str]) -> list[int]:
        """Bytes of each GPU beside the servers of these models."""
        rooms = list(self.trace.gpus)
        for model in models:
            for gpu, size in self.processes[model].shares.items():
                rooms[gpu] -= size
        return rooms

    def place(self, model: str, beside: Collection[str]) -> dict[int, int] | None:
        """Bytes on each GPU for one more model: the fullest GPU that it fits; None if it does not fit."""
        spec, rooms = self.specs[model], self.rooms(beside)
        if spec.split:
            part = spec.size // len(rooms)
            return dict.fromkeys(range(len(rooms)), part) if min(rooms) >= part else None
        fitting = [gpu for gpu, room in enumerate(rooms) if room >= spec.size]
        return {min(fitting, key=lambda gpu: rooms[gpu]): spec.size} if fitting else None

    # Clients

    def _ask(self, step: Step, client: int | None = None) -> None:
        request = Request(len(self.requests), step.model, step.seconds, self.now, client)
        self.requests.append(request)
        if client is not None:
            self._next_asks[client] = None
        self._policy.asked(request)

    def _go_on(self, client: int) -> None:
        script, position = self.trace.scripts[client], self._positions[client]
        if position < len(script):
            self._positions[client] += 1
            step = script[position]
            self._next_asks[client] = self.now + step.think
            self.at(self.now + step.think, lambda: self._ask(step, client))

    def lose(self, request: Request) -> None:
        """The client gets an error, and asks again."""
        self.lost += 1
        request.started_at = None
        self.at(self.now + RETRY, lambda: self._policy.asked(request))

    def next_need(self, model: str) -> float:
        """When somebody will ask for a model at the earliest: the future, for policies that may know it."""
        times = self._arrivals[model]
        known = bisect_right(times, self.now)
        soonest = times[known] if known < len(times) else float("inf")
        for client, script in enumerate(self.trace.scripts):
            position, due = self._positions[client], self._next_asks[client]
            time = self.now
            if due is not None:
                position -= 1
                time = due - script[position].think
            for step in script[position : position + FORESIGHT]:
                time += step.think
                if step.model == model or time >= soonest:
                    soonest = min(soonest, time)
                    break
                time += step.seconds
        return soonest

    # Figures

    def _move(self, process: Process, change: int) -> None:
        self._account()
        for gpu in process.shares:
            self._moving[gpu] += change

    def _account(self) -> None:
        self._moved += (self.now - self._moved_until) * sum(1 for count in self._moving if count)
        self._moved_until = self.now

    @property
    def moving(self) -> float:
        """The share of the GPUs' time in which a model was being loaded or unloaded there."""
        return self._moved / (self.trace.seconds * len(self.trace.gpus))
