"""One container from start to removal."""

import asyncio
from collections.abc import Callable

import msgspec

from actors.messages import KEY_VARIABLE
from actors.runtime import occurs
from actors.servers.docker.schema import ContainerState, Inspected, NetworkSettings
from actors.servers.docker.spec import PORT
from actors.servers.output_lines import Lines


class ContainerEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a container ended. `how` completes "the server ...", such as "was killed by signal 9"."""

    how: str
    out_of_memory: bool = False
    """Whether the kernel killed it because it reached its memory limit, or the machine's."""


class Container:
    """A container of this gateway. `finish` reports its end, once."""

    def __init__(self, id_: str, name: str, on_line: Callable[[str], None]) -> None:
        self.id = id_
        self.name = name
        self.lines = Lines(on_line)
        self.address: tuple[str, int] = ("", 0)
        """The address of the server; None for a container that ended at once."""
        self.key = ""
        """The API key of the server; empty for a container of an earlier version, which checks none."""
        self.pid = 0
        """The pid of the first process, which leads the session of the others; 0 on another machine."""
        self.serving = False
        """Whether the server has answered its health check."""
        self.taken_over = False
        """Whether a dead gateway started the container."""
        self.end: ContainerEnd | None = None
        self.oom_seen = False
        self.follower: asyncio.Task[None] | None = None
        """The task that reads the log."""
        self.log_read_at = 0.0
        """Unix time up to which the log was read, if no task reads it now."""
        self._ended = asyncio.Event()

    def finish(self, end: ContainerEnd) -> None:
        """Note the end of the container, whose log is read. Later calls are ignored."""
        if self.end is None:
            self.end = end
            self._ended.set()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until the container has ended; false if `timeout` seconds pass first."""
        return await occurs(self._ended, timeout)

    async def read_last_words(self) -> None:
        """Wait until the log of an ended container is read. The lines come at once or not at all."""
        if self.follower is not None:
            await asyncio.wait([self.follower], timeout=0.5)


def end_of(state: ContainerState, *, oom_seen: bool = False) -> ContainerEnd:
    """Return how a container that does not run ended."""
    code = state.exit_code
    if oom_seen or state.oom_killed:
        return ContainerEnd(how="was killed by the kernel, out of memory (OOM killed),", out_of_memory=True)
    if state.error:
        return ContainerEnd(how=f"could not run ({state.error})")
    return ContainerEnd(
        how=f"was killed by signal {code - 128}" if code > 128 else f"ended with status {code}"
    )


def key_of(inspected: Inspected) -> str:
    """Return the API key in the container's environment; empty if there is none."""
    pairs = (entry.partition("=") for entry in inspected.config.env or ())
    return next((value for name, _, value in pairs if name == KEY_VARIABLE), "")


def address_of(settings: NetworkSettings, network: str | None) -> tuple[str, int]:
    """Return the address of a running container's server: on its network, or at its published port.

    Raises `ValueError` if there is none, as when the container is about to end.
    """
    if network is not None:
        attachment = (settings.networks or {}).get(network)
        if attachment and attachment.ip_address:
            return attachment.ip_address, PORT
        raise ValueError(f"it has no address on the network {network}")
    if bindings := (settings.ports or {}).get(f"{PORT}/tcp"):
        return bindings[0].host_ip, int(bindings[0].host_port)
    raise ValueError("its port is not published")
