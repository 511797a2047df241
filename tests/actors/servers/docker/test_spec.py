"""What a container is made of, and where the gateway itself is."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.servers.docker.engine import EngineError
from actors.servers.docker.schema import Inspected
from actors.servers.docker.spec import ContainerSpec, Gpus, Mount, Published, gpus_of
from actors.servers.docker.surroundings import Surroundings, surroundings_of

SPEC = ContainerSpec(
    model="m",
    image="i",
    image_id="sha256:1",
    command=("-a",),
    entrypoint=("x",),
    environment={"A": "1", "B": "2"},
    mounts=(Mount("/s", "/t", "5:6"),),
    devices=("GPU-1",),
    gpus=Gpus(driver="nvidia", names=("GPU-1",)),
    network=None,
    user="1:1",
    groups=("5",),
    memory=7,
)


@pytest.mark.parametrize("field", ContainerSpec.__struct_fields__)
def test_the_digest_has_everything(field: str) -> None:
    others: dict[str, Any] = {
        "mounts": (Mount("/s", "/t", "5:7"),),
        "gpus": Gpus(driver="cdi", names=("GPU-1",)),
        "environment": {"A": "1"},
        "memory": 8,
    }
    value = others.get(field, "other" if isinstance(getattr(SPEC, field), str | None) else ("other",))
    assert msgspec.structs.replace(SPEC, **{field: value}).digest != SPEC.digest


def test_the_digest_has_nothing_else() -> None:
    same = msgspec.structs.replace(SPEC, environment={"B": "2", "A": "1"})
    assert same.digest == SPEC.digest
    assert same.name() != SPEC.name()


def test_gpus_of_the_nvidia_driver() -> None:
    gpus = gpus_of("nvidia", ["GPU-2", "MIG-1"], {"GPU-2": 1}, frozenset())
    host = msgspec.structs.replace(SPEC, gpus=gpus).config("g", None)["HostConfig"]
    assert host["DeviceRequests"] == [
        {"Driver": "nvidia", "DeviceIDs": ["GPU-2", "MIG-1"], "Capabilities": [["gpu"]]}
    ]


def test_gpus_by_cdi() -> None:
    known = frozenset(["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-2"])
    indices: dict[str, int | str] = {"GPU-2": 7, "MIG-1": "0:1"}
    gpus = gpus_of("cdi", ["GPU-2", "MIG-1"], indices, known)
    host = msgspec.structs.replace(SPEC, gpus=gpus).config("g", None)["HostConfig"]
    assert host["DeviceRequests"] == [
        {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-2", "nvidia.com/gpu=0:1"]}
    ]


def test_without_anything() -> None:
    config = ContainerSpec(model="m", image="i", image_id="", command=()).config(
        "g", Published("127.0.0.1", 0)
    )
    assert "Entrypoint" not in config
    assert "User" not in config
    assert not {"Memory", "DeviceRequests", "NetworkMode", "GroupAdd"} & config["HostConfig"].keys()
    assert config["HostConfig"]["PortBindings"] == {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    assert config["Healthcheck"] == {"Test": ["NONE"]}


TOLD = {
    "Name": "/compose-gateway-1",
    "NetworkSettings": {"Networks": {"host": {}, "compose_default": {}, "bridge": {}}},
    "Mounts": [
        {"Type": "bind", "Source": "/srv/models", "Destination": "/models"},
        {
            "Type": "volume",
            "Name": "v",
            "Source": "/var/lib/docker/volumes/v/_data",
            "Destination": "/models/hub",
        },
        {"Type": "tmpfs", "Source": "", "Destination": "/tmp"},
    ],
}


def test_a_gateway_in_a_container() -> None:
    found = surroundings_of(msgspec.convert(TOLD, Inspected))
    assert (found.name, found.networks) == ("compose-gateway-1", ("compose_default", "bridge"))
    assert found.on_host(Path("/models/a/b.gguf")) == "/srv/models/a/b.gguf"
    assert found.on_host(Path("/models/hub/x")) == "/var/lib/docker/volumes/v/_data/x"
    with pytest.raises(EngineError, match=r"/tmp/x is inside the gateway's own container compose-gateway-1"):
        found.on_host(Path("/tmp/x"))


def test_a_gateway_that_is_in_none() -> None:
    assert Surroundings().on_host(Path("/x/y")) == "/x/y"
