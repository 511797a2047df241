"""The section `agents` of the configuration: which are enabled, in which order, with what options. Pure."""

from typing import Any

import msgspec

from actors.config import Config
from actors.errors import ConfigError
from agents.commands import NAME

OLDER_NAMES = {"gpu": "vram"}
"""Names by which agents are known too."""


class Enabled(msgspec.Struct, frozen=True):
    """An agent that the configuration names, with its options as they stand there."""

    name: str
    options: dict[str, Any]


def enabled_agents(config: Config) -> list[Enabled]:
    """The agents of the configuration, in its order. Raises `ConfigError`.

    Each of the list is a name or a mapping from one name to its options; the section may be one mapping too.
    """
    found: dict[str, Enabled] = {}
    entries: list[Any] = [config.agents] if isinstance(config.agents, dict) else list(config.agents)
    for entry in entries:
        named = entry if isinstance(entry, dict) else {entry: None}
        for given, options in named.items():
            name = OLDER_NAMES.get(given, given)
            if not NAME.fullmatch(name):
                raise ConfigError(f"agents: {given!r} cannot be an agent's name; expected one such as 'rag'")
            if name in found:
                raise ConfigError(f"agents.{name}: is named twice")
            if not isinstance(options, dict | None):
                raise ConfigError(f"agents.{name}: expected a mapping of options, got {options!r}")
            found[name] = Enabled(name, options or {})
    for model, settings in config.llama_cpp.models.items():
        for name in settings.agents:
            agent = name.partition(":")[0]
            if OLDER_NAMES.get(agent, agent) not in found:
                raise ConfigError(
                    f"llama_cpp.models.{model}.agents: agent {agent!r} is not enabled in the section agents"
                )
    return list(found.values())


def default_agents(config: Config) -> dict[str, list[str]]:
    """The agents that run for every request to a model, by each of its names."""
    return {
        name: model.agents
        for known, model in config.llama_cpp.models.items()
        for name in (known, *model.aliases)
        if model.agents
    }
