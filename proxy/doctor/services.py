"""The Docker Engine and the Ollama daemons."""

import asyncio
from collections.abc import Sequence

import aiohttp

from actors.build import uses_containers
from actors.model_names import ollama_name
from actors.servers.docker.engine import Engine, EngineError
from actors.servers.ollama.client import OllamaClient, OllamaError
from proxy.doctor.checks import Finding, Patient, needed_by
from proxy.handlers.readiness import models_in_containers, models_of_daemon

INFO_TIMEOUT = 10.0
"""Seconds within which the engine must describe itself."""


async def check_engine(patient: Patient) -> Sequence[Finding]:
    """Ask the Docker Engine, and say which models need it."""
    config = patient.config
    name = "Docker"
    is_needed = uses_containers(config)
    engine = Engine(config.server_pool.docker.host)
    try:
        await engine.ping()
        async with asyncio.timeout(INFO_TIMEOUT):
            info = await engine.info()
    except (EngineError, TimeoutError) as error:
        words = str(error) or f"{engine.address} does not answer within {INFO_TIMEOUT:g} s"
        if not is_needed:
            return [Finding(name=name, status="absent", found=f"no model needs it; {words}")]
        found = f"{words}{needed_by(models_in_containers(config))}"
        cure = "start the engine, let this user use it, or set server_pool.docker.host"
        return [Finding(name=name, status="error", found=found, cure=cure)]
    finally:
        await engine.close()
    kind = ", rootless" if info.rootless else ""
    used = "" if is_needed else "; no model needs it"
    return [Finding(name=name, status="ok", found=f"{engine.address}, version {info.version}{kind}{used}")]


async def check_daemons(patient: Patient) -> Sequence[Finding]:
    """Ask each Ollama daemon for its version and for the models that are configured."""
    addresses = patient.config.ollama.addresses
    if not addresses:
        return [Finding(name="Ollama", status="absent", found="no daemon is configured")]
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        asked = [group.create_task(_daemon(patient, name, url, session)) for name, url in addresses.items()]
    return [task.result() for task in asked]


async def _daemon(patient: Patient, name: str, url: str, session: aiohttp.ClientSession) -> Finding:
    title = "Ollama" if name == "ollama" else f"Ollama {name}"
    settings = patient.config.ollama
    models = models_of_daemon(settings, name)
    try:
        client = OllamaClient(name, url, session, timeout=min(settings.timeout, 10.0))
        version = await client.version()
        tags = {ollama_name(tag.name) for tag in await client.tags()}
    except (OllamaError, ValueError) as error:
        found = f"{error}{needed_by(models)}"
        cure = f"start it (`ollama serve`), or take it out of the configuration: {url}"
        return Finding(name=title, status="error", found=found, cure=cure)
    found = f"{client.url}, version {version}, {len(tags)} models"
    missing = [
        own
        for own in (settings.models[known].model or known for known in models)
        if ollama_name(own) not in tags
    ]
    if missing and not settings.pull:
        found += f"; it has no {', '.join(missing)}"
        cure = f"ollama pull {missing[0]}, or set ollama.pull: true"
        return Finding(name=title, status="error", found=found, cure=cure)
    return Finding(name=title, status="ok", found=found)
