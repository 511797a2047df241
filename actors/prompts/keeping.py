"""The saved prompts of the gateway, and who keeps those of each running server."""

import asyncio
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import aiohttp
import msgspec
import structlog

from actors.config.schema import PromptSettings
from actors.messages import ServerAddress
from actors.prompts.chain import Chain
from actors.prompts.identity import Cache
from actors.prompts.keeper import LOOK_TIMEOUT, Keeper, Totals, Visit
from actors.prompts.seats import Seats
from actors.prompts.slots import SlotError, Slots, within
from actors.prompts.store import SPARE, Store, StoreError

log = structlog.get_logger("prompts")

GIB = 1 << 30
LEAST_BUDGET = GIB
"""Fewest bytes of room on the disk with which prompts are kept."""
SEAL_PATIENCE = 30.0
"""Seconds for the digests of the last prompts when the gateway ends."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept, and what it has brought since the gateway's start. `bytes` of `budget` bytes."""

    kept: int
    bytes: int
    budget: int
    saved: int
    restored: int
    missed: int
    tokens: int
    seconds: float


class Seat(msgspec.Struct, frozen=True):
    """A slot that a request has. `strange`: what is in it is another key's."""

    slot: int
    strange: bool
    leave: Callable[[], None]


class Apart:
    """Gives each request a slot, so that no key uses what another one's requests have left in it."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._seats: Seats | None = None

    async def seat(self, client: str, chain: Chain | None) -> Seat:
        """Take a slot. Raises `SlotError`."""
        if self._seats is None:
            found = [slot.id for slot in await within(self._slots.look(), LOOK_TIMEOUT)]
            self._seats = self._seats or Seats(found)
        if (taken := self._seats.take(client, chain)) is None:
            raise SlotError("all slots are in use")
        slot, strange = taken
        return Seat(slot, strange, partial(self._seats.leave, slot))


class Prompts:
    """Keeps prompts in a folder, if one is given that can be used."""

    def __init__(self, session: aiohttp.ClientSession, folder: Path, settings: PromptSettings) -> None:
        self._session = session
        self._wanted = folder
        self._settings = settings
        self._store: Store | None = None
        self._totals = Totals()
        self._keepers: dict[ServerAddress, Keeper] = {}
        self._apart: dict[ServerAddress, Apart] = {}

    @property
    def folder(self) -> Path | None:
        """The folder that model servers write to; None if no prompts are kept."""
        return None if self._store is None else self._store.folder

    async def open(self) -> None:
        """Open the folder, and log whether prompts are kept."""
        if not self._settings.disk:
            return
        try:
            store, lacking = await asyncio.to_thread(self._open)
        except StoreError as error:
            log.warning("prompts are not kept", reason=str(error))
            return
        if store is None:
            reason = f"the disk of {self._wanted} has no room: {lacking / GIB:.1f} GiB more are needed"
            log.warning("prompts are not kept", reason=reason)
            return
        self._store = store
        log.info(
            "prompts are kept when a model stops",
            folder=str(store.folder),
            there=len(store.entries),
            gib=round(store.budget / GIB, 1),
            hours=self._settings.keep,
            turned_off_by="server_pool.prompts.disk: 0",
        )

    def _open(self) -> tuple[Store | None, int]:
        """Open the store with the budget that the disk has room for. Blocking. Raises `StoreError`."""
        store = Store(self._wanted, round(self._settings.disk * GIB), self._settings.keep * 3600)
        store.open()
        room = shutil.disk_usage(self._wanted).free - SPARE + store.size
        # Others need the disk too.
        store.budget = min(store.budget, room // 2)
        if store.budget < min(LEAST_BUDGET, self._settings.disk * GIB):
            store.close()
            return None, LEAST_BUDGET - store.budget
        return store, 0

    async def close(self) -> None:
        """Finish what was saved, and unlock the folder."""
        if self._store is None:
            return
        if self._totals.sealing:
            await asyncio.wait(self._totals.sealing, timeout=SEAL_PATIENCE)
        self._store.close()
        self._store = None

    def opened(self, model: str, cache: Cache | None, address: ServerAddress) -> None:
        """Keep the prompts of a server that has become ready, if they can be kept."""
        slots = Slots(self._session, address)
        if self._store is not None and cache is not None and cache.identity:
            self._keepers[address] = Keeper(model, cache, slots, self._store, self._totals)
        if cache is not None and cache.isolated:
            self._apart[address] = Apart(slots)

    def isolates(self, address: ServerAddress) -> bool:
        """Whether this server's keys are kept apart."""
        return address in self._apart

    async def seat(self, address: ServerAddress, client: str, chain: Chain | None) -> Seat:
        """Take a slot of a server whose keys are kept apart. Raises `SlotError`."""
        return await self._apart[address].seat(client, chain)

    async def visit(
        self, address: ServerAddress, client: str, chain: Chain, body: bytes = b"", slot: int | None = None
    ) -> Visit | None:
        """Note a request that is about to be sent, and restore its prompt if that pays.

        `body`: the request, if it is a chat; `slot`: the slot that it has been given.
        """
        keeper = self._keepers.get(address)
        if keeper is None:
            return None
        # A prompt that was saved a moment ago may still be read for its digest.
        if sealing := [task for task, its in self._totals.sealing.items() if its == keeper.identity]:
            await asyncio.wait(sealing, timeout=SEAL_PATIENCE)
        return await keeper.visit(client, chain, body, slot)

    def keeps(self, address: ServerAddress) -> bool:
        """Whether this server's prompts are kept."""
        return address in self._keepers

    async def save(self, address: ServerAddress) -> None:
        """Save what is worth it, before a server is stopped."""
        keeper = self._keepers.get(address)
        if keeper is not None:
            await keeper.save()

    def gone(self, address: ServerAddress) -> None:
        """Note that a server is gone."""
        self._apart.pop(address, None)
        self.keep_no_more(address)

    def keep_no_more(self, address: ServerAddress) -> None:
        """Save nothing more of a server."""
        keeper = self._keepers.pop(address, None)
        if keeper is not None:
            keeper.gone()

    def figures(self) -> Figures | None:
        """Return what is kept; None if prompts are not kept."""
        if self._store is None:
            return None
        totals = self._totals
        return Figures(
            kept=len(self._store.entries),
            bytes=self._store.size,
            budget=self._store.budget,
            saved=totals.saves,
            restored=totals.restores,
            missed=totals.misses,
            tokens=totals.tokens,
            seconds=round(totals.seconds, 3),
        )
