"""Run the attacks and print a table: `python -m tests.attack [--only NAME ...] [--seed N] [--seconds N]`.

Exit status 1 if any found a fault. `--seconds` bounds the fuzzing, which takes what the others leave.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.attack import answers, clients, disks, floods, fuzz, pages, schema, servers, sinks
from tests.attack.ground import launched, watched

SHOWN = 30
"""Faults of one attack that are printed."""

Attack = Callable[[Path], Iterator[str]]


def _answers(folder: Path) -> Iterator[str]:
    with launched(folder / "answers") as gateway, watched(gateway) as bystander:
        yield from answers.attack(gateway, bystander)
        yield from gateway.crashes()


def _pages(folder: Path) -> Iterator[str]:
    with launched(folder / "pages") as gateway:
        yield from pages.attack(gateway)
        yield from gateway.crashes()


def _clients(folder: Path) -> Iterator[str]:
    with launched(folder / "clients") as gateway, watched(gateway) as bystander:
        yield from clients.attack(gateway, bystander)
        yield from gateway.crashes()


def _floods(folder: Path) -> Iterator[str]:
    with launched(folder / "floods") as gateway, watched(gateway) as bystander:
        yield from floods.attack(gateway, bystander)
        yield from gateway.crashes()


def _hang(folder: Path) -> Iterator[str]:
    with launched(folder / "hang") as gateway, watched(gateway) as bystander:
        yield from servers.hang(gateway, bystander)
        yield from gateway.crashes()


def _slow_readers(folder: Path) -> Iterator[str]:
    with launched(folder / "slow") as gateway, watched(gateway) as bystander:
        yield from servers.slow_readers(gateway)
        yield from bystander.faults()
        yield from gateway.crashes()


def attacks(seed: int, seconds: float) -> dict[str, Attack]:
    """All of them, by name."""
    return {
        "pages": _pages,
        "answers": _answers,
        "clients": _clients,
        "floods": _floods,
        "sinks": sinks.attack,
        "hang": _hang,
        "slow-readers": _slow_readers,
        "log-flood": servers.flood_log,
        "ports": servers.shared_ports,
        "disk": disks.attack,
        "schema": lambda folder: schema.attack_alone(folder / "schema", 20),
        "fuzz": lambda folder: fuzz.attack(folder, seed, seconds),
    }


def main() -> int:
    """Run what is asked for; 1 if there are faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description="Attack a gateway.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these attacks")
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="of the fuzzing (default: the time)"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of fuzzing (default: 60)")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    failed = False
    with tempfile.TemporaryDirectory() as name:
        for title, attack in attacks(options.seed, options.seconds).items():
            if options.only and title not in options.only:
                continue
            began = time.monotonic()
            try:
                faults = list(attack(Path(name)))
            except Exception as error:  # the attack itself failed, often because the gateway did not come up
                faults = [f"{type(error).__name__}: {error}"]
            failed = failed or bool(faults)
            verdict = f"{len(faults)} faults" if faults else "clean"
            print(f"{title:<14} {time.monotonic() - began:6.1f} s  {verdict}", flush=True)
            for fault in faults[:SHOWN]:
                print(f"    {fault}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
