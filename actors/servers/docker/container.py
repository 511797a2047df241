"""One container, from its start to its removal."""

import asyncio
from collections.abc import Callable

import msgspec

from actors.messages import KEY_VARIABLE
from actors.runtime import occurs
from actors.servers.docker.schema import ContainerState, Inspected, NetworkSettings
from actors.servers.docker.spec import PORT
from actors.servers.output_lines import Lines


class ContainerEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a container ended. `how` is said of the server: "was killed by signal 9"."""

    how: str
    out_of_memory: bool = False
    """The kernel killed it because it reached its memory limit, or the machine's."""


class Container:
    """A container of this gateway. Its end is told by `finish`, once."""

    def __init__(self, id_: str, name: str, on_line: Callable[[str], None]) -> None:
        self.id = id_
        self.name = name
        self.lines = Lines(on_line)
        self.address: tuple[str, int] = ("", 0)
        """Where its server is reached; of one that ended at once there is none."""
        self.key = ""
        """What its server asks for; empty for one of an earlier version, which answers anybody."""
        self.pid = 0
        """Of its first process, which leads the session of the others; 0 where it is not this machine's."""
        self.serving = False
        """Its server has answered its health check."""
        self.taken_over = False
        """It was started by a gateway that is dead."""
        self.end: ContainerEnd | None = None
        self.oom_seen = False
        self.follower: asyncio.Task[None] | None = None
        """The task that reads its log."""
        self.log_read_at = 0.0
        """Unix time to which it has been read, when it is not being read."""
        self._ended = asyncio.Event()

    def finish(self, end: ContainerEnd) -> None:
        """It has ended, and its log is read; what is told later does not count."""
        if self.end is None:
            self.end = end
            self._ended.set()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; false when `timeout` seconds pass first."""
        return await occurs(self._ended, timeout)

    async def read_last_words(self) -> None:
        """Wait until the log of one that does not run any more is read. It comes at once or not at all."""
        if self.follower is not None:
            await asyncio.wait([self.follower], timeout=0.5)


def end_of(state: ContainerState, *, oom_seen: bool = False) -> ContainerEnd:
    """How one that does not run any more has ended."""
    code = state.exit_code
    if oom_seen or state.oom_killed:
        return ContainerEnd(how="was killed by the kernel, out of memory (OOM killed),", out_of_memory=True)
    if state.error:
        return ContainerEnd(how=f"could not run ({state.error})")
    return ContainerEnd(
        how=f"was killed by signal {code - 128}" if code > 128 else f"ended with status {code}"
    )


def key_of(inspected: Inspected) -> str:
    """The key in its environment; empty if there is none."""
    pairs = (entry.partition("=") for entry in inspected.config.env or ())
    return next((value for name, _, value in pairs if name == KEY_VARIABLE), "")


def address_of(settings: NetworkSettings, network: str | None) -> tuple[str, int]:
    """Where the server of a running container is reached: on its network, or at its published port.

    Raises `ValueError` if nowhere: it may be about to end.
    """
    if network is not None:
        attachment = (settings.networks or {}).get(network)
        if attachment and attachment.ip_address:
            return attachment.ip_address, PORT
        raise ValueError(f"it has no address on the network {network}")
    if bindings := (settings.ports or {}).get(f"{PORT}/tcp"):
        return bindings[0].host_ip, int(bindings[0].host_port)
    raise ValueError("its port is not published")
