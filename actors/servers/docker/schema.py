"""The Docker Engine's answers, as far as they are read. Pure."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

Id = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{1,64}$")]
"""A container's id. It becomes part of a path of the API."""
Port = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,5}$")]
Pid = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Status = Annotated[int, msgspec.Meta(gt=-(1 << 31), lt=1 << 32)]
"""An exit status, which has 32 bits on Windows."""
Bytes = Annotated[int, msgspec.Meta(ge=0, lt=1 << 50)]


class _EngineAnswer(msgspec.Struct, frozen=True, rename="pascal"):
    """Base of the engine's answers, whose field names begin with capitals."""


class EngineFault(msgspec.Struct, frozen=True):
    """The body of an error response."""

    message: str


class EngineDevice(_EngineAnswer, frozen=True):
    """A device that can be given to containers."""

    source: str = ""
    id: str = msgspec.field(name="ID", default="")


class Info(_EngineAnswer, frozen=True):
    """GET /info."""

    server_version: str
    system_time: str
    security_options: tuple[str, ...] | None = None
    runtimes: Mapping[str, Any] | None = None
    cdi_spec_dirs: tuple[str, ...] | None = msgspec.field(name="CDISpecDirs", default=None)
    discovered_devices: tuple[EngineDevice, ...] | None = None


class InspectedImage(_EngineAnswer, frozen=True):
    """GET /images/{name}/json."""

    id: str


class Created(_EngineAnswer, frozen=True):
    """POST /containers/create."""

    id: Id


class ListedContainer(_EngineAnswer, frozen=True):
    """One of GET /containers/json."""

    id: Id
    state: str
    names: tuple[str, ...] | None = None
    labels: Mapping[str, str] | None = None


class ContainerState(_EngineAnswer, frozen=True):
    """Whether a container runs, or how it ended."""

    running: bool = False
    exit_code: Status = 0
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)
    error: str = ""
    pid: Pid = 0


class Binding(_EngineAnswer, frozen=True):
    """Where a port is published."""

    host_ip: str
    host_port: Port


class Attachment(_EngineAnswer, frozen=True):
    """A container on a network."""

    ip_address: str = msgspec.field(name="IPAddress", default="")


class NetworkSettings(_EngineAnswer, frozen=True):
    """A container's networks and ports; a port that is not published has no bindings."""

    networks: Mapping[str, Attachment | None] | None = None
    ports: Mapping[str, tuple[Binding, ...] | None] | None = None


class MountPoint(_EngineAnswer, frozen=True):
    """A folder of the engine's machine in a container."""

    destination: str = ""
    source: str = ""


class ContainerSettings(_EngineAnswer, frozen=True):
    """The settings with which a container was created."""

    env: tuple[str, ...] | None = None


class Inspected(_EngineAnswer, frozen=True):
    """GET /containers/{id}/json."""

    name: str = ""
    state: ContainerState = ContainerState()
    network_settings: NetworkSettings = NetworkSettings()
    mounts: tuple[MountPoint, ...] | None = None
    config: ContainerSettings = ContainerSettings()


class EventSubject(_EngineAnswer, frozen=True):
    """The container or image that an event is about."""

    id: str = msgspec.field(name="ID", default="")
    attributes: Mapping[str, str] | None = None


class EngineEvent(_EngineAnswer, frozen=True):
    """One line of GET /events."""

    action: str = ""
    actor: EventSubject = EventSubject()

    @property
    def exit_code(self) -> int:
        """The exit status of a died container; 0 if missing."""
        code = (self.actor.attributes or {}).get("exitCode", "")
        return int(code) if code.isascii() and code.isdecimal() and len(code) < 11 else 0


class PullDetail(msgspec.Struct, frozen=True):
    """Bytes of a layer."""

    current: Bytes = 0
    total: Bytes = 0


class PullLine(msgspec.Struct, frozen=True, rename="camel"):
    """A line of POST /images/create."""

    status: str = ""
    id: str = ""
    error: str = ""
    progress_detail: PullDetail | None = None
