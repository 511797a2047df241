"""The list of all checks."""

from pathlib import Path

from actors.config.schema import Config
from proxy.doctor.checks import Check, Finding, examine
from proxy.doctor.configuration import check_configuration
from proxy.doctor.gpus import check_driver, check_programs
from proxy.doctor.hub import check_hub
from proxy.doctor.machine import check_certificate, check_files, check_folders, check_ports
from proxy.doctor.services import check_daemons, check_engine

CHECKS: dict[str, Check] = {
    "configuration": check_configuration,
    "driver": check_driver,
    "llama-server": check_programs,
    "Docker": check_engine,
    "Ollama": check_daemons,
    "disk": check_folders,
    "ports": check_ports,
    "TLS": check_certificate,
    "hub": check_hub,
    "open files": check_files,
}


async def diagnose(config: Config, file: Path, *, serves: bool) -> list[Finding]:
    """Run all checks. `config` is in effect, `file` its file; `serves`: this process is the gateway."""
    return await examine(config, file, CHECKS, serves=serves)
