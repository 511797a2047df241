"""The planner beside other schedulers on one simulated machine: tables, bars, goals.

Every policy gets the very same requests. Peers do what their source says, see `peers`; the clairvoyant is the
best of many schedules that know the future: on two contending models those that keep the bound of a wait,
elsewhere without such a bound, which is a heuristic and not a limit.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench.scheduler.chart import bars, svg
from tests.bench.scheduler.clairvoyant import best_of
from tests.bench.scheduler.figures import LLAMA_SWAP, OURS, Figures, Goal, goals_of, table, work_limit
from tests.bench.scheduler.machine import Machine, Policy
from tests.bench.scheduler.ours import POLICY, Ours
from tests.bench.scheduler.peers import LlamaSwap, Ollama, Seed
from tests.bench.scheduler.recording import read_trace, recorded
from tests.bench.scheduler.trace import PACE, PROMPT, Trace, all_traces, long_prompts

POLICIES: dict[str, Callable[[Machine], Policy]] = {
    OURS: Ours,
    "seed": Seed,
    LLAMA_SWAP: LlamaSwap,
    "ollama": Ollama,
}
RECORDED = Path(__file__).with_name("recorded.jsonl")


def compare(trace: Trace) -> list[Figures]:
    """All policies on one trace, ours first, the clairvoyant last."""
    rows = [Figures.of(Machine(trace, policy).run(), name) for name, policy in POLICIES.items()]
    return [*rows, best_of(trace, POLICY.patience)]


def _with_long_prompts(seconds: float) -> list[Goal]:
    """Print what saving prompts brings; return the goal."""
    print(f"### prompts: {PROMPT} tokens, {PACE:.0f} read in a second; {seconds:.0f} s\n")
    gains = []
    for clients in (1, 2, 4):
        again, saved = (
            Figures.of(Machine(long_prompts(seconds, clients, saved=saved), Ours).run(), name)
            for saved, name in ((False, f"{clients} each, read again"), (True, f"{clients} each, saved"))
        )
        lines = table([again, saved])
        print("\n".join(lines if clients == 1 else lines[2:]))
        gains.append(saved.work_per_minute / again.work_per_minute)
    print()
    return [Goal("prompts: work / that of reading again, 1 agent each", gains[0], ">=", 3.0)]


def main() -> None:
    """Print it all; write the plot."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scheduler", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="of each trace, simulated")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="run a recorded trace only")
    parser.add_argument("--fit", type=int, default=1, help="how many models of it the GPU holds")
    parser.add_argument("--record", type=Path, metavar="LOG", help="print the trace in a gateway's JSON log")
    parser.add_argument("--plot", type=Path, metavar="FILE", default=Path("build/scheduler.svg"))
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    options = parser.parse_args()
    if options.record:
        with options.record.open() as log:
            for row in recorded(log):
                print(json.dumps(row))
        return
    traces = [read_trace(options.trace, options.fit)] if options.trace else all_traces(options.seconds)
    if not options.trace:
        traces.append(read_trace(RECORDED))
    tables, goals = [], []
    for trace in traces:
        rows = compare(trace)
        print(f"### {trace.name}: {trace.title}; {trace.seconds:.0f} s\n")
        print("\n".join([*table(rows), "", *bars(rows), ""]))
        if trace.contended:
            limit = work_limit(trace, POLICY.patience)
            print(f"no schedule within the bound of a wait could do more than {limit:.1f} s/min\n")
        tables.append(rows)
        goals += goals_of(rows, POLICY.patience)
    if not options.trace:
        goals += _with_long_prompts(options.seconds)
    print("\n".join(map(str, goals)))
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    options.plot.write_text(svg(tables))
    print(f"\nplot: {options.plot}")
    if options.check and not all(goal.met for goal in goals):
        sys.exit(1)


if __name__ == "__main__":
    main()
