"""`run.py migrate`, with the names of today's agents."""

import argparse
from pathlib import Path

from actors.commands.migrate import migrate_file
from agents.host.discovery import sources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("source", type=Path, metavar="CONFIG.JSON", help="the old configuration")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write (default: config.yaml beside it)"
    )


def run(options: argparse.Namespace) -> int:
    """Write the new configuration and print the changes; return the exit status."""
    target = options.output or options.source.with_name("config.yaml")
    return migrate_file(options.source, target, sources([]).keys())
