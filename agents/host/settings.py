"""Reads the section `agents` of the configuration: the enabled agents, their order and options. Pure."""

from typing import Any

import msgspec

from actors.config.masking import shown
from actors.config.schema import Config
from actors.errors import ConfigError, Fault
from agents.host.commands import NAME

OLDER_NAMES = {"gpu": "vram"}
"""Older names of agents, which still work."""


class Enabled(msgspec.Struct, frozen=True):
    """An agent in the configuration, with its options unconverted."""

    name: str
    options: dict[str, Any]


def enabled_agents(config: Config) -> list[Enabled]:
    """Return the agents of the configuration, in its order. Raises `ConfigError` with all faults."""
    found, faults = read_agents(config)
    if faults:
        raise ConfigError.of(faults)
    return found


def read_agents(config: Config) -> tuple[list[Enabled], list[Fault]]:
    """Return the agents of the configuration, in its order, and the faults.

    Each item is a name or a mapping from one name to its options. The section may also be one mapping.
    """
    found: dict[str, Enabled] = {}
    faults: list[Fault] = []
    entries: list[Any] = [config.agents] if isinstance(config.agents, dict) else list(config.agents)
    for entry in entries:
        named = entry if isinstance(entry, dict) else {entry: None}
        for given, options in named.items():
            name = OLDER_NAMES.get(given, given)
            if not NAME.fullmatch(name):
                message = "cannot be an agent's name; expected one such as 'rag'"
                faults.append(Fault(("agents", given), message))
            elif name in found:
                faults.append(Fault(("agents", name), "is named twice"))
            elif not isinstance(options, dict | None):
                message = f"expected a mapping of options, got {shown(options)}"
                faults.append(Fault(("agents", given), message))
            else:
                found[name] = Enabled(name, options or {})
    for model, settings in config.llama_cpp.models.items():
        for name in settings.agents:
            agent = name.partition(":")[0]
            if OLDER_NAMES.get(agent, agent) not in found:
                message = f"agent {agent!r} is not enabled in the section agents"
                faults.append(Fault(("llama_cpp", "models", model, "agents"), message))
    return list(found.values()), faults


def default_agents(config: Config) -> dict[str, list[str]]:
    """Return the agents that run for every request to a model, by each of the model's names."""
    return {
        name: model.agents
        for known, model in config.llama_cpp.models.items()
        for name in (known, *model.aliases)
        if model.agents
    }
