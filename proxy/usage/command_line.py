"""`run.py usage`: sums up the ledger. It reads the file itself, whether a gateway runs or not."""

import argparse
import csv
import io
import json
import time
from collections.abc import Iterable

import msgspec

from actors.folders import usage_file
from actors.terminal import complain, printable, say
from proxy.usage.reports import DEFAULT_GROUPS, GROUPS, Filter, Group, ReportError, Sums, parse_groups, sums
from proxy.usage.times import parse_time

NOBODY = "-"
"""What is shown for requests without a key or a model."""
_NUMBERS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "errors", "seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    known = ", ".join(GROUPS)
    parser.add_argument("--by", type=_groups, default=DEFAULT_GROUPS, metavar="LIST", help=known)
    parser.add_argument(
        "--since", type=_time, metavar="TIME", help="2027-01-31, 2027-01-31T18:00 (UTC), or 7d"
    )
    parser.add_argument("--until", type=_time, metavar="TIME", help="the same; not included")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as /admin/usage answers")
    form.add_argument("--csv", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Print the sums; return the exit status."""
    try:
        rows = sums(usage_file(), options.by, Filter(since=options.since, until=options.until))
    except ReportError as error:
        complain(str(error))
        return 1
    if options.json:
        say(json.dumps({"rows": msgspec.to_builtins(rows)}))
    elif options.csv:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow((*options.by, *_NUMBERS))
        table.writerows([_harmless(cell) for cell in _cells(row, options.by, "")] for row in rows)
        say(text.getvalue().removesuffix("\n"))
    elif rows:
        _show(options.by, rows)
    else:
        say(f"There are no requests in {usage_file()}.")
    return 0


def _show(by: tuple[Group, ...], rows: list[Sums]) -> None:
    whole = Sums(**{name: sum(getattr(row, name) for row in rows) for name in _NUMBERS})
    table = [[name.upper().replace("_", " ") for name in (*by, *_NUMBERS)]]
    table += [[_text(cell) for cell in _cells(row, by, NOBODY)] for row in rows]
    if len(rows) > 1 and by:
        table.append(["all", *[""] * (len(by) - 1), *(_text(getattr(whole, name)) for name in _NUMBERS)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        names = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)][: len(by)]
        numbers = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)][len(by) :]
        say("  ".join([*names, *numbers]))


def _cells(row: Sums, by: Iterable[Group], missing: str) -> list[str | int | float]:
    named = [getattr(row, name) for name in by]
    return [
        *(missing if cell is None else cell for cell in named),
        *(getattr(row, name) for name in _NUMBERS),
    ]


def _harmless(cell: str | float) -> str | float:
    """Return a cell that no spreadsheet takes for a formula: a client chooses the name of its model."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def _text(cell: str | float) -> str:
    if isinstance(cell, str):
        return printable(cell)
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.1f}"


def _groups(text: str) -> tuple[Group, ...]:
    try:
        return parse_groups(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _time(text: str) -> float:
    try:
        return parse_time(text, time.time())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
