"""Seeded mutations of requests."""

from collections.abc import Iterator
from pathlib import Path

from tests.attack import fuzz_requests


def attack(folder: Path, seed: int, seconds: float) -> Iterator[str]:
    """Send them for so long."""
    (folder / "fuzz").mkdir()
    yield from fuzz_requests.attack(folder / "fuzz", seed, seconds)
