"""Containers on a real engine: how they are made, how they end, and what is left of them."""

import asyncio
import json
import socket
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiodocker import Docker, DockerError

from actors.runtime import spawn
from actors.servers.docker.container import Container, address_of
from actors.servers.docker.engine import EngineError
from actors.servers.docker.schema import Inspected
from actors.servers.docker.spec import GATEWAY, ContainerSpec, Gpus, Mount, Published
from actors.servers.health import answers
from tests.actors.servers.docker.conftest import ANY_PORT, open_containers
from tests.engines import EngineClient, Wire
from tests.gateway import until

CYCLES = 20

Abandon = Callable[[ContainerSpec, str], str]


def changed(spec: ContainerSpec, **fields: Any) -> ContainerSpec:
    return msgspec.structs.replace(spec, **fields)


async def healthy(container: Container, address: tuple[str, int] | None = None) -> None:
    """Wait until its server answers."""
    async with aiohttp.ClientSession() as session:
        while not await answers(session, *(address or container.address)):
            assert container.end is None, (container.end, list(container.lines.tail))
            await container.wait(0.01)


async def test_what_it_is_made_of(engine: EngineClient, name: str, spec: ContainerSpec) -> None:
    lines: list[str] = []
    async with open_containers(engine.address, name) as containers:
        started = await containers.run(
            changed(spec, user="1000:1000", memory=1 << 30, environment={"A": "b c"}), ANY_PORT, lines.append
        )
        await healthy(started)
        (listed,) = engine.containers(f"{GATEWAY}={name}")
        found = engine.inspect(started.id)
        host = found["HostConfig"]
        assert listed["Names"] == [f"/{started.name}"]
        assert started.name.startswith("llama-org-Demo-model-1-")
        assert (host["Init"], host["ReadonlyRootfs"], host["CapDrop"]) == (True, True, ["ALL"])
        assert (host["Privileged"], host["SecurityOpt"]) == (False, ["no-new-privileges"])
        assert (host["Memory"], host["MemorySwap"]) == (1 << 30, 1 << 30)
        assert [(mount["Destination"], mount["RW"]) for mount in found["Mounts"]] == [
            ("/models/demo.gguf", False)
        ]
        assert found["Config"]["User"] == "1000:1000"
        assert "A=b c" in found["Config"]["Env"]
        assert {bound["HostIp"] for bound in found["NetworkSettings"]["Ports"]["8080/tcp"]} == {"127.0.0.1"}
        assert started.pid == found["State"]["Pid"]
        session = subprocess.run(
            ["ps", "-o", "comm=", "--sid", str(started.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        assert len(session) == 2, f"its memory is that of the session: {session}"
        await containers.remove(started, 5)
        assert "was removed" in str(started.end) or "status 0" in str(started.end)
        assert any("listening on" in line for line in lines), lines


async def test_many_times_leaves_nothing(
    engine: EngineClient, name: str, spec: ContainerSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = {one["Id"] for one in engine.ask("GET", "/networks")}
    seconds = []
    ports = []
    async with open_containers(engine.address, name) as containers:
        await containers.prepare()
        for _ in range(CYCLES):
            began = time.monotonic()
            started = await containers.run(spec, ANY_PORT, lambda _: None)
            await healthy(started)
            seconds.append(time.monotonic() - began)
            ports.append(started.address[1])
            await containers.remove(started, 5)
            assert not engine.containers(f"{GATEWAY}={name}")
    with capsys.disabled():
        print(
            f"\ncreate to healthy, {CYCLES} times: median {statistics.median(seconds):.2f} s, "
            f"{min(seconds):.2f} to {max(seconds):.2f} s"
        )
    assert min(seconds) < 1.0, "what else runs on the machine may slow down some of them"
    # Others may work with the same engine meanwhile, whose networks are no concern of this test.
    made = [one for one in engine.ask("GET", "/networks") if one["Id"] not in networks]
    assert not [one for one in made if name in one["Name"] or name in str(one["Labels"])]
    for port in set(ports):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("fields", "published", "message"),
    [
        ({"image": "no/such-image:1"}, ANY_PORT, "No such image: no/such-image:1"),
        (
            {"mounts": (Mount("/no/such/model", "/models/m"),)},
            ANY_PORT,
            "must see the models under the gateway's",
        ),
        ({"network": "no-such-network"}, None, "server_pool.docker.network must name a network"),
        (
            {"gpus": Gpus(driver="nvidia", names=("GPU-1",))},
            ANY_PORT,
            "install the NVIDIA Container Toolkit",
        ),
        ({"gpus": Gpus(driver="cdi", names=("nvidia.com/gpu=0",))}, ANY_PORT, "nvidia-ctk cdi generate"),
        ({"memory": 1}, ANY_PORT, "inimum memory limit"),
    ],
)
async def test_what_cannot_be_started_leaves_nothing(
    engine: EngineClient,
    name: str,
    spec: ContainerSpec,
    fields: dict[str, Any],
    published: Published | None,
    message: str,
) -> None:
    async with open_containers(engine.address, name) as containers:
        with pytest.raises(EngineError, match=r"could not (create|start) a container of the image") as caught:
            await containers.run(changed(spec, **fields), published, lambda _: None)
        assert message in str(caught.value)
        assert not caught.value.port_taken
        assert not engine.containers(f"{GATEWAY}={name}")


async def test_a_port_that_is_taken(engine: EngineClient, name: str, spec: ContainerSpec) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        async with open_containers(engine.address, name) as containers:
            with pytest.raises(EngineError) as caught:
                await containers.run(spec, Published(*other.getsockname()), lambda _: None)
            assert caught.value.port_taken
            assert not engine.containers(f"{GATEWAY}={name}")


async def test_facts_that_the_rules_rest_on(
    engine: EngineClient, name: str, spec: ContainerSpec, tmp_path: Path
) -> None:
    """Binds create what is missing; a failed start leaves its container; a published port accepts early."""
    async with Docker(url=engine.address) as docker:
        config = spec.config(name, ANY_PORT)
        config["HostConfig"] |= {"Binds": [f"{tmp_path}/missing:/x:ro"], "Mounts": []}
        bound = await docker.containers.create(config)
        await bound.start()
        assert (tmp_path / "missing").is_dir()
        await bound.delete(force=True)
        config["HostConfig"]["DeviceRequests"] = [{"Driver": "none", "Capabilities": [["gpu"]]}]
        failed = await docker.containers.create(config)
        with pytest.raises(DockerError, match="device driver"):
            await failed.start()
        assert engine.inspect(failed.id)["State"]["Status"] == "created"
        await failed.delete(force=True)
    sleeps = changed(spec, entrypoint=("/usr/bin/python3", "-c"), command=("import time; time.sleep(60)",))
    async with open_containers(engine.address, name) as containers:
        started = await containers.run(sleeps, ANY_PORT, lambda _: None)
        with socket.create_connection(started.address, timeout=5):
            pass
        async with aiohttp.ClientSession() as session:
            assert not await answers(session, *started.address)
        began = time.monotonic()
        await containers.remove(started, 5)
        assert time.monotonic() - began < 3, "TERM reaches a server that has no handler of it"


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os; os.write(2, b'error: no layer\\n'); os._exit(7)", "ended with status 7"),
        ("import os; os.kill(os.getpid(), 11)", "was killed by signal 11"),
        (
            "x = []\nwhile True: x.append(bytearray(b'x' * 2**20))",
            "was killed by the kernel, out of memory (OOM killed),",
        ),
    ],
)
async def test_how_it_ends(engine: EngineClient, name: str, spec: ContainerSpec, code: str, how: str) -> None:
    dies = changed(spec, entrypoint=("/usr/bin/python3", "-c"), command=(code,), memory=64 << 20)
    async with open_containers(engine.address, name) as containers:
        started = await containers.run(dies, ANY_PORT, lambda _: None)
        assert await started.wait(20)
        assert started.end is not None
        assert started.end.how == how
        assert started.end.out_of_memory == ("OOM" in how)
        if "status 7" in how:
            assert list(started.lines.tail) == ["error: no layer"]
        await containers.remove(started, 1)


async def test_a_program_that_is_not_there(engine: EngineClient, name: str, spec: ContainerSpec) -> None:
    async with open_containers(engine.address, name) as containers:
        started = await containers.run(changed(spec, entrypoint=("/no/such",)), ANY_PORT, lambda _: None)
        assert await started.wait(5)
        assert started.end is not None
        assert started.end.how == "ended with status 127"
        assert "/no/such" in started.lines.tail[-1], "init says so"
        await containers.remove(started)


async def test_its_end_is_an_event(engine: EngineClient, name: str, spec: ContainerSpec) -> None:
    async with open_containers(engine.address, name) as containers:
        started = await containers.run(spec, ANY_PORT, lambda _: None)
        await healthy(started)
        engine.kill(started.id)
        began = time.monotonic()
        assert await started.wait(5)
        assert time.monotonic() - began < 1
        assert started.end is not None
        assert started.end.how == "was killed by signal 9"
        await containers.remove(started, 1)
        other = await containers.run(spec, ANY_PORT, lambda _: None)
        engine.remove(other.id)
        assert await other.wait(5)
        await containers.remove(other, 1)


@pytest.mark.parametrize("moment", [0.0, 0.005, 0.02, 0.05, 0.1, 0.2])
async def test_a_start_that_is_cancelled(
    engine: EngineClient, name: str, spec: ContainerSpec, moment: float
) -> None:
    async with open_containers(engine.address, name) as containers:
        await containers.prepare()
        start = spawn(containers.run(spec, ANY_PORT, lambda _: None), name="start")
        await asyncio.wait([start], timeout=moment)
        start.cancel()
        await asyncio.wait([start])
        if not start.cancelled():
            await containers.remove(start.result())
        assert not containers.all()
        assert not engine.containers(f"{GATEWAY}={name}")


@pytest.fixture
def abandoned(engine: EngineClient) -> Abandon:
    """Starts a container as a gateway did that was killed then; returns its id."""

    def abandon(spec: ContainerSpec, name: str) -> str:
        body = json.dumps(spec.config(name, ANY_PORT)).encode()
        created: str = engine.ask("POST", "/containers/create", body)["Id"]
        engine.ask("POST", f"/containers/{created}/start")
        return created

    return abandon


async def serves(engine: EngineClient, id_: str) -> None:
    """Wait until its server answers."""
    found = msgspec.convert(engine.inspect(id_), Inspected)
    await healthy(Container(id_, "", lambda _: None), address_of(found.network_settings, None))


async def test_one_that_is_just_alike_is_taken_over(
    engine: EngineClient, name: str, spec: ContainerSpec, abandoned: Abandon
) -> None:
    left = abandoned(spec, name)
    await serves(engine, left)
    async with open_containers(engine.address, name) as containers:
        taken = await containers.take_over(spec, lambda _: None)
        assert taken is not None
        assert (taken.id, taken.serving, taken.taken_over) == (left, True, True)
        assert await containers.take_over(spec, lambda _: None) is None, "only once"
        engine.kill(left)
        assert await taken.wait(5)
        await containers.remove(taken, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"command": ("--version",)},
        {"image_id": "sha256:another"},
        {"devices": ("GPU-1",)},
        {"environment": {"A": "b"}},
        {"mounts": ()},
        {"memory": 1 << 30},
        {"user": "1:1"},
    ],
)
async def test_one_that_is_not_alike_makes_room(
    engine: EngineClient,
    name: str,
    spec: ContainerSpec,
    abandoned: Abandon,
    fields: dict[str, Any],
) -> None:
    left = abandoned(spec, name)
    await serves(engine, left)
    async with open_containers(engine.address, name) as containers:
        assert await containers.take_over(changed(spec, **fields), lambda _: None) is None
        assert len(containers.left_over()) == 1
        started = await containers.run(spec, ANY_PORT, lambda _: None)
        assert [one["Id"] for one in engine.containers(f"{GATEWAY}={name}")] == [started.id]
        assert not containers.left_over()
        await containers.remove(started)


async def test_who_needs_its_gpus_gets_them(
    engine: EngineClient, name: str, spec: ContainerSpec, abandoned: Abandon
) -> None:
    on_both, on_another = (
        abandoned(changed(spec, model=model, devices=devices), name)
        for model, devices in (("a", ("GPU-1", "GPU-2")), ("b", ("GPU-3",)))
    )
    async with open_containers(engine.address, name) as containers:
        started = await containers.run(changed(spec, devices=("GPU-2",)), ANY_PORT, lambda _: None)
        left = {one["Id"] for one in engine.containers(f"{GATEWAY}={name}")}
        assert left == {started.id, on_another}, on_both
        await containers.remove(started)


async def test_one_that_hangs_is_not_taken_over(
    engine: EngineClient, name: str, spec: ContainerSpec, abandoned: Abandon
) -> None:
    hangs = changed(spec, entrypoint=("/usr/bin/python3", "-c"), command=("import time; time.sleep(600)",))
    abandoned(hangs, name)
    async with open_containers(engine.address, name) as containers:
        assert await containers.take_over(hangs, lambda _: None) is None
        assert not engine.containers(f"{GATEWAY}={name}")


async def test_the_sweep_respects_others(
    engine: EngineClient, name: str, spec: ContainerSpec, abandoned: Abandon
) -> None:
    mine, others, dead = (
        abandoned(spec, name),
        abandoned(spec, f"other {name}"),
        abandoned(spec, f"dead {name}"),
    )
    engine.kill(mine)
    try:
        async with open_containers(engine.address, name) as containers:
            await containers.prepare()
            assert not engine.containers(f"{GATEWAY}={name}"), "it did not run"
            assert not engine.containers(f"{GATEWAY}=dead {name}"), dead
            assert [one["Id"] for one in engine.containers(f"{GATEWAY}=other {name}")] == [others]
    finally:
        engine.remove(others)


async def test_events_that_end_without_a_word(
    engine: EngineClient, name: str, spec: ContainerSpec, tmp_path: Path
) -> None:
    wire = Wire(engine.address, tmp_path / "engine.sock")
    async with open_containers(wire.address, name) as containers:
        one, two, three = [await containers.run(spec, ANY_PORT, lambda _: None) for _ in range(3)]
        for container in (one, two, three):
            await healthy(container)
        wire.cut()
        engine.kill(one.id)
        engine.remove(two.id)
        assert not await one.wait(0.3), "nobody knows yet"
        wire.mend()
        assert await one.wait(5)
        assert await two.wait(5)
        assert (one.end and one.end.how, two.end and two.end.how) == (
            "was killed by signal 9",
            "was removed by somebody else",
        )
        assert three.end is None
        engine.kill(three.id)
        assert await three.wait(5), "the events are heard again"
        for container in (one, two, three):
            await containers.remove(container)


async def test_its_log_goes_on_where_it_was(
    engine: EngineClient, name: str, spec: ContainerSpec, tmp_path: Path
) -> None:
    wire = Wire(engine.address, tmp_path / "engine.sock")
    code = "import time\nfor n in range(1000):\n    print(n, flush=True); time.sleep(0.02)\n"
    lines: list[str] = []
    async with open_containers(wire.address, name) as containers:
        writes = changed(spec, entrypoint=("/usr/bin/python3", "-c"), command=(code,))
        started = await containers.run(writes, ANY_PORT, lines.append)
        await asyncio.to_thread(until, lambda: len(lines) > 5, "it writes")
        wire.cut()
        assert started.follower is not None
        await asyncio.wait([started.follower])
        before = len(lines)
        log = f"/containers/{started.id}/logs?stdout=1"
        await asyncio.to_thread(until, lambda: engine.ask("GET", log).count(b"\n") > before + 5, "it goes on")
        engine.kill(started.id)
        wire.mend()
        assert await started.wait(5)
        numbers = sorted({int(line) for line in lines})
        assert len(numbers) > before, "what it wrote while nobody read"
        assert numbers[-1] - numbers[0] - len(numbers) + 1 <= 1, (
            "without a gap, save for the moment of the cut"
        )
        await containers.remove(started)


async def test_while_the_engine_is_away(
    engine: EngineClient, name: str, spec: ContainerSpec, tmp_path: Path
) -> None:
    wire = Wire(engine.address, tmp_path / "engine.sock")
    async with open_containers(wire.address, name) as containers:
        lives, dies = [await containers.run(spec, ANY_PORT, lambda _: None) for _ in range(2)]
        for container in (lives, dies):
            await healthy(container)
            container.serving = True
        engine.kill(dies.id)
        wire.cut()
        assert await dies.wait(5)
        assert lives.end is None, "it answers"
        with pytest.raises(EngineError, match=r"is not there: start it"):
            await containers.run(spec, ANY_PORT, lambda _: None)
        for container in (lives, dies):
            await containers.remove(container, 1)
        assert len(engine.containers(f"{GATEWAY}={name}")) == 2
        wire.mend()
        await asyncio.to_thread(until, lambda: not engine.containers(f"{GATEWAY}={name}"), "removed then")
