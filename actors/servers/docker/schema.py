"""What the Docker Engine answers, as far as it is read. Pure."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

Id = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{1,64}$")]
"""Of a container. It becomes part of a path of the API."""
Port = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,5}$")]
Pid = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Status = Annotated[int, msgspec.Meta(gt=-(1 << 31), lt=1 << 32)]
"""On Windows an exit status has 32 bits."""
Bytes = Annotated[int, msgspec.Meta(ge=0, lt=1 << 50)]


class _Told(msgspec.Struct, frozen=True, rename="pascal"):
    """The engine's names begin with capitals."""


class Fault(msgspec.Struct, frozen=True):
    """A refusal."""

    message: str


class Device(_Told, frozen=True):
    """A device that can be given to containers."""

    source: str = ""
    id: str = msgspec.field(name="ID", default="")


class Info(_Told, frozen=True):
    """GET /info."""

    server_version: str
    system_time: str
    security_options: tuple[str, ...] | None = None
    runtimes: Mapping[str, Any] | None = None
    cdi_spec_dirs: tuple[str, ...] | None = msgspec.field(name="CDISpecDirs", default=None)
    discovered_devices: tuple[Device, ...] | None = None


class Image(_Told, frozen=True):
    """GET /images/{name}/json."""

    id: str


class Created(_Told, frozen=True):
    """POST /containers/create."""

    id: Id


class Listed(_Told, frozen=True):
    """One of GET /containers/json."""

    id: Id
    state: str
    names: tuple[str, ...] | None = None
    labels: Mapping[str, str] | None = None


class State(_Told, frozen=True):
    """How a container is, or how it ended."""

    running: bool = False
    exit_code: Status = 0
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)
    error: str = ""
    pid: Pid = 0


class Binding(_Told, frozen=True):
    """Where a port is published."""

    host_ip: str
    host_port: Port


class Attachment(_Told, frozen=True):
    """A container on a network."""

    ip_address: str = msgspec.field(name="IPAddress", default="")


class NetworkSettings(_Told, frozen=True):
    """Of a container; a port that is not published has no bindings."""

    networks: Mapping[str, Attachment | None] | None = None
    ports: Mapping[str, tuple[Binding, ...] | None] | None = None


class MountPoint(_Told, frozen=True):
    """A folder of the engine's machine in a container."""

    destination: str = ""
    source: str = ""


class Settings(_Told, frozen=True):
    """What a container was created with."""

    env: tuple[str, ...] | None = None


class Inspected(_Told, frozen=True):
    """GET /containers/{id}/json."""

    name: str = ""
    state: State = State()
    network_settings: NetworkSettings = NetworkSettings()
    mounts: tuple[MountPoint, ...] | None = None
    config: Settings = Settings()


class Actor(_Told, frozen=True):
    """Whom an event is about."""

    id: str = msgspec.field(name="ID", default="")
    attributes: Mapping[str, str] | None = None


class Event(_Told, frozen=True):
    """A line of GET /events."""

    action: str = ""
    actor: Actor = Actor()

    @property
    def exit_code(self) -> int:
        """The status of one that died; 0 if that is not told."""
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
