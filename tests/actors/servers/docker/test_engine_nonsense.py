"""An engine that says what it would not: an `EngineError` for who asked, and the watcher goes on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from actors.servers.docker.containers import Containers
from actors.servers.docker.engine import Engine, EngineError
from actors.servers.docker.images import ensure_image
from actors.servers.docker.spec import GATEWAY, ContainerSpec
from tests.actors.servers.docker.conftest import ANY_PORT, open_containers
from tests.gateway import until
from tests.stand_in_engine import StandInEngine, frame, stand_in_engine

SPEC = ContainerSpec(model="m", image="here", image_id="sha256:1111", command=("--flag",))
ID = "a" * 64


@pytest.fixture
async def stand_in(tmp_path: Path) -> AsyncIterator[StandInEngine]:
    async with stand_in_engine(tmp_path / "docker.sock") as engine:
        yield engine


@pytest.fixture
async def containers(stand_in: StandInEngine, tmp_path: Path) -> AsyncIterator[Containers]:
    async with open_containers(f"unix://{tmp_path / 'docker.sock'}", "gateway") as opened:
        yield opened


@pytest.fixture
async def engine(stand_in: StandInEngine, tmp_path: Path) -> AsyncIterator[Engine]:
    opened = Engine(f"unix://{tmp_path / 'docker.sock'}")
    yield opened
    await opened.close()


def thing(**fields: Any) -> bytes:
    """Something that has each answer's fields, with others in their place."""
    state = {"Running": True, "ExitCode": 0, "Pid": 1, "OOMKilled": False}
    ports = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9"}]}
    whole: dict[str, Any] = {
        "Id": ID,
        "Names": ["/n"],
        "Name": "/n",
        "State": state,
        "NetworkSettings": {"Ports": ports},
        "ServerVersion": "1",
        "SystemTime": "2026-11-25T13:50:10Z",
    }
    return json.dumps({**whole, **fields}).encode()


NONSENSE = {
    "invalid UTF-8": thing(Id="ID", ServerVersion="ID").replace(b"ID", b"\xff\xfe"),
    "deep": b'{"Id":' * 100_000,
    "null": b"null",
    "a number": b"5",
    "lists for all": thing(Id=[], Names=5, State=[], NetworkSettings=[], ServerVersion=[]),
    "6,000 digits": thing(Id=0, ServerVersion=0).replace(b": 0", b": " + b"9" * 6000),
    "numbers for all": thing(Id=1, Names=1, State=1, NetworkSettings=1, ServerVersion=1, SystemTime=1),
    "an id that leads away": thing(Id="../../images/x", SystemTime="yesterday"),
    "a pid that overflows": thing(State={"Running": True, "Pid": 1 << 70}, SystemTime="0001-01-01T00:00:00"),
    "a port that is none": thing(
        NetworkSettings={"Ports": {"8080/tcp": [{"HostIp": "x", "HostPort": "9" * 6000}]}}, SystemTime=""
    ),
    "nothing": b"",
    "a web page": b"<html>sign in</html>",
}
QUESTIONS = ["GET /info", "GET /containers/json", "POST /containers/create", "GET /containers/*/json"]


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_start(
    question: str, nonsense: bytes, stand_in: StandInEngine, containers: Containers
) -> None:
    stand_in.says[question] = nonsense
    try:
        await containers.run(SPEC, ANY_PORT, lambda _: None)
        message = ""  # where the nonsense is not in what is read
    except EngineError as error:
        message = str(error)
    message.encode()
    assert len(message) < 1500
    stand_in.says.clear()
    container = await containers.run(SPEC, ANY_PORT, lambda _: None)
    await containers.remove(container)


@pytest.mark.parametrize(
    "listed",
    [
        [{"Id": ID, "State": "running", "Labels": None, "Names": None}],
        [{"Id": ID, "State": "running", "Labels": {GATEWAY: "gateway"}, "Names": []}],
        [{"Id": "../x", "State": "running", "Labels": {GATEWAY: "gateway"}}],
        [{"Id": ID, "State": 5, "Labels": {GATEWAY: 5}}],
    ],
)
async def test_a_list(listed: Any, stand_in: StandInEngine, containers: Containers) -> None:
    stand_in.says["GET /containers/json"] = json.dumps(listed).encode()
    with suppress(EngineError):
        await containers.prepare()


EVENTS = {
    **NONSENSE,
    "an actor that is none": b'{"Action": "die", "Actor": 5}',
    "no attributes": b'{"Action": "die", "Actor": {"ID": "ID", "Attributes": null}}',
    "a status that is none": b'{"Action": "die", "Actor": {"ID": "ID", "Attributes": {"exitCode": "x"}}}',
    "a status that overflows": b'{"Action": "die", "Actor": {"ID": "ID", "Attributes": {"exitCode": "%s"}}}'
    % (b"9" * 6000),
    "a line without an end": b"x" * (1 << 20),
}


@pytest.mark.parametrize("nonsense", EVENTS.values(), ids=EVENTS.keys())
async def test_events(nonsense: bytes, stand_in: StandInEngine, containers: Containers) -> None:
    container = await containers.run(SPEC, ANY_PORT, lambda _: None)
    stand_in.says["GET /events"] = (
        nonsense.replace(b'"ID": "ID"', b'"ID": "%s"' % container.id.encode()) + b"\n"
    )
    stand_in.end_events()
    await asyncio.to_thread(until, lambda: stand_in.requests.count("GET /events") > 2, "asked again", 10)
    stand_in.says.clear()
    await asyncio.to_thread(until, lambda: stand_in.listeners, "the watcher goes on", 10)
    stand_in.die(container.id, 1)
    assert await container.wait(5)
    await containers.remove(container)


LOGS = [
    b"\xff" * 100,
    b"\1\0\0\0\xff\xff\xff\xff" + b"x" * 100_000,
    b"\1",
    frame(b"\xff\xfe\x1b[2J\n"),
    b"no frames",
]


@pytest.mark.parametrize("log", LOGS)
async def test_a_log(log: bytes, stand_in: StandInEngine, containers: Containers) -> None:
    stand_in.says["GET /containers/*/logs"] = log
    container = await containers.run(SPEC, ANY_PORT, lambda _: None)
    await container.read_last_words()
    assert container.follower is not None
    assert container.follower.done()
    assert container.follower.exception() is None
    await containers.remove(container)


LINES = {
    **{name: body for name, body in NONSENSE.items() if name not in ("nothing", "a port that is none")},
    "details of another type": b'{"id": "a", "status": "Downloading", "progressDetail": [1]}',
    "counts that overflow": b'{"id": "a", "status": "Downloading", "progressDetail": {"current": 1e99}}',
    "layers without end": b"\n".join(
        b'{"id": "%d", "status": "Downloading", "progressDetail": {"current": 1, "total": 2}}' % number
        for number in range(2000)
    ),
    "an error of another type": b'{"error": ["x"]}',
}


@pytest.mark.parametrize("nonsense", LINES.values(), ids=LINES.keys())
async def test_a_pull(nonsense: bytes, stand_in: StandInEngine, engine: Engine) -> None:
    stand_in.says["POST /images/create"] = nonsense
    with pytest.raises(EngineError, match=r"the image x is not there|pulling the image x broke off"):
        await ensure_image(engine, "x", lambda _: None)


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
async def test_a_refusal(nonsense: bytes, stand_in: StandInEngine, engine: Engine) -> None:
    stand_in.refuse["GET /info"] = (500, "")
    stand_in.refuse["GET /images"] = (500, nonsense.decode(errors="surrogateescape")[:5000])
    for work in (engine.info(), ensure_image(engine, "x", lambda _: None)):
        with pytest.raises(EngineError) as caught:
            await work
        str(caught.value).encode()
        assert len(str(caught.value)) < 1500
