"""`/admin/models`: all models that requests can name."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from actors.messages import ServerApiName
from actors.progress import Progress
from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import ModelStatus
from actors.supervisor import Supervisor
from proxy.admin.routes import Route, json_answer
from proxy.catalog import Catalog
from proxy.handlers.health import placement_of, rounded
from proxy.model_cards import ModelFacts, facts_of_card, facts_of_tag


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a download. None: not known yet."""

    bytes: int
    total_bytes: int
    bytes_per_second: float | None
    seconds_left: float | None

    @classmethod
    def of(cls, progress: Progress) -> "Download":
        """Describe a download."""
        return cls(
            bytes=progress.have,
            total_bytes=progress.total,
            bytes_per_second=rounded(progress.rate),
            seconds_left=rounded(progress.seconds_left),
        )


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's file or daemon says of it; None before the file is on the disk.

    `size` is in bytes, `context` the longest context in tokens that the model was made for.
    """

    size: int | None = None
    quantization: str | None = None
    context: int | None = None
    capabilities: tuple[str, ...] | None = None

    @classmethod
    def of(cls, facts: ModelFacts) -> "Facts":
        """Take those of the facts that the operator is shown."""
        return cls(
            size=facts.size,
            quantization=facts.quantization or None,
            context=facts.trained_context,
            capabilities=facts.capabilities or None,
        )


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model. Its `state` is one of `/health`; times are in seconds, from now.

    `placement` is that of `/health`, `idle_timeout` the idle seconds until it is unloaded (None: never), and
    `error` its last failure.
    """

    name: str
    aliases: tuple[str, ...] = ()
    api: ServerApiName = "llama.cpp"
    state: State = State.STOPPED
    epoch: int = 0
    pinned: bool = False
    hidden: bool = False
    description: str | None = None
    busy: int = 0
    slots: int | None = None
    waiting: int = 0
    place: str | None = None
    placement: dict[str, Any] | None = None
    download: Download | None = None
    load_seconds: float | None = None
    ready_seconds: float | None = None
    idle_seconds: float | None = None
    idle_timeout: float | None = None
    failures: int = 0
    retry_in: float | None = None
    error: str | None = None
    size: int | None = None
    quantization: str | None = None
    context: int | None = None
    capabilities: tuple[str, ...] | None = None


class ModelList(msgspec.Struct, frozen=True):
    """All models."""

    models: Sequence[Model]


class Models:
    """Describes models. The facts of files and daemons are remembered between two calls of `listed`."""

    def __init__(self, supervisor: Supervisor, catalog: Catalog) -> None:
        self._supervisor = supervisor
        self._catalog = catalog
        self._facts: dict[str, Facts] = {}

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        return (Route(method="GET", path="/admin/models", handler=self.show, answer=ModelList),)

    async def show(self, _request: web.Request) -> web.Response:
        """List all models: the configured ones, those on the disk, and those of Ollama's daemons."""
        return json_answer(ModelList(await self.listed()))

    async def listed(self, *, remembers: bool = False) -> list[Model]:
        """Describe all models that a request can name. `remembers`: files are not read twice."""
        listed = await self._catalog.listed(hidden=True)
        before = {name: self._facts[name] for name in self._facts if remembers and self.has_facts(name)}
        facts = {
            model.name: before.get(model.name) or await self._read_facts(model) for model in listed.models
        }
        for name in listed.cached:
            facts[name] = before.get(name) or Facts.of(facts_of_card(await self._catalog.card_of(name)))
        facts |= {tag.name: Facts.of(facts_of_tag(tag)) for tag in listed.tags}
        self._facts = facts
        known = {model.name for model in listed.models}
        models = [self.describe(model) for model in self._supervisor.describe() if model.name in known]
        models += [Model(name=name, **msgspec.structs.asdict(facts[name])) for name in listed.cached]
        return models + [
            Model(name=tag.name, api="ollama", **msgspec.structs.asdict(facts[tag.name]))
            for tag in listed.tags
        ]

    async def _read_facts(self, model: ModelStatus) -> Facts:
        return Facts.of(await self._catalog.facts_of(model))

    async def read_facts(self, model: ModelStatus) -> None:
        """Read the facts of one model again, because its files may be on the disk now."""
        self._facts[model.name] = await self._read_facts(model)

    def has_facts(self, name: str) -> bool:
        """Whether the facts of a model have been read, from files that were on the disk."""
        return self._facts.get(name, Facts()).size is not None

    def describe(self, model: ModelStatus) -> Model:
        """Describe a model that the supervisor knows, with the remembered facts."""
        progress = self._supervisor.progress(model.name)
        facts = self._facts.get(model.name, Facts())
        settings = self._catalog.common_settings_of(model.name)
        return Model(
            name=model.name,
            aliases=model.aliases,
            api=model.api,
            state=model.state,
            epoch=model.epoch,
            pinned=model.pinned,
            hidden=model.hidden,
            description=None if settings is None else settings.description or None,
            busy=model.busy,
            slots=model.slots,
            waiting=model.waiting,
            place=model.place,
            placement=placement_of(model),
            download=None if progress is None else Download.of(progress),
            load_seconds=rounded(model.load_seconds),
            ready_seconds=rounded(model.ready_seconds),
            idle_seconds=rounded(model.idle_seconds),
            idle_timeout=_idle_timeout(model),
            failures=model.failures,
            retry_in=rounded(model.retry_in),
            error=model.error,
            **msgspec.structs.asdict(facts),
        )


def _idle_timeout(model: ModelStatus) -> float | None:
    """Idle seconds until the unload, whoever set them; None for never."""
    seconds = (model.idle_timeout or math.inf) if model.keep_alive is None else model.keep_alive
    return seconds if math.isfinite(seconds) else None
