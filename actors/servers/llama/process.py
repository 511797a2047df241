"""Runs llama.cpp servers as child processes: the binary, or the embedded server."""

import asyncio
import re
import secrets
from collections.abc import Sequence

import aiohttp
import msgspec
import structlog

from actors.config.masking import mask_command
from actors.config.schema import Model
from actors.errors import ConfigError, Failure
from actors.hub.cache import ModelFiles
from actors.memory.flags import is_given
from actors.memory.prediction.results import Prediction
from actors.messages import KEY_VARIABLE, ApiKey, ServerAddress
from actors.placement.fit import Placement
from actors.processes import run_off_loop
from actors.progress import readable_size
from actors.prompts.identity import Cache, cache_identity
from actors.runtime import spawn
from actors.servers import StartError
from actors.servers.child_process import Child
from actors.servers.health import ask_for_key
from actors.servers.llama.backend import LlamaBackend, LlamaServer, Shared, in_words
from actors.servers.llama.command import EMBEDDED, NO_UI, build_of, find_command, given_key, python_path
from actors.servers.llama.devices import Key, Reach, key_of, reach_of, used_no_gpu
from actors.servers.llama.dry_run import dry_run
from actors.servers.llama.server_log import ServerLog, explain_end
from actors.servers.ports import PortBook
from actors.servers.sockets import Owner, listening, shareable, whose

log = structlog.get_logger("model")

_PORT_TAKEN = re.compile(r"bind|address already in use|HTTP server error", re.I)


class ProcessServer(LlamaServer):
    """A running llama.cpp server process. Implements `actors.servers.ModelServer`."""

    def __init__(
        self,
        child: Child,
        endpoint: ServerAddress,
        session: aiohttp.ClientSession,
        server_log: ServerLog,
        placement: Placement | None,
        predicted: Prediction | None,
        *,
        ports: PortBook,
        grace: float,
    ) -> None:
        super().__init__(endpoint, session, server_log, child.lines, placement, predicted)
        self.process = child.pid
        self._child = child
        self._ports = ports
        self._grace = grace
        self._lost = False
        self._owner: Owner = "unknown"
        self._sockets: frozenset[int] = frozenset()
        self.reader = spawn(child.read_output(), name=f"log of port {endpoint.port}")

    @property
    def exited(self) -> bool:
        """Whether the process has ended."""
        return self._child.returncode is not None

    def explain_exit(self, when: str) -> Failure:
        """Give the exit status, with the log lines that look like its cause."""
        if self._lost:
            message = f"another program listens on the model server's port {self.endpoint.port}"
            return Failure(message=message, log_tail=self.log_tail())
        code = self._child.returncode
        how = (
            f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
        )
        return explain_end(how, when, self._child.tail)

    @property
    def lost_port(self) -> bool:
        """Whether another program has the port: it was first to bind it, or listens on it as well."""
        return self._lost or (self.exited and any(_PORT_TAKEN.search(line) for line in self._child.tail))

    async def _is_ours(self) -> bool:
        """Whether the listening socket belongs to the server; if unknown, whether it asks for the key.

        A wrapper may start the server through an engine, or as another user, whose sockets are not visible.
        """
        self._owner = await run_off_loop(self._whose, self._owner)
        asks = await ask_for_key(self._session, self.endpoint)
        foreign = {
            "ours": False,
            "unknown": asks == "refused",
            "others": asks != "needed",
            "shared": True,
        }
        self._lost = foreign[self._owner]
        if self._lost:
            return False
        await super()._is_ours()
        host, port = self.endpoint.host, self.endpoint.port
        if self._owner == "ours" and await asyncio.to_thread(shareable, host, port):
            self.endpoint = msgspec.structs.replace(self.endpoint, sockets=self._sockets)
        return True

    async def is_alive(self, timeout: float) -> bool:
        """Whether the server answers its health check, and no other program listens on its port."""
        alive = await super().is_alive(timeout)
        owner = await run_off_loop(self._whose, self._owner)
        self._lost = owner == "shared" or (owner == "others" and self._owner != owner)
        return alive

    def _whose(self) -> Owner:
        """Find the owner of the listening sockets; checks only changes. Blocking."""
        host, port = self.endpoint.host, self.endpoint.port
        sockets = listening(host, port) or frozenset()
        if sockets != self._sockets:
            self._sockets = sockets
            return whose(sockets, self._child.family())
        return self._owner

    async def wait_exited(self, timeout: float | None = None) -> None:
        """Wait until the process has ended, at most `timeout` seconds."""
        await self._child.wait(timeout)

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop all processes of the server and release its port."""
        try:
            await self._child.stop(0.0 if at_once else self._grace)
        finally:
            self.reader.cancel()
            self._ports.give_back(self.endpoint.port)


class ProcessBackend(LlamaBackend):
    """Starts the server of one model as a child process. Implements `actors.servers.Backend`."""

    def __init__(self, name: str, model: Model, shared: Shared) -> None:
        super().__init__(name, model, shared)
        self._refused_by_dry_run = False
        self._key: Key = ((), ())

    @property
    def other_gpus(self) -> bool:
        """Whether the server may find other GPUs. The embedded server runs on the CPU only."""
        return self._command() != EMBEDDED

    async def _build(self) -> str:
        return await build_of(self._command())

    async def _reach(self) -> Reach | None:
        command = self._command()
        self._key = await key_of(command, (gpu.uuid for gpu in self._gpus()))
        return await reach_of(command, self._key)

    async def start(self, epoch: int, files: ModelFiles, placement: Placement | None) -> ProcessServer:
        """Start the server at a placement, after a dry run if the prediction is not exact."""
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

    async def _try_dry(self, command: list[str], files: ModelFiles, placement: Placement) -> None:
        """Run a dry run. Raises `StartError`, once, if it needs more memory than is reserved."""
        if not self._config.gpu.dry_run or self._appraisal is None:
            return
        argv = [*command, *self._flags(files, ServerAddress("127.0.0.1", 0), placement)]
        environment = self._environment(placement)
        key = f"{self._appraisal.demand.file} {self._appraisal.demand.build} {environment} {argv}"
        found = await asyncio.to_thread(self._predictor.remembered, key)
        if found is None:
            found = await dry_run(argv, environment=environment)
            if found is None:
                return
            await asyncio.to_thread(self._predictor.remember, key, found)
        totals = {device: breakdown.total for device, breakdown in found.items()}
        log.info(
            "dry run", model=self._name, bytes=totals, set_aside=[share.bytes for share in placement.shares]
        )
        lacking = max(totals.get(f"CUDA{nth}", 0) - share.bytes for nth, share in enumerate(placement.shares))
        refuses = lacking > 0 and not self._refused_by_dry_run
        self._refused_by_dry_run = refuses
        if refuses:
            message = f"the model server's dry run takes {readable_size(lacking)} more than was predicted"
            raise StartError(Failure(message=message, kind="out_of_memory", lacking=lacking))

    async def _with_key(
        self, argv: list[str], endpoint: ServerAddress
    ) -> tuple[ServerAddress, dict[str, str]]:
        """Return the API key for this start, and the environment that passes it; a key of the user's wins."""
        try:
            given = await asyncio.to_thread(given_key, argv)
        except ConfigError as error:
            self._ports.give_back(endpoint.port)
            raise StartError(Failure(message=str(error), retryable=False)) from error
        key = given or secrets.token_urlsafe(32)
        variables = {} if given else {KEY_VARIABLE: key}
        return msgspec.structs.replace(endpoint, key=ApiKey(key)), {**NO_UI, **variables}

    async def _cache_of(
        self,
        flags: Sequence[str],
        files: ModelFiles,
        placement: Placement | None,
        predicted: Prediction | None,
    ) -> Cache | None:
        """Return what is to be known of a server's cache; None if its prompts are not kept."""
        own = is_given(flags, "--slot-save-path")
        build = await self._build()
        apart = Cache("", isolated=True) if self._model.isolate and self._gives == "text" else None
        if self._prompts is None or not self._model.prompts or own or not build or self._gives != "text":
            return apart
        parts = [part for part in (files.path, files.projector) if part is not None]
        try:
            identity = await asyncio.to_thread(cache_identity, build, flags, parts)
        except OSError as error:
            log.warning("prompts are not kept", model=self._name, reason=str(error))
            return apart
        weight = 0.0
        if predicted is not None and placement is not None and placement.option.context:
            taken = sum(usage.kv for usage in (*predicted.gpus, predicted.host))
            weight = taken / placement.option.context
        return Cache(identity, weight, isolated=self._model.isolate)

    async def _launch(
        self, command: list[str], files: ModelFiles, epoch: int, placement: Placement | None
    ) -> ProcessServer:
        predicted = await self._predict(placement)
        endpoint = ServerAddress(self._pool.host, self._ports.take(), gives=self._gives)
        argv = [*command, *self._flags(files, endpoint, placement)]
        cache = await self._cache_of(argv[len(command) :], files, placement, predicted)
        if self._model.isolate:
            # The server's own cache in host memory is one for all.
            argv += ["--cache-ram", "0"]
        if cache is not None and cache.identity:
            argv += ["--slot-save-path", f"{self._prompts}/"]
        endpoint, secret = await self._with_key(argv, endpoint)
        server_log = ServerLog(self._name, epoch, self._kept.of(self._name))
        environment = self._environment(placement)
        log.info(
            "server starts",
            model=self._name,
            epoch=epoch,
            command=mask_command(argv),
            environment=environment,
            predicted=in_words(placement, predicted),
        )
        try:
            child = await Child.start(argv, environment={**environment, **secret}, on_line=server_log.take)
        except OSError as error:
            self._ports.give_back(endpoint.port)
            message = f"{argv[0]} cannot be executed: {error.strerror}"
            raise StartError(Failure(message=message, retryable=False)) from error
        except BaseException:
            self._ports.give_back(endpoint.port)
            raise
        server = ProcessServer(
            child,
            endpoint,
            self._session,
            server_log,
            placement,
            predicted,
            ports=self._ports,
            grace=self._pool.stop_timeout,
        )
        server.cache = cache
        key = self._key
        server.on_no_gpu = lambda: used_no_gpu(key)
        return server
