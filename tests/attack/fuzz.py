"""Seeded mutations of requests, and of what the readers read."""

from collections.abc import Iterator
from pathlib import Path


def attack(folder: Path, seed: int, seconds: float) -> Iterator[str]:
    """Both."""
    yield from ()
