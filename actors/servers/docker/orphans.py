"""Containers that a dead gateway of the same identity left running: to be taken over, or removed."""

import asyncio
from collections.abc import Callable, Collection

import msgspec

from actors.servers.docker.schema import ListedContainer
from actors.servers.docker.spec import DEVICES, DIGEST, MODEL

WINDOW = 600.0
"""Seconds in which they may be taken over. Meanwhile whoever needs their GPUs gets them all the same."""


class Orphan(msgspec.Struct, frozen=True, kw_only=True):
    """One of them, by its labels."""

    id: str
    name: str
    model: str
    digest: str
    devices: frozenset[str]

    @classmethod
    def of(cls, listed: ListedContainer) -> "Orphan":
        """One that the engine lists."""
        labels = listed.labels or {}
        return cls(
            id=listed.id,
            name=(listed.names or (listed.id,))[0].lstrip("/"),
            model=labels.get(MODEL, ""),
            digest=labels.get(DIGEST, ""),
            devices=frozenset(filter(None, labels.get(DEVICES, "").split(","))),
        )


class Orphans:
    """All of them."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Orphan, int]] = {}
        self._expiry: asyncio.TimerHandle | None = None

    def keep(self, orphan: Orphan, session: int, expire: Callable[[], None]) -> None:
        """Keep it; `expire` is called when the time for the last one is up. `session` 0: not known."""
        self._known[orphan.id] = (orphan, session)
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(WINDOW, expire)

    def sessions(self) -> Collection[int]:
        """Of their processes."""
        return [session for _, session in self._known.values() if session]

    def matching(self, digest: str) -> Orphan | None:
        """Take the one with this digest out."""
        for orphan, _ in self._known.values():
            if orphan.digest == digest:
                del self._known[orphan.id]
                return orphan
        return None

    def take(self, *, model: str | None = None, devices: Collection[str] = ()) -> list[Orphan]:
        """Take those of a model and those on any of the devices out; all of them if no model is named."""
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
