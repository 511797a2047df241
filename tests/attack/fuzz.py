"""Seeded mutations of requests to a gateway, and of what the readers of its edges read."""

from collections.abc import Iterator
from pathlib import Path

from tests.attack import fuzz_readers, fuzz_requests


def attack(folder: Path, seed: int, seconds: float) -> Iterator[str]:
    """The readers for a quarter of the time, then a gateway."""
    yield from fuzz_readers.attack(seed, seconds / 4)
    (folder / "fuzz").mkdir()
    yield from fuzz_requests.attack(folder / "fuzz", seed, seconds * 3 / 4)
