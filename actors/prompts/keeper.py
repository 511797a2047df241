"""Saves and restores the prompts of one running server."""

import asyncio
import time

import msgspec
import structlog

from actors.prompts.chain import Chain
from actors.prompts.economics import (
    BANDWIDTH,
    LIMIT,
    UNKNOWN_WEIGHT,
    Candidate,
    chance,
    duration,
    smoothed,
    worth_restoring,
    worth_saving,
)
from actors.prompts.identity import Cache
from actors.prompts.recall import recalling
from actors.prompts.records import Record, Records
from actors.prompts.slots import Slot, SlotError, Slots, within
from actors.prompts.store import Entry, Store, StoreError
from actors.runtime import spawn

log = structlog.get_logger("prompts")

LOOK_TIMEOUT = 2.0
"""Most seconds for the list of a server's slots."""
SLOWNESS = 5.0
"""A restore may take so many times what it should, and never longer than reading the prompt."""
MEASURABLE = 64
"""Fewest tokens that a server must have read for its pace to be measured."""
REAL = 0.5
"""A restore was real if the server found at least this part of the tokens in its cache."""
STRIKES = 2
"""Restores in a row that were not real, after which a kind of server is left alone."""


class Totals:
    """What keeping prompts has brought since the gateway's start, and the disk's speed."""

    def __init__(self) -> None:
        self.saves = self.restores = self.misses = 0
        self.tokens = 0
        self.seconds = 0.0
        """Seconds of reading that restored prompts have spared."""
        self.write: float | None = None
        self.read: float | None = None
        """Bytes per second, as measured."""
        self.strikes: dict[str, int] = {}
        """Restores in a row that were not real, by the identity of the server."""
        self.ends_only: set[str] = set()
        """The identities of servers that go on only from the end of a prompt, as recurrent models do."""
        self.sealing: dict[asyncio.Task[None], str] = {}
        """Prompts that servers have written and that are being taken over; their servers' identities."""

    def leaves_alone(self, identity: str) -> bool:
        """Whether this kind of server reads again what it says it has restored."""
        return self.strikes.get(identity, 0) >= STRIKES


class Restored(msgspec.Struct, frozen=True):
    """A prompt that was restored for a request: about so many tokens of it are of use."""

    entry: Entry
    slot: int
    tokens: float
    seconds: float


class Visit:
    """One request to the server, from its lease to its end."""

    __slots__ = ("body", "chain", "client", "keeper", "restored", "sent_at", "slot")

    def __init__(self, keeper: "Keeper", client: str, chain: Chain, body: bytes) -> None:
        self.keeper = keeper
        self.client = client
        self.chain = chain
        self.body = body
        self.slot: int | None = None
        self.restored: Restored | None = None
        self.sent_at = time.monotonic()

    def ended(self, tokens: dict[str, int], first_byte_at: float | None) -> None:
        """Note the tokens that the server counted, and when its answer began."""
        self.keeper.ended(self, tokens, first_byte_at)


class Keeper:
    """The prompts of one server."""

    def __init__(self, model: str, cache: Cache, slots: Slots, store: Store, totals: Totals) -> None:
        self.identity = cache.identity
        self._isolated = cache.isolated
        self._model = model
        self._slots = slots
        self._store = store
        self._totals = totals
        self._records = Records()
        self._claimed: set[int] = set()
        self._turn = asyncio.Lock()
        self._unfinished: list[str] = []
        before = [entry for entry in store.entries if entry.identity == cache.identity]
        latest = max(before, key=lambda entry: entry.saved_at, default=None)
        self._pace = latest.pace if latest is not None else None
        self._weight = cache.weight or UNKNOWN_WEIGHT
        if latest is not None:
            self._weight = latest.size / latest.tokens

    # Requests

    async def visit(self, client: str, chain: Chain, body: bytes = b"", slot: int | None = None) -> Visit:
        """Note a request that is about to be sent, and restore what is saved of its prompt, if that pays.

        `body`: the request, if it is a chat; `slot`: the slot that it has been given, whatever is in it.
        """
        visit = Visit(self, client, chain, body)
        visit.slot = slot
        if self._find(visit) is not None:
            async with self._turn:
                # Another request may have read or restored the same meanwhile.
                if (found := self._find(visit)) is not None:
                    visit.restored = await self._restore(*found, slot)
        visit.sent_at = time.monotonic()
        return visit

    def _find(self, visit: Visit) -> tuple[Entry, float, float] | None:
        """Return the prompt to restore: with how many tokens that are of use, and the seconds it spares."""
        if self._totals.leaves_alone(self.identity):
            return None
        found = self._store.find(self.identity, visit.client, visit.chain)
        if not found:
            return None
        known = self._records.known(visit.chain, visit.client if self._isolated else None)
        for entry, tokens in found:
            if tokens < entry.tokens and self.identity in self._totals.ends_only:
                continue
            spares = (tokens - known) * entry.pace
            if worth_restoring(spares, entry.size, self._totals.read or BANDWIDTH):
                return entry, tokens, spares
        return None

    async def _restore(
        self, entry: Entry, tokens: float, spares: float, given: int | None
    ) -> Restored | None:
        began = time.monotonic()
        expected = duration(entry.size, self._totals.read or BANDWIDTH)
        try:
            slot = given if given is not None else await self._place(spares)
            if slot is None or not await asyncio.to_thread(self._store.is_whole, entry):
                return None
            limit = min(spares, SLOWNESS * expected + 1.0)
            found = await within(self._slots.restore(slot, self._store.path(entry).name), limit)
        except SlotError as error:
            log.warning("prompt could not be restored", model=self._model, reason=str(error))
            self._strike(entry)
            return None
        seconds = time.monotonic() - began
        if found.tokens != entry.tokens or found.bytes != entry.size:
            log.warning("prompt was restored in part", model=self._model, tokens=found.tokens)
            self._strike(entry)
            return None
        self._totals.read = smoothed(self._totals.read, entry.size / seconds)
        self._claimed.add(slot)
        return Restored(entry, slot, tokens, seconds)

    async def _place(self, spares: float) -> int | None:
        """Return the slot to restore into; None if all are at work, or have what is worth more.

        What is in the way is saved first if that pays: the server would forget it.
        """
        slots = await within(self._slots.look(), LOOK_TIMEOUT)
        free = [one for one in slots if not one.is_processing and one.id not in self._claimed]
        if not free:
            return None
        slot = min(free, key=lambda one: (bool(one.n_prompt_tokens), one.id_task, one.id))
        known = self._records.of_slot(slot.id, slot.n_prompt_tokens) if slot.n_prompt_tokens else None
        if known is not None:
            saved = await self._save_slots([slot])
            if not saved and known.tokens * (self._pace or 0.0) * self._chance(known) > spares:
                return None
            self._records.forget(known)
        return slot.id

    def ended(self, visit: Visit, tokens: dict[str, int], first_byte_at: float | None) -> None:
        """Note what the server said of a request that has ended."""
        restored = visit.restored
        if restored is not None:
            self._claimed.discard(restored.slot)
        prompt, completion = tokens.get("prompt_tokens"), tokens.get("completion_tokens")
        if prompt is None or completion is None:
            return
        cached = tokens.get("cached_tokens", 0)
        if first_byte_at is not None and prompt - cached >= MEASURABLE:
            self._pace = smoothed(self._pace, max(0.0, first_byte_at - visit.sent_at) / (prompt - cached))
        record = Record(
            client=visit.client,
            chain=visit.chain,
            tokens=prompt + completion,
            prompt=prompt,
            at=time.monotonic(),
            turns=1 if restored is None else restored.entry.turns + 1,
            slot=visit.slot,
            # An image by its address would be fetched again.
            body=b"" if self._isolated or b'_url"' in visit.body else visit.body,
        )
        self._records.add(record)
        if restored is not None:
            self._judge(restored, cached)

    def _judge(self, restored: Restored, cached: int) -> None:
        """Look whether a restore was real: some servers say so, and read all again."""
        entry = restored.entry
        if cached < REAL * min(restored.tokens, entry.prompt):
            if restored.tokens < entry.tokens:
                self._totals.misses += 1
                self._totals.ends_only.add(self.identity)
            else:
                self._strike(entry)
            log.warning(
                "restored prompt was read again", model=self._model, tokens=entry.tokens, cached=cached
            )
            return
        self._totals.strikes.pop(self.identity, None)
        spared = max(0.0, cached * entry.pace - restored.seconds)
        self._totals.restores += 1
        self._totals.tokens += cached
        self._totals.seconds += spared
        log.info(
            "prompt restored",
            model=self._model,
            tokens=cached,
            bytes=entry.size,
            seconds=round(restored.seconds, 3),
            spared_seconds=round(spared, 1),
        )
        _ = spawn(asyncio.to_thread(self._store.used, entry, spared), name="count of a saved prompt")

    def _strike(self, entry: Entry) -> None:
        """Count a restore that was of no use, and forget the prompt."""
        self._totals.misses += 1
        self._totals.strikes[self.identity] = self._totals.strikes.get(self.identity, 0) + 1
        if self._totals.leaves_alone(self.identity):
            log.warning(
                "prompts of this model are kept no more",
                model=self._model,
                reason="its server could not use what it has saved",
            )
        _ = spawn(asyncio.to_thread(self._store.remove, entry), name="end of a saved prompt")

    # The server's end

    async def save(self) -> None:
        """Save the prompts that are worth it, before the server is stopped."""
        if self._totals.leaves_alone(self.identity) or not any(True for _ in self._records):
            return
        async with self._turn:
            began = time.monotonic()
            try:
                slots = await self._idle_slots()
                await self._save_slots(slots)
            except SlotError as error:
                log.info("prompts are not saved", model=self._model, reason=str(error))
                return
            try:
                await self._save_others(slots, LIMIT - (time.monotonic() - began))
            except SlotError as error:
                log.debug("no more prompts are saved", model=self._model, reason=str(error))

    async def _idle_slots(self) -> list[Slot]:
        slots = await within(self._slots.look(), LOOK_TIMEOUT)
        return [slot for slot in slots if not slot.is_processing]

    async def _save_others(self, slots: list[Slot], limit: float) -> None:
        """Save prompts that the server has moved from its slots to its own cache in host memory.

        Raises `SlotError` when it has no more of them.
        """
        there = [self._records.of_slot(slot.id, slot.n_prompt_tokens or 0) for slot in slots]
        others = [one for one in self._records if one.body and one not in there and not self._is_saved(one)]
        candidates = [
            Candidate(
                slot=index,
                spares=record.prompt * (self._pace or 0.0),
                chance=self._chance(record),
                size=round(record.prompt * self._weight),
            )
            for index, record in enumerate(others)
        ]
        for candidate, most in worth_saving(candidates, self._totals.write or BANDWIDTH, limit):
            record = others[candidate.slot]
            await within(self._slots.recall(recalling(record.body), REAL), most)
            slot = max(await self._idle_slots(), key=lambda one: one.id_task)
            tokens = slot.n_prompt_tokens or 0
            if abs(tokens - record.prompt) > 1:
                raise SlotError(f"a prompt of {record.prompt} tokens came back with {tokens}")
            await self._save(slot.id, record, tokens, most)

    async def _save_slots(self, slots: list[Slot]) -> int:
        """Save those slots that are worth it; return how many there are on the disk now."""
        records = {}
        there = 0
        for slot in slots:
            record = self._records.of_slot(slot.id, slot.n_prompt_tokens) if slot.n_prompt_tokens else None
            if record is not None and self._is_saved(record):
                there += 1
            elif record is not None:
                records[slot.id] = (record, slot.n_prompt_tokens or 0)
        candidates = [
            Candidate(
                slot=slot,
                spares=tokens * (self._pace or 0.0),
                chance=self._chance(record),
                size=round(tokens * self._weight),
            )
            for slot, (record, tokens) in records.items()
        ]
        for candidate, limit in worth_saving(candidates, self._totals.write or BANDWIDTH):
            record, tokens = records[candidate.slot]
            there += await self._save(candidate.slot, record, tokens, limit)
        return there

    def _chance(self, record: Record) -> float:
        return chance(record.turns, time.monotonic() - record.at)

    def _is_saved(self, record: Record) -> bool:
        return any(
            entry.chain == record.chain and entry.client == record.client and entry.identity == self.identity
            for entry in self._store.entries
        )

    async def _save(self, slot: int, record: Record, tokens: int, limit: float) -> bool:
        began = time.monotonic()
        try:
            name = await asyncio.to_thread(self._store.begin, round(tokens * self._weight))
        except OSError as error:
            log.warning("prompts are not saved", model=self._model, reason=str(error))
            return False
        if name is None:
            log.info("prompt is not saved", model=self._model, reason="the disk has no room for it")
            return False
        self._unfinished.append(name)
        try:
            moved = await within(self._slots.save(slot, self._store.part(name).name), limit)
        except SlotError as error:
            log.warning("prompt could not be saved", model=self._model, reason=str(error))
            return False
        if moved.tokens != tokens:
            log.info("prompt is not saved", model=self._model, reason="its slot has another one by now")
            return False
        seconds = time.monotonic() - began
        self._totals.write = smoothed(self._totals.write, moved.bytes / seconds)
        self._weight = moved.bytes / max(1, moved.tokens)
        self._unfinished.remove(name)
        now = time.time()
        entry = Entry(
            id=name,
            identity=self.identity,
            model=self._model,
            client=record.client,
            chain=record.chain,
            tokens=tokens,
            prompt=record.prompt,
            turns=record.turns,
            pace=self._pace or 0.0,
            size=moved.bytes,
            digest="",
            saved_at=now,
            used_at=now - (time.monotonic() - record.at),
        )
        # The server need not wait for the digest.
        task = spawn(self._seal(entry, seconds), name=f"saved prompt of {self._model}")
        self._totals.sealing[task] = self.identity
        task.add_done_callback(self._totals.sealing.pop)
        return True

    async def _seal(self, entry: Entry, seconds: float) -> None:
        try:
            await asyncio.to_thread(self._store.seal, entry)
        except (OSError, StoreError) as error:
            log.warning("prompt could not be saved", model=self._model, reason=str(error))
            await asyncio.to_thread(self._store.discard, entry.id)
            return
        self._totals.saves += 1
        log.info(
            "prompt saved",
            model=self._model,
            tokens=entry.tokens,
            bytes=entry.size,
            seconds=round(seconds, 3),
        )

    def gone(self) -> None:
        """Remove what the server, which is gone, has left unfinished."""
        for name in self._unfinished:
            _ = spawn(asyncio.to_thread(self._store.discard, name), name="end of a prompt cut short")
        self._unfinished.clear()
