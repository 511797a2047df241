"""Which models there are, under which names, and what their servers speak."""

import asyncio

import msgspec

from actors.hub.hub import Hub
from actors.hub.names import parse_name
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


class Catalog:
    """The supervisor's models, those in the hub's cache, and those that Ollama's daemons have."""

    def __init__(self, supervisor: Supervisor, hub: Hub, daemons: Daemons) -> None:
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

    async def unused(self) -> tuple[list[str], list[tuple[Daemon, Tag]]]:
        """The models that nobody has asked for yet: names in the hub's cache, and those of the daemons."""
        taken = {name.casefold() for model in self.models for name in (model.name, *model.aliases)}
        cached = [str(model.name) for model in await asyncio.to_thread(self._hub.listed)]
        if self.daemons.settings.discover:
            await self.daemons.refresh()
        tags = self.daemons.listed() if self.daemons.settings.discover else []
        return (
            [name for name in cached if name.casefold() not in taken],
            [(daemon, tag) for daemon, tag in tags if tag.name.casefold() not in taken],
        )

    @property
    def models(self) -> list[ModelStatus]:
        """Those that the supervisor knows."""
        return self._supervisor.describe()
