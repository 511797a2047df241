"""Which models there are, under which names, and what their servers speak."""

import asyncio
from collections.abc import Mapping

import msgspec

from actors.config import Model
from actors.hub.hub import Hub
from actors.hub.names import parse_name
from actors.lifecycle import State
from actors.messages import Api
from actors.ollama.client import Tag
from actors.ollama.daemon import Daemon
from actors.ollama.daemons import Daemons
from actors.roster import ModelStatus
from actors.supervisor import Supervisor

LATEST = ":latest"
"""The tag that Ollama's clients add to a name without one."""


class Known(msgspec.Struct, frozen=True):
    """The name by which the supervisor finds a model, and the API of its server."""

    name: str
    api: Api = "llama.cpp"


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """The models that the supervisor knows; and others: names in the hub's cache, and models of daemons."""

    models: list[ModelStatus]
    cached: list[str]
    tags: list[Tag]


class Catalog:
    """The supervisor's models, those in the hub's cache, and those that Ollama's daemons have."""

    def __init__(
        self, supervisor: Supervisor, hub: Hub, daemons: Daemons, configured: Mapping[str, Model]
    ) -> None:
        self._configured = configured
        self.daemons = daemons
        self._supervisor = supervisor
        self._hub = hub

    async def find(self, name: str) -> Known:
        """What a name means; one that means nothing is returned as it is."""
        if (known := self._known(name)) is not None:
            return known
        hub_name = parse_name(name)
        if not self.daemons.all or (hub_name is not None and self._hub.allows(hub_name)):
            return Known(name)
        await self.daemons.refresh()
        if (found := self.daemons.find(name)) is None:
            return Known(name)
        own_name = found[1].name
        return self._known(own_name) or Known(own_name, "ollama")

    def _known(self, name: str) -> Known | None:
        for candidate in (name, name.removesuffix(LATEST)):
            if (api := self._supervisor.api_of(candidate)) is not None:
                return Known(candidate, api)
        return None

    def settings_of(self, name: str) -> Model | None:
        """Those of one of llama.cpp's models that is configured, by any of its names."""
        canonical = self._supervisor.resolve(name)
        return self._configured.get(canonical) if canonical is not None else None

    async def daemon_of(self, name: str) -> tuple[Daemon, str] | None:
        """Which daemon has a model, and what it calls it; None if it is not Ollama's."""
        known = await self.find(name)
        if known.api != "ollama":
            return None
        if (model := self.daemons.settings.models.get(known.name)) is not None:
            daemon = self.daemons.all[model.daemon] if model.daemon else self.daemons.first
            return (daemon, model.model or known.name) if daemon else None
        found = self.daemons.find(known.name)
        return (found[0], found[1].name) if found else None

    async def listed(self) -> Listed:
        """Every model that can be asked for."""
        if self.daemons.settings.discover:
            await self.daemons.refresh()
        models = [model for model in self.models if not self._is_gone(model)]
        taken = {name.casefold() for model in models for name in (model.name, *model.aliases)}
        cached = [str(model.name) for model in await asyncio.to_thread(self._hub.listed)]
        tags = self.daemons.listed() if self.daemons.settings.discover else []
        return Listed(
            models=models,
            cached=[name for name in cached if name.casefold() not in taken],
            tags=[tag for _, tag in tags if tag.name.casefold() not in taken],
        )

    def _is_gone(self, model: ModelStatus) -> bool:
        """Whether it was only known because a daemon had it, which has it no more."""
        return (
            model.api == "ollama"
            and model.name not in self.daemons.settings.models
            and model.state in (State.STOPPED, State.FAILED)
            and self.daemons.find(model.name) is None
        )

    @property
    def models(self) -> list[ModelStatus]:
        """Those that the supervisor knows."""
        return self._supervisor.describe()
