"""`run.py agents`: lists the agents, with descriptions and options."""

import argparse
from typing import Any

from actors.commands.effective_config import read_sound
from actors.config.fields import plain
from actors.config.masking import masked
from actors.config.schema import Config
from actors.errors import ConfigError
from actors.terminal import complain, printable, say
from agents.host.discovery import BrokenAgentError, sources
from agents.host.host import describe_agent
from agents.host.settings import enabled_agents


def run(options: argparse.Namespace) -> int:
    """Print all the agents that could be enabled; return the exit status."""
    return list_agents(read_sound(options))


def list_agents(config: Config) -> int:
    """Print all agents that could be enabled; return the exit status: 1 if one of them is broken."""
    try:
        enabled = {entry.name: entry.options for entry in enabled_agents(config)}
        found = sources(config.agent_folders)
        if unknown := enabled.keys() - found.keys():
            raise ConfigError(f"agents: there is no agent {min(unknown)!r}")
    except ConfigError as error:
        complain(str(error))
        return 2
    status = 0
    for name, source in sorted(found.items()):
        state = "enabled" if name in enabled else "not enabled"
        try:
            described = describe_agent(name, source.load())
        except BrokenAgentError as error:
            say(f"{printable(name)} ({state}, broken)\n  {error}\n")
            status = 1
            continue
        say(f"{printable(name)} ({state}): {described['description']}\n  {printable(str(source.file))}")
        for option, schema in described["options"].items():
            say(f"  {printable(_option(option, schema, enabled.get(name, {})))}")
        say()
    return status


def _option(name: str, schema: dict[str, Any], given: dict[str, Any]) -> str:
    """Describe one option: its value in effect, and its meaning."""
    value = masked({name: plain(given[name])})[name] if name in given else schema.get("default")
    return f"{name}: {value!r}".ljust(24) + f"  # {schema.get('description', '')}"
