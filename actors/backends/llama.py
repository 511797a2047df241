"""What every llama.cpp server has in common, wherever it runs: files, memory, flags, log and health."""

import asyncio
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import aiohttp
import msgspec
import structlog

from actors.backends import StartError
from actors.backends.children import Child
from actors.backends.command import python_path, server_flags
from actors.backends.devices import Reach
from actors.backends.llama_log import BufferLog, is_host, out_of_memory
from actors.backends.ports import PortBook
from actors.backends.prediction import Appraisal, Predictor
from actors.calibration import Surcharge
from actors.config import BUILTIN, Config, Model
from actors.demand import Demand
from actors.demo import demo_path, is_whole_demo
from actors.errors import Failure
from actors.gpu import Gpu
from actors.hub.cache import ModelFiles
from actors.hub.download import HubError
from actors.hub.hub import Hub
from actors.hub.progress import Progress
from actors.lines import Lines
from actors.memory.predict import Prediction
from actors.memory.projector import TOKEN_LIMIT
from actors.messages import Endpoint, Figures
from actors.placement import Placement
from actors.processes import processor_seconds
from actors.runtime import spawn

log = structlog.get_logger("model")

_BAD_NEWS = re.compile(
    r"\b(error|failed|failure|unable|cannot|could ?n.t|invalid|exception|abort|assert|out of memory|not)\b",
    re.I,
)
_DENIED = (401, 403)
_SEVERE = re.compile(r"^(?:[\d.]+ )?[WE]\s|\b(?:error|failed)\b", re.IGNORECASE)
_ERROR = re.compile(r"^(?:[\d.]+ )?E\s|\b(?:error|failed)\b", re.IGNORECASE)
"""While it serves, llama-server warns about ordinary things with every request."""


BURST = 2000
"""Lines that a server may write into the gateway's log at once: it tells much while it loads."""
RATE = 100.0
"""Lines a second after that."""
REPORT_PAUSE = 10.0
"""Seconds after which it is said how many lines were left out."""
LOOKED_AT = 500
"""Characters of a line in which its severity shows."""


class _Budget:
    """So many lines at once, and so many a second."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._at = time.monotonic()

    def allows(self) -> bool:
        """Whether one more may go."""
        if self._left < 1:
            now = time.monotonic()
            self._left = min(BURST, self._left + (now - self._at) * RATE)
            self._at = now
            if self._left < 1:
                return False
        self._left -= 1
        return True


class ServerLog:
    """A server's lines on their way into the gateway's log, and the sizes of its buffers among them.

    Of a flood only some lines a second get there, severe ones and others counted apart; how many were left
    out is said.
    """

    def __init__(self, model: str, epoch: int) -> None:
        self._log = log.bind(model=model, epoch=epoch, source="model server")
        self._buffers = BufferLog()
        self._loading = True
        self._severe, self._ordinary = _Budget(), _Budget()
        self._left_out = 0
        self._report: asyncio.TimerHandle | None = None

    def take(self, line: str) -> None:
        """One line."""
        severe = (_SEVERE if self._loading else _ERROR).search(line, 0, LOOKED_AT) is not None
        if not (self._severe if severe else self._ordinary).allows():
            self._leave_out()
        elif severe:
            self._log.warning("server log", line=line)
        elif self._loading:
            self._log.info("server log", line=line)
        else:
            self._log.debug("server log", line=line)
        if self._loading:
            self._buffers.feed(line)

    def _leave_out(self) -> None:
        self._left_out += 1
        if self._report is None:
            self._report = asyncio.get_running_loop().call_later(REPORT_PAUSE, self._say_left_out)

    def _say_left_out(self) -> None:
        self._log.warning("server log left out", lines=self._left_out, seconds=REPORT_PAUSE)
        self._left_out, self._report = 0, None

    def loaded(self) -> None:
        """Loading is over: from now on it is interesting only when something is wrong."""
        self._loading = False

    @property
    def buffers(self) -> Mapping[str, Mapping[str, int]]:
        """Bytes by device and kind, as it told while it loaded."""
        return self._buffers.sizes

    @property
    def uses_no_gpu(self) -> bool:
        """Whether it told that nothing of the model is on a GPU."""
        return self._buffers.uses_no_gpu


class LlamaServer:
    """A running llama.cpp server; the runtimes' own servers add how it ends."""

    def __init__(
        self,
        endpoint: Endpoint,
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
        """Called when its log says that it uses none of the GPUs that it was given."""
        self.process = 0
        self._proven = False

    @property
    def exited(self) -> bool:
        """Whether it is gone."""
        raise NotImplementedError

    @property
    def last_progress(self) -> float:
        """The monotonic time of its start or of its latest log line."""
        return self._lines.last_progress

    def log_tail(self) -> tuple[str, ...]:
        """Its latest log lines."""
        return tuple(self._lines.tail)[-20:]

    def became_ready(self) -> None:
        """It has become healthy."""
        self._server_log.loaded()

    def figures(self) -> Figures:
        """What was predicted for it, and what its log tells that it allocated."""
        found = figures(self._placement, self._predicted, self._server_log.buffers)
        if not (self._placement and self._placement.shares and self._server_log.uses_no_gpu):
            return found
        self.on_no_gpu()
        return msgspec.structs.replace(found, on_host=True)

    async def is_healthy(self) -> bool:
        """Whether GET /health answers 200 (refused, reset and 503 all mean not yet), and it is ours.

        Raises `StartError` if it is ours and refuses its key.
        """
        endpoint = self.endpoint
        if not await answers(self._session, endpoint.host, endpoint.port) or self.exited:
            return False
        self._proven = self._proven or await self._is_ours()
        return self._proven

    async def _is_ours(self) -> bool:
        """Also drop the key of one that asks for none."""
        match await ask_for_key(self._session, self.endpoint):
            case "refused":
                message = (
                    "the model server refuses the key that it was given (LLAMA_API_KEY): it has one of its "
                    "own; give it as --api-key among the model's arguments"
                )
                raise StartError(Failure(message=message, retryable=False, log_tail=self.log_tail()))
            case "ignored":
                self.endpoint = msgspec.structs.replace(self.endpoint, key=None)
            case "needed":
                pass
        return True

    async def is_alive(self) -> bool:
        """Whether GET /health answers anything."""
        return await health(self._session, self.endpoint.host, self.endpoint.port) is not None

    async def processor_seconds(self) -> float:
        """Of its process and all that this started; 0 where they are not of this machine."""
        return await asyncio.to_thread(processor_seconds, self.process) if self.process else 0.0


async def answers(session: aiohttp.ClientSession, host: str, port: int) -> bool:
    """Whether GET /health answers 200 there."""
    return await health(session, host, port) == 200


async def health(session: aiohttp.ClientSession, host: str, port: int) -> int | None:
    """The status of GET /health there; None if it does not answer."""
    return await _status(session, host, port, "/health", {})


async def ask_for_key(
    session: aiohttp.ClientSession, endpoint: Endpoint
) -> Literal["needed", "ignored", "refused"]:
    """What a server makes of the endpoint's key. The health check and the names of models need none."""
    if endpoint.key is None:
        return "ignored"
    host, port = endpoint.host, endpoint.port
    if await _status(session, host, port, "/props", {}) not in _DENIED:
        return "ignored"
    headers = {"Authorization": f"Bearer {endpoint.key.secret}"}
    return "refused" if await _status(session, host, port, "/props", headers) in _DENIED else "needed"


async def _status(
    session: aiohttp.ClientSession, host: str, port: int, path: str, headers: dict[str, str]
) -> int | None:
    address = f"[{host}]" if ":" in host else host
    try:
        async with session.get(f"http://{address}:{port}{path}", headers=headers) as response:
            return response.status
    except (aiohttp.ClientError, TimeoutError):
        return None


def explain_end(how: str, when: str, tail: Sequence[str]) -> Failure:
    """Why a server ended, with the log lines that look like its cause. `how` is said of the server."""
    cause = [line[:LOOKED_AT] for line in tail if _BAD_NEWS.search(line)][-3:]
    said = f"; its log says: {' / '.join(cause)}" if cause else ""
    message = f"the model server {how} {when}{said}"
    last = tuple(tail)[-20:]
    if out_of_memory(tail) is None:
        return Failure(message=message, log_tail=last)
    # What was asked for and could not be had is told, but not how much of it was lacking.
    return Failure(message=f"out of memory: {message}", log_tail=last, kind="out_of_memory")


class Shared(NamedTuple):
    """What the backends of all models share."""

    config: Config
    hub: Hub
    session: aiohttp.ClientSession
    """For health checks."""
    ports: PortBook
    predictor: Predictor
    cache: Path
    """The folder of the built-in models."""
    gpus: Callable[[], Sequence[Gpu]] = tuple
    """Those that models may be placed on."""


class LlamaBackend:
    """All of `actors.backends.Backend` but `start`, which is the runtime's."""

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
        self._appraisal: Appraisal | None = None
        self._unwritten: list[tuple[str, str, int]] = []

    @property
    def other_gpus(self) -> bool:
        """Whether the server may find GPUs by itself that NVML does not tell of. Raises `StartError`."""
        raise NotImplementedError

    async def _build(self) -> str:
        """The version of the server; empty if it is not known. Raises `StartError`."""
        raise NotImplementedError

    async def _reach(self) -> Reach | None:
        """Which GPUs the server can use; None if that is not known. Raises `StartError`."""
        raise NotImplementedError

    async def fetch(self, on_progress: Callable[[Progress], None]) -> ModelFiles:
        """Find the files, or fetch them."""
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
            return ModelFiles(path=await self._make_demo(model.path.removeprefix(BUILTIN)))
        return ModelFiles(path=Path(model.path), projector=Path(model.mmproj) if model.mmproj else None)

    async def find(self) -> ModelFiles | None:
        """The files, if they are on the disk."""
        if name := self._model.hub_name:
            return await asyncio.to_thread(
                self._hub.cache.find, name, self._model.revision, self._model.mmproj
            )
        return await self._files(lambda _: None)

    async def appraise(self, files: ModelFiles) -> Demand:
        """Read the headers, and predict what the model will take."""
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
        """Blocking."""
        paths = tuple(str(path) for path in (files.path, files.projector) if path is not None)
        while self._unwritten:
            file, settings, size = self._unwritten.pop()
            told = Surcharge(file=file, settings=settings, bytes=size, model=self._name, paths=paths)
            self._predictor.ran_out(told)
        return self._predictor.appraise(self._model, files, build, self._appraisal, reach)

    def predict(self, placement: Placement) -> Prediction | None:
        """What llama.cpp will allocate there, of the files last looked at."""
        return self._appraisal.predict(placement) if self._appraisal else None

    def learn(self, file: str, settings: str, surcharge: int) -> None:
        """It ran out of memory: the next prediction is by so many bytes higher."""
        self._unwritten.append((file, settings, surcharge))

    def _flags(self, files: ModelFiles, endpoint: Endpoint, placement: Placement | None) -> list[str]:
        limited = self._appraisal is not None and self._appraisal.limits_images
        return server_flags(
            self._name,
            self._model,
            self._pool,
            files,
            endpoint,
            placement,
            image_tokens=TOKEN_LIMIT if limited else None,
            stretching=self._appraisal.stretching if self._appraisal is not None else (),
            on_cpu=not self.other_gpus,
        )

    async def _predict(self, placement: Placement | None) -> Prediction | None:
        return await asyncio.to_thread(self.predict, placement) if placement else None

    async def _make_demo(self, name: str) -> Path:
        """The built-in model's file. A child writes it: numpy would stay in the gateway's memory."""
        path = demo_path(name, self._cache)
        if await asyncio.to_thread(is_whole_demo, path):
            return path
        if await asyncio.to_thread(path.exists):
            log.warning("the built-in model is damaged", model=self._name, path=str(path))
        log.info("writing the built-in model", model=self._name, path=str(path))
        argv = [sys.executable, "-m", "actors.demo", str(path)]
        if name == "demo-embed":
            argv.append("--embed")
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
    """Of a loaded model. CUDA counts the devices that a process sees from 0, in the order that it is told."""
    shares = placement.shares if placement is not None else ()
    told = {device: sum(kinds.values()) for device, kinds in sizes.items()}
    host = [size for device, size in told.items() if is_host(device)]
    return Figures(
        predicted=tuple(usage.total for usage in predicted.gpus) if predicted else (),
        buffers=tuple(told.get(f"CUDA{nth}") for nth in range(len(shares))),
        host_predicted=predicted.host.total if predicted else 0,
        host_buffers=sum(host) if host else None,
        devices=tuple(
            device for device, kinds in sizes.items() if "weights" in kinds and not is_host(device)
        ),
    )


def in_words(placement: Placement | None, predicted: Prediction | None) -> dict[str, dict[str, int]] | None:
    """Bytes by device and component, for the log."""
    if predicted is None or placement is None:
        return None
    devices = [share.device for share in placement.shares]
    usages = [*zip(devices, predicted.gpus, strict=True), ("host", predicted.host)]
    return {
        device: {part: getattr(usage, part) for part in ("weights", "kv", "compute", "output")}
        for device, usage in usages
    }
