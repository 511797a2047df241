"""The model actor: what it reports of a server that starts, fails, hangs, dies and is stopped."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from actors.config.schema import PromptSettings
from actors.errors import Failure
from actors.messages import (
    BecameReady,
    Event,
    Exited,
    Fetched,
    FetchFiles,
    Hung,
    ServerAddress,
    Spawned,
    StartServer,
    StopServer,
)
from actors.model_actor import ModelActor
from actors.progress import Progress
from actors.prompts.identity import Cache
from actors.prompts.keeping import Prompts
from actors.servers.liveness import NoRequests, Watch
from actors.servers.ports import PORT_TRIES
from tests.actors.fake_backend import FakeBackend


class Reports:
    """What the actor told its supervisor."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.spawned: list[Spawned] = []

    def take(self, event: Event) -> None:
        """A process is told of before anything else of it."""
        if isinstance(event, Spawned):
            self.spawned.append(event)
        else:
            self.events.put_nowait(event)

    async def exited(self) -> Exited:
        event = await self.events.get()
        assert isinstance(event, Exited)
        return event

    async def fetched(self) -> Fetched:
        event = await self.events.get()
        assert isinstance(event, Fetched)
        return event

    async def ready(self) -> BecameReady:
        event = await self.events.get()
        assert isinstance(event, BecameReady)
        return event


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
async def actor(backend: FakeBackend, reports: Reports) -> AsyncIterator[ModelActor]:
    actor = ModelActor("m", backend, reports.take, stall_timeout=0.05)
    actor.start()
    yield actor
    await actor.stop()
    assert backend.running == 0
    assert reports.events.empty()


async def start(actor: ModelActor, reports: Reports, epoch: int = 1) -> None:
    """Have the files fetched, and the server started."""
    actor.tell(FetchFiles("m", epoch))
    assert (await reports.fetched()).epoch == epoch
    actor.tell(StartServer("m", epoch, "somebody waits"))


async def test_a_life(actor: ModelActor, backend: FakeBackend, reports: Reports) -> None:
    await start(actor, reports)
    assert (await reports.ready()).epoch == 1
    assert backend.starts[0].serving
    assert reports.spawned == [Spawned(model="m", epoch=1, process=backend.starts[0].process)]
    actor.tell(StartServer("m", 1, "somebody waits"))
    actor.tell(StopServer("m", 0, "nobody waits"))
    actor.tell(StopServer("m", 1, "nobody waits"))
    actor.tell(StopServer("m", 1, "nobody waits"))
    assert await reports.exited() == Exited(model="m", epoch=1, failure=None)
    assert [server.stopped for server in backend.starts] == [1]


class Watching(Prompts):
    """Notes what its actor tells of a server, and how often that was stopped by then."""

    def __init__(self, session: aiohttp.ClientSession, backend: FakeBackend) -> None:
        super().__init__(session, Path("/nowhere"), PromptSettings(disk=0))
        self.told: list[tuple[str, int]] = []
        self.saving = asyncio.Event()
        self.saved = asyncio.Event()
        self._backend = backend

    def _note(self, what: str) -> None:
        self.told.append((what, self._backend.starts[-1].stopped))

    def opened(self, model: str, cache: Cache | None, address: ServerAddress) -> None:
        self._note("opened")

    async def save(self, address: ServerAddress) -> None:
        self._note("save")
        self.saving.set()
        await self.saved.wait()

    def gone(self, address: ServerAddress) -> None:
        self._note("gone")


async def test_prompts_are_saved_before_a_server_is_stopped(backend: FakeBackend, reports: Reports) -> None:
    async with aiohttp.ClientSession() as session:
        prompts = Watching(session, backend)
        actor = ModelActor("m", backend, reports.take, stall_timeout=1, prompts=prompts)
        actor.start()
        await start(actor, reports)
        await reports.ready()
        actor.tell(StopServer("m", 1, "another one needs the room"))
        await prompts.saving.wait()
        actor.tell(StopServer("m", 1, "told twice"))
        prompts.saved.set()
        assert await reports.exited() == Exited(model="m", epoch=1, failure=None)
        await actor.stop()
        assert prompts.told == [("opened", 0), ("save", 0), ("gone", 1)]


async def test_nothing_is_saved_of_a_server_that_died(backend: FakeBackend, reports: Reports) -> None:
    async with aiohttp.ClientSession() as session:
        prompts = Watching(session, backend)
        actor = ModelActor("m", backend, reports.take, stall_timeout=1, prompts=prompts)
        actor.start()
        await start(actor, reports)
        await reports.ready()
        backend.starts[0].died.set()
        assert (await reports.exited()).failure is not None
        await actor.stop()
        assert [what for what, _ in prompts.told] == ["opened", "gone"]


async def test_it_dies_while_it_serves_and_is_started_again(
    actor: ModelActor, backend: FakeBackend, reports: Reports
) -> None:
    await start(actor, reports)
    await reports.ready()
    backend.starts[0].died.set()
    assert (await reports.exited()).failure == Failure(
        message="it ended while it was serving", log_tail=("last words",)
    )
    await start(actor, reports, epoch=2)
    assert (await reports.ready()).epoch == 2
    actor.tell(StopServer("m", 2, "nobody waits"))
    await reports.exited()


async def test_it_hangs_while_it_serves_and_is_ended_at_once(backend: FakeBackend, reports: Reports) -> None:
    abandoned: list[tuple[ServerAddress, str]] = []

    class Requests(NoRequests):
        def abandon(self, endpoint: ServerAddress, reason: str) -> None:
            abandoned.append((endpoint, reason))

    actor = ModelActor(
        "m",
        backend,
        reports.take,
        stall_timeout=1,
        requests=Requests(),
        watch=lambda server, requests: Watch(server, requests, scale=0.01),
    )
    actor.start()
    await start(actor, reports)
    await reports.ready()
    (server,) = backend.starts
    server.hangs = True
    assert await reports.events.get() == Hung(model="m", epoch=1)
    failure = (await reports.exited()).failure
    assert failure is not None
    assert failure.retryable
    assert "does not answer" in failure.message
    assert abandoned == [(server.endpoint, failure.message)]
    assert (server.stopped, server.at_once) == (1, True)
    await actor.stop()


async def test_it_cannot_be_started(actor: ModelActor, backend: FakeBackend, reports: Reports) -> None:
    backend.failure = Failure(message="no such file", retryable=False)
    await start(actor, reports)
    assert (await reports.exited()).failure == backend.failure


@pytest.mark.parametrize(("tries", "fails"), [(PORT_TRIES - 1, False), (PORT_TRIES, True)])
async def test_its_port_was_taken(
    tries: int, fails: bool, actor: ModelActor, backend: FakeBackend, reports: Reports
) -> None:
    backend.loses_port = tries
    await start(actor, reports)
    if not fails:
        await reports.ready()
        actor.tell(StopServer("m", 1, "nobody waits"))
    assert ((await reports.exited()).failure is not None) == fails
    assert len(backend.starts) == PORT_TRIES


async def test_it_hangs_while_it_loads(actor: ModelActor, backend: FakeBackend, reports: Reports) -> None:
    backend.healthy = False
    await start(actor, reports)
    failure = (await reports.exited()).failure
    assert failure is not None
    assert "no progress" in failure.message
    assert failure.log_tail == ("last words",)


async def test_a_defect_of_the_backend_is_a_failure(reports: Reports) -> None:
    class Broken:
        async def fetch(self, _on_progress: object) -> None:
            raise ValueError("bad file")

    actor = ModelActor("m", Broken(), reports.take, stall_timeout=1)  # type: ignore[arg-type]
    actor.start()
    actor.tell(FetchFiles("m", 1))
    failure = (await reports.exited()).failure
    assert failure is not None
    assert failure.message == "ValueError: bad file"
    await actor.stop()


@pytest.mark.parametrize("steps", range(12))
async def test_it_is_stopped_at_any_moment(
    steps: int, actor: ModelActor, backend: FakeBackend, reports: Reports
) -> None:
    """After any number of turns of the loop: before its first step, in its start, as it becomes ready."""
    await start(actor, reports)
    for _ in range(steps):
        await asyncio.sleep(0)
    actor.tell(StopServer("m", 1, "nobody waits"))
    event = await reports.events.get()
    if isinstance(event, BecameReady):
        event = await reports.exited()
    assert event == Exited(model="m", epoch=1, failure=None)
    assert backend.running == 0


async def test_its_files_cannot_be_had(actor: ModelActor, backend: FakeBackend, reports: Reports) -> None:
    backend.fetch_failure = Failure(message="the disk is full")
    actor.tell(FetchFiles("m", 1))
    assert (await reports.exited()).failure == backend.fetch_failure
    actor.tell(StartServer("m", 1, "somebody waits"))
    backend.fetch_failure = None
    await start(actor, reports, epoch=2)
    await reports.ready()
    actor.tell(StopServer("m", 2, "nobody waits"))
    await reports.exited()


async def test_a_fetch_is_given_up_and_begun_again(
    actor: ModelActor, backend: FakeBackend, reports: Reports
) -> None:
    backend.gate = asyncio.Event()
    actor.tell(FetchFiles("m", 1))
    await backend.fetching.wait()
    assert actor.progress == Progress(have=1, total=4)
    actor.tell(StopServer("m", 1, "nobody waits"))
    actor.tell(FetchFiles("m", 2))
    assert await reports.exited() == Exited(model="m", epoch=1, failure=None)
    backend.gate.set()
    assert (await reports.fetched()).epoch == 2
    assert actor.progress is None


async def test_it_ends_while_it_fetches(backend: FakeBackend, reports: Reports) -> None:
    backend.gate = asyncio.Event()
    actor = ModelActor("m", backend, reports.take, stall_timeout=1)
    actor.start()
    actor.tell(FetchFiles("m", 1))
    await backend.fetching.wait()
    await actor.stop()
    assert actor.progress is None


async def test_other_settings_are_for_the_next_server(
    actor: ModelActor, backend: FakeBackend, reports: Reports
) -> None:
    later = FakeBackend()
    actor.tell(FetchFiles("m", 1))
    await reports.fetched()
    actor.use(later, stall_timeout=1)
    actor.tell(StartServer("m", 1, "first"))
    await reports.ready()
    assert (backend.running, later.running) == (1, 0)
    actor.tell(StopServer("m", 1, "new settings"))
    await reports.exited()
    await start(actor, reports, epoch=2)
    await reports.ready()
    assert (backend.running, later.running) == (0, 1)
