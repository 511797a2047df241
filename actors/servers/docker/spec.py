"""The settings of a model server's container. Pure."""

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from actors.messages import KEY_VARIABLE

GpuDriver = Literal["nvidia", "cdi"]

PORT = 8080
"""The server's port inside the container, where nothing else listens."""

GATEWAY = "llama-smart-proxy.gateway"
"""Label: the identity of the gateway."""
MODEL = "llama-smart-proxy.model"
"""Label: the name of the model."""
DIGEST = "llama-smart-proxy.digest"
"""Label: the digest of everything that decides how the server runs."""
DEVICES = "llama-smart-proxy.devices"
"""Label: the UUIDs of the container's GPUs, separated by commas."""


class Mount(msgspec.Struct, frozen=True):
    """A file or folder of the engine's machine, read-only. `version` changes with its content."""

    source: str
    target: str
    version: str = ""


class Gpus(msgspec.Struct, frozen=True, kw_only=True):
    """GPUs as requested from the engine: names of the driver's devices."""

    driver: GpuDriver
    names: tuple[str, ...]


class Published(msgspec.Struct, frozen=True):
    """An address of the engine's machine that leads to `PORT`; port 0: any free port."""

    host: str
    port: int


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The container of one model server. `image_id` is the present id of `image`.

    `entrypoint` None and an empty `user` ("uid:gid") are the image's own. `memory` is in bytes, swap
    included.
    """

    model: str
    image: str
    image_id: str
    command: tuple[str, ...]
    entrypoint: tuple[str, ...] | None = None
    environment: Mapping[str, str] = {}
    mounts: tuple[Mount, ...] = ()
    devices: tuple[str, ...] = ()
    """The UUIDs of the container's GPUs."""
    gpus: Gpus | None = None
    network: str | None = None
    user: str = ""
    groups: tuple[str, ...] = ()
    memory: int | None = None

    @property
    def digest(self) -> str:
        """A digest that is equal for two containers exactly if they are interchangeable."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()

    def name(self) -> str:
        """Return a new name for a container, readable for people."""
        slug = re.sub(r"[^a-zA-Z0-9_.-]+", "-", self.model).strip("-.")[:40]
        return f"llama-{slug or 'model'}-{secrets.token_hex(3)}"

    def config(self, gateway: str, published: Published | None) -> dict[str, Any]:
        """Return the body of POST /containers/create.

        Without `published` no port is published, and the gateway connects through the container's network.
        Each call makes a new API key, which is not part of the digest; users of the engine can read it.
        """
        host: dict[str, Any] = {
            "Init": True,  # otherwise the server, as process 1, would ignore TERM while it loads
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Tmpfs": {"/tmp": "rw,nosuid,nodev,size=256m"},  # noqa: S108 (inside the container)
            # Not Binds, which create missing paths as folders of root.
            "Mounts": [
                {"Type": "bind", "Source": mount.source, "Target": mount.target, "ReadOnly": True}
                for mount in self.mounts
            ],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
        }
        if self.memory is not None:
            host |= {"Memory": self.memory, "MemorySwap": self.memory}
        if self.gpus is not None:
            host["DeviceRequests"] = [_request(self.gpus)]
        if self.groups:
            host["GroupAdd"] = list(self.groups)
        if self.network is not None:
            host["NetworkMode"] = self.network
        config: dict[str, Any] = {
            "Image": self.image,
            "Cmd": list(self.command),
            "Env": [
                *(f"{name}={value}" for name, value in self.environment.items()),
                f"{KEY_VARIABLE}={secrets.token_urlsafe(32)}",
            ],
            "Labels": {
                GATEWAY: gateway,
                MODEL: self.model,
                DIGEST: self.digest,
                DEVICES: ",".join(self.devices),
            },
            "Healthcheck": {
                "Test": ["NONE"]
            },  # the gateway checks the health itself; the image's own check would start a program each time
            "HostConfig": host,
        }
        if self.entrypoint is not None:
            config["Entrypoint"] = list(self.entrypoint)
        if self.user:
            config["User"] = self.user
        if published is not None:
            port = f"{PORT}/tcp"
            config["ExposedPorts"] = {port: {}}
            binding = {"HostIp": published.host, "HostPort": str(published.port or "")}
            host["PortBindings"] = {port: [binding]}
        return config


def _request(gpus: Gpus) -> dict[str, Any]:
    request: dict[str, Any] = {"Driver": gpus.driver, "DeviceIDs": list(gpus.names)}
    if gpus.driver == "nvidia":
        request["Capabilities"] = [["gpu"]]
    return request


def gpus_of(
    driver: GpuDriver, devices: Sequence[str], indices: Mapping[str, int | str], known: frozenset[str]
) -> Gpus:
    """Return the engine's names of GPUs, given their UUIDs.

    The nvidia driver takes UUIDs. CDI's names come from the engine's specifications: always indices, and in
    newer ones UUIDs, which are unambiguous and preferred if the engine lists them.
    """
    if driver == "nvidia":
        return Gpus(driver=driver, names=tuple(devices))
    names = []
    for device in devices:
        by_uuid = f"nvidia.com/gpu={device}"
        names.append(by_uuid if by_uuid in known else f"nvidia.com/gpu={indices.get(device, device)}")
    return Gpus(driver=driver, names=tuple(names))
