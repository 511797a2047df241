"""`run.py prompts`: list or delete what models have read and what was saved of it."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from actors.commands.effective_config import read_sound
from actors.folders import prompts_folder
from actors.progress import readable_size
from actors.prompts.store import Entry, delete, read_entries
from actors.terminal import complain, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("action", nargs="?", choices=["list", "clear"], default="list")
    parser.add_argument("model", nargs="?", help="only the prompts of this model")


def run(options: argparse.Namespace) -> int:
    """List or delete saved prompts, of all gateways of this user; return the exit status."""
    read_sound(options)
    try:
        found = [(folder, one) for folder, one in _saved() if options.model in (None, one.model)]
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}")
        return 1
    if options.action == "clear":
        for folder, entry in found:
            delete(folder, entry)
        say(f"{len(found)} prompts deleted, {readable_size(sum(one.size for _, one in found))} freed")
        return 0
    if not found:
        say("no prompts are saved")
        return 0
    rows = [("MODEL", "KEY", "TOKENS", "SIZE", "UNUSED", "HITS", "SPARED"), *(_row(one) for _, one in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _saved() -> Iterator[tuple[Path, Entry]]:
    root = prompts_folder()
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.is_dir():
            for entry in sorted(read_entries(folder), key=lambda one: one.used_at, reverse=True):
                yield folder, entry


def _row(entry: Entry) -> tuple[str, ...]:
    unused = max(0.0, time.time() - entry.used_at)
    return (
        entry.model,
        entry.client or "-",
        f"{entry.tokens:,}",
        readable_size(entry.size),
        f"{unused / 3600:.1f} h",
        str(entry.hits),
        f"{entry.spared:.0f} s",
    )
