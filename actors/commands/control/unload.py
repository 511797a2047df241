"""`run.py unload`: unloads models in the running gateway."""

import argparse
import time
from typing import Any
from urllib.parse import quote

from actors.commands.effective_config import UNUSABLE, read
from actors.commands.running_gateway import ask, reporting
from actors.config.schema import Config
from actors.terminal import complain, printable, say

POLL = 0.25
"""Seconds between two looks at a model that is waited for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="any name of a model")
    parser.add_argument("--all", action="store_true", help="all models that are loaded")
    parser.add_argument("--force", action="store_true", help="end running requests with an error")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it is unloaded")


@reporting
def run(options: argparse.Namespace) -> int:
    """Unload models when their requests have ended, or at once; return the exit status."""
    _, config = read(options)
    if (options.name is None) != options.all:
        complain("name a model, or --all")
        return UNUSABLE
    names = [options.name]
    if options.all:
        models = ask(config, "GET", "/admin/models")["models"]
        names = [model["name"] for model in models if model["state"] not in ("stopped", "failed")]
    force = "?force=1" if options.force else ""
    paths = [f"/admin/models/{quote(name, safe='/:')}/unload{force}" for name in names]
    # First all of them, so that one that takes long holds up no other.
    for model in [ask(config, "POST", path) for path in paths]:
        said = model if options.no_wait else _wait(config, model)
        say(printable(f"{said['name']} is {said['state']}"))
    return 0


def _wait(config: Config, model: Any) -> Any:
    """Wait until a model has stopped, or has been loaded again for somebody who waited for it."""
    epoch = model["epoch"]
    while model["state"] not in ("stopped", "failed") and model["epoch"] == epoch:
        time.sleep(POLL)  # noqa: TID251 (no loop runs)
        models = ask(config, "GET", "/admin/models")["models"]
        gone = {**model, "state": "stopped"}
        model = next((one for one in models if one["name"] == model["name"]), gone)
    return model
