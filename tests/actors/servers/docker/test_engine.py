"""The engine's client, on a stand-in: what it is told, pulls, and engines that misbehave."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from actors.progress import Progress
from actors.runtime import spawn
from actors.servers.docker.containers import Containers
from actors.servers.docker.engine import Engine, EngineError
from actors.servers.docker.images import ensure_image
from actors.servers.docker.spec import ContainerSpec
from actors.servers.output_lines import LINE_LIMIT
from tests.actors.servers.docker.conftest import ANY_PORT, open_containers
from tests.gateway import until
from tests.stand_in_engine import NOT_FOUND_IN_REGISTRY, PULL, StandInEngine, frame, stand_in_engine

SPEC = ContainerSpec(model="m", image="here", image_id="sha256:1111", command=("--flag",))


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "docker.sock"


@pytest.fixture
async def stand_in(socket: Path) -> AsyncIterator[StandInEngine]:
    async with stand_in_engine(socket) as engine:
        yield engine


@pytest.fixture
async def client(stand_in: StandInEngine, socket: Path) -> AsyncIterator[Engine]:
    engine = Engine(f"unix://{socket}")
    yield engine
    await engine.close()


@pytest.fixture
async def containers(stand_in: StandInEngine, socket: Path) -> AsyncIterator[Containers]:
    async with open_containers(f"unix://{socket}", "gateway") as opened:
        await opened.prepare()
        yield opened


async def soon(condition: Any, what: str) -> None:
    await asyncio.to_thread(until, condition, what, 5)


CDI = {"Source": "cdi", "ID": "nvidia.com/gpu=0"}
CDI_UUID = {"Source": "cdi", "ID": "nvidia.com/gpu=GPU-1"}


@pytest.mark.parametrize(
    ("info", "gpus", "devices"),
    [
        ({}, "nvidia", set()),
        ({"Runtimes": {"nvidia": {}}, "CDISpecDirs": ["/etc/cdi"]}, "nvidia", set()),
        ({"CDISpecDirs": ["/etc/cdi"], "DiscoveredDevices": None}, "cdi", set()),
        (
            {"Runtimes": {"nvidia": {}}, "DiscoveredDevices": [CDI, CDI_UUID]},
            "cdi",
            {CDI["ID"], CDI_UUID["ID"]},
        ),
        (
            {"Runtimes": {"nvidia": {}}, "DiscoveredDevices": [{"Source": "cdi", "ID": "amd.com/gpu=0"}]},
            "nvidia",
            {"amd.com/gpu=0"},
        ),
    ],
)
async def test_how_it_gives_gpus(
    stand_in: StandInEngine, client: Engine, info: dict[str, Any], gpus: str, devices: set[str]
) -> None:
    stand_in.info |= info
    found = await client.info()
    assert (str(found.gpus), set(found.cdi_devices), found.rootless) == (gpus, devices, False)


async def test_a_rootless_one(stand_in: StandInEngine, client: Engine) -> None:
    stand_in.info["SecurityOptions"] = ["name=seccomp,profile=default", "name=rootless"]
    assert (await client.info()).rootless


async def test_a_pull_tells_how_far_it_is(stand_in: StandInEngine, client: Engine) -> None:
    stand_in.pulls = PULL
    reports: list[Progress] = []
    assert await ensure_image(client, "ghcr.io/ggml-org/llama.cpp:server", reports.append) == "sha256:2222"
    assert [(one.have, one.total) for one in reports] == [
        (1000, 4000), (1500, 5000), (2000, 5000), (5000, 5000), (5000, 5000), (5000, 5000),
    ]  # fmt: skip
    assert stand_in.requests.count("POST /images/create") == 1
    assert await ensure_image(client, "ghcr.io/ggml-org/llama.cpp:server", reports.append) == "sha256:2222"
    assert stand_in.requests.count("POST /images/create") == 1, "it is there now"


async def test_a_pull_that_the_registry_refuses(stand_in: StandInEngine, client: Engine) -> None:
    stand_in.pulls = [*PULL[:2], NOT_FOUND_IN_REGISTRY]
    with pytest.raises(
        EngineError,
        match=r"the image x/y is not there, .* could not pull it: manifest for .* docker pull x/y",
    ):
        await ensure_image(client, "x/y", lambda _: None)


async def test_a_pull_that_breaks_off(stand_in: StandInEngine, client: Engine) -> None:
    stand_in.pulls, stand_in.cut_pull = PULL[:6], True
    with pytest.raises(EngineError, match=r"the image x is not there, .* broke off"):
        await ensure_image(client, "x", lambda _: None)


async def test_an_engine_that_answers_nonsense(stand_in: StandInEngine, client: Engine) -> None:
    stand_in.info.clear()
    with pytest.raises(EngineError, match=r"says what it would not: .*`ServerVersion`; could not be asked"):
        await client.info()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "unix:///no/such.sock",
            r"/no/such.sock is not there: start it, or say where it is \(DOCKER_HOST or",
        ),
        ("tcp://127.0.0.1:1", r"cannot be reached \(.*\): is it running\?"),
        ("nonsense", r"'nonsense' is no address of a Docker Engine \(DOCKER_HOST\)"),
    ],
)
async def test_no_engine(address: str, message: str) -> None:
    engine = Engine(address)
    with pytest.raises(EngineError, match=message):
        await engine.info()
    await engine.close()


async def test_nobody_listens_at_its_socket(stand_in: StandInEngine, socket: Path, tmp_path: Path) -> None:
    import socket as sockets

    with sockets.socket(sockets.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        engine = Engine(f"unix://{tmp_path}/silent.sock")
        with pytest.raises(EngineError, match="cannot be reached"):
            await engine.info()
        await engine.close()


async def test_the_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://proxy:2375")
    assert (Engine().address, Engine().is_local) == ("tcp://proxy:2375", False)
    assert Engine("unix:///x").address == "unix:///x"
    assert Engine("unix:///x").is_local


@pytest.mark.parametrize(
    ("address", "shares"),
    [
        ("unix:///x", True),
        ("tcp://127.0.0.1:2375", True),
        ("tcp://[::1]:1", True),
        ("tcp://there:2375", False),
    ],
)
def test_whose_loopback_address_it_publishes_on(address: str, shares: bool) -> None:
    assert Engine(address).shares_loopback is shares


async def test_an_engine_that_hangs(
    stand_in: StandInEngine, client: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.servers.docker.engine._TIMEOUT", aiohttp.ClientTimeout(total=0.2))
    stand_in.held = {"GET /info"}
    with pytest.raises(EngineError, match="does not answer; could not be asked"):
        await client.info()


async def test_its_log(stand_in: StandInEngine, containers: Containers) -> None:
    stand_in.log = frame(b"one\ntw") + frame(b"o\n", stream=1) + frame(b"three \xe2\x82") + frame(b"\xac")
    lines: list[str] = []
    started = await containers.run(SPEC, ANY_PORT, lines.append)
    await started.read_last_words()
    assert lines == ["one", "two", "three \u20ac"]
    await containers.remove(started)


async def test_a_log_that_is_not_text_or_has_no_end(stand_in: StandInEngine, containers: Containers) -> None:
    stand_in.log = frame(b"\xff\xc3\n") + frame(b"x" * 2_000_000) + frame(b"\n\0\x1b[1mlast\r\n") + b"\1\0"
    lines: list[str] = []
    started = await containers.run(SPEC, ANY_PORT, lines.append)
    await soon(lambda: len(lines) == 3, "all of it is read")
    assert lines == ["\ufffd\ufffd", "x" * LINE_LIMIT, "last"]
    await containers.remove(started)


async def test_a_start_is_cancelled_while_the_engine_creates(
    stand_in: StandInEngine, containers: Containers
) -> None:
    stand_in.held = {"POST /containers/create"}
    start = spawn(containers.run(SPEC, ANY_PORT, lambda _: None), name="start")
    await soon(lambda: stand_in.containers, "created, and not told")
    start.cancel()
    await asyncio.wait([start], timeout=0.05)
    assert not start.done(), "what the engine does has to be undone"
    start.cancel()  # nor does a second one leave it behind
    stand_in.hold.set()
    await asyncio.wait([start])
    assert start.cancelled()
    await soon(lambda: not stand_in.containers, "removed")


async def test_its_end_by_events(stand_in: StandInEngine, containers: Containers) -> None:
    await soon(lambda: stand_in.listeners, "the events are listened to")
    one, two = [await containers.run(SPEC, ANY_PORT, lambda _: None) for _ in range(2)]
    stand_in.happens("oom", one.id)
    stand_in.happens("exec_create: sh", one.id)
    stand_in.happens("die", "somebody else's", exitCode="1")
    stand_in.die(one.id, 137)
    assert await one.wait(5)
    assert one.end is not None
    assert one.end.out_of_memory
    stand_in.end_events()
    stand_in.containers[two.id]["State"] |= {"Running": False, "ExitCode": 139}
    assert await two.wait(5), "what happened while nobody listened is looked up"
    assert two.end is not None
    assert two.end.how == "was killed by signal 11"
    for container in (one, two):
        await containers.remove(container)


async def test_what_cannot_be_removed_is_removed_later(
    stand_in: StandInEngine, containers: Containers
) -> None:
    await soon(lambda: stand_in.listeners, "the events are listened to")
    started = await containers.run(SPEC, ANY_PORT, lambda _: None)
    stand_in.refuse = {"DELETE /containers": (500, "device or resource busy")}
    await containers.remove(started, 1)
    assert started.end is not None
    assert len(stand_in.containers) == 1
    stand_in.refuse.clear()
    stand_in.end_events()
    await soon(lambda: not stand_in.containers, "removed when the engine is asked anew")


@pytest.mark.parametrize("network", [None, "models"])
async def test_where_it_is_reached(
    stand_in: StandInEngine, containers: Containers, network: str | None
) -> None:
    spec = ContainerSpec(model="m", image="here", image_id="", command=(), network=network)
    started = await containers.run(spec, None if network else ANY_PORT, lambda _: None)
    (made,) = stand_in.containers.values()
    assert started.address == (("172.18.0.3", 8080) if network else ("127.0.0.1", 9))
    assert ("PortBindings" in made["Config"]["HostConfig"]) is (network is None)
    assert started.pid == 4242
    await containers.remove(started)
