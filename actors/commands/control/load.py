"""`run.py load`: loads a model in the running gateway."""

import argparse
from typing import Any
from urllib.parse import quote

from actors.commands.effective_config import read
from actors.commands.running_gateway import TIMEOUT, ask, reporting
from actors.config.schema import Config
from actors.progress import readable_size
from actors.terminal import complain, printable, say

STEP = 2.0
"""Seconds between two looks at a load that is waited for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("name", metavar="NAME", help="any name of a model")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it is loaded")


@reporting
def run(options: argparse.Namespace) -> int:
    """Load a model; return the exit status."""
    _, config = read(options)
    path = f"/admin/models/{quote(options.name, safe='/:')}/load"
    model = ask(config, "POST", path) if options.no_wait else _wait(config, path)
    place = f" on {model['place']}" if model["place"] else ""
    say(printable(f"{model['name']} is {model['state']}{place}"))
    return 0


def _wait(config: Config, path: str) -> Any:
    """Ask for the load until it is done, and say what it waits for."""
    said = ""
    while True:
        model = ask(config, "POST", f"{path}?wait={STEP}", timeout=STEP + TIMEOUT)
        if model["state"] == "ready":
            return model
        if (doing := _doing(config, model)) != said:
            said = doing
            complain(printable(doing))


def _doing(config: Config, model: Any) -> str:
    if download := model["download"]:
        have, total = readable_size(download["bytes"]), readable_size(download["total_bytes"])
        return f"{model['name']}: downloading, {have} of {total}"
    waiting = ask(config, "GET", "/admin/queue")["waiting"]
    reasons = [one["reason"] for one in waiting if one["model"] == model["name"]]
    return f"{model['name']}: {reasons[0] if reasons else model['state']}"
