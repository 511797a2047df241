"""What the backend makes of a model's settings: its image, its files, its GPUs; on a stand-in engine."""

import asyncio
import socket as sockets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from blockbuster import blockbuster_ctx

from actors.config.file import parse_config
from actors.config.schema import Config
from actors.gpu.calibration import Calibration
from actors.gpu.monitor import Gpu
from actors.hub.cache import ModelFiles
from actors.hub.hub import Hub
from actors.kept_lines import ServerLines
from actors.messages import Figures
from actors.placement.fit import Placement, Share
from actors.placement.options import Option
from actors.servers import StartError
from actors.servers.docker.backend import CUDA_IMAGE, IMAGE, DockerBackend
from actors.servers.docker.containers import Containers
from actors.servers.docker.engine import Engine
from actors.servers.docker.surroundings import Surroundings
from actors.servers.llama.appraisal import Predictor
from actors.servers.llama.backend import Shared
from actors.servers.ports import PortBook
from tests.gguf_files import write
from tests.stand_in_engine import StandInEngine, frame, stand_in_engine

GPUS = [
    Gpu(index=number, uuid=f"GPU-{number}", name="H100", total=80, used=0, free=80) for number in range(2)
]


class Bench:
    """A backend, its engine, and what it started."""

    def __init__(
        self, engine: StandInEngine, folder: Path, session: aiohttp.ClientSession, calibration: Calibration
    ) -> None:
        self.engine = engine
        self.folder = folder
        self.session = session
        self.calibration = calibration
        self.containers = self.open()

    def open(self) -> Containers:
        """The containers, as a gateway sees them that has just been started."""

        async def answers(_host: str, _port: int) -> bool:
            return True

        return Containers(
            Engine(f"unix://{self.folder}/docker.sock"),
            name="bench",
            identity="nobody",
            is_dead=lambda _: False,
            answers=answers,
            on_left_over=lambda: None,
        )

    def backend(
        self, model: dict[str, Any] | None = None, gpus: Sequence[Gpu] = (), **pool: Any
    ) -> DockerBackend:
        path = {"path": str(self.folder / "m.gguf")}
        data = {
            "llama_cpp": {"models": {"m": {**path, **(model or {})}}},
            "server_pool": {"runtime": "docker", "port_start": 0, **pool},
        }
        config: Config = parse_config(data, folder=self.folder)
        hub = Hub(config.hub, self.session, memory=lambda: 0)
        predictor = Predictor(config, self.calibration, list)
        ports = PortBook(config.server_pool.host, config.server_pool.port_start)
        shared = Shared(config, hub, self.session, ports, predictor, self.folder, ServerLines(), lambda: gpus)
        return DockerBackend("m", config.llama_cpp.models["m"], shared, containers=self.containers)

    async def start(self, backend: DockerBackend, placement: Placement | None = None) -> dict[str, Any]:
        """Start the model; the body of its container's creation. It is stopped again."""
        server = await backend.start(1, ModelFiles(path=self.folder / "m.gguf"), placement)
        (made,) = self.engine.containers.values()
        config: dict[str, Any] = made["Config"]
        await server.stop()
        assert not self.engine.containers
        return config


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call of ours in a running loop is an error."""
    with blockbuster_ctx(["proxy", "actors"]):
        yield


@pytest.fixture
def calibration() -> Iterator[Calibration]:
    """One that knows nothing."""
    with closing(Calibration(None)) as nothing:
        yield nothing


@pytest.fixture
async def bench(tmp_path: Path, calibration: Calibration) -> AsyncIterator[Bench]:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    async with stand_in_engine(tmp_path / "docker.sock") as engine, aiohttp.ClientSession() as session:
        engine.images |= {IMAGE: "sha256:3333", CUDA_IMAGE: "sha256:4444"}
        made = Bench(engine, tmp_path, session, calibration)
        yield made
        await made.containers.close()


def on(*devices: str) -> Placement:
    """A place on these GPUs, or on the host."""
    option = Option(how="whole" if devices else "host", context=512)
    shares = tuple(Share(device=device, layers=1, bytes=1) for device in devices)
    return Placement(option=option, shares=shares, why="test")


@pytest.mark.parametrize(
    ("model", "pool", "devices", "image"),
    [
        ({}, {}, ["GPU-1"], CUDA_IMAGE),
        ({}, {}, [], IMAGE),
        ({}, {"image": "here"}, ["GPU-1"], "here"),
        ({"image": "here"}, {"image": "x"}, [], "here"),
    ],
)
async def test_the_image(
    bench: Bench, model: dict[str, Any], pool: dict[str, Any], devices: list[str], image: str
) -> None:
    config = await bench.start(bench.backend(model, GPUS, **pool), on(*devices))
    assert config["Image"] == image


async def test_the_image_is_pulled_before_the_place_is_taken(bench: Bench) -> None:
    bench.engine.images.clear()
    await bench.backend(gpus=GPUS).fetch(lambda _: None)
    assert list(bench.engine.images) == [CUDA_IMAGE]
    await bench.backend().fetch(lambda _: None)
    assert list(bench.engine.images) == [CUDA_IMAGE, IMAGE]
    bench.engine.images.clear()
    assert await bench.backend().find() is not None
    assert not bench.engine.images, "to look changes nothing"


@pytest.mark.parametrize(
    ("info", "setting", "request_"),
    [
        (
            {"Runtimes": {"nvidia": {}}},
            "auto",
            {"Driver": "nvidia", "DeviceIDs": ["GPU-1", "GPU-0"], "Capabilities": [["gpu"]]},
        ),
        (
            {"CDISpecDirs": ["/etc/cdi"]},
            "auto",
            {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=1", "nvidia.com/gpu=0"]},
        ),
        ({}, "cdi", {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=1", "nvidia.com/gpu=0"]}),
    ],
)
async def test_the_gpus(bench: Bench, info: dict[str, Any], setting: str, request_: dict[str, Any]) -> None:
    bench.engine.info |= info
    config = await bench.start(bench.backend(gpus=GPUS, docker={"gpus": setting}), on("GPU-1", "GPU-0"))
    assert config["HostConfig"]["DeviceRequests"] == [request_]
    assert "CUDA_VISIBLE_DEVICES=GPU-1,GPU-0" in config["Env"], "their order is that of the split"
    assert ("NVIDIA_VISIBLE_DEVICES=void" in config["Env"]) is (request_["Driver"] == "cdi")
    assert config["Labels"]["llama-smart-proxy.devices"] == "GPU-1,GPU-0"


async def test_on_the_host_it_has_no_gpu(bench: Bench) -> None:
    config = await bench.start(bench.backend(gpus=GPUS), on())
    assert "DeviceRequests" not in config["HostConfig"]
    assert {"NVIDIA_VISIBLE_DEVICES=void", "CUDA_VISIBLE_DEVICES="} <= set(config["Env"])
    assert config["Cmd"][config["Cmd"].index("--gpu-layers") + 1] == "0"


async def test_its_files(bench: Bench) -> None:
    """Each part of a split model, the projector, and what the settings add; links as what they lead to."""
    blobs = bench.folder / "blobs"
    blobs.mkdir()
    names = [f"big-{part:05d}-of-00002.gguf" for part in (1, 2)]
    for name in (*names, "mmproj.gguf"):
        (blobs / f"blob-of-{name}").write_bytes(b"x")
        (bench.folder / name).symlink_to(blobs / f"blob-of-{name}")
    files = ModelFiles(path=bench.folder / names[0], projector=bench.folder / "mmproj.gguf")
    backend = bench.backend(docker={"mounts": [str(blobs)]})
    server = await backend.start(1, files, None)
    (made,) = bench.engine.containers.values()
    mounts = {mount["Target"]: mount["Source"] for mount in made["Config"]["HostConfig"]["Mounts"]}
    assert mounts == {
        **{f"/models/{name}": f"{blobs}/blob-of-{name}" for name in names},
        "/models/projector/mmproj.gguf": f"{blobs}/blob-of-mmproj.gguf",
        str(blobs): str(blobs),
    }
    flags = made["Config"]["Cmd"]
    assert flags[flags.index("--model") + 1] == f"/models/{names[0]}"
    assert flags[flags.index("--mmproj") + 1] == "/models/projector/mmproj.gguf"
    assert (flags[flags.index("--host") + 1], flags[flags.index("--port") + 1]) == ("0.0.0.0", "8080")
    await server.stop()


@pytest.mark.parametrize(
    ("model", "pool", "entrypoint"),
    [
        ({}, {}, None),
        ({}, {"command": "/app/other -v"}, ["/app/other", "-v"]),
        ({"command": ["a b"]}, {"command": "x"}, ["a b"]),
        ({"runtime": "docker"}, {"runtime": "auto", "command": "/host/llama-server"}, None),
    ],
)
async def test_its_entrypoint(
    bench: Bench, model: dict[str, Any], pool: dict[str, Any], entrypoint: list[str] | None
) -> None:
    assert (await bench.start(bench.backend(model, **pool))).get("Entrypoint") == entrypoint


async def test_the_gateway_is_in_a_container(bench: Bench) -> None:
    await bench.containers.prepare()
    bench.containers.surroundings = Surroundings(
        name="gateway", networks=("models",), mounts=((str(bench.folder), "/srv/models"),)
    )
    server = await bench.backend().start(1, ModelFiles(path=bench.folder / "m.gguf"), None)
    (made,) = bench.engine.containers.values()
    host = made["Config"]["HostConfig"]
    assert [mount["Source"] for mount in host["Mounts"]] == ["/srv/models/m.gguf"]
    assert host["NetworkMode"] == "models"
    assert "PortBindings" not in host
    assert (server.endpoint.host, server.endpoint.port) == ("172.18.0.3", 8080)
    assert server.process == 0, "its processes are in another namespace"
    await server.stop()


async def test_an_engine_on_another_machine(bench: Bench) -> None:
    """What it publishes cannot be reached; a network may lead there."""
    await bench.containers.prepare()
    bench.containers.engine.address = "tcp://there:2375"
    with pytest.raises(StartError, match=r"is on another machine.*server_pool\.docker\.network must name"):
        await bench.backend().start(1, ModelFiles(path=bench.folder / "m.gguf"), None)
    config = await bench.start(bench.backend(docker={"network": "models"}))
    assert config["HostConfig"]["NetworkMode"] == "models"


async def test_a_rootless_engine(bench: Bench) -> None:
    bench.engine.info["SecurityOptions"] = ["name=rootless"]
    config = await bench.start(bench.backend())
    assert "User" not in config, "its root is the gateway's user"


async def test_memory_is_limited_when_asked_for(bench: Bench) -> None:
    config = await bench.start(bench.backend(docker={"memory_limit": 1.5}))
    assert config["HostConfig"]["Memory"] == 3 << 29


async def test_ports_that_are_taken(bench: Bench) -> None:
    bench.engine.refuse = {
        "POST /containers/create": (500, "Bind for 127.0.0.1:1 failed: port is already allocated")
    }
    with sockets.socket() as free:
        free.bind(("127.0.0.1", 0))
        start = free.getsockname()[1]
    backend = bench.backend(port_start=start)
    with pytest.raises(StartError, match="port is already allocated"):
        await backend.start(1, ModelFiles(path=bench.folder / "m.gguf"), None)
    assert bench.engine.requests.count("POST /containers/create") == 3
    bench.engine.refuse.clear()
    config = await bench.start(backend)
    (bound,) = config["HostConfig"]["PortBindings"]["8080/tcp"]
    assert start <= int(bound["HostPort"]) < start + 3, "those that were tried are given back"


async def test_an_image_without_cuda_is_known_by_its_log(bench: Bench) -> None:
    write(bench.folder / "m.gguf", {})
    files = ModelFiles(path=bench.folder / "m.gguf")
    backend = bench.backend(gpus=GPUS)
    assert (await backend.appraise(files)).no_gpu == ""
    bench.engine.log = frame(b"warning: no usable GPU found, --gpu-layers option will be ignored\n")
    server = await backend.start(1, files, on("GPU-1"))
    async with asyncio.timeout(10):
        while not server.log_tail():
            await server.wait_exited(0.01)
    assert server.figures().on_host
    await server.stop()
    # Then it is known before the start, to others too; with other GPUs, or another image, it is tried.
    async with asyncio.timeout(10):
        while not (demand := await bench.backend(gpus=GPUS).appraise(files)).no_gpu:
            pass
    assert [option.how for option in demand.options] == ["host"]
    assert (await bench.backend(gpus=GPUS[:1]).appraise(files)).no_gpu == ""
    assert (await bench.backend({"image": "other"}, gpus=GPUS).appraise(files)).no_gpu == ""


async def test_one_is_taken_over(bench: Bench) -> None:
    files = ModelFiles(path=bench.folder / "m.gguf")
    await bench.backend().start(1, files, None)
    killed, bench.containers = bench.containers, bench.open()
    server = await bench.backend().start(1, files, None)
    assert len(bench.engine.containers) == 1
    assert server.figures() == Figures(taken_over=True)
    await server.stop()
    assert not bench.engine.containers
    await killed.close()
