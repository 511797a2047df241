"""How much one could do who knows the future: the most work of many schedules, tried on the very trace."""

import itertools
import math
from collections import deque
from dataclasses import dataclass
from functools import partial

from tests.bench.scheduler.figures import Figures, wait_bound
from tests.bench.scheduler.machine import Machine, Request
from tests.bench.scheduler.trace import Trace


@dataclass(frozen=True, slots=True)
class Choice:
    """One schedule. A model yields when it is `quantum` seconds old, or when nobody waits for it and nobody
    will within `hold` seconds. `by_work`: of those that wait for room, the one with the most work comes
    first, not the one that waits for longest.
    """

    quantum: float = math.inf
    hold: float = 0.0
    by_work: bool = False


class Clairvoyant:
    """Evicts what is needed again last (Belady), and knows when that is."""

    def __init__(self, machine: Machine, choice: Choice) -> None:
        self._machine = machine
        self._choice = choice
        self._queues: dict[str, deque[Request]] = {name: deque() for name in machine.specs}
        self._ready_at: dict[str, float] = {}
        self._yielding: set[str] = set()

    def asked(self, request: Request) -> None:
        """Serve or wait."""
        self._queues[request.model].append(request)
        self._work()

    def finished(self, request: Request) -> None:
        """The last request of a model that yields."""
        self._work()

    def ready(self, model: str) -> None:
        """Its quantum begins."""
        self._ready_at[model] = self._machine.now
        if self._choice.quantum < math.inf:
            self._machine.at(self._machine.now + self._choice.quantum, self._work)
        self._work()

    def gone(self, model: str) -> None:
        """There is room. It does not wait for the memory to be seen."""
        self._work()

    def _work(self) -> None:
        for model, process in self._machine.processes.items():
            if process.ready and model not in self._yielding:
                queue = self._queues[model]
                while queue and len(process.running) < process.spec.slots:
                    self._machine.serve(queue.popleft())
        wanted = [
            model for model, queue in self._queues.items() if queue and model not in self._machine.processes
        ]
        for model in sorted(wanted, key=self._rank):
            self._make_way(model)
        for model in [*self._yielding]:
            process = self._machine.processes[model]
            if not process.running:
                self._yielding.remove(model)
                self._machine.stop(model)

    def _rank(self, model: str) -> float:
        queue = self._queues[model]
        if self._choice.by_work:
            return -sum(request.seconds for request in queue)
        return queue[0].asked_at

    def _make_way(self, model: str) -> None:
        processes = self._machine.processes
        shares = self._machine.place(model, processes)
        if shares is not None:
            self._machine.load(model, shares)
            return
        staying = [name for name in processes if name not in self._yielding and not processes[name].stopping]
        if self._machine.place(model, staying) is not None:
            return
        victims = sorted(filter(self._may_go, staying), key=self._machine.next_need)
        chosen = []
        while victims:
            chosen.append(victims.pop())
            staying.remove(chosen[-1])
            if self._machine.place(model, staying) is not None:
                self._yielding.update(chosen)
                return

    def _may_go(self, model: str) -> bool:
        process = self._machine.processes[model]
        if not process.ready:
            return False
        now = self._machine.now
        if now >= self._ready_at[model] + self._choice.quantum:
            return True
        need = self._machine.next_need(model)
        return not self._queues[model] and not process.running and need > now + self._choice.hold


def best_of(trace: Trace, patience: float) -> Figures:
    """The schedule that does the most work; of equal ones, the one with the shorter waits.

    Of two models that contend, only those are taken in which nobody waits for longer than `wait_bound`.
    """
    if trace.contended:
        swap = trace.specs[0].load + trace.specs[0].unload
        choices = [Choice(swap * part / 20, hold) for part in range(4, 41) for hold in (0.0, 1.0)]
    else:
        tried = itertools.product((8.0, math.inf), (0.0, 1.0, 5.0), (False, True))
        choices = [Choice(*choice) for choice in tried]
    kind = "clairvoyant (bound)" if trace.contended else "clairvoyant (heuristic)"
    rows = [Figures.of(Machine(trace, partial(Clairvoyant, choice=choice)).run(), kind) for choice in choices]
    bound = wait_bound(trace, patience) if trace.contended else math.inf
    fair = [row for row in rows if row.longest <= bound]
    return max(fair, key=lambda row: (round(row.work_per_minute), -row.mean))
