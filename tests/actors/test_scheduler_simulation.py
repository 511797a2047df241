"""The planner over simulated minutes of traffic: nobody starves, nothing is lost or overcommitted."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.scheduler.__main__ import POLICIES
from tests.bench.scheduler.figures import Figures, wait_bound
from tests.bench.scheduler.machine import Machine, Request
from tests.bench.scheduler.ours import POLICY, Ours
from tests.bench.scheduler.peers import LlamaSwap
from tests.bench.scheduler.recording import read_trace, recorded
from tests.bench.scheduler.trace import GIB, Trace, all_traces, long_prompts, steady, thrash

SECONDS = 180.0


class Counting(Machine):
    """Counts how often each request is given to a server."""

    def __init__(self, trace: Trace) -> None:
        self.served: Counter[Request] = Counter()
        super().__init__(trace, Ours)

    def serve(self, request: Request) -> None:
        self.served[request] += 1
        super().serve(request)


def test_steady_traffic_starves_nobody_here_and_somebody_under_another_policy() -> None:
    trace = steady(SECONDS)
    ours = Figures.of(Machine(trace, Ours).run(), "ours")
    other = Figures.of(Machine(trace, LlamaSwap).run(), "llama-swap")
    assert ours.longest <= wait_bound(trace, POLICY.patience)
    assert other.longest > SECONDS / 2, "or else this simulation would not show it"


@pytest.mark.parametrize("load", [5.0, 30.0])
def test_two_models_that_look_idle_between_requests_do_not_thrash(load: float) -> None:
    trace = thrash(2 * SECONDS, load)
    ours = Figures.of(Machine(trace, Ours).run(), "ours")
    other = Figures.of(Machine(trace, LlamaSwap).run(), "llama-swap")
    assert ours.work_per_minute >= 2 * other.work_per_minute
    assert ours.longest <= wait_bound(trace, POLICY.patience)


def test_prompts_that_are_saved_do_three_times_the_work() -> None:
    again, saved = (
        Figures.of(Machine(long_prompts(2 * SECONDS, 1, saved=saved), Ours).run(), "ours")
        for saved in (False, True)
    )
    assert saved.work_per_minute >= 3 * again.work_per_minute
    assert saved.longest <= again.longest


@pytest.mark.parametrize("trace", all_traces(SECONDS), ids=lambda trace: trace.name)
def test_every_request_is_resolved_once_and_no_gpu_is_overcommitted(trace: Trace) -> None:
    machine = Counting(trace)
    machine.run()
    assert machine.lost == 0
    assert set(machine.served.values()) == {1}
    assert machine.overcommitted == 0
    waiting = [request for request in machine.requests if request not in machine.served]
    assert all(request.asked_at > SECONDS - 60 for request in waiting)
    assert machine.loads > 1


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_with_room_for_all_every_policy_loads_each_model_once(policy: type[Ours]) -> None:
    trace = replace(steady(SECONDS), gpus=(64 * GIB,))
    machine = Machine(trace, policy).run()
    assert (machine.loads, machine.lost, machine.overcommitted) == (2, 0, 0)
    assert Figures.of(machine, "").longest < 11


def test_a_log_of_the_gateway_becomes_a_trace(tmp_path: Path) -> None:
    line = {
        "event": "request",
        "outcome": "ok",
        "model": "a",
        "queued_ms": 100.0,
        "fetched_ms": 0.0,
        "loaded_ms": 900.0,
        "total_ms": 1500.0,
        "timestamp": "2026-11-25T10:00:10.000000Z",
    }
    later = line | {"model": "b", "loaded_ms": 0.0, "timestamp": "2026-11-25T10:00:11Z"}
    log = [later, line, line | {"outcome": "error"}, {"event": "listening"}]
    rows = list(recorded(["not JSON", *map(json.dumps, log)]))
    assert rows == [
        {"t": 0.0, "model": "a", "seconds": 0.5, "load": 0.9},
        {"t": 1.0, "model": "b", "seconds": 1.4},
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    trace = read_trace(path)
    assert [(spec.name, spec.load) for spec in trace.specs] == [("a", 0.9), ("b", 5.0)]
    assert all(request.done_at is not None for request in Machine(trace, Ours).run().requests)
