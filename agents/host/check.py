"""Reports all faults of the settings by line: `run.py check`, and the checks of `serve` before it starts."""

import argparse
import asyncio
import json
from collections.abc import Iterable

import msgspec
import structlog
import yaml

from actors.commands.effective_config import read, tell
from actors.commands.preflight import look_at_models, look_at_pool
from actors.config.file import ConfigFile
from actors.config.json_schema import json_schema
from actors.config.masking import secrets_of
from actors.config.schema import Config
from actors.errors import ConfigError, Fault
from actors.messages import Unusable
from actors.supervisor import Supervisor
from actors.terminal import printable, say
from agents.host.discovery import BrokenAgentError, Loaded, load_agents

LoadedAgents = tuple[list[Loaded], list[BrokenAgentError]]

log = structlog.get_logger("gateway")


class Checked(msgspec.Struct):
    """The checked settings and agents; usable if there are no `faults`."""

    agents: LoadedAgents
    faults: list[Fault]


def look(settings: ConfigFile, config: Config, known: Iterable[Loaded] = ()) -> Checked:
    """Load the agents, but those `known`, and find further faults that keep the gateway from serving.

    What is secret of the agents' options is added to the secrets of `settings`.
    """
    faults = look_at_pool(config)
    try:
        agents = load_agents(config, settings.folder, known)
    except ConfigError as error:
        return Checked(([], []), [*faults, *(error.faults or [Fault((), str(error))])])
    for agent in agents[0]:
        settings.secrets.update(secrets_of(agent.config))
    return Checked(agents, faults)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("--schema", action="store_true", help="only print the JSON schema of config.yaml")


def run(options: argparse.Namespace) -> int:
    """Print the settings in effect, without secrets, or all faults; return the exit status.

    2: the settings are unusable. 1: the settings are usable, but some model is not.
    """
    if options.schema:
        say(json.dumps(json_schema(), indent=2))
        return 0
    settings, config = read(options)
    faults = look(settings, config).faults
    if settings.report(faults):
        faults += found_in_models(config, [*settings.faults, *faults])
        return tell(settings.report(faults))
    say(_as_yaml(settings, config))
    return 1 if tell(settings.report(found_in_models(config, []))) else 0


async def look_ahead(settings: ConfigFile, config: Config, supervisor: Supervisor) -> None:
    """Report unusable models to the log and the supervisor, while the others are served."""
    devices = list(supervisor.ledger.devices.values())
    for finding in await asyncio.to_thread(look_at_models, config, devices):
        (reason,) = settings.describe([finding.fault])
        log.warning("model cannot be used", model=finding.model, reason=reason)
        if finding.failure is not None:
            supervisor.tell(Unusable(model=finding.model, failure=finding.failure))


def found_in_models(config: Config, faults: Iterable[Fault]) -> list[Fault]:
    """Find the problems of each model on this machine, except models with faulty settings."""
    places = [fault.path for fault in faults if fault.path[:2] == ("llama_cpp", "models")]
    faulty = {path[2] for path in places if len(path) > 2}
    models = {name: model for name, model in config.llama_cpp.models.items() if name not in faulty}
    section = msgspec.structs.replace(config.llama_cpp, models=models)
    return [found.fault for found in look_at_models(msgspec.structs.replace(config, llama_cpp=section))]


def _as_yaml(settings: ConfigFile, config: Config) -> str:
    """Write the configuration as YAML that can be loaded; control characters are escaped."""
    shown = settings.shown(config)
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip()
    if printable(text, keep="\n") == text:
        return text
    return yaml.safe_dump(shown, sort_keys=False).rstrip()
