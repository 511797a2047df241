"""llama.cpp servers as child processes: the binary, or the embedded one; ports, flags and health."""

import asyncio
import importlib.util
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import structlog

from actors.backends import StartError
from actors.backends.children import Child
from actors.config import BUILTIN, Model, ServerPool
from actors.demo import demo_path
from actors.errors import ConfigError, Failure
from actors.gguf import Header, HeaderError, read_model
from actors.hub.cache import ModelFiles
from actors.hub.download import HubError
from actors.hub.hub import Hub
from actors.hub.progress import Progress
from actors.messages import Endpoint
from actors.runtime import spawn

log = structlog.get_logger("model")

CHECKOUT = Path(__file__).resolve().parents[2]

_BAD_NEWS = re.compile(
    r"\b(error|failed|failure|unable|cannot|could ?n.t|invalid|exception|abort|assert|out of memory|not)\b",
    re.I,
)
_PORT_TAKEN = re.compile(r"bind|address already in use|HTTP server error", re.I)
_SEVERE = re.compile(r"^(?:[\d.]+ )?[WE]\s|\b(?:error|failed)\b", re.IGNORECASE)
_ERROR = re.compile(r"^(?:[\d.]+ )?E\s|\b(?:error|failed)\b", re.IGNORECASE)
"""While it serves, llama-server warns about ordinary things with every request."""


def find_command(pool: ServerPool, model: Model) -> list[str]:
    """The command of a model's server, without its flags. Raises `ConfigError` when there is none.

    A command of the model or the pool comes first, then `llama-server` on the PATH, then the embedded
    server; `server_pool.runtime` can insist on either of the last two.
    """
    command = model.command or pool.command
    if command and (pool.runtime != "embedded" or model.command):
        return shlex.split(command) if isinstance(command, str) else list(command)
    if pool.runtime != "embedded" and (binary := shutil.which("llama-server")):
        return [binary]
    if pool.runtime == "llama-server":
        raise ConfigError(
            "server_pool.runtime: no llama-server on the PATH; install llama.cpp or set server_pool.command"
        )
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError(
            "server_pool.runtime: there is neither a llama-server on the PATH nor the xllamacpp package; "
            "install either one (pip install xllamacpp)"
        )
    return [sys.executable, "-m", "actors.backends.embedded"]


def server_flags(
    name: str, model: Model, pool: ServerPool, files: ModelFiles, endpoint: Endpoint
) -> list[str]:
    """llama-server's flags for a model; the user's own come last, so that they win."""
    flags = [
        "--model",
        str(files.path),
        "--alias",
        name,
        "--host",
        endpoint.host,
        "--port",
        str(endpoint.port),
    ]
    flags += ["--parallel", str(model.parallel)]
    if model.parallel > 1:
        flags += ["--kv-unified"]
    if model.ctx_size is not None:
        flags += ["--ctx-size", str(model.ctx_size)]
    layers = model.gpu_layers if model.gpu_layers is not None else pool.gpu_layers
    if layers is not None:
        flags += ["--gpu-layers", str(layers)]
    if model.embeddings:
        flags += ["--embeddings"]
    if model.reranking:
        flags += ["--reranking"]
    if files.projector is not None:
        flags += ["--mmproj", str(files.projector)]
    return [*flags, *pool.arguments, *model.arguments]


def read_model_file(path: Path) -> Header:
    """The header of a model with all its parts. Raises `StartError` for what is no model. Blocking."""
    try:
        return read_model(path)
    except FileNotFoundError as error:
        reason = "no such file" if str(error.filename) == str(path) else f"{error.filename} is missing"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except HeaderError as error:
        reason = str(error)
    raise StartError(Failure(message=f"{path}: {reason}", retryable=False))


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
    ) -> None:
        self.endpoint = endpoint
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
        return Failure(message=f"the model server {how} {when}{said}", log_tail=self.log_tail())

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
        pool: ServerPool,
        *,
        hub: Hub,
        session: aiohttp.ClientSession,
        ports: PortBook,
        cache: Path,
    ) -> None:
        self._name = name
        self._model = model
        self._pool = pool
        self._hub = hub
        self._session = session
        self._ports = ports
        self._cache = cache

    async def fetch(self, on_progress: Callable[[Progress], None]) -> ModelFiles:
        """Find the file, or fetch it, and read its header."""
        files = await self._find_files(on_progress)
        header = await asyncio.to_thread(read_model_file, files.path)
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
        return files

    async def _find_files(self, on_progress: Callable[[Progress], None]) -> ModelFiles:
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

    async def start(self, epoch: int, files: ModelFiles) -> LlamaServer:
        """Start the server."""
        try:
            command = find_command(self._pool, self._model)
        except ConfigError as error:
            raise StartError(Failure(message=str(error), retryable=False)) from error
        return await self._launch(command, files, epoch)

    async def _launch(self, command: list[str], files: ModelFiles, epoch: int) -> LlamaServer:
        endpoint = Endpoint(self._pool.host, self._ports.take())
        argv = [*command, *server_flags(self._name, self._model, self._pool, files, endpoint)]
        server_log = log.bind(model=self._name, epoch=epoch, source="model server")
        loading = True

        def on_line(line: str) -> None:
            if (_SEVERE if loading else _ERROR).search(line):
                server_log.warning("server log", line=line)
            elif loading:
                server_log.info("server log", line=line)
            else:
                server_log.debug("server log", line=line)

        log.info("server starts", model=self._name, epoch=epoch, command=shlex.join(argv))
        try:
            # The embedded server is a module of this checkout, wherever the gateway was started from.
            child = await Child.start(argv, environment={"PYTHONPATH": _python_path()}, on_line=on_line)
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

        return LlamaServer(child, endpoint, self._session, self._ports, self._pool.stop_timeout, became_ready)

    async def _make_demo(self, name: str) -> Path:
        """The built-in model's file. A child writes it: numpy would stay in the gateway's memory."""
        path = demo_path(name, self._cache)
        if path.exists():
            return path
        log.info("writing the built-in model", model=self._name, path=str(path))
        argv = [sys.executable, "-m", "actors.demo", str(path)]
        if name == "demo-embed":
            argv.append("--embed")
        child = await Child.start(argv, environment={"PYTHONPATH": _python_path()}, on_line=lambda _: None)
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


def _python_path() -> str:
    return os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
