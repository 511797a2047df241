"""All configured Ollama daemons and their models."""

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
"""Seconds for which a list of models is reused."""


class Daemons:
    """The daemons by name, in the order of the configuration. The first that has a model serves it."""

    def __init__(self, settings: Ollama, session: aiohttp.ClientSession) -> None:
        self.settings = settings
        self._session = session
        self._former: list[Daemon] = []
        self.all = self._made(settings)
        self.serving: dict[str, str] = {}
        """The daemon in which each discovered model was first found, and which serves it."""
        self._tags: dict[str, dict[str, Tag]] = {}
        self._silent: dict[str, str] = {}
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Daemons"]:
        """Watch all daemons while the block runs."""
        for daemon in self.all.values():
            daemon.start()
        try:
            yield self
        finally:
            for daemon in (*self.all.values(), *self._former):
                await daemon.stop()

    def _made(self, settings: Ollama) -> dict[str, Daemon]:
        return {
            name: Daemon(name, url, self._session, timeout=settings.timeout)
            for name, url in settings.addresses.items()
        }

    def reconfigure(self, settings: Ollama) -> None:
        """Use these daemons from now on. One that is where it was stays the same.

        Others are watched until the end, since models that they have loaded may still answer.
        """
        before, self.settings, self.all = self.all, settings, self._made(settings)
        for name, made in self.all.items():
            known = before.get(name)
            if known is not None and known.url == made.url:
                self.all[name] = before.pop(name)
                known.timeout = settings.timeout
            else:
                self._tags.pop(name, None)
                made.start()
        self._former += before.values()
        self._silent.clear()
        self.serving = {model: name for model, name in self.serving.items() if name in self.all}
        self.changed()

    @property
    def first(self) -> Daemon | None:
        """The daemon that is used if none is named."""
        return next(iter(self.all.values()), None)

    @property
    def states(self) -> list[DaemonState]:
        """Return the states for /health."""
        return [daemon.state for daemon in self.all.values()]

    @property
    def silent(self) -> dict[str, str]:
        """Return the errors of daemons that give no list, by name."""
        away = {state.name: state.error or "it is away" for state in self.states if state.reachable is False}
        return self._silent | away

    def daemon_of(self, model: OllamaModel) -> Daemon:
        """Return the daemon of a configured model."""
        return self.all[model.daemon or next(iter(self.all))]

    def configured(self, daemon: Daemon, model: str) -> str | None:
        """Return the name under which a daemon's model is configured, if it is."""
        key = ollama_name(model)
        for name, settings in self.settings.models.items():
            if ollama_name(settings.model or name) == key and self.daemon_of(settings) is daemon:
                return name
        return None

    async def refresh(self) -> None:
        """Update the lists of models older than `FRESH` seconds. A silent daemon keeps its last list."""
        if not self.all:
            return
        async with self._asking:
            if time.monotonic() - self._asked_at < FRESH:
                return
            async with asyncio.TaskGroup() as group:
                for daemon in self.all.values():
                    if (
                        daemon.state.reachable is not False
                    ):  # otherwise its watcher asks, and no request has to wait
                        group.create_task(self._list(daemon))
            self._asked_at = time.monotonic()

    async def _list(self, daemon: Daemon) -> None:
        try:
            tags = await daemon.tags()
        except OllamaError as error:
            if self.all.get(daemon.name) is daemon:
                self._silent[daemon.name] = str(error)
            daemon.look_soon()
            return
        if self.all.get(daemon.name) is not daemon:
            return  # a reload has replaced it
        self._silent.pop(daemon.name, None)
        # Models that run on ollama.com are not served by this machine.
        self._tags[daemon.name] = {ollama_name(tag.name): tag for tag in tags if not tag.remote_host}

    def look_soon(self, endpoint: ServerAddress) -> None:
        """Check the daemon at this address soon, if there is one, because a connection to it broke."""
        for daemon in self.all.values():
            if endpoint.api == "ollama" and (daemon.host, daemon.port) == (endpoint.host, endpoint.port):
                daemon.look_soon()

    def changed(self) -> None:
        """Drop a daemon's list, because a model was pulled, copied, created or deleted."""
        self._asked_at = float("-inf")

    def listed(self) -> list[tuple[Daemon, Tag]]:
        """Return every model once, by the latest lists."""
        found: dict[str, tuple[Daemon, Tag]] = {}
        for name, daemon in self.all.items():
            for key, tag in self._tags.get(name, {}).items():
                found.setdefault(key, (daemon, tag))
        return list(found.values())

    def find(self, model: str) -> tuple[Daemon, Tag] | None:
        """Return the daemon that has a model, by the latest lists, and the daemon's name of it."""
        key = ollama_name(model)
        serving = self.serving.get(key)
        for name, daemon in self.all.items():
            if (tag := self._tags.get(name, {}).get(key)) is not None and serving in (None, name):
                return daemon, tag
        return None
