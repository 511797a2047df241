"""Watches one Ollama daemon: reports when it goes away, comes back, or no longer runs a model."""

import asyncio
import time
from collections.abc import Callable, Mapping

import aiohttp
import msgspec
import structlog

from actors.runtime import spawn
from actors.servers.ollama.client import OllamaClient, OllamaError, Running

log = structlog.get_logger("ollama")

POLL = 2.0
"""Seconds between checks while models run or the state is requested."""
IDLE = 60.0
"""Most seconds between checks otherwise."""
ATTENTION = 30.0
"""Seconds for which a request for the state keeps the checks frequent."""
MISSES = 3
"""Checks without an answer after which the daemon counts as away; one is enough if nothing listens."""
PAUSE = 0.05
"""Least seconds between checks, however often one is requested."""


class DaemonState(msgspec.Struct, frozen=True, kw_only=True):
    """The state for /health. `reachable` is None before the first check; `since`: Unix time of the change.

    `models` are all loaded models; `stuck` are those of ours that the daemon did not unload on request.
    """

    name: str
    url: str
    reachable: bool | None
    version: str | None
    since: float | None
    error: str | None
    models: tuple[str, ...]
    stuck: tuple[str, ...]


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check, requested at `asked_at` (monotonic seconds).

    `running` is None if unknown; `trouble` says why the daemon counts as away. `upgraded`: the version has
    changed since the check before.
    """

    asked_at: float
    running: Mapping[str, Running] | None = None
    trouble: str | None = None
    upgraded: str | None = None


Watcher = Callable[[Sighting], None]


class Daemon(OllamaClient):
    """A client that also watches its daemon. `poll`: seconds between frequent checks."""

    def __init__(
        self,
        name: str,
        url: str,
        session: aiohttp.ClientSession,
        *,
        timeout: float = 10.0,
        poll: float = POLL,
    ) -> None:
        super().__init__(name, url, session, timeout=timeout)
        self.stuck: set[str] = set()
        """Canonical names of models that the daemon did not unload on request."""
        self._poll = poll
        self._reachable: bool | None = None
        self._version: str | None = None
        self._since: float | None = None
        self._error: str | None = None
        self._running: Mapping[str, Running] = {}
        self._weights: dict[str, str] = {}
        self._misses = 0
        self._watchers: set[Watcher] = set()
        self._looked_at = self._asked_at = float("-inf")
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start watching."""
        self._task = spawn(self._watch(), name=f"watcher of Ollama daemon {self.name}")

    async def stop(self) -> None:
        """Stop watching, without affecting the daemon."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def state(self) -> DaemonState:
        """The state at the latest check. Reading it makes the next check come soon."""
        self._asked_at = time.monotonic()
        if self._asked_at - self._looked_at > self._poll:
            self._wake.set()
        return DaemonState(
            name=self.name,
            url=self.url,
            reachable=self._reachable,
            version=self._version,
            since=self._since,
            error=self._error,
            models=tuple(sorted(self._running)),
            stuck=tuple(sorted(self.stuck)),
        )

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` with the result of every check, beginning soon; return a function that ends this."""
        self._watchers.add(watcher)
        self.look_soon()
        return lambda: self._watchers.discard(watcher)

    def look_soon(self) -> None:
        """Check soon, because something is odd, such as a broken connection."""
        self._wake.set()

    async def ps(self) -> dict[str, Running]:
        """Return the loaded models, by canonical name, with their weights if known."""
        running = await super().ps()
        for name, model in running.items():
            if model.digest not in self._weights:
                try:
                    self._weights[model.digest] = (await self.show(model.name)).weights
                except OllamaError:
                    continue  # the model was deleted while it was loaded
            running[name] = msgspec.structs.replace(model, weights=self._weights[model.digest])
        return running

    async def look(self) -> Sighting:
        """Ask for the version and the loaded models, and call the watchers. Never raises `OllamaError`."""
        asked_at = time.monotonic()
        upgraded = None
        running: Mapping[str, Running] | None = None
        trouble: str | None = None
        try:
            version = await self.version()
            upgraded = self._is_back(version)
            # While the daemon waits for memory to be freed, it does not answer this.
            running = self._running = await self.ps()
            self.stuck &= running.keys()
        except OllamaError as error:
            self._error = str(error)
            self._misses += 1
            if error.away or self._misses >= MISSES:
                trouble = str(error)
                self._is_away(trouble)
        self._looked_at = time.monotonic()
        sighting = Sighting(asked_at=asked_at, running=running, trouble=trouble, upgraded=upgraded)
        for watcher in tuple(self._watchers):
            watcher(sighting)
        return sighting

    def _is_back(self, version: str) -> str | None:
        """Note that the daemon answers. Return its previous version if it has changed."""
        before, self._version = self._version, version
        self._misses, self._error = 0, None
        if not self._reachable:
            self._reachable, self._since = True, time.time()
            log.info("Ollama daemon answers", daemon=self.name, url=self.url, version=version)
        if before is None or before == version:
            return None
        log.info("Ollama daemon was upgraded", daemon=self.name, before=before, version=version)
        return before

    def _is_away(self, trouble: str) -> None:
        self._running = {}
        self._weights.clear()
        self.stuck.clear()
        if self._reachable is not False:
            self._reachable, self._since = False, time.time()
            log.warning("Ollama daemon is away", daemon=self.name, url=self.url, reason=trouble)

    async def _watch(self) -> None:
        pause = self._poll
        while True:
            self._wake.clear()
            await self.look()
            attentive = bool(self._watchers) or time.monotonic() - self._asked_at < ATTENTION
            pause = self._poll if attentive else min(pause * 2, IDLE)
            await asyncio.sleep(min(PAUSE, pause))
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass
