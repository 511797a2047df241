"""The configuration file, as `run.py check` sees it."""

from collections.abc import Sequence
from functools import partial

from actors.commands.preflight import look_at_pool
from actors.config.file import read_config_file
from actors.errors import ConfigError
from agents.host.check import found_in_models, look
from proxy.doctor.checks import Finding, Patient, in_thread

NAME = "configuration"
CURE = "change the file; `run.py check` shows whether it is right"


async def check_configuration(patient: Patient) -> Sequence[Finding]:
    """Read the file as it is now, and find its faults and those of each model."""
    return await in_thread(partial(_look, patient))


def _look(patient: Patient) -> list[Finding]:
    try:
        settings = read_config_file(patient.file)
    except ConfigError as error:
        return [Finding(name=NAME, status="error", found=str(error), cure=CURE)]
    config = settings.config
    # A gateway that serves has loaded its agents; what a changed file names must not be imported into it.
    faults = look_at_pool(config) if patient.serves else look(settings, config).faults
    faults += found_in_models(config, [*settings.faults, *faults])
    if lines := settings.report(faults):
        return [Finding(name=NAME, status="error", found=line, cure=CURE) for line in lines]
    models = len(config.llama_cpp.models) + len(config.ollama.models)
    found = f"{patient.file}: {models} models, {len(config.agents)} agents"
    return [Finding(name=NAME, status="ok", found=found)]
