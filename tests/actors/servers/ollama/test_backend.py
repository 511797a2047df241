"""Ollama as a backend: against a stand-in on real sockets, and against a real daemon where there is one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from actors.hub.cache import ModelFiles
from actors.messages import (
    BecameReady,
    Event,
    Exited,
    Fetched,
    FetchFiles,
    ServerAddress,
    Spawned,
    StartServer,
    StopServer,
)
from actors.model_actor import ModelActor
from actors.placement.fit import Placement, Share
from actors.placement.options import SERVER, Demand
from actors.progress import Progress
from actors.servers import StartError
from actors.servers.liveness import NoRequests
from actors.servers.ollama.backend import OllamaBackend
from actors.servers.ollama.client import OllamaError
from actors.servers.ollama.daemon import Daemon, Sighting
from actors.servers.ollama.memory import context_of, default_context, demand_of
from actors.servers.ollama.server import OllamaServer
from tests.stand_in_ollama import StandInOllama
from tests.stand_in_ollama_store import MIB, Model


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def ollama() -> AsyncIterator[StandInOllama]:
    async with StandInOllama(remote={"far:7b": Model(size=400)}) as stand_in:
        yield stand_in


@pytest.fixture
async def daemon(ollama: StandInOllama, session: aiohttp.ClientSession) -> AsyncIterator[Daemon]:
    daemon = Daemon("local", ollama.url, session, timeout=1.0, poll=0.02)
    daemon.start()
    yield daemon
    await daemon.stop()


def placed(demand: Demand, *, on_host: bool = False) -> Placement:
    """On one GPU, or on the host."""
    option = demand.options[1 if on_host else 0]
    share = Share(device="GPU-0", layers=len(option.layers), bytes=option.on_one)
    return Placement(option=option, shares=() if on_host else (share,), why="test")


async def running(backend: OllamaBackend, *, on_host: bool = False) -> OllamaServer:
    """Found, appraised, loaded and healthy."""
    files = await backend.fetch(lambda _: None)
    server = await backend.start(1, files, placed(await appraised(backend, files), on_host=on_host))
    while not await server.is_healthy():
        assert not server.exited, server.explain_exit("before it was ready")
        await server.wait_exited(0.01)
    server.became_ready()
    return server


async def appraised(backend: OllamaBackend, files: ModelFiles) -> Demand:
    """What a model of this machine will take."""
    demand = await backend.appraise(files)
    assert demand is not None
    return demand


async def seen(daemon: Daemon, wanted: Callable[[Sighting], bool]) -> Sighting:
    """What the daemon's watcher sees, as soon as it is what is wanted."""
    found: asyncio.Queue[Sighting] = asyncio.Queue()
    unwatch = daemon.watch(found.put_nowait)
    try:
        while not wanted(sighting := await found.get()):
            pass
    finally:
        unwatch()
    return sighting


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://127.0.0.1:11434", "127.0.0.1", 11434),
        ("http://box/", "box", 80),
        ("box", "box", 11434),
        ("box:80", "box", 80),
        ("http://[::1]:5", "::1", 5),
    ],
)
async def test_an_address(session: aiohttp.ClientSession, url: str, host: str, port: int) -> None:
    daemon = Daemon("d", url, session)
    assert (daemon.host, daemon.port) == (host, port)


@pytest.mark.parametrize(
    "url", ["https://box", "http://box/ollama", "http://a:b@box", "http://", "unix:///x"]
)
async def test_no_address(session: aiohttp.ClientSession, url: str) -> None:
    with pytest.raises(ValueError, match="no address of an Ollama daemon"):
        Daemon("d", url, session)


def test_contexts() -> None:
    info = {"general.architecture": "llama", "llama.context_length": 8192}
    modelfile = 'stop   "num_ctx 7"\nnum_ctx                        2048'
    assert context_of(info, modelfile, None, 4096) == 2048
    assert context_of(info, modelfile, 1024, 4096) == 1024
    assert context_of(info, "", None, 4096) == 4096
    assert context_of(info, "", None, 262144) == 8192
    assert context_of({}, "", None, 4096) == 4096
    assert [default_context(gib << 30) for gib in (0, 16, 24, 48)] == [4096, 4096, 32768, 262144]


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"general.architecture": "odd"},
        {"general.architecture": "x", "x.block_count": "many", "x.attention.head_count_kv": None},
        {"general.architecture": "x", "x.block_count": -3, "x.attention.head_count_kv": [1, "a", 8]},
        {"general.architecture": 5},
    ],
)
def test_an_estimate_without_a_header(info: dict[str, Any]) -> None:
    whole, host = demand_of(100 * MIB, info, 4096).options
    assert whole.on_one > 100 * MIB
    assert host.mapped == 100 * MIB


async def test_found_and_appraised(daemon: Daemon) -> None:
    backend = OllamaBackend("Tiny", daemon, context=8192)
    files = await backend.find()
    assert files is not None
    assert files.path == Path("Tiny")
    whole, host = (await appraised(backend, files)).options
    cache = 2 * 9 * 4 * (64 + 64) * 8192
    compute = 4 * 512 * (32000 + 8 * 1024)
    assert whole.on_one == pytest.approx(1.15 * (100 * MIB + cache + compute), rel=1e-5)
    assert (whole.how, whole.context, len(whole.layers), whole.certainty) == ("whole", 8192, 10, "fallback")
    assert len(set(whole.layers)) == 1
    assert whole.shared == whole.compute
    assert whole.pinned == SERVER
    assert (host.how, host.mapped) == ("host", 100 * MIB)
    assert host.pinned == SERVER + int(1.15 * (cache + compute))
    assert backend.predict(placed(Demand(options=(whole, host)))) is None


async def test_the_context_that_the_daemon_will_choose(daemon: Daemon, ollama: StandInOllama) -> None:
    backend = OllamaBackend("tiny", daemon, gpus=lambda: 24 << 30)
    files = await backend.fetch(lambda _: None)
    assert (await appraised(backend, files)).options[0].context == 32768
    ollama.models["tiny:latest"].parameters["num_ctx"] = 2048
    assert (await appraised(backend, files)).options[0].context == 2048


async def test_not_there(daemon: Daemon) -> None:
    backend = OllamaBackend("far:7b", daemon)
    assert await backend.find() is None
    with pytest.raises(StartError, match="has no model 'far:7b', and must not pull it") as caught:
        await backend.fetch(lambda _: None)
    assert caught.value.failure.kind == "not_found"
    assert not caught.value.failure.retryable


async def test_a_remote_model(daemon: Daemon, ollama: StandInOllama) -> None:
    ollama.models["cloud:latest"] = Model(remote_host="https://ollama.com:443")
    with pytest.raises(StartError, match=r"runs at https://ollama\.com"):
        await OllamaBackend("cloud", daemon).fetch(lambda _: None)


async def test_pulled(daemon: Daemon, ollama: StandInOllama) -> None:
    seen: list[Progress] = []
    files = await OllamaBackend("far:7b", daemon, pull=True).fetch(seen.append)
    assert files.path == Path("far:7b")
    assert [progress.have for progress in seen] == [0, 100, 200, 300, 400]
    assert {progress.total for progress in seen} == {400}


@pytest.mark.parametrize(
    ("order", "model", "message", "kind"),
    [
        ("fail-pull", "far:7b", "could not pull it: write /models/blobs: no space left", "failed"),
        ("half-pull", "far:7b", "without a word of success", "failed"),
        ("die-mid-stream", "far:7b", "broke off", "failed"),
        ("endless-line", "far:7b", "line without an end", "failed"),
        ("", "nobody-has-it", "file does not exist", "not_found"),
    ],
)
async def test_not_pulled(
    daemon: Daemon, ollama: StandInOllama, order: str, model: str, message: str, kind: str
) -> None:
    ollama.orders.add(order)
    with pytest.raises(StartError, match=message) as caught:
        await OllamaBackend(model, daemon, pull=True).fetch(lambda _: None)
    assert caught.value.failure.kind == kind
    assert "'local'" in str(caught.value)
    assert model in str(caught.value)


async def test_a_pull_falls_silent(daemon: Daemon, ollama: StandInOllama) -> None:
    ollama.gate = asyncio.Event()
    with pytest.raises(OllamaError, match=r"no answer within 0\.1 s") as caught:
        await daemon.pull("far:7b", lambda _: None, silence=0.1)
    assert caught.value.late


async def test_loaded_measured_unloaded(daemon: Daemon, ollama: StandInOllama) -> None:
    backend = OllamaBackend("Tiny", daemon, context=2048)
    server = await running(backend)
    assert (server.endpoint.host, server.endpoint.port) == ("127.0.0.1", ollama.port)
    assert server.endpoint == ServerAddress(
        daemon.host, daemon.port, "ollama", "Tiny", (("num_ctx", 2048),), thinks=False
    )
    assert ollama.loads == [("tiny:latest", {"num_ctx": 2048})]
    assert ollama.loaded["tiny:latest"].keep > 1e9
    figures = server.figures()
    assert figures.buffers == (160 * MIB,)
    assert (figures.host_buffers, figures.devices) == (0, ("GPU",))
    demand = await appraised(backend, await backend.fetch(lambda _: None))
    assert demand.options[0].on_one == pytest.approx(160 * MIB, abs=10)
    assert demand.load_seconds is not None
    await server.stop()
    assert server.exited
    assert not ollama.loaded
    await server.stop()


async def test_an_embedding_model(daemon: Daemon, ollama: StandInOllama) -> None:
    ollama.models["embed:latest"] = Model(capabilities=["embedding"])
    server = await running(OllamaBackend("embed", daemon))
    assert ollama.loaded["embed:latest"].keep > 1e9
    await server.stop()
    assert not ollama.loaded


async def test_on_the_host(daemon: Daemon, ollama: StandInOllama) -> None:
    backend = OllamaBackend("tiny", daemon)
    server = await running(backend, on_host=True)
    assert server.endpoint.options == (("num_gpu", 0),)
    assert server.figures().host_buffers == 160 * MIB
    assert server.figures().devices == ()
    demand = await appraised(backend, await backend.fetch(lambda _: None))
    assert demand.options[1].pinned == SERVER + 60 * MIB
    await server.stop()


async def test_partly_on_the_host(daemon: Daemon, ollama: StandInOllama) -> None:
    """The next time as much is asked of the GPU as would hold all of it."""
    ollama.models["tiny:latest"].on_gpus = 40 * MIB
    backend = OllamaBackend("tiny", daemon)
    server = await running(backend)
    assert server.figures().devices == ("GPU and host",)
    demand = await appraised(backend, await backend.fetch(lambda _: None))
    assert demand.options[0].on_one == pytest.approx(160 * MIB, abs=10)
    await server.stop()


async def test_another_model_under_the_same_name(daemon: Daemon, ollama: StandInOllama) -> None:
    """What was measured of the one says nothing of the other."""
    backend = OllamaBackend("tiny", daemon)
    await (await running(backend)).stop()
    ollama.models["tiny:latest"] = Model(size=500 * MIB)
    demand = await appraised(backend, await backend.fetch(lambda _: None))
    assert demand.options[0].on_one > 500 * MIB


async def test_a_surcharge(daemon: Daemon) -> None:
    backend = OllamaBackend("tiny", daemon)
    files = await backend.fetch(lambda _: None)
    before = (await appraised(backend, files)).options[0]
    backend.learn("", "", 7 * MIB)
    after = await appraised(backend, files)
    assert after.options[0].on_one == before.on_one + 7 * MIB


async def test_models_that_share_weights(daemon: Daemon, ollama: StandInOllama) -> None:
    """The daemon lists what both use under the name of the first."""
    await daemon.load("tiny", {})
    ollama.models["twin:latest"] = Model(weights=ollama.models["tiny:latest"].weights)
    server = await running(OllamaBackend("twin", daemon))
    assert list(ollama.loaded) == ["tiny:latest"]
    await seen(daemon, lambda sighting: sighting.running is not None)
    assert not server.exited
    await server.stop()
    assert not ollama.loaded


async def test_a_refused_unload(daemon: Daemon, ollama: StandInOllama) -> None:
    server = await running(OllamaBackend("tiny", daemon, unload_timeout=0.1))
    ollama.orders.add("refuse-unload")
    await server.stop()
    assert server.exited
    assert daemon.state.stuck == ("tiny:latest",)
    ollama.orders.clear()
    await seen(daemon, lambda sighting: not sighting.running)
    assert not daemon.state.stuck


async def test_stopped_while_it_loads(daemon: Daemon, ollama: StandInOllama) -> None:
    ollama.gate = asyncio.Event()
    backend = OllamaBackend("tiny", daemon)
    files = await backend.fetch(lambda _: None)
    server = await backend.start(1, files, None)
    await ollama.arrived.wait()
    assert not await server.is_healthy()
    assert server.last_progress > 0
    await server.stop()
    ollama.gate.set()
    assert (await daemon.ps(), server.exited) == ({}, True)


@pytest.mark.parametrize(
    ("order", "message", "kind"),
    [
        ("busy", "answered 503: server busy, please try again", "failed"),
        ("fail-load", "answered 500: llama-server process has terminated", "out_of_memory"),
    ],
)
async def test_a_load_that_fails(
    daemon: Daemon, ollama: StandInOllama, order: str, message: str, kind: str
) -> None:
    ollama.orders.add(order)
    backend = OllamaBackend("tiny", daemon)
    server = await backend.start(1, await backend.fetch(lambda _: None), None)
    await server.wait_exited()
    failure = server.explain_exit("before it was ready")
    assert message in failure.message
    assert (failure.kind, failure.retryable) == (kind, True)
    await server.stop()


async def test_deleted_meanwhile(daemon: Daemon, ollama: StandInOllama) -> None:
    backend = OllamaBackend("tiny", daemon)
    files = await backend.fetch(lambda _: None)
    ollama.models.clear()
    server = await backend.start(1, files, None)
    await server.wait_exited()
    assert server.explain_exit("").kind == "not_found"
    with pytest.raises(StartError, match="no longer has the model"):
        await appraised(backend, files)


async def test_the_daemon_dies_and_comes_back(daemon: Daemon, ollama: StandInOllama) -> None:
    backend = OllamaBackend("tiny", daemon)
    server = await running(backend)
    await ollama.stop()
    await server.wait_exited()
    assert "is away: Connection refused" in server.explain_exit("while it was serving").message
    await server.stop()
    state = daemon.state
    assert (state.reachable, state.models) == (False, ())
    assert state.error is not None
    assert state.since is not None
    with pytest.raises(StartError, match="is away") as caught:
        await backend.fetch(lambda _: None)
    assert caught.value.failure.retryable
    await ollama.start()
    await seen(daemon, lambda sighting: sighting.running is not None)
    assert (daemon.state.reachable, daemon.state.error, daemon.state.version) == (True, None, "0.32.1")
    await (await running(backend)).stop()


async def test_the_daemon_dies_while_it_loads(daemon: Daemon, ollama: StandInOllama) -> None:
    ollama.gate = asyncio.Event()
    backend = OllamaBackend("tiny", daemon)
    server = await backend.start(1, await backend.fetch(lambda _: None), None)
    await ollama.arrived.wait()
    await ollama.stop()
    await server.wait_exited()
    assert server.explain_exit("before it was ready").retryable
    await server.stop()
    await ollama.start()


@pytest.mark.parametrize(
    ("version", "message"), [("0.32.1", "it was restarted, or"), ("0.33.0", "upgraded from version 0.32.1")]
)
async def test_restarted_unnoticed(daemon: Daemon, ollama: StandInOllama, version: str, message: str) -> None:
    server = await running(OllamaBackend("tiny", daemon))
    await seen(daemon, lambda sighting: sighting.running is not None)
    ollama.loaded.clear()
    ollama.version = version
    await server.wait_exited()
    assert message in server.explain_exit("while it was serving").message
    await server.stop()


async def test_a_look_from_before_it_was_loaded(daemon: Daemon) -> None:
    """It does not count as one that no longer lists it."""
    await daemon.stop()
    before = await daemon.look()
    server = await running(OllamaBackend("tiny", daemon))
    server._look(before)
    assert not server.exited
    await server.stop()


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("garbage", "answered what Ollama would not"),
        ("redirect", "answered 302"),
        ("silent", r"gave no answer within 0\.1 s"),
        ("endless", "answered more than 8 MiB"),
    ],
)
async def test_wrong_answers(
    ollama: StandInOllama, session: aiohttp.ClientSession, order: str, message: str
) -> None:
    ollama.orders.add(order)
    daemon = Daemon("odd", ollama.url, session, timeout=0.1 if order == "silent" else 10.0)
    for ask in (daemon.tags(), daemon.ps(), daemon.show("tiny"), daemon.unload("tiny")):
        with pytest.raises(OllamaError, match=message):
            await ask
    if order != "silent":
        with pytest.raises(OllamaError, match="'odd'"):
            await daemon.pull("tiny", lambda _: None)
    sightings = [await daemon.look() for _ in range(3)]
    # A daemon that only takes its time over what it runs is not away.
    assert [sighting.trouble is None for sighting in sightings] == [True, True, order == "silent"]
    assert daemon.state.reachable is (order == "silent")
    assert daemon.state.error is not None


async def test_before_the_first_look(session: aiohttp.ClientSession) -> None:
    state = Daemon("d", "127.0.0.1:1", session).state
    assert (state.reachable, state.version, state.since) == (None, None, None)


async def test_under_a_model_actor(daemon: Daemon, ollama: StandInOllama) -> None:
    events: asyncio.Queue[Event] = asyncio.Queue()
    backend = OllamaBackend("far:7b", daemon, pull=True)
    actor = ModelActor("far", backend, events.put_nowait, stall_timeout=5.0)
    actor.start()
    actor.tell(FetchFiles("far", 1))
    fetched = await events.get()
    assert isinstance(fetched, Fetched)
    assert fetched.demand is not None
    actor.tell(StartServer("far", 1, "somebody waits", placement=placed(fetched.demand)))
    assert isinstance(await events.get(), Spawned)
    ready = await events.get()
    assert isinstance(ready, BecameReady)
    assert ready.figures.buffers == (160 * MIB,)
    actor.tell(StopServer("far", 1, "nobody waits"))
    assert await events.get() == Exited(model="far", epoch=1, failure=None)
    assert not ollama.loaded
    actor.tell(FetchFiles("far", 2))
    assert isinstance(await events.get(), Fetched)
    actor.tell(StartServer("far", 2, "somebody waits"))
    assert isinstance(await events.get(), Spawned)
    assert isinstance(await events.get(), BecameReady)
    await ollama.stop()
    exited = await events.get()
    assert isinstance(exited, Exited)
    assert exited.failure is not None
    assert "is away" in exited.failure.message
    await actor.stop()
    await ollama.start()


async def test_a_daemon_that_hangs_bars_nobody_and_is_left_alone(
    ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    abandoned: list[str] = []

    class Requests(NoRequests):
        def abandon_silent(self, endpoint: ServerAddress, reason: str) -> None:
            abandoned.append(reason)

    events: asyncio.Queue[Event] = asyncio.Queue()
    daemon = Daemon("slow", ollama.url, session, timeout=0.2, poll=0.05)
    daemon.start()
    actor = ModelActor(
        "tiny", OllamaBackend("tiny", daemon), events.put_nowait, stall_timeout=5.0, requests=Requests()
    )
    actor.start()
    actor.tell(FetchFiles("far", 1))
    await events.get()
    actor.tell(StartServer("far", 1, "somebody waits"))
    await events.get()
    assert isinstance(await events.get(), BecameReady)
    ollama.orders.add("frozen")
    async with asyncio.timeout(10):  # not the 30 s that it may take to unload
        exited = await events.get()
    assert isinstance(exited, Exited)
    assert exited.failure is not None
    assert abandoned == [exited.failure.message]
    assert daemon.state.reachable is False
    assert daemon.state.error is not None
    ollama.orders.clear()
    await actor.stop()
    await daemon.stop()
    assert ollama.loaded, "nobody has ended it"
