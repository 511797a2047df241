"""Containers that a dead gateway of the same identity left running. They are taken over or removed."""

import asyncio
from collections.abc import Callable, Collection

import msgspec

from actors.servers.docker.schema import ListedContainer
from actors.servers.docker.spec import DEVICES, DIGEST, MODEL

WINDOW = 600.0
"""Seconds within which orphans may be taken over. A model that needs their GPUs gets them meanwhile."""


class Orphan(msgspec.Struct, frozen=True, kw_only=True):
    """An orphaned container, by its labels."""

    id: str
    name: str
    model: str
    digest: str
    devices: frozenset[str]

    @classmethod
    def of(cls, listed: ListedContainer) -> "Orphan":
        """Make an orphan of a listed container."""
        labels = listed.labels or {}
        return cls(
            id=listed.id,
            name=(listed.names or (listed.id,))[0].lstrip("/"),
            model=labels.get(MODEL, ""),
            digest=labels.get(DIGEST, ""),
            devices=frozenset(filter(None, labels.get(DEVICES, "").split(","))),
        )


class Orphans:
    """The orphans of this gateway that are not yet taken over or removed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Orphan, int]] = {}
        self._expiry: asyncio.TimerHandle | None = None

    def keep(self, orphan: Orphan, session: int, expire: Callable[[], None]) -> None:
        """Keep an orphan. `expire` is called when the last one's time is up. `session` 0: unknown."""
        self._known[orphan.id] = (orphan, session)
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(WINDOW, expire)

    def sessions(self) -> Collection[int]:
        """The sessions of the orphans' processes."""
        return [session for _, session in self._known.values() if session]

    def matching(self, digest: str) -> Orphan | None:
        """Remove and return the orphan with this digest."""
        for orphan, _ in self._known.values():
            if orphan.digest == digest:
                del self._known[orphan.id]
                return orphan
        return None

    def take(self, *, model: str | None = None, devices: Collection[str] = ()) -> list[Orphan]:
        """Remove and return the orphans of a model and those on any of the devices; without a model, all."""
        taken = [
            orphan
            for orphan, _ in self._known.values()
            if model is None or orphan.model == model or not orphan.devices.isdisjoint(devices)
        ]
        for orphan in taken:
            del self._known[orphan.id]
        if not self._known and self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        return taken
