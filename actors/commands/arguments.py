"""The command line: the options of every command, and the commands with their own."""

import argparse
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from actors.terminal import program, say

VERSION = "0.1.0"


class _Parser(argparse.ArgumentParser):
    """Fails with an error when the help text cannot be written."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            say(message.rstrip("\n"))
        else:
            super()._print_message(message, file)


class _CommandParser(_Parser):
    """The parser of one command. It imports the command's module only when it parses."""

    module = ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Import the command's module, let it add its arguments, and parse."""
        module = import_module(self.module)
        if hasattr(module, "add_arguments"):
            module.add_arguments(self)
        self.set_defaults(run=module.run)
        return super().parse_known_args(args, namespace)


def parse(
    commands: Mapping[str, tuple[str, str]], *, config: Path, arguments: list[str] | None = None
) -> argparse.Namespace:
    """Parse the command line into `command`, `run` of its module, and the options.

    `commands` maps each name to a summary and a module; the first one is the default. `config` is the
    configuration file where the command line names none.
    """
    parser = _Parser(
        prog=program(),
        description="One address for your local language models: loads llama.cpp servers on demand.",
    )
    parser.add_argument("--version", action="version", version=f"llama-smart-proxy {VERSION}")
    _add_common(parser, config, config)
    subparsers = parser.add_subparsers(metavar="COMMAND", parser_class=_CommandParser)
    for name, (what, module) in commands.items():
        command = subparsers.add_parser(name, help=what, description=what)
        command.module = module
        command.set_defaults(command=name)
        _add_common(command, config)  # so that they can stand before or after the command
    options = parser.parse_args(arguments)
    if not hasattr(options, "command"):
        options.command, (_, module) = next(iter(commands.items()))
        options.run = import_module(module).run
    return options


def _add_common(parser: argparse.ArgumentParser, shown: Path, config: Path | None = None) -> None:
    """Add the options that every command has.

    Without defaults a command's parser does not overwrite an option given before the command.
    """
    default = None if config else argparse.SUPPRESS
    parser.add_argument(
        "--config",
        type=Path,
        default=config or argparse.SUPPRESS,
        metavar="FILE",
        help=f"the configuration (default: {shown}, which documents every key)",
    )
    parser.add_argument("--host", default=default, help="address to listen on, instead of server.host")
    parser.add_argument(
        "--port", type=int, default=default, help="port to listen on, instead of server.port; 0: any free one"
    )
    parser.add_argument("--log-level", default=default, choices=("debug", "info", "warning", "error"))
