"""The common part of all llama.cpp servers: files, memory, flags, log and health."""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec
import structlog

from actors.config.schema import BUILTIN, Config, Model
from actors.demo.model import demo_path, is_whole_demo
from actors.errors import Failure
from actors.gpu.calibration import Surcharge
from actors.gpu.monitor import Gpu
from actors.hub.cache import ModelFiles
from actors.hub.download import HubError
from actors.hub.hub import Hub
from actors.kept_lines import ServerLines
from actors.memory.prediction.results import Prediction
from actors.memory.projector import TOKEN_LIMIT
from actors.messages import Figures, Gives, ServerAddress
from actors.placement.fit import Placement
from actors.placement.options import Demand
from actors.processes import processor_seconds, run_off_loop
from actors.progress import Progress
from actors.prompts.identity import Cache
from actors.runtime import spawn
from actors.servers import StartError, Trial
from actors.servers.child_process import Child
from actors.servers.health import answers, ask_for_key, health
from actors.servers.llama.appraisal import Appraisal, Headers, Predictor, with_trial
from actors.servers.llama.command import python_path, server_flags
from actors.servers.llama.devices import Reach
from actors.servers.llama.log import is_host
from actors.servers.llama.server_log import ServerLog
from actors.servers.output_lines import Lines
from actors.servers.ports import PortBook

log = structlog.get_logger("model")


class LlamaServer:
    """A running llama.cpp server. Subclasses for each runtime add how it ends."""

    def __init__(
        self,
        endpoint: ServerAddress,
        session: aiohttp.ClientSession,
        server_log: ServerLog,
        lines: Lines,
        placement: Placement | None,
        predicted: Prediction | None,
    ) -> None:
        self.endpoint = endpoint
        self._session = session
        self._server_log = server_log
        self._lines = lines
        self._placement = placement
        self._predicted = predicted
        self.on_no_gpu: Callable[[], None] = lambda: None
        """Called when the log shows that the server uses none of its GPUs."""
        self.process = 0
        self.cache: Cache | None = None
        self._proven = False

    @property
    def exited(self) -> bool:
        """Whether the server is gone."""
        raise NotImplementedError

    @property
    def last_progress(self) -> float:
        """Monotonic time of the server's start or of its latest log line."""
        return self._lines.last_progress

    def log_tail(self) -> tuple[str, ...]:
        """Return the latest log lines."""
        return tuple(self._lines.tail)[-20:]

    def became_ready(self) -> None:
        """Note that the server has become healthy."""
        self._server_log.loaded()

    def figures(self) -> Figures:
        """Return the predicted memory, and the allocation in the server's log."""
        found = figures(self._placement, self._predicted, self._server_log.buffers)
        if not (self._placement and self._placement.shares and self._server_log.uses_no_gpu):
            return found
        self.on_no_gpu()
        return msgspec.structs.replace(found, on_host=True)

    async def is_healthy(self) -> bool:
        """Whether GET /health answers 200 and the server is ours (refused, reset and 503 mean not yet).

        Raises `StartError` if the server is ours and refuses its key.
        """
        endpoint = self.endpoint
        if not await answers(self._session, endpoint.host, endpoint.port) or self.exited:
            return False
        self._proven = self._proven or await self._is_ours()
        return self._proven

    async def _is_ours(self) -> bool:
        """Whether the server is ours. Also notes whether it refuses requests without its key."""
        match await ask_for_key(self._session, self.endpoint):
            case "refused":
                message = (
                    "the model server refuses the key that it was given (LLAMA_API_KEY): it has one of its "
                    "own; give it as --api-key among the model's arguments"
                )
                raise StartError(Failure(message=message, retryable=False, log_tail=self.log_tail()))
            case "needed":
                self.endpoint = msgspec.structs.replace(self.endpoint, refuses=True)
            case "ignored":
                pass
        return True

    async def is_alive(self, timeout: float) -> bool:
        """Whether GET /health answers within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await health(self._session, self.endpoint.host, self.endpoint.port) is not None
        except TimeoutError:
            return False

    async def processor_seconds(self) -> float:
        """Return the processor seconds of the server's processes; 0 on another machine."""
        return await run_off_loop(partial(processor_seconds, self.process), 0.0) if self.process else 0.0


class Shared(NamedTuple):
    """The objects that the backends of all models share."""

    config: Config
    hub: Hub
    session: aiohttp.ClientSession
    """The HTTP session for health checks."""
    ports: PortBook
    predictor: Predictor
    cache: Path
    """The folder of the built-in models."""
    lines: ServerLines
    """The latest lines of each model's servers."""
    gpus: Callable[[], Sequence[Gpu]] = tuple
    """The GPUs on which models may be placed."""
    prompts: Path | None = None
    """The folder of saved prompts."""


class LlamaBackend:
    """Implements `actors.servers.Backend` except `start`, which each runtime adds."""

    def __init__(self, name: str, model: Model, shared: Shared) -> None:
        self._name = name
        self._model = model
        self._config = shared.config
        self._pool = shared.config.server_pool
        self._hub = shared.hub
        self._session = shared.session
        self._ports = shared.ports
        self._predictor = shared.predictor
        self._cache = shared.cache
        self._gpus = shared.gpus
        self._kept = shared.lines
        self._prompts = shared.prompts
        self._appraisal: Appraisal | None = None
        self._unwritten: list[tuple[str, str, int]] = []
        self._writing = asyncio.Lock()

    @property
    def other_gpus(self) -> bool:
        """Whether the server may find GPUs that NVML does not report. Raises `StartError`."""
        raise NotImplementedError

    async def _build(self) -> str:
        """Return the server's version; empty if unknown. Raises `StartError`."""
        raise NotImplementedError

    async def _reach(self) -> Reach | None:
        """Return the GPUs that the server can use; None if unknown. Raises `StartError`."""
        raise NotImplementedError

    async def fetch(self, on_progress: Callable[[Progress], None]) -> ModelFiles:
        """Find the files, or download them."""
        return await self._files(on_progress)

    async def _files(self, on_progress: Callable[[Progress], None]) -> ModelFiles:
        model = self._model
        if name := model.hub_name:
            try:
                return await self._hub.find(
                    name, revision=model.revision, projector=model.mmproj, on_progress=on_progress
                )
            except HubError as error:
                raise StartError(error.failure) from error
        assert model.path is not None
        if model.path.startswith(BUILTIN):
            async with self._writing:
                return ModelFiles(path=await self._make_demo(model.path.removeprefix(BUILTIN)))
        return ModelFiles(path=Path(model.path), projector=Path(model.mmproj) if model.mmproj else None)

    async def find(self) -> ModelFiles | None:
        """Return the files if they are on the disk."""
        if name := self._model.hub_name:
            return await asyncio.to_thread(
                self._hub.cache.find, name, self._model.revision, self._model.mmproj
            )
        return await self._files(lambda _: None)

    async def appraise(self, files: ModelFiles) -> Demand:
        """Read the headers, and predict the model's demand."""
        build, reach = await self._build(), await self._reach() if self._gpus() else None
        self._appraisal = found = await asyncio.to_thread(self._look, files, build, reach)
        header = found.header
        log.info(
            "model file",
            model=self._name,
            path=str(files.path),
            variant=files.label or None,
            architecture=header.architecture,
            quantization=header.quantization,
            context_length=header.context_length,
            bytes=header.size,
        )
        return msgspec.structs.replace(found.demand, other_gpus=self.other_gpus)

    def _look(self, files: ModelFiles, build: str, reach: Reach | None) -> Appraisal:
        """Appraise the files. Blocking."""
        paths = tuple(str(path) for path in (files.path, files.projector) if path is not None)
        while self._unwritten:
            file, settings, size = self._unwritten.pop()
            surcharge = Surcharge(file=file, settings=settings, bytes=size, model=self._name, paths=paths)
            self._predictor.ran_out(surcharge)
        return self._predictor.appraise(self._model, files, build, self._appraisal, reach)

    async def try_out(self, files: ModelFiles, trial: Trial) -> Appraisal:
        """Predict the demand with other settings."""
        build, reach = await self._build(), await self._reach() if self._gpus() else None
        model = with_trial(self._model, trial)
        found = await asyncio.to_thread(self._predictor.appraise, model, files, build, None, reach)
        found.demand = msgspec.structs.replace(found.demand, other_gpus=self.other_gpus)
        return found

    async def try_headers(self, headers: Headers, trial: Trial) -> Appraisal:
        """Predict the demand of files that are not on the disk, by their headers. Raises `StartError`."""
        reach = await self._reach() if self._gpus() else None
        model = with_trial(self._model, trial)
        found = await asyncio.to_thread(self._predictor.appraise_headers, model, headers, reach)
        found.demand = msgspec.structs.replace(found.demand, other_gpus=self.other_gpus)
        return found

    def predict(self, placement: Placement) -> Prediction | None:
        """Predict llama.cpp's allocation at a placement, for the latest files."""
        return self._appraisal.predict(placement) if self._appraisal else None

    @property
    def _gives(self) -> Gives:
        """What the latest files' model answers with."""
        pooling = self._appraisal.settings.pooling if self._appraisal is not None else None
        return "text" if pooling is None else "scores" if pooling == "rank" else "vectors"

    def learn(self, file: str, settings: str, surcharge: int) -> None:
        """Raise the next predictions by `surcharge` bytes per GPU, because memory ran out."""
        self._unwritten.append((file, settings, surcharge))

    def _flags(self, files: ModelFiles, endpoint: ServerAddress, placement: Placement | None) -> list[str]:
        found = self._appraisal
        return server_flags(
            self._name,
            self._model,
            self._pool,
            files,
            endpoint,
            placement,
            image_tokens=TOKEN_LIMIT if found is not None and found.limits_images else None,
            needed=found.needed if found is not None else (),
            settings=found.settings if found is not None else None,
            on_cpu=not self.other_gpus,
        )

    async def _predict(self, placement: Placement | None) -> Prediction | None:
        return await asyncio.to_thread(self.predict, placement) if placement else None

    async def _make_demo(self, name: str) -> Path:
        """Write the built-in model's file in a child process, so that numpy does not stay in memory."""
        path = demo_path(name, self._cache)
        if await asyncio.to_thread(is_whole_demo, path):
            return path
        if await asyncio.to_thread(path.exists):
            log.warning("the built-in model is damaged", model=self._name, path=str(path))
        log.info("writing the built-in model", model=self._name, path=str(path))
        argv = [sys.executable, "-m", "actors.demo.model", str(path)]
        if kind := name.removeprefix("demo").replace("-", "--"):
            argv.append(kind)
        child = await Child.start(argv, environment={"PYTHONPATH": python_path()}, on_line=lambda _: None)
        reader = spawn(child.read_output(), name=f"writing {path}")
        try:
            await child.wait()
        finally:
            await child.stop(0.0)
            reader.cancel()
        if child.returncode:
            message = f"the built-in model could not be written to {path}"
            raise StartError(Failure(message=message, log_tail=tuple(child.tail)))
        return path


def figures(
    placement: Placement | None, predicted: Prediction | None, sizes: Mapping[str, Mapping[str, int]]
) -> Figures:
    """Return a loaded model's figures. CUDA numbers a process's visible devices from 0, in their order."""
    shares = placement.shares if placement is not None else ()
    totals = {device: sum(kinds.values()) for device, kinds in sizes.items()}
    host = [size for device, size in totals.items() if is_host(device)]
    return Figures(
        predicted=tuple(usage.total for usage in predicted.gpus) if predicted else (),
        buffers=tuple(totals.get(f"CUDA{nth}") for nth in range(len(shares))),
        host_predicted=predicted.host.total if predicted else 0,
        host_buffers=sum(host) if host else None,
        devices=tuple(
            device for device, kinds in sizes.items() if "weights" in kinds and not is_host(device)
        ),
    )


def in_words(placement: Placement | None, predicted: Prediction | None) -> dict[str, dict[str, int]] | None:
    """Write bytes by device and component, for the log."""
    if predicted is None or placement is None:
        return None
    devices = [share.device for share in placement.shares]
    usages = [*zip(devices, predicted.gpus, strict=True), ("host", predicted.host)]
    return {
        device: {part: getattr(usage, part) for part in ("weights", "kv", "compute", "output")}
        for device, usage in usages
    }
