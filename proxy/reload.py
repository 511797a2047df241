"""Reloads the configuration: reads it again, compares it with the one in effect, and applies what differs.

Either all of a configuration is taken or nothing: it is checked, and new agents are started, before anything
changes; then all parts get it in one turn of the event loop. What only a restart can change stays as it is.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from actors.build import ModelFactory, uses_containers
from actors.config.changes import NEEDS_RESTART, Change, CurrentConfig, applicable, changes
from actors.config.checks import check
from actors.config.file import ConfigFile, config_files
from actors.config.schema import Config
from actors.errors import ConfigError
from actors.gpu.observer import Observer
from actors.runtime import occurs, spawn
from actors.servers.docker.containers import Containers
from actors.servers.llama.command import build_of_pool
from actors.terminal import program
from agents.host.check import look, look_ahead
from agents.host.discovery import Loaded
from agents.host.host import AgentHost
from agents.host.settings import default_agents
from proxy.access.configured import configured_keys
from proxy.access.gate import NO_KEY, Gate
from proxy.access.keys import Key
from proxy.answers.call import ModelCaller, RequestLimits
from proxy.door.bodies import Bodies
from proxy.door.client_connection import ConnectionServer
from proxy.door.connections import ConnectionRules
from proxy.door.origins import Origins
from proxy.handlers.responses.store import ResponseStore
from proxy.usage.records import UsageRecords
from proxy.wire.upstream import Upstream

log = structlog.get_logger("gateway")

T = TypeVar("T")

LOOK = 1.0
"""Seconds between looks at the files, if changes are applied by themselves."""


class Reload(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload did, or, without `applied`, would do. With `faults`, a line each, nothing was changed."""

    applied: bool = False
    changes: Sequence[Change] = ()
    faults: Sequence[str] = ()


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts that keep settings of their own. All others read `CurrentConfig`."""

    factory: ModelFactory
    observer: Observer
    containers: Containers
    agents: AgentHost
    gate: Gate
    origins: Origins
    bodies: Bodies
    caller: ModelCaller
    upstream: Upstream
    responses: ResponseStore
    usage: UsageRecords
    runner: web.AppRunner
    set_log_level: Callable[[str], None]
    publish: Callable[[str, object], None]
    """Reports an event to whoever follows the gateway's state."""
    preload: Callable[[Config], Coroutine[Any, Any, None]]
    """Loads the models that are to be ready before their first request."""

    def take(self, config: Config, keys: Sequence[Key]) -> None:
        """Give all parts but the agents this configuration. Waits for nothing."""
        server = config.server
        self.set_log_level(server.log.level)
        self.factory.reconfigure(config)
        self.gate.reconfigure(keys, is_open=server.open)
        self.origins.reconfigure(server.allowed_origins, server.allowed_hosts)
        self.caller.limits = limits = RequestLimits.of(config)
        self.bodies.resize(limits.body)
        if isinstance(self.runner.server, ConnectionServer):
            rules = ConnectionRules.of(config)
            self.runner.server.most, self.runner.server.write_timeout = rules.most, rules.write_timeout
        self.upstream.silence_limit = config.server_pool.request_timeout
        self.responses.seconds = server.keep_responses
        self.usage.reconfigure(config.usage)
        if uses_containers(config):
            self.containers.start()


class Reloader:
    """Applies what `read` returns, the configuration as it is now, to the parts of a running gateway.

    `settings` is the configuration with which the gateway starts.
    """

    def __init__(self, settings: ConfigFile, read: Callable[[], ConfigFile]) -> None:
        self.current = CurrentConfig(settings.config)
        self.parts: Parts
        """To be set when they are built, before the first reload."""
        self._settings = settings
        self._read = read
        self._tasks: set[asyncio.Task[Any]] = set()
        self._follow_up: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()

    @property
    def config(self) -> Config:
        """The configuration in effect."""
        return self.current.config

    @property
    def files(self) -> list[Path]:
        """The files of the configuration in effect."""
        return self._settings.files

    def describe(self) -> tuple[dict[str, Any], list[Change]]:
        """Return the configuration in effect as plain data, and what waits for a restart. Blocking.

        Both are without secrets.
        """
        config, settings = self.config, self._settings
        return settings.shown(config), changes(config, settings.config, settings.secrets)

    async def plan(self) -> Reload:
        """Say what a reload would do. Changes nothing."""
        return await self._try(plan=True)

    async def reload(self) -> Reload:
        """Read the configuration again and apply it. Reloads at the same time wait for each other.

        It goes on when whoever asked for it leaves.
        """
        task = self._spawn(self._try(plan=False), "reload")
        await asyncio.wait([task])
        return task.result()

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a task that ends with `close`."""
        task = spawn(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _try(self, *, plan: bool) -> Reload:
        async with self._one_at_a_time:
            try:
                return await self._reload(plan=plan)
            except ConfigError as error:
                faults = str(error).splitlines()
            if not plan:
                log.error("configuration not reloaded", faults=faults)
            return Reload(faults=faults)

    async def _reload(self, *, plan: bool) -> Reload:
        settings = await asyncio.to_thread(self._read)
        if emptied := [file for file in settings.empty if file not in self._settings.empty]:
            raise ConfigError("\n".join(f"{file}: is empty now; is it being written?" for file in emptied))
        before = self.config
        config = applicable(before, settings.config)
        loaded, keys = await asyncio.to_thread(self._check, settings, config)
        secrets = settings.secrets | self._settings.secrets
        found = await asyncio.to_thread(changes, before, settings.config, secrets)
        if plan:
            return Reload(changes=found)
        await self.parts.agents.reconfigure(
            loaded, default_agents(config), skip_broken=config.skip_broken_agents
        )
        # From here on nothing waits, so that no request meets some parts with new settings and some with old.
        self.current.config, self._settings = config, settings
        self.parts.take(config, keys)
        log.info(
            "configuration reloaded",
            changes={change.path: change.effect for change in found if change.effect != NEEDS_RESTART},
            pending=[change.path for change in found if change.effect == NEEDS_RESTART],
        )
        if _models_of(before) != _models_of(config):
            self.parts.observer.build = await build_of_pool(config.server_pool)
            if self._follow_up is not None:
                self._follow_up.cancel()
            self._follow_up = self._spawn(self._attend_to_models(settings, config), "models after a reload")
        done = Reload(applied=True, changes=found)
        self.parts.publish("config", done)
        return done

    async def _attend_to_models(self, settings: ConfigFile, config: Config) -> None:
        """Do what a start does with its models: tell which cannot be used, and load some."""
        await look_ahead(settings, config, self.parts.factory.supervisor)
        await self.parts.preload(config)

    def _check(self, settings: ConfigFile, config: Config) -> tuple[list[Loaded], list[Key]]:
        """Return the agents and keys of a configuration. Raises `ConfigError` with all faults. Blocking.

        `config` has the present values of what only a restart can change.
        """
        checked = look(settings, settings.config, self.parts.agents.loaded)
        if lines := settings.report(checked.faults):
            raise ConfigError("\n".join(lines))
        if lines := settings.describe(check(config)):
            raise ConfigError("\n".join(f"{line} (until the gateway is restarted)" for line in lines))
        loaded, broken = checked.agents
        for error in broken:
            log.error("agent left out", reason=str(error))
        keys = configured_keys(config)
        if not self.parts.gate.would_serve(keys, is_open=config.server.open):
            raise ConfigError(f"{settings.file}: {NO_KEY.format(host=config.server.host, program=program())}")
        return loaded, keys

    async def run(self, asked: asyncio.Event) -> None:
        """Reload when `asked`, and if `server.reload_on_change` says so when the files have changed.

        Changed files are read when they have stayed the same for a moment: they may not be whole yet.
        """
        taken = seen = await asyncio.to_thread(_state_of, self._settings.file)
        while True:
            is_asked = await occurs(asked, LOOK)
            if not (is_asked or self.config.server.reload_on_change):
                continue
            before, seen = seen, await asyncio.to_thread(_state_of, self._settings.file)
            if is_asked or (seen == before and seen != taken):
                asked.clear()
                taken = seen
                try:
                    await self.reload()
                except Exception:  # a defect must not end the handling of later requests to reload
                    log.exception("configuration not reloaded")

    async def close(self) -> None:
        """End a running reload and what one has left to do, because the gateway stops."""
        if tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def _models_of(config: Config) -> tuple[object, ...]:
    return config.server_pool, config.llama_cpp, config.ollama


def _state_of(file: Path) -> dict[Path, tuple[int, int, int] | None]:
    """Return what changes with the contents of a configuration's files. Blocking."""
    try:
        return {one: _stat(one) for one in config_files(file)}
    except ConfigError:  # the reload says why
        return {}


def _stat(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
