"""Finds out whether the gateway runs on the engine's machine or in one of its containers."""

import asyncio
import re
from pathlib import Path

import msgspec

from actors.servers.docker.engine import Engine, EngineError
from actors.servers.docker.schema import Inspected

MOUNTINFO = Path("/proc/self/mountinfo")

_OWN_ID = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) ")
"""The engine mounts these files into each container, from a folder that has its id."""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway's own container: its name, its networks, and its mounts as (target, source on the host).

    `name` is empty on the machine itself.
    """

    name: str = ""
    networks: tuple[str, ...] = ()
    mounts: tuple[tuple[str, str], ...] = ()

    def on_host(self, path: Path) -> str:
        """Translate a path in the gateway's container to the engine's machine.

        Raises `EngineError` if impossible.
        """
        if not self.name:
            return str(path)
        for target, source in sorted(self.mounts, key=lambda mount: -len(mount[0])):
            if path.is_relative_to(target):
                return str(Path(source) / path.relative_to(target))
        raise EngineError(
            f"{path} is inside the gateway's own container {self.name}, where no other container can see it: "
            f"mount a folder or volume of the engine's machine there"
        )


async def look_around(engine: Engine) -> Surroundings:
    """Find out whether this process is in a container of the engine. Raises `EngineError`."""
    try:
        found = _OWN_ID.search(await asyncio.to_thread(MOUNTINFO.read_text))
    except OSError:  # not Linux
        found = None
    if found is None:
        return Surroundings()
    try:
        inspected = await engine.inspect(found[1], "look up the gateway's own container")
    except EngineError as error:
        if error.status == 404:  # a container of another engine
            return Surroundings()
        raise
    return surroundings_of(inspected)


def surroundings_of(inspected: Inspected) -> Surroundings:
    """Return the surroundings, from the inspection of the gateway's container."""
    networks = tuple(inspected.network_settings.networks or ())
    return Surroundings(
        name=inspected.name.lstrip("/"),
        # On the host's network, published ports are reached as from outside of containers.
        networks=tuple(network for network in networks if network not in ("host", "none")),
        mounts=tuple((mount.destination, mount.source) for mount in inspected.mounts or () if mount.source),
    )
