"""The models, their names, and the APIs of their servers."""

import asyncio
from collections.abc import Callable

import msgspec

from actors.config.changes import CurrentConfig
from actors.config.parameters import is_empty, merged
from actors.config.schema import Config, LoadingState, Model, ModelSettings, Preset, RequestSettings
from actors.hub.cache import ModelFiles
from actors.hub.hub import Hub
from actors.messages import ServerApiName
from actors.model_names import LATEST, HubName, ollama_name, parse_name, without_hub
from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import ModelStatus
from actors.servers import StartError
from actors.servers.ollama.client import Tag
from actors.servers.ollama.daemon import Daemon
from actors.servers.ollama.daemons import Daemons
from actors.supervisor import Supervisor
from proxy.errors import ApiError
from proxy.model_cards import ModelCard, ModelFacts, facts_of_card, facts_of_tag, read_card


class Known(msgspec.Struct, frozen=True):
    """The canonical name of a model, the API of its server, and what its settings change in requests.

    `preset`: the whole name of its preset, if that was asked for. `loading_state`: how its streams tell what
    they wait for; None: as those of all models.
    """

    name: str
    api: ServerApiName = "llama.cpp"
    request: RequestSettings | None = None
    preset: str | None = None
    loading_state: LoadingState | None = None


class ListedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A listed model: known to the supervisor, or only found in the hub's cache or in a daemon."""

    models: list[ModelStatus]
    presets: list[tuple[str, Preset, ModelStatus]]
    """Each with its whole name and its model."""
    cached: list[str]
    tags: list[Tag]


class Catalog:
    """The supervisor's models, those in the hub's cache, and those of Ollama's daemons."""

    def __init__(self, supervisor: Supervisor, hub: Hub, daemons: Daemons, current: CurrentConfig) -> None:
        self._current = current
        self.daemons = daemons
        self._supervisor = supervisor
        self._hub = hub

    @property
    def config(self) -> Config:
        """The configuration in effect."""
        return self._current.config

    async def find(self, name: str) -> Known:
        """Resolve a name; an unknown one is returned unchanged.

        Raises `ApiError` if the name is unknown and a daemon that may have it does not answer.
        """
        if (known := self._known(name)) is not None:
            return known
        hub_name = parse_name(without_hub(name))
        if hub_name is not None and self._hub.allows(hub_name):
            return Known(str(hub_name))
        if not self.daemons.all or not self.daemons.settings.discover:
            return Known(name)
        await self.daemons.refresh()
        if (found := self.daemons.find(name)) is not None:
            daemon, tag = found
            own_name = self.daemons.configured(daemon, tag.name) or tag.name
            return self._known(own_name) or Known(own_name, "ollama")
        for reason in self.daemons.silent.values():
            message = (
                f"model {name[:200]!r} is not known, and a daemon that may have it does not answer: {reason}"
            )
            raise ApiError(503, message, code="daemon_away", param="model", retry_after=5)
        return Known(name)

    def _known(self, name: str) -> Known | None:
        for candidate in dict.fromkeys((name, without_hub(name), name.removesuffix(LATEST))):
            if (own_name := self._supervisor.resolve(candidate)) is not None:
                return self._configured_as(candidate, own_name)
        return None

    def _configured_as(self, asked: str, own_name: str) -> Known:
        api = self._supervisor.api_of(own_name) or "llama.cpp"
        if (settings := self.common_settings_of(own_name)) is None:
            return Known(own_name, api)
        request, preset = settings.request, None
        if asked != own_name and settings.presets:
            for name, found in settings.named_presets(own_name).items():
                if name.casefold() == asked.casefold():
                    request, preset = merged(settings.request, found.request), name
        return Known(own_name, api, None if is_empty(request) else request, preset, settings.loading_state)

    def names_of(self, known: Known) -> tuple[str, ...]:
        """Return a model's name and its aliases."""
        return self._supervisor.names_of(known.name)

    def names_meant(self, name: str) -> tuple[str, ...]:
        """Return this name, and those of the model that has it, as far as known without asking daemons."""
        known = self._known(name)
        return (name,) if known is None else (name, *self.names_of(known))

    def answers_as(self, name: str, known: Known) -> bool:
        """Whether the model's server uses this name in its answers."""
        if known.api != "ollama":
            return True
        found = self._place(known)
        return found is not None and ollama_name(found[1]) == ollama_name(name)

    def settings_of(self, name: str) -> Model | None:
        """Return the settings of a configured llama.cpp model, given any of its names."""
        canonical = self._supervisor.resolve(name)
        return self.config.llama_cpp.models.get(canonical) if canonical is not None else None

    def common_settings_of(self, name: str) -> ModelSettings | None:
        """Return the settings that every kind of model has, given the canonical name of a configured one."""
        return self.config.llama_cpp.models.get(name) or self.daemons.settings.models.get(name)

    async def files_of(self, name: str) -> ModelFiles | None:
        """Return a model's files, if they are on the disk."""
        if self._supervisor.resolve(name) is not None:
            try:
                return await self._supervisor.files(name)
            except StartError:
                return None  # requests to it report the reason
        hub_name = parse_name(name)
        if hub_name is None or not self._hub.allows(hub_name):
            return None
        return await asyncio.to_thread(self._hub.cache.find, hub_name, "main", None)

    async def without_files(self, deleted: HubName) -> list[str]:
        """Return the models of a repository that requests have named, and whose files are gone."""
        names = [model.name for model in self.models if model.name not in self.config.llama_cpp.models]
        same = [name for name in names if _repo_of(name) == deleted.repo.casefold()]
        return [name for name in same if await self.files_of(name) is None]

    def forget(self, name: str) -> None:
        """Drop a model whose files are gone, unless it is configured."""
        self._supervisor.forget(name)

    async def card_of(self, name: str) -> ModelCard:
        """Return the description of a model's file; an empty one if the file is not on the disk."""
        files = await self.files_of(name)
        if files is None:
            return ModelCard()
        arguments = self.config.server_pool.arguments
        return await asyncio.to_thread(read_card, files, self.settings_of(name), arguments)

    async def facts_of(self, model: ModelStatus) -> ModelFacts:
        """Return what is known of a model before a request: of its file, its daemon and its place."""
        if model.api == "ollama":
            facts = facts_of_tag(self.tag_of(model) or Tag(model.name))
            if (settings := self.daemons.settings.models.get(model.name)) is not None:
                facts = msgspec.structs.replace(facts, context=settings.ctx_size)
        else:
            facts = facts_of_card(await self.card_of(model.name))
        if model.placement is None:
            return facts
        option = model.placement.option
        return msgspec.structs.replace(facts, context=option.slot or option.context)

    async def of_llama_cpp(self, asked: str) -> str:
        """Return the canonical name of a llama.cpp model. Raises `ApiError` for an Ollama model."""
        known = await self.find(asked)
        if (name := self._supervisor.resolve(known.name)) is not None:
            return name
        if await self.files_of(known.name) is not None:
            return known.name
        raise not_found(asked)

    async def daemon_of(self, name: str) -> tuple[Daemon, str] | None:
        """Return the daemon of a model and the daemon's name of it; None for other models.

        Raises `ApiError`.
        """
        known = await self.find(name)
        if known.api != "ollama":
            return None
        if (found := self._place(known)) is None:
            message = f"model {name[:200]!r} was in an Ollama daemon, and is there no more"
            raise ApiError(404, message, code="model_not_found", param="model")
        return found

    def _place(self, known: Known) -> tuple[Daemon, str] | None:
        name = known.name
        if (model := self.daemons.settings.models.get(name)) is not None:
            return self.daemons.daemon_of(model), model.model or name
        found = self.daemons.find(name)
        return (found[0], found[1].name) if found else None

    def tag_of(self, model: ModelStatus) -> Tag | None:
        """Return the latest description of an Ollama model by its daemon."""
        place = self._place(Known(model.name, "ollama"))
        found = self.daemons.find(place[1]) if place is not None else None
        return found[1] if found is not None else None

    async def listed(
        self, may_use: Callable[..., bool] = lambda *_: True, *, hidden: bool = False
    ) -> ListedModel:
        """Return every model that a request can name, if its key `may_use` one of the model's names.

        `hidden`: also those that are in no list.
        """
        if self.daemons.settings.discover:
            await self.daemons.refresh()
        models = [model for model in self.models if not self._is_gone(model)]
        presets = [
            (name, preset, model)
            for model in models
            if (settings := self.common_settings_of(model.name)) is not None
            for name, preset in settings.named_presets(model.name).items()
        ]
        taken = {name.casefold() for model in models for name in (model.name, *model.aliases)}
        taken |= {name.casefold() for name, _, _ in presets}
        taken |= {name + LATEST for name in taken}
        cached = [str(model.name) for model in await asyncio.to_thread(self._hub.listed)]
        tags = self.daemons.listed() if self.daemons.settings.discover else []
        return ListedModel(
            models=[
                model
                for model in models
                if (hidden or not model.hidden) and may_use(model.name, *model.aliases)
            ],
            presets=[
                (name, preset, model)
                for name, preset, model in presets
                if (hidden or not preset.hidden) and may_use(name, model.name, *model.aliases)
            ],
            cached=[name for name in cached if name.casefold() not in taken and may_use(name)],
            tags=[
                tag
                for daemon, tag in tags
                if tag.name.casefold() not in taken
                and may_use(tag.name)
                and not self.daemons.configured(daemon, tag.name)
            ],
        )

    def _is_gone(self, model: ModelStatus) -> bool:
        """Whether the model was only known from a daemon that no longer has it."""
        return (
            model.api == "ollama"
            and model.name not in self.daemons.settings.models
            and model.state in (State.STOPPED, State.FAILED)
            and self.daemons.find(model.name) is None
        )

    @property
    def models(self) -> list[ModelStatus]:
        """The models that the supervisor knows."""
        return self._supervisor.describe()


def _repo_of(name: str) -> str | None:
    hub_name = parse_name(name)
    return hub_name.repo.casefold() if hub_name is not None else None


def not_found(name: str) -> ApiError:
    """Make the error for an unknown model."""
    return ApiError(404, f"model {name[:200]!r} not found", code="not_found", param="model")
