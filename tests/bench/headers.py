"""How long reading a header takes, beside the gguf package's own reader: `make bench-headers`."""

import datetime
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import psutil

from actors.memory.gguf import read_header
from tests.gguf_files import large_vocabulary, many_experts


def _ours(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        read_header(lambda offset, count: os.pread(file.fileno(), count, offset), path.stat().st_size)


def _theirs(path: Path) -> None:
    gguf.GGUFReader(path)


def _measure(read: Callable[[Path], None], path: Path, rounds: int) -> tuple[float, float]:
    """Milliseconds of the fastest round, and MB that the process grew by."""
    before, best = psutil.Process().memory_info().rss, float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        read(path)
        best = min(best, time.perf_counter() - began)
    return best * 1e3, (psutil.Process().memory_info().rss - before) / 1e6


def main() -> None:
    """Print the table."""
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| file | this reader ms | MB | GGUFReader ms | MB | ratio |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for title, make in (
            ("151,936 tokens and merges", large_vocabulary),
            ("600 tensors, 128 experts", many_experts),
        ):
            path = make(Path(folder) / "m.gguf")
            ours, ours_mb = _measure(_ours, path, 10)
            theirs, theirs_mb = _measure(_theirs, path, 1)
            figures = f"{ours:.1f} | {ours_mb:.0f} | {theirs:.0f} | {theirs_mb:.0f} | {theirs / ours:.0f}"
            print(f"| {title} | {figures} |")


if __name__ == "__main__":
    main()
