"""A backend without processes: its servers become healthy, fail and end when the test says so."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from actors.errors import Failure
from actors.hub.cache import ModelFiles
from actors.messages import Figures, ServerAddress
from actors.placement.fit import Placement
from actors.placement.options import Demand
from actors.progress import Progress
from actors.prompts.identity import Cache
from actors.servers import Appraised, StartError, Trial


class FakeServer:
    """A server that is healthy when `healthy` is set and gone when `died` is."""

    def __init__(self, endpoint: ServerAddress) -> None:
        self.endpoint = endpoint
        self.process = endpoint.port
        self.healthy = asyncio.Event()
        self.died = asyncio.Event()
        self.stopped = 0
        self.at_once = False
        self.hangs = False
        self.used = 0.0
        self.serving = False
        self.lost_port = False
        self.cache: Cache | None = None
        self.last_progress = time.monotonic()

    @property
    def exited(self) -> bool:
        return self.died.is_set()

    def became_ready(self) -> None:
        self.serving = True

    def figures(self) -> Figures:
        return Figures()

    def log_tail(self) -> tuple[str, ...]:
        return ("last words",)

    def explain_exit(self, when: str) -> Failure:
        return Failure(message=f"it ended {when}", log_tail=self.log_tail())

    async def is_healthy(self) -> bool:
        return self.healthy.is_set()

    async def wait_exited(self, timeout: float | None = None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self.died.wait()
        except TimeoutError:
            pass

    async def is_alive(self, timeout: float) -> bool:
        if self.hangs:
            await asyncio.sleep(timeout)
        return not self.hangs

    async def processor_seconds(self) -> float:
        return self.used

    async def stop(self, *, at_once: bool = False) -> None:
        await asyncio.sleep(0)
        self.at_once = at_once
        self.stopped += 1
        self.died.set()


class FakeBackend:
    """Starts fake servers; `starts` keeps them. `healthy`: they become so at once."""

    def __init__(self, *, healthy: bool = True) -> None:
        self.healthy = healthy
        self.failure: Failure | None = None
        self.fetch_failure: Failure | None = None
        self.gate: asyncio.Event | None = None
        """Opens when the files are there; None: at once."""
        self.fetching = asyncio.Event()
        self.starts: list[FakeServer] = []
        self.loses_port = 0
        self.demand: Demand | None = None
        self.learned: list[tuple[str, str, int]] = []
        self.placements: list[Placement | None] = []

    async def fetch(self, on_progress: Callable[[Progress], None]) -> ModelFiles:
        await asyncio.sleep(0)
        if self.gate is not None:
            on_progress(Progress(have=1, total=4))
            self.fetching.set()
            await self.gate.wait()
        if self.fetch_failure is not None:
            raise StartError(self.fetch_failure)
        return ModelFiles(path=Path("m.gguf"))

    async def find(self) -> ModelFiles | None:
        return ModelFiles(path=Path("m.gguf"))

    async def appraise(self, files: ModelFiles) -> Demand | None:
        return self.demand

    async def try_out(self, files: ModelFiles, trial: Trial) -> Appraised:
        raise StartError(Failure(message=f"{trial} cannot be tried with {files.path}"))

    def predict(self, placement: Placement) -> None:
        return None

    def learn(self, file: str, settings: str, surcharge: int) -> None:
        self.learned.append((file, settings, surcharge))

    async def start(self, epoch: int, files: ModelFiles, placement: Placement | None) -> FakeServer:
        self.placements.append(placement)
        assert files.path.name == "m.gguf"
        await asyncio.sleep(0)
        if self.failure is not None:
            raise StartError(self.failure)
        server = FakeServer(ServerAddress("127.0.0.1", epoch))
        if self.loses_port:
            self.loses_port -= 1
            server.lost_port = True
            server.died.set()
        elif self.healthy:
            server.healthy.set()
        self.starts.append(server)
        return server

    @property
    def running(self) -> int:
        """Servers that nobody has stopped and that have not died."""
        return sum(not server.exited for server in self.starts)
