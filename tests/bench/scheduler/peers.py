"""What others do, as their source says, on the same machine; where there is a choice, the better for them.

None refuses a request because its queue is full; none runs out of memory because it has not come back yet.
"""

import itertools
from collections import Counter, deque

from tests.bench.scheduler.machine import Machine, Request


class Seed:
    """The seed project at da96ce2, src/frameworks_drivers/server_pool.py and server_lifecycle_manager.py.

    A pool of so many servers as the machine can hold. One lock, in the order of arrival, around finding a
    server and the whole load. The server that was given out least recently is ended, whether it works or not.
    One that did not get its memory stays unhealthy for ever.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        sizes = sorted(spec.size for spec in machine.trace.specs if not spec.split)
        count = sum(total // sizes[0] for total in machine.trace.gpus)
        self._servers: list[str | None] = [None] * count
        self._last_used = [0.0] * count
        self._healthy = [True] * count
        self._lock: deque[Request] = deque()
        self._loading: tuple[int, Request] | None = None

    def asked(self, request: Request) -> None:
        """Wait for the lock."""
        self._lock.append(request)
        self._work()

    def finished(self, request: Request) -> None:
        """Nobody counts the requests that run."""

    def ready(self, model: str) -> None:
        """The load is over, the lock is free."""
        assert self._loading is not None
        server, request = self._loading
        self._last_used[server] = self._machine.now
        self._loading = None
        self._machine.serve(request)
        self._work()

    def gone(self, model: str) -> None:
        """The server can take the next model."""
        self._load()

    def _work(self) -> None:
        while self._lock and self._loading is None:
            request = self._lock.popleft()
            healthy = [server for server, well in enumerate(self._healthy) if well]
            loaded = next((server for server in healthy if self._servers[server] == request.model), None)
            if loaded is not None:
                self._last_used[loaded] = self._machine.now
                self._machine.serve(request)
            elif not healthy:
                self._machine.lose(request)
            else:
                idle = next((server for server in healthy if self._servers[server] is None), None)
                server = min(healthy, key=lambda nth: self._last_used[nth]) if idle is None else idle
                self._loading = server, request
                if (victim := self._servers[server]) is not None:
                    self._machine.stop(victim)
                else:
                    self._load()

    def _load(self) -> None:
        assert self._loading is not None
        server, request = self._loading
        shares = self._machine.place(request.model, self._machine.processes)
        if shares is not None:
            self._servers[server] = request.model
            self._machine.load(request.model, shares)
            return
        self._healthy[server], self._servers[server], self._loading = False, None, None
        self._machine.lose(request)
        self._work()


class LlamaSwap:
    """llama-swap at 0bdb3720, internal/router/scheduler/fifo.go (OnRequest, OnSwapDone, OnServeDone,
    drainQueue).

    What is ready is served at once. The others wait in order of arrival; whoever waits for a model that is
    being loaded joins. A swap waits until its victims have nothing in flight. Its sets are written by hand
    (matrix); here all that fit together, the popular models first. Of sets that cost the same
    (internal/matrix/program.go, Solve) the first wins, so that the least popular model goes. Its limit of 10
    requests per model is lifted.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._listed = {name: rank for rank, name in enumerate(machine.trace.hot)}
        self._active: dict[str, tuple[set[str], list[Request]]] = {}
        self._queued: list[Request] = []
        self._in_flight: Counter[str] = Counter()

    def asked(self, request: Request) -> None:
        """Serve, join, swap or wait."""
        if not self._taken(request):
            self._queued.append(request)

    def finished(self, request: Request) -> None:
        """The queue is looked at when nothing of the model is in flight."""
        self._in_flight[request.model] -= 1
        if not self._in_flight[request.model]:
            self._drain()

    def ready(self, model: str) -> None:
        """All who waited for the swap are served."""
        _, waiters = self._active.pop(model)
        for request in waiters:
            self._serve(request)
        self._drain()

    def gone(self, model: str) -> None:
        """The last victim of a swap is gone: load."""
        for target, (evicted, _) in self._active.items():
            if model in evicted and not any(victim in self._machine.processes for victim in evicted):
                self._load(target)
                return

    def _taken(self, request: Request) -> bool:
        model = request.model
        if model in self._active:
            self._active[model][1].append(request)
            return True
        evicted = self._evicted_for(model)
        if self._collides(model, evicted):
            return False
        process = self._machine.processes.get(model)
        if process is not None and process.ready:
            self._serve(request)
            return True
        if any(self._in_flight[victim] for victim in evicted):
            return False
        self._active[model] = evicted, [request]
        for victim in evicted:
            self._machine.stop(victim)
        if not evicted:
            self._load(model)
        return True

    def _evicted_for(self, model: str) -> set[str]:
        running = {*self._machine.processes, *self._active}
        if model in running:
            return set()
        listed = sorted(running, key=lambda name: -self._listed[name])
        for count in range(len(listed) + 1):
            for evicted in itertools.combinations(listed, count):
                if self._compatible([model, *(name for name in listed if name not in evicted)]):
                    return set(evicted)
        raise AssertionError(f"{model} fits nowhere")

    def _compatible(self, models: list[str]) -> bool:
        rooms = list(self._machine.trace.gpus)
        for spec in sorted((self._machine.specs[name] for name in models), key=lambda spec: -spec.size):
            if spec.split:
                rooms = [room - spec.size // len(rooms) for room in rooms]
            else:
                rooms[rooms.index(max(rooms))] -= spec.size
        return min(rooms) >= 0

    def _collides(self, model: str, evicted: set[str]) -> bool:
        return any(
            other in evicted or model in victims or evicted & victims
            for other, (victims, _) in self._active.items()
        )

    def _drain(self) -> None:
        self._queued = [request for request in self._queued if not self._taken(request)]

    def _load(self, model: str) -> None:
        shares = self._machine.place(model, self._machine.processes)
        assert shares is not None
        self._machine.load(model, shares)

    def _serve(self, request: Request) -> None:
        self._in_flight[request.model] += 1
        self._machine.serve(request)


class Ollama:
    """Ollama at fb307609, server/sched.go (getRunner, processPending, findRunnerToUnload, processCompleted).

    What is loaded is served at once, also when it is to be unloaded. The others wait in order of arrival, and
    only the first of them is worked on: one load at a time (llm/llama_server.go, Load), or one unload. An
    idle model goes first, then by keep_alive, the same for all here, then by name. Three models per GPU at
    most. It waits for the memory to be back, which it looks at each 0.25 s. Its reserve of 20 % and the 5
    minutes of keep_alive are left out.
    """

    LOOK = 0.25
    MODELS_PER_GPU = 3

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._pending: deque[Request] = deque()
        self._loaded: set[str] = set()
        self._expiring: set[str] = set()
        self._in_use: Counter[str] = Counter()
        self._busy = False

    def asked(self, request: Request) -> None:
        """Serve or wait."""
        if request.model in self._loaded:
            self._serve(request)
        else:
            self._pending.append(request)
            self._work()

    def finished(self, request: Request) -> None:
        """The last request of a model that is to be unloaded."""
        self._in_use[request.model] -= 1
        self._unload_if_unused(request.model)

    def ready(self, model: str) -> None:
        """The first in the queue is served."""
        self._loaded.add(model)
        self._busy = False
        self._serve(self._pending.popleft())
        self._work()

    def gone(self, model: str) -> None:
        """Wait for the memory."""
        self._machine.at(self._machine.now + self.LOOK, self._unloaded)

    def _unloaded(self) -> None:
        self._busy = False
        self._work()

    def _work(self) -> None:
        while self._pending and not self._busy:
            model = self._pending[0].model
            if model in self._loaded:
                self._serve(self._pending.popleft())
                continue
            self._busy = True
            shares = self._machine.place(model, self._machine.processes)
            if shares is not None and len(self._loaded) < self.MODELS_PER_GPU * len(self._machine.trace.gpus):
                self._machine.load(model, shares)
            else:
                victim = min(self._loaded, key=lambda name: (self._in_use[name] > 0, name))
                self._expiring.add(victim)
                self._unload_if_unused(victim)

    def _unload_if_unused(self, model: str) -> None:
        if model in self._expiring and not self._in_use[model]:
            self._expiring.remove(model)
            self._loaded.remove(model)
            self._machine.stop(model)

    def _serve(self, request: Request) -> None:
        self._in_use[request.model] += 1
        self._machine.serve(request)
