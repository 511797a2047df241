"""llama.cpp servers as child processes: the binary, or the embedded one; ports, flags and health."""

import asyncio
import re
import shlex
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
import msgspec
import structlog

from actors.backends import StartError
from actors.backends.children import Child
from actors.backends.command import EMBEDDED, build_of, find_command, python_path, server_flags
from actors.backends.dry_run import dry_run
from actors.backends.llama_log import BufferLog, out_of_memory
from actors.backends.prediction import Appraisal, Predictor
from actors.config import BUILTIN, Config, Model
from actors.demand import Demand
from actors.demo import demo_path
from actors.errors import ConfigError, Failure
from actors.hub.cache import ModelFiles
from actors.hub.download import HubError
from actors.hub.hub import Hub
from actors.hub.progress import Progress, readable_size
from actors.memory.predict import Prediction
from actors.memory.projector import TOKEN_LIMIT
from actors.messages import Endpoint, Figures
from actors.placement import Placement
from actors.runtime import spawn

log = structlog.get_logger("model")

_BAD_NEWS = re.compile(
    r"\b(error|failed|failure|unable|cannot|could ?n.t|invalid|exception|abort|assert|out of memory|not)\b",
    re.I,
)
_PORT_TAKEN = re.compile(r"bind|address already in use|HTTP server error", re.I)
_HOST = re.compile(r"^(CPU|Host)|Host$|_Host\b")
"""llama.cpp's names of buffers in the host's memory: CPU, CPU_Mapped, CPU_REPACK, CUDA_Host."""
_SEVERE = re.compile(r"^(?:[\d.]+ )?[WE]\s|\b(?:error|failed)\b", re.IGNORECASE)
_ERROR = re.compile(r"^(?:[\d.]+ )?E\s|\b(?:error|failed)\b", re.IGNORECASE)
"""While it serves, llama-server warns about ordinary things with every request."""


class PortBook:
    """Hands out ports that nobody listens on, upwards from `start`; 0 leaves the choice to the system."""

    def __init__(self, host: str, start: int) -> None:
        self._host = host
        self._start = start
        self._taken: set[int] = set()

    def take(self) -> int:
        """Reserve a free port until `give_back`. Raises `StartError` when there is none."""
        candidates = range(self._start, 65536) if self._start else [0] * 20
        for port in candidates:
            if port in self._taken:
                continue
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self._host, port))
                except OSError:
                    continue
                found = int(probe.getsockname()[1])
            if found not in self._taken:
                self._taken.add(found)
                return found
        raise StartError(Failure(message=f"no free port on {self._host} from {self._start} upwards"))

    def give_back(self, port: int) -> None:
        """The port's server is gone."""
        self._taken.discard(port)


class LlamaServer:
    """A running llama.cpp server process. Implements `actors.backends.ModelServer`."""

    def __init__(
        self,
        child: Child,
        endpoint: Endpoint,
        session: aiohttp.ClientSession,
        ports: PortBook,
        grace: float,
        on_ready: Callable[[], None],
        figures: Callable[[], Figures],
    ) -> None:
        self.endpoint = endpoint
        self.process = child.pid
        self._figures = figures
        self._child = child
        self._session = session
        self._ports = ports
        self._grace = grace
        self._on_ready = on_ready
        self.reader = spawn(child.read_output(), name=f"log of port {endpoint.port}")

    @property
    def exited(self) -> bool:
        """Whether the process has ended."""
        return self._child.returncode is not None

    @property
    def last_progress(self) -> float:
        """The monotonic time of its start or of its latest log line."""
        return self._child.last_progress

    def log_tail(self) -> tuple[str, ...]:
        """Its latest log lines."""
        return tuple(self._child.tail)[-20:]

    def explain_exit(self, when: str) -> Failure:
        """The exit status and the log lines that look like its cause."""
        code = self._child.returncode
        how = (
            f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
        )
        cause = [line for line in self._child.tail if _BAD_NEWS.search(line)][-3:]
        said = f"; its log says: {' / '.join(cause)}" if cause else ""
        message = f"the model server {how} {when}{said}"
        if out_of_memory(self._child.tail) is None:
            return Failure(message=message, log_tail=self.log_tail())
        # What was asked for and could not be had is told, but not how much of it was lacking.
        message = f"out of memory: {message}"
        return Failure(message=message, log_tail=self.log_tail(), kind="out_of_memory")

    @property
    def lost_port(self) -> bool:
        """Whether it ended because somebody else took its port between the check and its own bind."""
        return self.exited and any(_PORT_TAKEN.search(line) for line in self._child.tail)

    async def is_healthy(self) -> bool:
        """Whether GET /health answers 200; refused, reset and 503 all mean not yet."""
        url = f"http://{_bracket(self.endpoint.host)}:{self.endpoint.port}/health"
        try:
            async with self._session.get(url) as response:
                return response.status == 200 and not self.exited
        except (aiohttp.ClientError, TimeoutError):
            return False

    def became_ready(self) -> None:
        """Loading is over: from now on its log is interesting only when something is wrong."""
        self._on_ready()

    def figures(self) -> Figures:
        """What was predicted for it, and what its log tells that it allocated."""
        return self._figures()

    async def wait_exited(self, timeout: float | None = None) -> None:
        """Return when the process has ended, or after `timeout` seconds."""
        await self._child.wait(timeout)

    async def stop(self) -> None:
        """End the process group and give its port back."""
        try:
            await self._child.stop(self._grace)
        finally:
            self.reader.cancel()
            self._ports.give_back(self.endpoint.port)


class LlamaServerBackend:
    """Starts the server of one model as a child process. Implements `actors.backends.Backend`."""

    def __init__(
        self,
        name: str,
        model: Model,
        config: Config,
        *,
        hub: Hub,
        session: aiohttp.ClientSession,
        ports: PortBook,
        predictor: Predictor,
        cache: Path,
    ) -> None:
        self._name = name
        self._model = model
        self._config = config
        self._pool = config.server_pool
        self._hub = hub
        self._session = session
        self._ports = ports
        self._predictor = predictor
        self._cache = cache
        self._appraisal: Appraisal | None = None
        self._learned = 0
        self._unwritten: list[tuple[str, str, int]] = []
        self._refused_by_dry_run = False

    async def fetch(self, on_progress: Callable[[Progress], None]) -> ModelFiles:
        """Find the files, or fetch them."""
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
        return await self.fetch(lambda _: None)

    async def appraise(self, files: ModelFiles) -> Demand:
        """Read the headers, and predict what the model will take."""
        command = self._command()
        build = await build_of(command)
        self._appraisal = found = await asyncio.to_thread(self._look, files, build)
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
        return msgspec.structs.replace(found.demand, surcharge=self._learned, other_gpus=command != EMBEDDED)

    def _look(self, files: ModelFiles, build: str) -> Appraisal:
        """Blocking."""
        while self._unwritten:
            self._predictor.ran_out(*self._unwritten.pop())
        return self._predictor.appraise(self._model, files, build, self._appraisal)

    def predict(self, placement: Placement) -> Prediction | None:
        """What llama.cpp will allocate there, of the files last looked at."""
        return self._appraisal.predict(placement) if self._appraisal else None

    def learn(self, file: str, settings: str, surcharge: int) -> None:
        """It ran out of memory: the next prediction is by so many bytes higher."""
        self._learned += surcharge
        self._unwritten.append((file, settings, surcharge))

    async def start(self, epoch: int, files: ModelFiles, placement: Placement | None) -> LlamaServer:
        """Start the server at its place, after its own dry run where the prediction is not exact."""
        command = self._command()
        if placement is not None and placement.shares and placement.option.certainty != "exact":
            await self._try_dry(command, files, placement)
        return await self._launch(command, files, epoch, placement)

    def _command(self) -> list[str]:
        try:
            return find_command(self._pool, self._model)
        except ConfigError as error:
            raise StartError(Failure(message=str(error), retryable=False)) from error

    @staticmethod
    def _environment(placement: Placement | None) -> dict[str, str]:
        # A stack trace would push the cause of a failure out of the log's tail.
        own = {"PYTHONPATH": python_path(), "GGML_NO_BACKTRACE": "1"}
        return own if placement is None else {**own, **placement.environment}

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
            on_cpu=self._command() == EMBEDDED,
        )

    async def _try_dry(self, command: list[str], files: ModelFiles, placement: Placement) -> None:
        """Raise `StartError` if by its own word the server will take more than is set aside for it, once."""
        if not self._config.gpu.dry_run or command == EMBEDDED or self._appraisal is None:
            return
        argv = [*command, *self._flags(files, Endpoint("127.0.0.1", 0), placement)]
        environment = self._environment(placement)
        key = f"{self._appraisal.demand.file} {self._appraisal.demand.build} {environment} {argv}"
        found = await asyncio.to_thread(self._predictor.remembered, key)
        if found is None:
            found = await dry_run(argv, environment=environment)
            if found is None:
                return
            await asyncio.to_thread(self._predictor.remember, key, found)
        told = {device: breakdown.total for device, breakdown in found.items()}
        log.info(
            "dry run", model=self._name, bytes=told, set_aside=[share.bytes for share in placement.shares]
        )
        lacking = max(told.get(f"CUDA{nth}", 0) - share.bytes for nth, share in enumerate(placement.shares))
        refuses = lacking > 0 and not self._refused_by_dry_run
        self._refused_by_dry_run = refuses
        if refuses:
            message = f"the model server's dry run takes {readable_size(lacking)} more than was predicted"
            raise StartError(Failure(message=message, kind="out_of_memory", lacking=lacking))

    async def _launch(
        self, command: list[str], files: ModelFiles, epoch: int, placement: Placement | None
    ) -> LlamaServer:
        endpoint = Endpoint(self._pool.host, self._ports.take())
        argv = [*command, *self._flags(files, endpoint, placement)]
        server_log = log.bind(model=self._name, epoch=epoch, source="model server")
        buffers = BufferLog()
        loading = True

        def on_line(line: str) -> None:
            if (_SEVERE if loading else _ERROR).search(line):
                server_log.warning("server log", line=line)
            elif loading:
                server_log.info("server log", line=line)
            else:
                server_log.debug("server log", line=line)
            if loading:
                buffers.feed(line)

        predicted = await asyncio.to_thread(self.predict, placement) if placement else None
        environment = self._environment(placement)
        log.info(
            "server starts",
            model=self._name,
            epoch=epoch,
            command=shlex.join(argv),
            environment=environment,
            predicted=_in_words(placement, predicted),
        )
        try:
            child = await Child.start(argv, environment=environment, on_line=on_line)
        except OSError as error:
            self._ports.give_back(endpoint.port)
            message = f"{argv[0]} cannot be executed: {error.strerror}"
            raise StartError(Failure(message=message, retryable=False)) from error
        except BaseException:
            self._ports.give_back(endpoint.port)
            raise

        def became_ready() -> None:
            nonlocal loading
            loading = False

        return LlamaServer(
            child,
            endpoint,
            self._session,
            self._ports,
            self._pool.stop_timeout,
            became_ready,
            lambda: figures(placement, predicted, buffers.sizes),
        )

    async def _make_demo(self, name: str) -> Path:
        """The built-in model's file. A child writes it: numpy would stay in the gateway's memory."""
        path = demo_path(name, self._cache)
        if path.exists():
            return path
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
    host = [size for device, size in told.items() if _HOST.search(device)]
    return Figures(
        predicted=tuple(usage.total for usage in predicted.gpus) if predicted else (),
        buffers=tuple(told.get(f"CUDA{nth}") for nth in range(len(shares))),
        host_predicted=predicted.host.total if predicted else 0,
        host_buffers=sum(host) if host else None,
        devices=tuple(
            device for device, kinds in sizes.items() if "weights" in kinds and not _HOST.search(device)
        ),
    )


def _in_words(placement: Placement | None, predicted: Prediction | None) -> dict[str, dict[str, int]] | None:
    """Bytes by device and component, for the log."""
    if predicted is None or placement is None:
        return None
    devices = [share.device for share in placement.shares]
    usages = [*zip(devices, predicted.gpus, strict=True), ("host", predicted.host)]
    return {
        device: {part: getattr(usage, part) for part in ("weights", "kv", "compute", "output")}
        for device, usage in usages
    }


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
