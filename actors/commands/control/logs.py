"""`run.py logs`: the latest lines of the running gateway's log or of a model's server, and those to come."""

import argparse
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from actors.commands.effective_config import read
from actors.commands.running_gateway import lines_of, reporting
from actors.terminal import printable, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model, whose server's lines are shown")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with the lines to come")
    parser.add_argument("-n", "--lines", type=int, default=200, metavar="N", help="earlier lines (200)")
    parser.add_argument("--level", choices=("debug", "info", "warning", "error"), help="the least level")
    parser.add_argument("--json", action="store_true", help="for programs")


@reporting
def run(options: argparse.Namespace) -> int:
    """Print the lines; return the exit status."""
    _, config = read(options)
    query = f"lines={options.lines}" + ("&follow=1" if options.follow else "")
    if options.name is not None:
        path = f"/admin/logs/{quote(options.name, safe='/:')}?{query}"
    else:
        path = f"/admin/logs?{query}" + (f"&level={options.level}" if options.level else "")
    for line in lines_of(config, path):
        say(line if options.json else printable(_readable(json.loads(line))))
    return 0


def _readable(line: dict[str, Any]) -> str:
    if line.keys() == {"dropped"}:
        return f"... {line['dropped']} lines were dropped"
    if line.keys() == {"at", "line"}:
        return f"{datetime.fromtimestamp(line['at'], UTC):%H:%M:%S} {line['line']}"
    head = [str(line.pop(part, "")) for part in ("timestamp", "level", "event")]
    return " ".join([head[0], f"[{head[1]}]", head[2], *(f"{key}={value}" for key, value in line.items())])
