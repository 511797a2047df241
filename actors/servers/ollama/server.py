"""A loaded model in an Ollama daemon, used like a server of our own."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping

import structlog

from actors.errors import Failure, FailureKind
from actors.messages import Figures, ServerAddress
from actors.model_names import ollama_name
from actors.placement.fit import Placement
from actors.runtime import occurs, spawn
from actors.servers.ollama.client import OllamaError, Running, find
from actors.servers.ollama.daemon import Daemon, Sighting

log = structlog.get_logger("model")

UNLOAD_TIMEOUT = 30.0
"""Seconds for requests to end and memory to be freed, after which the model counts as stuck."""
UNLOAD_AGAIN = 1.0
"""Seconds after which the unload is requested again."""
SETTLE = 0.5
"""Seconds in which a cancelled load may still succeed, since a loading model is not listed."""

_OUT_OF_MEMORY = re.compile(r"out of memory|requires more system memory|unable to allocate", re.I)


class OllamaServer:
    """A model in an Ollama daemon. Implements `actors.servers.ModelServer`.

    Requests must contain the model's name, the options in the address, and keep_alive -1. Otherwise the
    daemon reloads the model, or unloads it at any time.
    """

    process = 0
    """0: unknown, since a daemon's models share a process group, perhaps on another machine."""
    lost_port = False
    cache = None
    """A daemon cannot save what is in its cache."""

    def __init__(
        self,
        daemon: Daemon,
        model: str,
        options: Mapping[str, int],
        placement: Placement | None,
        on_loaded: Callable[[Running, float], None],
        *,
        weights: str = "",
        embeds: bool = False,
        thinks: bool = True,
        unload_timeout: float = UNLOAD_TIMEOUT,
    ) -> None:
        self.endpoint = ServerAddress(
            daemon.host, daemon.port, "ollama", model, tuple(options.items()), thinks
        )
        self._model = model
        self._daemon = daemon
        self._key = ollama_name(model)
        self._placement = placement
        self._weights = weights
        self._embeds = embeds
        self._on_loaded = on_loaded
        self._unload_timeout = unload_timeout
        self._started = self._changed_at = time.monotonic()
        self._running: Running | None = None
        self._gone = asyncio.Event()
        self._unreachable = False
        self._failure: OllamaError | None = None
        self._reason = ""
        self._unwatch = daemon.watch(self._look)
        self._loading = spawn(self._load(), name=f"load of {model} in Ollama daemon {daemon.name}")

    async def _load(self) -> None:
        try:
            await self._daemon.load(self._model, dict(self.endpoint.options), embeds=self._embeds)
        except OllamaError as error:
            self._failure = error
            self._is_gone(str(error))
        self._changed_at = time.monotonic()

    @property
    def exited(self) -> bool:
        """Whether the model is no longer loaded, or could not be loaded."""
        return self._gone.is_set()

    @property
    def last_progress(self) -> float:
        """Monotonic time of the daemon's latest answer. The daemon itself ends a load without progress."""
        return self._changed_at if self._loading.done() else max(self._started, self._daemon.seen_at)

    def became_ready(self) -> None:
        """Record the memory of the load."""
        assert self._running is not None
        self._on_loaded(self._running, self._changed_at - self._started)

    def figures(self) -> Figures:
        """Return the predicted memory and that in /api/ps, which does not show its division among GPUs."""
        option = self._placement.option if self._placement else None
        shares = self._placement.shares if self._placement else ()
        running = self._running or Running(name=self._model)
        where = "GPU" if running.size_vram >= running.size else "GPU and host"
        return Figures(
            predicted=tuple(share.bytes for share in shares),
            buffers=(running.size_vram,) if len(shares) == 1 else (None,) * len(shares),
            host_predicted=option.pinned + option.mapped if option else 0,
            host_buffers=max(0, running.size - running.size_vram),
            devices=(where,) if running.size_vram else (),
            on_host=bool(shares) and running.size > 0 and not running.size_vram,
        )

    def log_tail(self) -> tuple[str, ...]:
        """Return no lines: a daemon's log is not accessible."""
        return ()

    def explain_exit(self, when: str) -> Failure:
        """Give the daemon's error, or the watcher's finding."""
        if self._failure is not None:
            return failure_of(self._failure)
        return Failure(message=f"the model {self._model!r} went away {when}: {self._reason}")

    async def is_healthy(self) -> bool:
        """Whether the load has succeeded and /api/ps lists the model."""
        if self.exited or not self._loading.done():
            return False
        try:
            running = await self._daemon.ps()
        except OllamaError:
            return False
        self._running = find(running, self._key, self._weights)
        if self._running is None:
            self._is_gone(f"{self._named} says that it has loaded it, and does not list it")
        return self._running is not None and not self.exited

    async def is_alive(self, timeout: float) -> bool:
        """True: the daemon's watcher reports its state, and the gateway never kills it."""
        return True

    async def processor_seconds(self) -> float:
        """0: unknown."""
        return 0.0

    async def wait_exited(self, timeout: float | None = None) -> None:
        """Wait until the model is unloaded, at most `timeout` seconds."""
        await occurs(self._gone, timeout)

    async def stop(self, *, at_once: bool = False) -> None:
        """Unload the model; return when /api/ps no longer lists it, or after a time-out, as stuck."""
        settled_at = 0.0
        if not self._loading.done():
            self._loading.cancel()
            await asyncio.wait([self._loading])
            settled_at = time.monotonic() + SETTLE
        self._unwatch()
        self._daemon.stuck.discard(self._key)
        if self._unreachable:
            # Other models wait for the memory. The daemon's watcher reports its state.
            log.warning("model is not unloaded: the daemon does not answer", model=self._model)
            return
        try:
            async with asyncio.timeout(self._unload_timeout):
                await self._unload(settled_at)
        except TimeoutError:
            self._daemon.stuck.add(self._key)
        if self._key in self._daemon.stuck:
            log.error("Ollama does not unload the model", model=self._model, daemon=self._daemon.name)
        self._is_gone("it was unloaded")

    async def _unload(self, settled_at: float) -> None:
        told_at, pause = float("-inf"), 0.02
        while True:
            try:
                if time.monotonic() - told_at > UNLOAD_AGAIN:
                    told_at = time.monotonic()
                    await self._daemon.unload(self._model)
                running = find(await self._daemon.ps(), self._key, self._weights)
                if running is None and time.monotonic() >= settled_at:
                    return
            except OllamaError as error:
                if error.away:
                    return
                if error.status == 404:  # deleted while it was loaded: it cannot be unloaded now
                    self._daemon.stuck.add(self._key)
                    return
                log.warning("Ollama refuses to unload", model=self._model, reason=str(error))
            await asyncio.sleep(pause)
            pause = min(0.5, pause * 1.5)

    @property
    def _named(self) -> str:
        return f"Ollama daemon {self._daemon.name!r} ({self._daemon.url})"

    def _look(self, sighting: Sighting) -> None:
        if sighting.trouble is not None:
            self._unreachable = True
            self._is_gone(sighting.trouble)
        elif sighting.running is None or not self._loading.done() or sighting.asked_at <= self._changed_at:
            return
        elif find(sighting.running, self._key, self._weights) is None:
            why = "it was restarted, or somebody else had it unloaded"
            if sighting.upgraded:
                why = f"it was upgraded from version {sighting.upgraded}"
            self._is_gone(f"{self._named} no longer has it loaded: {why}")

    def _is_gone(self, reason: str) -> None:
        if not self.exited:
            self._reason = reason
            self._gone.set()
            self._unwatch()


def failure_of(error: OllamaError) -> Failure:
    """Convert the error for the supervisor."""
    kind: FailureKind = "failed"
    if error.status == 404:
        kind = "not_found"
    elif _OUT_OF_MEMORY.search(str(error)):
        kind = "out_of_memory"
    # A bad request will fail the next time too.
    return Failure(message=str(error), retryable=error.status not in (400, 404), kind=kind)
