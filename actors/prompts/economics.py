"""What is worth saving, restoring and keeping. Pure; all times in seconds."""

import math
from collections.abc import Iterable, Iterator

import msgspec

LIMIT = 10.0
"""Most seconds by which saving delays the end of one server."""
LEAST = 0.1
"""Seconds that a saved prompt must be expected to spare beyond what it costs."""
HALF_LIFE = 3600.0
"""Seconds without a request after which a conversation is half as likely to continue."""
CONTINUES, BEGINS = 0.8, 0.5
"""The chance that a conversation continues: one that has continued before, and one of a single request."""
BANDWIDTH = 500e6
"""Bytes per second to and from the disk, until it has been measured."""
OVERHEAD = 0.02
"""Seconds of a save or a restore besides its bytes."""
UNKNOWN_WEIGHT = 128 << 10
"""Bytes for each token in the cache, until it has been measured: those of an 8B model."""


def chance(turns: int, idle: float) -> float:
    """Return the chance that a conversation of `turns` requests continues after `idle` seconds."""
    return (CONTINUES if turns > 1 else BEGINS) * math.pow(0.5, max(0.0, idle) / HALF_LIFE)


def duration(size: float, bandwidth: float) -> float:
    """Return the seconds that `size` bytes take to or from the disk."""
    return OVERHEAD + size / bandwidth


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt in a slot. `spares`: the seconds that reading it again would take; `size`: its bytes."""

    slot: int
    spares: float
    chance: float
    size: int


def worth_saving(
    candidates: Iterable[Candidate], bandwidth: float, limit: float = LIMIT
) -> Iterator[tuple[Candidate, float]]:
    """Yield the prompts that are worth it, the best first, and the most seconds that saving each may take.

    A prompt is worth it if the seconds it is expected to spare are more than those of writing and reading
    it. All together never take more than `limit`.
    """

    def gain(one: Candidate) -> float:
        return one.spares * one.chance / duration(one.size, bandwidth)

    left = limit
    for one in sorted(candidates, key=gain, reverse=True):
        expected, write = one.spares * one.chance, duration(one.size, bandwidth)
        if expected < 2 * write + LEAST or write > left:
            continue
        yield one, min(left, expected)
        left -= write


def worth_restoring(spares: float, size: int, bandwidth: float) -> bool:
    """Whether restoring `size` bytes is faster than reading the prompt, which would take `spares`."""
    return spares > duration(size, bandwidth)


def smoothed(before: float | None, measured: float) -> float:
    """Return a running mean."""
    return measured if before is None else before + 0.3 * (measured - before)
