"""All the Ollama daemons that are configured, and the models that they have."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from actors.config.schema import Ollama, OllamaModel
from actors.messages import ServerAddress
from actors.model_names import ollama_name
from actors.servers.ollama.client import OllamaError, Tag
from actors.servers.ollama.daemon import Daemon, DaemonState

FRESH = 1.0
"""Seconds for which a list of models is not asked for again."""


class Daemons:
    """The daemons by name, in the order of the configuration; the first that has a model serves it."""

    def __init__(self, settings: Ollama, session: aiohttp.ClientSession) -> None:
        self.settings = settings
        self.all = {
            name: Daemon(name, url, session, timeout=settings.timeout)
            for name, url in settings.addresses.items()
        }
        self.serving: dict[str, str] = {}
        """Which daemon a discovered model was first found in, and is served by."""
        self._tags: dict[str, dict[str, Tag]] = {}
        self._silent: dict[str, str] = {}
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Daemons"]:
        """Watch them while the block lasts."""
        for daemon in self.all.values():
            daemon.start()
        try:
            yield self
        finally:
            for daemon in self.all.values():
                await daemon.stop()

    @property
    def first(self) -> Daemon | None:
        """Which one is meant where none is named."""
        return next(iter(self.all.values()), None)

    @property
    def states(self) -> list[DaemonState]:
        """For /health."""
        return [daemon.state for daemon in self.all.values()]

    @property
    def silent(self) -> dict[str, str]:
        """Why a daemon gives no list, by its name."""
        away = {state.name: state.error or "it is away" for state in self.states if state.reachable is False}
        return self._silent | away

    def daemon_of(self, model: OllamaModel) -> Daemon:
        """The daemon of a configured model."""
        return self.all[model.daemon or next(iter(self.all))]

    def configured(self, daemon: Daemon, model: str) -> str | None:
        """The name under which a daemon's model is configured, if it is."""
        key = ollama_name(model)
        for name, settings in self.settings.models.items():
            if ollama_name(settings.model or name) == key and self.daemon_of(settings) is daemon:
                return name
        return None

    async def refresh(self) -> None:
        """Have their lists of models, at most `FRESH` seconds old, or the last that a silent one gave."""
        if not self.all:
            return
        async with self._asking:
            if time.monotonic() - self._asked_at < FRESH:
                return
            async with asyncio.TaskGroup() as group:
                for daemon in self.all.values():
                    if (
                        daemon.state.reachable is not False
                    ):  # else its watcher asks, and nobody else need wait
                        group.create_task(self._list(daemon))
            self._asked_at = time.monotonic()

    async def _list(self, daemon: Daemon) -> None:
        try:
            tags = await daemon.tags()
        except OllamaError as error:
            self._silent[daemon.name] = str(error)
            daemon.look_soon()
            return
        self._silent.pop(daemon.name, None)
        # What runs on ollama.com is not this machine's to serve.
        self._tags[daemon.name] = {ollama_name(tag.name): tag for tag in tags if not tag.remote_host}

    def look_soon(self, endpoint: ServerAddress) -> None:
        """A connection there broke: see to the daemon, if it is one."""
        for daemon in self.all.values():
            if endpoint.api == "ollama" and (daemon.host, daemon.port) == (endpoint.host, endpoint.port):
                daemon.look_soon()

    def changed(self) -> None:
        """A model was pulled, copied, made or deleted: the lists are not what they were."""
        self._asked_at = float("-inf")

    def listed(self) -> list[tuple[Daemon, Tag]]:
        """Every model once, as of the latest lists."""
        found: dict[str, tuple[Daemon, Tag]] = {}
        for name, daemon in self.all.items():
            for key, tag in self._tags.get(name, {}).items():
                found.setdefault(key, (daemon, tag))
        return list(found.values())

    def find(self, model: str) -> tuple[Daemon, Tag] | None:
        """Who has a model, as of the latest lists, and what it calls it."""
        key = ollama_name(model)
        serving = self.serving.get(key)
        for name, daemon in self.all.items():
            if (tag := self._tags.get(name, {}).get(key)) is not None and serving in (None, name):
                return daemon, tag
        return None
