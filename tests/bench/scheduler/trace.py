"""What is asked of a machine, and which machine: written down in advance, so that all policies get the same.

Times are seconds of the simulation, sizes are bytes.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

GIB = 1 << 30

THINK = 0.05
"""Seconds in which a client that has its answer asks again."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A model. `split`: it takes a part of every GPU. `slots`: requests that run at once, at full speed.

    `reads`: seconds until a server that was started anew has the conversation of one client.
    """

    name: str
    size: int
    slots: int = 4
    load: float = 5.0
    unload: float = 0.5
    split: bool = False
    reads: float = 0.0


class Step(NamedTuple):
    """A client thinks, then asks; open loops have the time of the request instead of the thinking."""

    think: float
    model: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Trace:
    """`arrivals` come whatever happens; each of `scripts` is a client that waits for one answer before it
    goes on.

    `contended`: two models that never fit together, each with no more clients than slots, so that the bound
    of a wait is known.
    """

    name: str
    title: str
    gpus: tuple[int, ...]
    specs: tuple[Spec, ...]
    seconds: float
    arrivals: tuple[Step, ...] = ()
    scripts: tuple[tuple[Step, ...], ...] = ()
    contended: bool = False

    @property
    def hot(self) -> tuple[str, ...]:
        """The models, the most popular first: what a user who writes the sets of llama-swap by hand knows."""
        steps = itertools.chain(self.arrivals, *self.scripts)
        counts = dict.fromkeys((spec.name for spec in self.specs), 0)
        for step in steps:
            counts[step.model] += 1
        return tuple(sorted(counts, key=lambda name: -counts[name]))

    @property
    def longest(self) -> float:
        """Seconds of the longest request."""
        return max(step.seconds for step in itertools.chain(self.arrivals, *self.scripts))


def _pair(load: float = 5.0) -> tuple[Spec, ...]:
    return Spec("a", 20 * GIB, load=load), Spec("b", 20 * GIB, load=load)


def _poisson(rng: random.Random, rate: float, seconds: float) -> Iterator[float]:
    now = rng.expovariate(rate)
    while now < seconds:
        yield now
        now += rng.expovariate(rate)


def steady(seconds: float, clients: int = 4) -> Trace:
    """Two models that do not fit together, each with clients that ask again at once."""
    rng = random.Random(1)
    scripts = [
        tuple(Step(THINK, model, rng.uniform(0.8, 1.2)) for _ in range(int(seconds)))
        for model in "ab"
        for _ in range(clients)
    ]
    title = f"two models, one fits, {clients} clients each that ask again at once"
    return Trace("steady", title, (24 * GIB,), _pair(), seconds, scripts=tuple(scripts), contended=True)


def thrash(seconds: float, load: float = 5.0) -> Trace:
    """One client each, with a pause between its requests, in which its model looks idle."""
    rng = random.Random(2)
    scripts = [
        tuple(Step(rng.uniform(0.1, 0.5), model, rng.uniform(0.8, 1.2)) for _ in range(int(seconds)))
        for model in "ab"
    ]
    title = f"two models, one fits, 1 client each that pauses 0.3 s, loads of {load:.0f} s"
    name = f"thrash {load:.0f}"
    return Trace(name, title, (24 * GIB,), _pair(load), seconds, scripts=tuple(scripts), contended=True)


PROMPT = 8000
"""Tokens of a long conversation."""
PACE = 1000.0
"""Tokens that are read in a second: those of a 30B model on one GPU."""
WEIGHT = 128 << 10
"""Bytes of a token in the cache."""
DISK = 2e9
"""Bytes that the disk reads and writes in a second."""


def long_prompts(seconds: float, clients: int, *, saved: bool) -> Trace:
    """Two models with agents, whose conversations are read again after each swap, or saved and restored."""
    rng = random.Random(7)
    scripts = [
        tuple(Step(rng.uniform(0.5, 1.5), model, rng.uniform(0.8, 1.2)) for _ in range(int(seconds)))
        for model in "ab"
        for _ in range(clients)
    ]
    file = 0.05 + PROMPT * WEIGHT / DISK
    specs = tuple(
        replace(spec, reads=file, unload=spec.unload + clients * file)
        if saved
        else replace(spec, reads=PROMPT / PACE)
        for spec in _pair()
    )
    how = "saved" if saved else "read again"
    title = f"two models, one fits, {clients} agents each with {PROMPT} tokens, {how} after a swap"
    return Trace(f"prompts {how}", title, (24 * GIB,), specs, seconds, scripts=tuple(scripts))


def poisson(seconds: float, load: float = 0.7) -> Trace:
    """Requests that come whatever happens; the work alone is `load` of what one model's slots can do."""
    rng = random.Random(3)
    rate = load * _pair()[0].slots
    arrivals = tuple(Step(at, rng.choice("ab"), rng.expovariate(1.0)) for at in _poisson(rng, rate, seconds))
    title = f"two models, one fits, Poisson, {load:.0%} of capacity without swaps"
    name = f"poisson {load:.0%}".replace("%", "")
    return Trace(name, title, (24 * GIB,), _pair(), seconds, arrivals)


def zipf(seconds: float) -> Trace:
    """Many models, few of which are popular."""
    rng = random.Random(4)
    names = [f"{letter}{number}" for number, letter in enumerate(rng.sample("abcdefghijklmnopqrst", 20))]
    weights = [1 / (rank + 1) ** 1.1 for rank in range(20)]
    arrivals = tuple(
        Step(at, rng.choices(names, weights)[0], rng.expovariate(0.5)) for at in _poisson(rng, 1.0, seconds)
    )
    specs = tuple(Spec(name, 8 * GIB) for name in names)
    title = "20 models, Zipf 1.1, two GPUs that hold 3 each, 1 request/s"
    return Trace("zipf", title, (25 * GIB, 25 * GIB), specs, seconds, arrivals)


def agents(seconds: float, fit: int) -> Trace:
    """A burst of agents that each go A B A C A B ... with short calls."""
    rng = random.Random(5)
    scripts = []
    for _ in range(6):
        pattern = itertools.cycle("abac")
        steps = [Step(0.2, next(pattern), rng.uniform(0.3, 0.9)) for _ in range(int(seconds))]
        scripts.append((steps[0]._replace(think=rng.uniform(0.0, 1.0)), *steps[1:]))
    specs = tuple(Spec(name, 10 * GIB) for name in "abc")
    title = f"6 agents at once, each A B A C A B ..., {fit} of the three fits"
    return Trace(f"agents {fit}", title, ((10 * fit + 4) * GIB,), specs, seconds, scripts=tuple(scripts))


def giant(seconds: float) -> Trace:
    """One model that needs both GPUs among four that fit together."""
    rng = random.Random(6)
    small = [Spec(name, 10 * GIB) for name in "abcd"]
    arrivals = [Step(at, rng.choice("abcd"), rng.expovariate(1.0)) for at in _poisson(rng, 2.0, seconds)]
    arrivals += [Step(at, "giant", rng.uniform(2.0, 6.0)) for at in _poisson(rng, 0.05, seconds)]
    specs = (*small, Spec("giant", 40 * GIB, load=10.0, split=True))
    title = "one that needs both GPUs (0.05/s) among four that fit together (2/s)"
    return Trace("giant", title, (24 * GIB, 24 * GIB), specs, seconds, tuple(sorted(arrivals)))


def all_traces(seconds: float) -> list[Trace]:
    """Those of the table."""
    return [
        steady(seconds),
        thrash(seconds),
        thrash(seconds, 30.0),
        poisson(seconds, 0.4),
        poisson(seconds, 0.7),
        zipf(seconds),
        agents(seconds, 1),
        agents(seconds, 2),
        giant(seconds),
    ]
