"""`run.py cancel`: ends a request of the running gateway."""

import argparse
from urllib.parse import quote

from actors.commands.effective_config import read
from actors.commands.running_gateway import ask, reporting
from actors.terminal import printable, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("id", nargs="+", metavar="ID", help="a request, by its id in `ps`")


@reporting
def run(options: argparse.Namespace) -> int:
    """End requests, whose clients get an error; return the exit status."""
    _, config = read(options)
    for request in options.id:
        ask(config, "DELETE", f"/admin/requests/{quote(request, safe='')}")
        say(printable(f"cancelled {request}"))
    return 0
