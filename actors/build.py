"""The supervisor, and an actor for each model, made of the settings."""

import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from actors.config.changes import launch, launch_in_daemon
from actors.config.schema import Config, Model, OllamaModel
from actors.gpu.observer import Observer
from actors.hub.hub import Hub
from actors.kept_lines import ServerLines
from actors.model_actor import ModelActor
from actors.model_names import HubName, ollama_name, parse_name
from actors.processes import is_alive, owner_mark
from actors.prompts.keeping import Prompts
from actors.scheduler.model_states import ModelSpec, Policy
from actors.scheduler.planner import Planner
from actors.servers import Backend, Trial
from actors.servers.docker.backend import DockerBackend
from actors.servers.docker.containers import Containers
from actors.servers.docker.engine import Engine
from actors.servers.health import answers
from actors.servers.liveness import Requests
from actors.servers.llama.appraisal import Headers, Predictor
from actors.servers.llama.backend import Shared
from actors.servers.llama.command import runs_in_container
from actors.servers.llama.process import ProcessBackend
from actors.servers.ollama.backend import OllamaBackend
from actors.servers.ollama.daemon import Daemon
from actors.servers.ollama.daemons import Daemons
from actors.servers.ports import PortBook
from actors.supervisor import Adopted, Supervisor


def uses_containers(config: Config) -> bool:
    """Whether the server of any model may run in a container."""
    pool = config.server_pool
    return pool.runtime == "docker" or any(
        runs_in_container(pool, model) for model in config.llama_cpp.models.values()
    )


def make_containers(config: Config, session: aiohttp.ClientSession, observer: Observer) -> Containers:
    """The containers of this gateway.

    A later gateway finds them by the gateway's address, or, if its port is
    chosen by the system, only by this process.
    """
    server, machine = config.server, socket.gethostname()
    process = f"process of {machine} "
    identity = f"{machine} {server.host}:{server.port}" if server.port else f"{process}{owner_mark()}"
    containers = Containers(
        Engine(config.server_pool.docker.host),
        name=config.server_pool.docker.name,
        identity=identity,
        is_dead=lambda other: other.startswith(process) and not is_alive(other.removeprefix(process)),
        answers=lambda host, port: answers(session, host, port),
        on_left_over=observer.report_again,
    )
    observer.left_over = containers.left_over
    return containers


class ModelFactory:
    """Makes the supervisor, with an actor for each configured model, and actors of what requests name.

    `session` is for health checks; `cache` is the folder of the built-in models; `requests` knows when a
    model server was last heard; `weights` are the clients' shares of turns. Nothing runs before the
    supervisor's `start`. `prompts` is open.
    """

    def __init__(
        self,
        config: Config,
        session: aiohttp.ClientSession,
        hub: Hub,
        observer: Observer,
        daemons: Daemons,
        containers: Containers,
        cache: Path,
        requests: Requests,
        weights: Mapping[str, float],
        prompts: Prompts,
    ) -> None:
        pool = config.server_pool
        self._prompts = prompts
        self._requests = requests
        self._config = config
        self._hub = hub
        self._observer = observer
        self._daemons = daemons
        self._containers = containers
        self._weights = weights
        self.server_lines = ServerLines()
        self._shared = Shared(
            config,
            hub,
            session,
            PortBook(pool.host, pool.port_start),
            Predictor(config, observer.calibration, self._gpus),
            cache,
            self.server_lines,
            # Without management of GPUs the monitor reports no GPU.
            lambda: observer.monitor.gpus,
            prompts.folder,
        )
        self.supervisor = Supervisor(Planner(Policy.of(config, weights), []), {}, self._adopt, observer)
        self.supervisor.prompts = prompts
        for spec, actor in self._configured(set()):
            self.supervisor.add(spec, actor)

    def reconfigure(self, config: Config) -> None:
        """Take a new configuration; only models whose servers depend on what has changed get new ones."""
        before, self._config = self._config, config
        self._hub.reconfigure(config.hub)
        self._daemons.reconfigure(config.ollama)
        if config.gpu.monitoring_interval != before.gpu.monitoring_interval:
            self._observer.monitor.sample_every(config.gpu.monitoring_interval)
        pool, old = config.server_pool, before.server_pool
        same_ports = (pool.host, pool.port_start) == (old.host, old.port_start)
        self._shared = self._shared._replace(
            config=config,
            ports=self._shared.ports if same_ports else PortBook(pool.host, pool.port_start),
            predictor=Predictor(config, self._observer.calibration, self._gpus),
        )
        taken: set[str] = set()
        models = self._configured(taken)
        adopted: list[Adopted] = []
        for name in self.supervisor.adopted:
            found = None if name in taken else self._find(name, taken.__contains__)
            if found is not None and found[0].name == name:
                taken |= {name, *found[0].aliases}
                adopted.append(found)
        changed: set[str] = set()
        for spec, actor in (*models, *adopted):
            if (known := self.supervisor.actor_of(spec.name)) is None:
                continue
            old_backend, backend = known.latest, actor.latest
            if _origin(before, spec.name, old_backend) != _origin(config, spec.name, backend):
                known.use(backend, stall_timeout=pool.health_timeout)
            if _launch(before, spec.name, old_backend) != _launch(config, spec.name, backend):
                changed.add(spec.name)
        names = [spec.name for spec, _ in adopted]
        self.supervisor.reconfigure(Policy.of(config, self._weights), [*models, *adopted], names, changed)

    def _configured(self, taken: set[str]) -> list[Adopted]:
        """Make the configured models; add their names to `taken`."""
        config, daemons = self._config, self._daemons
        for section in (config.llama_cpp.models, config.ollama.models):
            for known, model in section.items():
                taken |= {known, *model.aliases, *model.named_presets(known)}
        found: list[Adopted] = []
        for name, model in config.llama_cpp.models.items():
            # A model from a hub can also be asked for by its name on the hub.
            more = [str(model.hub_name)] if model.hub_name else []
            aliases = [*model.aliases, *_free(more, taken)]
            found.append((ModelSpec.of(name, model, aliases), self._of_llama_cpp(name, model)))
        for name, ollama_model in config.ollama.models.items():
            daemon = daemons.daemon_of(ollama_model)
            more = _names(ollama_model.model or name) if daemon is daemons.first else []
            aliases = [*ollama_model.aliases, *_free(more, taken)]
            found.append(self._of_ollama(name, ollama_model, daemon, aliases))
        return found

    def _gpus(self) -> list[int]:
        return [gpu.total for gpu in self._observer.monitor.gpus]

    def _actor(self, name: str, backend: Backend) -> ModelActor:
        patience = self._config.server_pool.health_timeout
        return ModelActor(
            name,
            backend,
            self.supervisor.tell,
            stall_timeout=patience,
            requests=self._requests,
            prompts=self._prompts,
        )

    def _of_llama_cpp(self, name: str, model: Model) -> ModelActor:
        return self._actor(name, self._llama_backend(name, model))

    def _llama_backend(self, name: str, model: Model) -> ProcessBackend | DockerBackend:
        if not runs_in_container(self._config.server_pool, model):
            return ProcessBackend(name, model, self._shared)
        return DockerBackend(name, model, self._shared, containers=self._containers)

    async def consider(self, name: HubName, headers: Headers, trial: Trial) -> dict[str, Any]:
        """Return where a model of the hub would go, by the headers of its files, as `Supervisor.plan` does.

        `needs`: the bytes that it would take in the best way, of GPUs and the host. Raises `StartError` for
        settings that llama.cpp would refuse.
        """
        model = Model(repo=name.repo, variant=name.variant)
        found = await self._llama_backend(str(name), model).try_headers(headers, trial)
        answer = await self.supervisor.consider(ModelSpec.of(str(name), model), found)
        best = found.demand.options[0]
        return {**answer, "needs": best.on_one + best.pinned + best.mapped}

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
        """Make a model that a request names: a repository that `hub.allow` permits, or one of a daemon."""
        return self._find(name, lambda known: self.supervisor.resolve(known) is not None)

    def _find(self, name: str, is_taken: Callable[[str], bool]) -> Adopted | None:
        hub_name = parse_name(name)
        if hub_name is not None and self._hub.allows(hub_name):
            model = _of_hub(hub_name)
            return ModelSpec.of(name, model), self._of_llama_cpp(name, model)
        if self._config.ollama.discover and (found := self._daemons.find(name)) is not None:
            daemon, tag = found
            taken = {known for known in _names(tag.name) if is_taken(known)}
            if tag.name not in taken:
                aliases = _free(_names(tag.name), taken | {tag.name})
                self._daemons.serving[ollama_name(tag.name)] = daemon.name
                return self._of_ollama(tag.name, OllamaModel(), daemon, aliases)
        return None


def _of_hub(name: HubName) -> Model:
    return Model(repo=name.repo, variant=name.variant)


def _origin(config: Config, name: str, backend: Backend) -> object:
    """Return the settings of which a model's backend is made."""
    pool, ollama = config.server_pool, config.ollama
    if isinstance(backend, OllamaBackend):
        made_of = ollama.pull, ollama.elsewhere, pool.health_timeout
        return ollama.models.get(name), made_of, backend.daemon
    return config.llama_cpp.models.get(name), pool, config.gpu.dry_run


def _launch(config: Config, name: str, backend: Backend) -> object:
    """Return the settings on which the server of a model, also of one that a request named, depends."""
    if isinstance(backend, OllamaBackend):
        served = config.ollama.models.get(name) or OllamaModel(daemon=backend.daemon.name)
        return launch_in_daemon(config.ollama, name, served), backend.daemon
    model = config.llama_cpp.models.get(name)
    if model is None and (hub_name := parse_name(name)) is not None:
        model = _of_hub(hub_name)
    return launch(config.server_pool, model) if model is not None else None


def _names(model: str) -> list[str]:
    """The names of an Ollama model: with its tag, and without the tag if it is `latest`."""
    full = ollama_name(model)
    return [model, full, full.removesuffix(":latest")]


def _free(names: Iterable[str], taken: set[str]) -> list[str]:
    """Return the names that are not taken yet, each once, and mark them as taken."""
    free = [name for name in dict.fromkeys(names) if name not in taken]
    taken.update(free)
    return free
