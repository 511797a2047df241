"""Traces recorded from a gateway: its JSON log in, lines of `{"t", "model", "seconds"}` out, and back to a
trace.

`t` is when a request came, `seconds` what its model worked for it; `load` is there if it waited for a load.
"""

import datetime
import json
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.bench.scheduler.trace import GIB, Spec, Step, Trace


def recorded(log: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The requests of a gateway's log that were answered, by the time at which they came."""
    found = []
    for line in log:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("event") != "request" or entry.get("outcome") != "ok" or "queued_ms" not in entry:
            continue
        waited = entry["queued_ms"] + entry["fetched_ms"] + entry["loaded_ms"]
        came = datetime.datetime.fromisoformat(entry["timestamp"]).timestamp() - entry["total_ms"] / 1000
        seconds = max(0.001, (entry["total_ms"] - waited) / 1000)
        found.append((came, entry["model"], seconds, entry["loaded_ms"] / 1000))
    found.sort()
    for came, model, seconds, load in found:
        row = {"t": round(came - found[0][0], 3), "model": model, "seconds": round(seconds, 3)}
        yield row | ({"load": round(load, 3)} if load else {})


def read_trace(path: Path, fit: int = 1) -> Trace:
    """A recorded trace, on one GPU that holds `fit` of its models. It ends 10 s after its last request."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    loads: dict[str, list[float]] = {row["model"]: [] for row in rows}
    for row in rows:
        if "load" in row:
            loads[row["model"]].append(row["load"])
    specs = tuple(
        Spec(name, 8 * GIB, load=statistics.median(times) if times else 5.0) for name, times in loads.items()
    )
    arrivals = tuple(Step(row["t"], row["model"], row["seconds"]) for row in rows)
    title = f"{len(rows)} requests of a real gateway, {fit} of {len(specs)} models fits"
    return Trace("recorded", title, (8 * fit * GIB,), specs, rows[-1]["t"] + 10.0, arrivals)
