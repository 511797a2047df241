"""Runs each llama.cpp server as a container, from an image, on the GPUs of its placement."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
import msgspec
import structlog

from actors.config.masking import mask_command
from actors.config.schema import Model, ServerPool
from actors.errors import ConfigError, Failure
from actors.hub.cache import ModelFiles
from actors.memory.prediction.results import Prediction
from actors.messages import ApiKey, Figures, ServerAddress
from actors.model_names import part_names
from actors.placement.fit import Placement
from actors.progress import Progress
from actors.runtime import spawn
from actors.servers import StartError
from actors.servers.docker.container import Container
from actors.servers.docker.containers import Containers
from actors.servers.docker.engine import Engine, EngineError, EngineInfo
from actors.servers.docker.images import ensure_image, image_id
from actors.servers.docker.spec import PORT, ContainerSpec, Gpus, Mount, Published, gpus_of
from actors.servers.llama.backend import LlamaBackend, LlamaServer, Shared, in_words
from actors.servers.llama.command import NO_UI, command_words, given_key
from actors.servers.llama.devices import Reach, image_key
from actors.servers.llama.server_log import ServerLog, explain_end
from actors.servers.ports import PORT_TRIES

log = structlog.get_logger("model")

IMAGE = "ghcr.io/ggml-org/llama.cpp:server"
CUDA_IMAGE = "ghcr.io/ggml-org/llama.cpp:server-cuda"

FOLDER = Path("/models")
"""The folder of the model's files inside the container."""

GIB = 1 << 30

LOG_PAUSE = 0.05
"""Seconds without a log line after which the log counts as complete."""
LOG_LAG = 0.5
"""Seconds by which the engine may deliver a healthy server's log lines late."""


def image_of(pool: ServerPool, model: Model, *, on_gpu: bool) -> str:
    """Return the name of the image for a model's containers."""
    return model.image or pool.image or (CUDA_IMAGE if on_gpu else IMAGE)


async def build_of_image(engine: Engine, image: str) -> str:
    """Return a version for the server in an image: the image's name as long as the id is unknown."""
    try:
        return f"docker {await image_id(engine, image) or image}"
    except EngineError:
        return f"docker {image}"


class ContainerServer(LlamaServer):
    """A running llama.cpp server in a container. Implements `actors.servers.ModelServer`."""

    lost_port = False
    """False: the engine reports a taken port as a failed start, before there is a server."""

    def __init__(
        self,
        container: Container,
        containers: Containers,
        session: aiohttp.ClientSession,
        server_log: ServerLog,
        placement: Placement | None,
        predicted: Prediction | None,
        *,
        key: str | None,
        give_back_port: Callable[[], None],
        grace: float,
    ) -> None:
        endpoint = ServerAddress(*container.address, key=ApiKey(key or container.key))
        super().__init__(endpoint, session, server_log, container.lines, placement, predicted)
        self.process = container.pid
        self._container = container
        self._containers = containers
        self._give_back_port = give_back_port
        self._grace = grace
        self._answers_since: float | None = None

    async def is_healthy(self) -> bool:
        """Whether the server answers and has logged its allocation; the log may arrive after the answer."""
        if not await super().is_healthy():
            return False
        now = time.monotonic()
        self._answers_since = self._answers_since or now
        logged = bool(self._server_log.buffers) and now - self.last_progress > LOG_PAUSE
        return self._container.taken_over or logged or now - self._answers_since > LOG_LAG

    @property
    def exited(self) -> bool:
        """Whether the container has ended."""
        return self._container.end is not None

    def became_ready(self) -> None:
        """Note that the server has become healthy."""
        super().became_ready()
        self._container.serving = True

    def figures(self) -> Figures:
        """Return the predicted memory, and the allocation in the server's log."""
        return msgspec.structs.replace(super().figures(), taken_over=self._container.taken_over)

    def explain_exit(self, when: str) -> Failure:
        """Say how the container ended, with the log lines that look like the cause."""
        end = self._container.end
        assert end is not None
        failure = explain_end(
            f"(container {self._container.name}) {end.how}", when, self._container.lines.tail
        )
        if not end.out_of_memory:
            return failure
        advice = "; give it more memory (server_pool.docker.memory_limit), or a smaller context"
        return msgspec.structs.replace(failure, message=failure.message + advice)

    async def wait_exited(self, timeout: float | None = None) -> None:
        """Wait until the container has ended, at most `timeout` seconds."""
        await self._container.wait(timeout)

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop and remove the container, and release its port."""
        try:
            await self._containers.remove(self._container, 0.0 if at_once else self._grace)
        finally:
            self._give_back_port()


class DockerBackend(LlamaBackend):
    """Starts the server of one model as a container. Implements `actors.servers.Backend`."""

    other_gpus = False
    """False: a container has only the GPUs that it is given."""

    def __init__(
        self,
        name: str,
        model: Model,
        shared: Shared,
        *,
        containers: Containers,
    ) -> None:
        super().__init__(name, model, shared)
        self._containers = containers
        self._key = ""

    async def _build(self) -> str:
        """Return the version of the image that will most likely be used; the engine may be away."""
        return await build_of_image(self._containers.engine, self._image(on_gpu=bool(self._gpus())))

    async def _reach(self) -> Reach | None:
        """Return the GPUs that the image's server can use, which only the logs of its containers show."""
        self._key = image_key(await self._build(), (gpu.uuid for gpu in self._gpus()))
        return "none" if await asyncio.to_thread(self._predictor.used_no_gpu, self._key) else None

    def _image(self, *, on_gpu: bool) -> str:
        return image_of(self._pool, self._model, on_gpu=on_gpu)

    async def fetch(self, on_progress: Callable[[Progress], None]) -> ModelFiles:
        """Fetch the files and the image, because a download of gigabytes must not occupy memory on a GPU."""
        files = await super().fetch(on_progress)
        try:
            await self._containers.prepare()
            image = self._image(on_gpu=bool(self._gpus()))
            await ensure_image(self._containers.engine, image, on_progress)
        except EngineError as error:
            raise _failed(error) from error
        return files

    async def start(self, epoch: int, files: ModelFiles, placement: Placement | None) -> ContainerServer:
        """Start a container at a placement, or take over one that is exactly like it."""
        predicted = await self._predict(placement)
        try:
            spec = await self._spec(files, placement)
            key = await asyncio.to_thread(_given_key, spec)
            server_log = ServerLog(self._name, epoch, self._kept.of(self._name))
            container = await self._containers.take_over(spec, server_log.take)
            if container is not None:
                server_log.loaded()
                log.info(
                    "took over a running server", model=self._name, epoch=epoch, container=container.name
                )
                return self._server(container, server_log, placement, predicted, [], key)
            log.info(
                "server starts",
                model=self._name,
                epoch=epoch,
                image=spec.image,
                command=mask_command(spec.command),
                environment=dict(spec.environment),
                gpus=spec.gpus.names if spec.gpus else (),
                predicted=in_words(placement, predicted),
            )
            return await self._run(spec, server_log, placement, predicted, key)
        except EngineError as error:
            raise _failed(error) from error

    async def _run(
        self,
        spec: ContainerSpec,
        server_log: ServerLog,
        placement: Placement | None,
        predicted: Prediction | None,
        key: str | None,
    ) -> ContainerServer:
        """Raises `EngineError`."""
        taken: list[int] = []
        container: Container | None = None
        try:
            for tries_left in reversed(range(PORT_TRIES)):
                published = None
                if spec.network is None:
                    taken.append(self._ports.take())
                    published = Published(self._pool.host, taken[-1])
                try:
                    container = await self._containers.run(spec, published, server_log.take)
                    break
                except EngineError as error:
                    if not (error.port_taken and tries_left):
                        raise
                    log.warning("port was taken", model=self._name, port=taken[-1])
            assert container is not None
            return self._server(container, server_log, placement, predicted, taken, key)
        finally:
            if container is None:
                self._give_back(taken)

    def _server(
        self,
        container: Container,
        server_log: ServerLog,
        placement: Placement | None,
        predicted: Prediction | None,
        ports: list[int],
        key: str | None,
    ) -> ContainerServer:
        server = ContainerServer(
            container,
            self._containers,
            self._session,
            server_log,
            placement,
            predicted,
            key=key,
            give_back_port=lambda: self._give_back(ports),
            grace=self._pool.stop_timeout,
        )
        server.endpoint = msgspec.structs.replace(server.endpoint, gives=self._gives)
        server.on_no_gpu = self._used_no_gpu
        return server

    def _used_no_gpu(self) -> None:
        work = asyncio.to_thread(self._predictor.remember_no_gpu, self._key)
        _ = spawn(work, name=f"what the image of {self._name} can use")

    def _give_back(self, ports: list[int]) -> None:
        for port in ports:
            self._ports.give_back(port)

    # The container's settings

    async def _spec(self, files: ModelFiles, placement: Placement | None) -> ContainerSpec:
        """Raises `EngineError`."""
        info = await self._containers.prepare()
        devices = tuple(share.device for share in placement.shares) if placement else ()
        image = self._image(on_gpu=bool(devices))
        inside, mounts = await asyncio.to_thread(self._mounted, files)
        gpus = self._devices(info, devices)
        settings = self._pool.docker
        network = settings.network or next(iter(self._containers.surroundings.networks), None)
        if network is None and not self._containers.engine.shares_loopback:
            raise EngineError(
                f"the engine at {self._containers.engine.address} is on another machine, where nobody can "
                "reach published ports: server_pool.docker.network must name a network that the gateway is on"
            )
        command = command_words(self._pool, self._model)
        return ContainerSpec(
            model=self._name,
            image=image,
            image_id=await ensure_image(self._containers.engine, image, lambda _: None),
            command=tuple(self._flags(inside, ServerAddress("0.0.0.0", PORT), placement)),  # noqa: S104
            entrypoint=tuple(command) or None,
            environment=_environment(placement, gpus),
            mounts=mounts,
            devices=devices,
            gpus=gpus,
            network=network,
            # With the gateway's user the server can read the same files. A rootless engine's
            # root is that user.
            user="" if info.rootless else f"{os.getuid()}:{os.getgid()}",
            groups=() if info.rootless else tuple(str(group) for group in sorted(os.getgroups())),
            memory=None if settings.memory_limit is None else round(settings.memory_limit * GIB),
        )

    def _mounted(self, files: ModelFiles) -> tuple[ModelFiles, tuple[Mount, ...]]:
        """Return the files' paths in the container, and their mounts: one for each file, no folders.

        Blocking.
        """
        first, projector = files.path, files.projector
        places = {first.with_name(name): FOLDER / name for name in part_names(first.name)}
        inside = ModelFiles(path=FOLDER / first.name, label=files.label)
        if projector is not None:
            places[projector] = FOLDER / "projector" / projector.name
            inside = msgspec.structs.replace(inside, projector=places[projector])
        mounts = [self._mount(path, str(target)) for path, target in places.items()]
        mounts += [self._mount(Path(path), path) for path in self._pool.docker.mounts]
        return inside, tuple(mounts)

    def _mount(self, path: Path, target: str) -> Mount:
        """Return the mount of a file. In the hub's cache its name is a link to a blob, which is mounted."""
        real = path.resolve()
        try:
            changed = real.stat()
            version = f"{changed.st_size}:{changed.st_mtime_ns}"
        except OSError:  # the engine's machine may have the file nevertheless, and reports it if not
            version = ""
        return Mount(self._containers.surroundings.on_host(real), target, version)

    def _devices(self, info: EngineInfo, devices: tuple[str, ...]) -> Gpus | None:
        if not devices:
            return None
        setting = self._pool.docker.gpus
        indices = {gpu.uuid: gpu.index for gpu in self._gpus()}
        return gpus_of(info.gpus if setting == "auto" else setting, devices, indices, info.cdi_devices)


def _environment(placement: Placement | None, gpus: Gpus | None) -> Mapping[str, str]:
    own = {"HOME": "/tmp", "GGML_NO_BACKTRACE": "1", **NO_UI}  # noqa: S108 (inside the container, where all else is read-only)
    if gpus is None or gpus.driver == "cdi":
        # CUDA's images ask for all GPUs, and would get them where NVIDIA's runtime is the default.
        own["NVIDIA_VISIBLE_DEVICES"] = "void"
    return own if placement is None else {**own, **placement.environment}


def _given_key(spec: ContainerSpec) -> str | None:
    """Return the API key in the user's arguments.

    A key file must have the same path inside (docker.mounts).
    """
    try:
        return given_key([*(spec.entrypoint or ()), *spec.command])
    except ConfigError as error:
        raise StartError(Failure(message=str(error), retryable=False)) from error


def _failed(error: EngineError) -> StartError:
    return StartError(Failure(message=str(error)))
