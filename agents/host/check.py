"""All that is wrong with the settings, by line: `run.py check`, and what `serve` knows before it serves."""

import argparse
import asyncio
from collections.abc import Iterable

import msgspec
import structlog
import yaml

from actors.commands.effective_config import read, tell
from actors.commands.preflight import look_at_models, look_at_pool
from actors.config.file import ConfigFile
from actors.config.schema import Config
from actors.errors import ConfigError, Fault
from actors.messages import Unusable
from actors.supervisor import Supervisor
from actors.terminal import printable, say
from agents.host.discovery import BrokenAgentError, Loaded, load_agents

LoadedAgents = tuple[list[Loaded], list[BrokenAgentError]]

log = structlog.get_logger("gateway")


class Checked(msgspec.Struct):
    """What there is to serve with, if there are no `faults`."""

    agents: LoadedAgents
    faults: list[Fault]


def look(settings: ConfigFile, config: Config) -> Checked:
    """Load the agents, and find what keeps the gateway from serving, beside the faults of `settings`."""
    faults = look_at_pool(config)
    try:
        agents = load_agents(config, settings.folder)
    except ConfigError as error:
        return Checked(([], []), [*faults, *(error.faults or [Fault((), str(error))])])
    return Checked(agents, faults)


def run(options: argparse.Namespace) -> int:
    """Print the settings in effect, without secrets, or all that is wrong; return the exit status.

    2: they cannot be used. 1: they can, but some model cannot.
    """
    settings, config = read(options)
    faults = look(settings, config).faults
    if settings.report(faults):
        faults += _found_in_models(config, [*settings.faults, *faults])
        return tell(settings.report(faults))
    say(_as_yaml(settings, config))
    return 1 if tell(settings.report(_found_in_models(config, []))) else 0


async def look_ahead(settings: ConfigFile, config: Config, supervisor: Supervisor) -> None:
    """Tell the log and the supervisor which models cannot be used, while the others are served."""
    devices = list(supervisor.ledger.devices.values())
    for finding in await asyncio.to_thread(look_at_models, config, devices):
        (reason,) = settings.describe([finding.fault])
        log.warning("model cannot be used", model=finding.model, reason=reason)
        if finding.failure is not None:
            supervisor.tell(Unusable(model=finding.model, failure=finding.failure))


def _found_in_models(config: Config, faults: Iterable[Fault]) -> list[Fault]:
    """What is wrong with each model on this machine, of those whose settings have no fault."""
    places = [fault.path for fault in faults if fault.path[:2] == ("llama_cpp", "models")]
    faulty = {path[2] for path in places if len(path) > 2}
    models = {name: model for name, model in config.llama_cpp.models.items() if name not in faulty}
    section = msgspec.structs.replace(config.llama_cpp, models=models)
    return [found.fault for found in look_at_models(msgspec.structs.replace(config, llama_cpp=section))]


def _as_yaml(settings: ConfigFile, config: Config) -> str:
    """The configuration as a file that can be loaded; it escapes what could steer a terminal."""
    shown = settings.shown(config)
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip()
    if printable(text, keep="\n") == text:
        return text
    return yaml.safe_dump(shown, sort_keys=False).rstrip()
