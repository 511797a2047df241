"""A model in an Ollama daemon, driven like a server of our own."""

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
"""Seconds for requests to end and memory to come back, after which the model counts as stuck."""
UNLOAD_AGAIN = 1.0
"""Seconds after which it is told again."""
SETTLE = 0.5
"""Seconds in which a load that was called off may still succeed: a model that loads is not listed."""

_OUT_OF_MEMORY = re.compile(r"out of memory|requires more system memory|unable to allocate", re.I)


class OllamaServer:
    """A model in an Ollama daemon. Implements `actors.servers.ModelServer`.

    Requests to its endpoint must name the model and carry the options that it tells, and keep_alive -1:
    others make the daemon load the model anew, or drop it when it likes.
    """

    process = 0
    """Not known: a daemon's models share a process group, and it may be on another machine."""
    lost_port = False

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
        """Whether it is no longer loaded, or could not be."""
        return self._gone.is_set()

    @property
    def last_progress(self) -> float:
        """While it loads, the daemon's latest answer: it ends a load that stands still by itself."""
        return self._changed_at if self._loading.done() else max(self._started, self._daemon.seen_at)

    def became_ready(self) -> None:
        """Remember what it took."""
        assert self._running is not None
        self._on_loaded(self._running, self._changed_at - self._started)

    def figures(self) -> Figures:
        """What was expected, and what /api/ps says; how several GPUs share it is not told."""
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
        """The daemon keeps its log to itself."""
        return ()

    def explain_exit(self, when: str) -> Failure:
        """What the daemon said, or what the watcher saw."""
        if self._failure is not None:
            return failure_of(self._failure)
        return Failure(message=f"the model {self._model!r} went away {when}: {self._reason}")

    async def is_healthy(self) -> bool:
        """Whether it is loaded by its own word, and by /api/ps."""
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
        """The daemon's watcher looks after it, and reports; nobody ends it."""
        return True

    async def processor_seconds(self) -> float:
        """Not known."""
        return 0.0

    async def wait_exited(self, timeout: float | None = None) -> None:
        """Return when it is gone, or after `timeout` seconds."""
        await occurs(self._gone, timeout)

    async def stop(self, *, at_once: bool = False) -> None:
        """Unload it; returns when /api/ps no longer lists it, or after a time-out, as stuck."""
        settled_at = 0.0
        if not self._loading.done():
            self._loading.cancel()
            await asyncio.wait([self._loading])
            settled_at = time.monotonic() + SETTLE
        self._unwatch()
        self._daemon.stuck.discard(self._key)
        if self._unreachable:
            # Others wait for its place. The daemon's state is told by its watcher.
            log.warning("it is not unloaded: the daemon does not answer", model=self._model)
            return
        try:
            async with asyncio.timeout(self._unload_timeout):
                await self._unload(settled_at)
        except TimeoutError:
            self._daemon.stuck.add(self._key)
        if self._key in self._daemon.stuck:
            log.error("Ollama does not unload it", model=self._model, daemon=self._daemon.name)
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
                if error.status == 404:  # it was deleted while it was loaded: nobody can unload it now
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
    """The same for the supervisor."""
    kind: FailureKind = "failed"
    if error.status == 404:
        kind = "not_found"
    elif _OUT_OF_MEMORY.search(str(error)):
        kind = "out_of_memory"
    # What the daemon calls a bad request will be one the next time too.
    return Failure(message=str(error), retryable=error.status not in (400, 404), kind=kind)
