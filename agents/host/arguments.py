"""The command line of `run.py`: its commands and their options."""

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from actors.commands.plan import add_arguments as add_plan_arguments
from actors.config import Config
from actors.errors import ConfigError
from actors.terminal import say

COMMANDS = {
    "serve": "run the gateway (default)",
    "check": "validate the configuration and print it in full",
    "pull": "download a model, or what is new of it",
    "models": "list the models there are",
    "rm": "remove a downloaded model",
    "agents": "list the agents there are, with their options",
    "rag": "add documents for the agent rag, list or delete them",
    "plan": "say where a model would go, and what memory it would take",
    "migrate": "make a config.yaml of a config.json of the first version",
}


class _Parser(argparse.ArgumentParser):
    """Does not keep it to itself when the help cannot be written."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            say(message.rstrip("\n"))
        else:
            super()._print_message(message, file)


def parse(arguments: list[str] | None, *, version: str, config: Path) -> argparse.Namespace:
    """What the command line says; `config` is the configuration file where it names none."""
    parser = _Parser(
        prog="run.py",
        description="One address for your local language models: loads llama.cpp servers on demand.",
    )
    parser.add_argument("--version", action="version", version=f"llama-smart-proxy {version}")
    _add_common(parser, config=config)
    parser.set_defaults(command="serve")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, what in COMMANDS.items():
        command = commands.add_parser(name, help=what, description=what)
        command.set_defaults(command=name)
        _add_common(command)  # before or after the command, as one likes
        if name == "rag":
            command.add_argument("action", choices=("add", "list", "delete", "prune"))
            command.add_argument(
                "paths",
                nargs="*",
                type=Path,
                metavar="PATH",
                help="add: files or folders; delete: documents, as `list` shows them; prune: folders, whose"
                " documents are deleted where the file is gone",
            )
            command.add_argument(
                "--collection",
                help="which one (default: default); with `delete` and no PATH, all of it is deleted",
            )
        elif name == "plan":
            add_plan_arguments(command)
        elif name == "migrate":
            command.add_argument("source", type=Path, metavar="CONFIG.JSON", help="the old configuration")
            command.add_argument(
                "--output", type=Path, metavar="FILE", help="where to write (default: config.yaml beside it)"
            )
        elif name in ("pull", "rm"):
            command.add_argument("name", metavar="NAME", help="org/repo:variant, or a configured model")
    return parser.parse_args(arguments)


def _add_common(parser: argparse.ArgumentParser, config: Path | None = None) -> None:
    """The options of every command. Without a default, one given before the command stands."""
    default = None if config else argparse.SUPPRESS
    parser.add_argument(
        "--config",
        type=Path,
        default=config or argparse.SUPPRESS,
        metavar="FILE",
        help="the configuration (default: config.yaml beside run.py, which documents every key)",
    )
    parser.add_argument("--host", default=default, help="address to listen on, instead of server.host")
    parser.add_argument(
        "--port", type=int, default=default, help="port to listen on, instead of server.port; 0: any free one"
    )
    parser.add_argument("--log-level", default=default, choices=("debug", "info", "warning", "error"))


def with_overrides(config: Config, options: argparse.Namespace) -> Config:
    """The settings with what the command line says instead. Raises `ConfigError`."""
    server = config.server
    if options.host is not None:
        server = msgspec.structs.replace(server, host=options.host)
    if options.port is not None:
        if not 0 <= options.port <= 65535:
            raise ConfigError(f"--port: expected 0 to 65535, got {options.port}")
        server = msgspec.structs.replace(server, port=options.port)
    if options.log_level is not None:
        server = msgspec.structs.replace(
            server, log=msgspec.structs.replace(server.log, level=options.log_level)
        )
    return msgspec.structs.replace(config, server=server)
