#!/usr/bin/env python3
"""Llama Smart Proxy: one address for your local language models.

The commands, and what they have in common: standard streams, signals, the log, the exit status.
"""

import signal
import sys
from pathlib import Path

from actors.terminal import exit_status, open_missing_streams

CONFIG = Path(__file__).resolve().with_name("config.yaml")

COMMANDS = {
    "serve": ("run the gateway (default)", "proxy.serve"),
    "check": ("validate the configuration and print it in full", "agents.host.check"),
    "pull": ("download a model, or what is new of it", "actors.commands.pull"),
    "models": ("list the models there are", "actors.commands.models"),
    "rm": ("remove a downloaded model", "actors.commands.remove"),
    "agents": ("list the agents there are, with their options", "agents.host.command_line"),
    "rag": ("add documents for the agent rag, list or delete them", "agents.rag.command_line"),
    "doctor": ("say what works on this machine, what does not, and the cure", "proxy.doctor.command_line"),
    "plan": ("say where a model would go, and what memory it would take", "actors.commands.plan"),
    "ps": ("list what the running gateway does: models, requests, queue", "actors.commands.control.ps"),
    "load": ("load a model in the running gateway", "actors.commands.control.load"),
    "unload": ("unload a model in the running gateway", "actors.commands.control.unload"),
    "logs": ("print lines of the running gateway, or of a model's server", "actors.commands.control.logs"),
    "cancel": ("end a request of the running gateway", "actors.commands.control.cancel"),
    "reload": ("apply the changed configuration to the running gateway", "actors.commands.reload"),
    "key": ("add, list, rotate and revoke API keys", "proxy.access.command_line"),
    "usage": ("say what requests took, by key, model and day", "proxy.usage.command_line"),
    "prompts": ("list what was saved of what models have read, or delete it", "actors.commands.prompts"),
    "migrate": ("make a config.yaml of a config.json of the first version", "agents.host.migrate"),
}
"""What each does, and the module that does it, imported only then: `add_arguments(parser)`, where it has
arguments of its own, and `run(options)`, which returns the exit status."""


def main(config: Path = CONFIG) -> int:
    """Run a command; return the exit status: 0 done, 1 failed, 2 the configuration cannot be used.

    130 means interrupted, and 141 that whoever read the output has left. `config` is the configuration file
    where the command line names none.
    """
    # Before anything else is imported, which takes a while and may open files.
    open_missing_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # `_run` puts it back
    return exit_status(lambda: _run(config))


def _run(config: Path) -> int:
    from actors.commands.arguments import parse  # noqa: PLC0415

    options = parse(COMMANDS, config=config)
    from proxy.service.logs import LAST_WORDS, set_up_logging  # noqa: PLC0415 (--help needs none)

    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if options.command == "serve":  # its log is as the configuration says
        return int(options.run(options))
    # What is refused is in the report of `rag` already.
    writer = set_up_logging("error" if options.command == "rag" else "warning", "console", 2)
    try:
        return int(options.run(options))
    finally:
        writer.close(LAST_WORDS)


if __name__ == "__main__":
    sys.exit(main())
