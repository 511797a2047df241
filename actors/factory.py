"""The supervisor, and an actor for each model, made of the settings."""

from collections.abc import Iterable
from pathlib import Path

import aiohttp

from actors.backends import Backend
from actors.backends.ollama import OllamaBackend
from actors.backends.prediction import Predictor
from actors.backends.process import LlamaServerBackend, PortBook
from actors.config import Config, Model, OllamaModel
from actors.hub.hub import Hub
from actors.hub.names import parse_name
from actors.model import ModelActor
from actors.observer import Observer
from actors.ollama.client import canonical
from actors.ollama.daemon import Daemon
from actors.ollama.daemons import Daemons
from actors.planner import Planner
from actors.roster import ModelSpec, Policy
from actors.supervisor import Adopted, Supervisor


def make_supervisor(
    config: Config,
    session: aiohttp.ClientSession,
    hub: Hub,
    observer: Observer,
    daemons: Daemons,
    cache: Path,
) -> Supervisor:
    """The supervisor with one actor per configured model; nothing runs before `start`.

    `session` is for health checks; `cache` is the folder of the built-in models.
    """
    return _Factory(config, session, hub, observer, daemons, cache).supervisor


class _Factory:
    """Makes actors, also of the models that only requests name."""

    def __init__(
        self,
        config: Config,
        session: aiohttp.ClientSession,
        hub: Hub,
        observer: Observer,
        daemons: Daemons,
        cache: Path,
    ) -> None:
        pool = config.server_pool
        self._config = config
        self._session = session
        self._hub = hub
        self._observer = observer
        self._daemons = daemons
        self._cache = cache
        self._predictor = Predictor(config, observer.calibration, self._gpus)
        self._ports = PortBook(pool.host, pool.port_start)
        self.supervisor = Supervisor(Planner(Policy.of(config), []), {}, self._adopt, observer)
        taken = {name for known, model in config.llama_cpp.models.items() for name in (known, *model.aliases)}
        taken |= {name for known, model in config.ollama.models.items() for name in (known, *model.aliases)}
        for name, model in config.llama_cpp.models.items():
            # One of a hub answers to its name there too.
            more = [str(model.hub_name)] if model.hub_name else []
            aliases = [*model.aliases, *_free(more, taken)]
            self.supervisor.add(ModelSpec.of(name, model, aliases), self._of_llama_cpp(name, model))
        for name, ollama_model in config.ollama.models.items():
            daemon = daemons.daemon_of(ollama_model)
            more = _names(ollama_model.model or name) if daemon is daemons.first else []
            aliases = [*ollama_model.aliases, *_free(more, taken)]
            self.supervisor.add(*self._of_ollama(name, ollama_model, daemon, aliases))

    def _gpus(self) -> list[int]:
        return [gpu.total for gpu in self._observer.monitor.gpus]

    def _actor(self, name: str, backend: Backend) -> ModelActor:
        patience = self._config.server_pool.health_timeout
        return ModelActor(name, backend, self.supervisor.tell, stall_timeout=patience)

    def _of_llama_cpp(self, name: str, model: Model) -> ModelActor:
        backend = LlamaServerBackend(
            name,
            model,
            self._config,
            hub=self._hub,
            session=self._session,
            ports=self._ports,
            predictor=self._predictor,
            cache=self._cache,
        )
        return self._actor(name, backend)

    def _of_ollama(self, name: str, model: OllamaModel, daemon: Daemon, aliases: Iterable[str]) -> Adopted:
        settings = self._config.ollama
        backend = OllamaBackend(
            model.model or name,
            daemon,
            pull=settings.pull,
            context=model.ctx_size,
            gpus=lambda: sum(self._gpus()),
            elsewhere=daemon.name in settings.elsewhere,
        )
        return ModelSpec.of_ollama(name, model, aliases, settings.parallel), self._actor(name, backend)

    def _adopt(self, name: str) -> Adopted | None:
        """A model that a request names by its repository, if `hub.allow` lets it, or that a daemon has."""
        hub_name = parse_name(name)
        if hub_name is not None and self._hub.allows(hub_name):
            model = Model(repo=hub_name.repo, variant=hub_name.variant)
            return ModelSpec.of(name, model), self._of_llama_cpp(name, model)
        if self._config.ollama.discover and (found := self._daemons.find(name)) is not None:
            daemon, tag = found
            taken = {known for known in _names(tag.name) if self.supervisor.resolve(known) is not None}
            if tag.name not in taken:
                aliases = _free(_names(tag.name), taken | {tag.name})
                self._daemons.serving[canonical(tag.name)] = daemon.name
                return self._of_ollama(tag.name, OllamaModel(), daemon, aliases)
        return None


def _names(model: str) -> list[str]:
    """What clients call one of Ollama's models: with its tag, and without if it is the usual one."""
    full = canonical(model)
    return [model, full, full.removesuffix(":latest")]


def _free(names: Iterable[str], taken: set[str]) -> list[str]:
    """Those that are not taken, each once; they are taken from now on."""
    free = [name for name in dict.fromkeys(names) if name not in taken]
    taken.update(free)
    return free
