"""What is compared: work done, swaps, waits; and the goals. Pure."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.bench.scheduler.machine import LAG, Machine
from tests.bench.scheduler.trace import Trace

LOOK = 0.1
"""Seconds between two looks of the planner at memory that has to come back."""

OURS, LLAMA_SWAP = "ours", "llama-swap"


@dataclass(frozen=True, slots=True)
class Figures:
    """One policy on one trace. Waits are seconds from the first asking to the service; who waits counts."""

    trace: Trace
    policy: str
    requests_per_minute: float
    work_per_minute: float
    """Seconds of service in requests that were answered."""
    loads: int
    moving: float
    """Share of the GPUs' time in which a model was loaded or unloaded there."""
    mean: float
    p99: float
    longest: float
    lost: int

    @classmethod
    def of(cls, machine: Machine, policy: str) -> "Figures":
        """What became of a trace."""
        done = [request for request in machine.requests if request.done_at is not None]
        waits = sorted(
            (machine.now if request.started_at is None else request.started_at) - request.asked_at
            for request in machine.requests
        )
        minutes = machine.trace.seconds / 60
        return cls(
            trace=machine.trace,
            policy=policy,
            requests_per_minute=len(done) / minutes,
            work_per_minute=sum(request.seconds for request in done) / minutes,
            loads=machine.loads,
            moving=machine.moving,
            mean=statistics.mean(waits),
            p99=waits[int(len(waits) * 0.99)],
            longest=waits[-1],
            lost=machine.lost,
        )


def wait_bound(trace: Trace, patience: float) -> float:
    """Seconds that a request of two contending models waits at most: its patience, a drain and a load.

    The drain is the longest request, the unload, and the time until the memory is seen to be back. Where a
    load takes longer than patience, the other model was loaded for that long, and worked half as long, first.
    """
    spec = trace.specs[0]
    swap = trace.longest + spec.unload + LAG + LOOK + spec.load
    return (1.5 * swap if spec.load > patience else patience) + swap


def work_limit(trace: Trace, patience: float) -> float:
    """Seconds of service per minute that no schedule of two contending models exceeds within the bound of a
    wait.

    While one is away, both swaps and the other's work take place; that is at most the wait that is allowed,
    so that of each period at least one swap is no work. Drains, in which slots are idle, are not counted.
    """
    spec = trace.specs[0]
    swap = spec.load + spec.unload
    think = max(step.think for script in trace.scripts for step in script)
    away = wait_bound(trace, patience) + think
    share = (away - 2 * swap) / (away - swap)
    steps = [step for script in trace.scripts for step in script]
    duty = sum(step.seconds for step in steps) / sum(step.seconds + step.think for step in steps)
    return 60 * share * duty * len(trace.scripts) / 2


@dataclass(frozen=True, slots=True)
class Goal:
    """Whether something was reached."""

    text: str
    value: float
    relation: str
    limit: float

    @property
    def met(self) -> bool:
        """It was."""
        return self.value >= self.limit if self.relation == ">=" else self.value <= self.limit

    def __str__(self) -> str:
        met = "met   " if self.met else "MISSED"
        return f"{met}  {self.text}: {self.value:.2f} (goal {self.relation} {self.limit:.2f})"


def goals_of(rows: Sequence[Figures], patience: float) -> list[Goal]:
    """The goals on one trace; `rows` are our figures first, and the clairvoyant's last."""
    ours, best = rows[0], rows[-1]
    name = ours.trace.name
    goals = [Goal(f"{name}: work / clairvoyant's", ours.work_per_minute / best.work_per_minute, ">=", 0.85)]
    if name.startswith("thrash"):
        other = next(row for row in rows if row.policy == LLAMA_SWAP)
        goals.append(
            Goal(f"{name}: work / llama-swap's", ours.work_per_minute / other.work_per_minute, ">=", 2.0)
        )
    if ours.trace.contended:
        bound = wait_bound(ours.trace, patience)
        goals.append(Goal(f"{name}: longest wait, seconds", ours.longest, "<=", bound))
    return [*goals, Goal(f"{name}: requests lost", ours.lost, "<=", 0)]


HEAD = "| policy | requests/min | work s/min | loads | loading | mean wait s | p99 | longest | lost |"


def table(rows: Iterable[Figures]) -> list[str]:
    """Markdown."""
    return [HEAD, "|---|---|---|---|---|---|---|---|---|"] + [
        f"| {row.policy} | {row.requests_per_minute:.1f} | {row.work_per_minute:.1f} | {row.loads} "
        f"| {row.moving:.0%} | {row.mean:.1f} | {row.p99:.1f} | {row.longest:.1f} | {row.lost} |"
        for row in rows
    ]
