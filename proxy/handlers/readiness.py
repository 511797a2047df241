"""`/health/ready`: whether the external dependencies of the configuration are available.

If all models need an engine that is away, the gateway cannot serve any request and is not ready. Any other
missing dependency disables only some models, whose requests fail with the reason; then the gateway is
degraded but ready.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from aiohttp import web

from actors.build import uses_containers
from actors.config.changes import CurrentConfig
from actors.config.schema import Config, Ollama
from actors.folders import captures_folder, data_folder, prompts_folder, responses_file, usage_file
from actors.gpu.monitor import GpuMonitor
from actors.hub.cache import cache_of
from actors.servers.docker.engine import Engine, EngineError
from actors.servers.llama.command import runs_in_container
from actors.servers.ollama.daemons import Daemons
from actors.supervisor import Supervisor

FRESH = 1.0
"""Seconds for which a report is reused, so that probes do not cause as many requests to the engine."""


class Dependency(msgspec.Struct, frozen=True, kw_only=True):
    """An external dependency.

    `error` says why it is unusable; `models` are the configured ones that need it.
    """

    name: str
    models: Sequence[str] = ()
    error: str | None = None


class ReadinessReport(msgspec.Struct, frozen=True, kw_only=True):
    """The state of all dependencies."""

    status: Literal["ok", "degraded", "not ready"]
    dependencies: Sequence[Dependency]

    @property
    def ready(self) -> bool:
        """Whether at least one model can be served."""
        return self.status != "not ready"

    @property
    def missing(self) -> list[Dependency]:
        """The unusable dependencies."""
        return [one for one in self.dependencies if one.error is not None]


def needed_folders(config: Config, cache: Path) -> list[tuple[str, Path]]:
    """Return the folders that must be writable, with their purpose. `cache` is the gateway's cache folder."""
    folders = [("built-in models and what loads took", cache)]
    named = any(model.repo for model in config.llama_cpp.models.values())
    if (named or config.hub.allow) and not config.hub.offline:
        folders.append(("downloaded models", cache_of(config.hub).folder))
    if config.agents:
        folders.append(("what agents keep", data_folder(config.agent_data)))
    if config.server.keep_responses:
        folders.append(("kept responses", responses_file().parent))
    if config.usage.keep_days:
        folders.append(("usage", usage_file().parent))
    if config.usage.captures.models or config.usage.captures.keys:
        folders.append(("captures", captures_folder()))
    if config.server_pool.prompts.disk:
        folders.append(("saved prompts", prompts_folder()))
    return folders


def models_in_containers(config: Config) -> list[str]:
    """Return the configured models whose servers run in containers."""
    models = config.llama_cpp.models.items()
    return [name for name, model in models if runs_in_container(config.server_pool, model)]


def models_of_daemon(settings: Ollama, daemon: str) -> list[str]:
    """Return the configured models of an Ollama daemon."""
    first = next(iter(settings.addresses), None)
    return [name for name, model in settings.models.items() if (model.daemon or first) == daemon]


def models_for_gpus(config: Config) -> list[str] | None:
    """Return the configured models that must run on a GPU; None if models may run without one."""
    if not config.gpu.managed or config.gpu.without_gpu == "cpu":
        return None
    above = config.server_pool.gpu_layers
    models = config.llama_cpp.models.items()
    return [name for name, model in models if (above if model.gpu_layers is None else model.gpu_layers) != 0]


class Readiness:
    """Checks the dependencies on request, at most every `FRESH` seconds."""

    def __init__(
        self,
        supervisor: Supervisor,
        current: CurrentConfig,
        engine: Engine,
        daemons: Daemons,
        monitor: GpuMonitor,
    ) -> None:
        self._supervisor = supervisor
        self._current = current
        self._engine = engine
        self._daemons = daemons
        self._monitor = monitor
        self._looking = asyncio.Lock()
        self._report: ReadinessReport | None = None
        self._looked_at = float("-inf")

    async def ready(self, _request: web.Request) -> web.Response:
        """Report whether new requests can be served. Models load on demand, so none has to be loaded."""
        later = {"Retry-After": "5"}
        if self._supervisor.closing:
            return web.json_response({"status": "shutting down"}, status=503, headers=later)
        report = await self.look()
        body: dict[str, Any] = {"status": report.status}
        if report.missing:
            body["missing"] = [msgspec.to_builtins(one) for one in report.missing]
        if not report.ready:
            return web.json_response(body, status=503, headers=later)
        return web.json_response(body)

    async def look(self) -> ReadinessReport:
        """Check all dependencies. Waits at most some seconds for the engine."""
        async with self._looking:
            if self._report is None or time.monotonic() - self._looked_at >= FRESH:
                self._report = await self._look()
                self._looked_at = time.monotonic()
            return self._report

    async def _look(self) -> ReadinessReport:
        engine = [await self._look_at_engine()] if uses_containers(self._current.config) else []
        found = [*engine, *self._look_at_daemons(), *self._look_at_gpus()]
        if any(one.error for one in engine) and not self._serves_without_engine:
            status: Literal["ok", "degraded", "not ready"] = "not ready"
        else:
            status = "degraded" if any(one.error for one in found) else "ok"
        return ReadinessReport(status=status, dependencies=found)

    @property
    def _serves_without_engine(self) -> bool:
        """Whether some model may run without a container."""
        config, pool = self._current.config, self._current.config.server_pool
        processes = any(not runs_in_container(pool, model) for model in config.llama_cpp.models.values())
        downloaded = bool(config.hub.allow) and pool.runtime != "docker"
        return processes or downloaded or bool(config.ollama.addresses)

    async def _look_at_engine(self) -> Dependency:
        models = models_in_containers(self._current.config)
        try:
            await self._engine.ping()
        except EngineError as error:
            return Dependency(name="Docker Engine", models=models, error=str(error))
        return Dependency(name="Docker Engine", models=models)

    def _look_at_daemons(self) -> list[Dependency]:
        """Report the daemons' states, as their watchers last saw them."""
        return [
            Dependency(
                name=f"Ollama daemon {state.name}",
                models=models_of_daemon(self._current.config.ollama, state.name),
                error=None if state.reachable is not False else state.error or "it is away",
            )
            for state in self._daemons.states
        ]

    def _look_at_gpus(self) -> list[Dependency]:
        """Report the GPUs, if models must run on one."""
        models = models_for_gpus(self._current.config)
        if models is None:
            return []
        sample = self._monitor.sample
        error = None if sample.gpus else sample.error or "there is none"
        return [Dependency(name="GPU", models=models, error=error)]
