"""Keeps responses: in memory for a while, and in SQLite for as long as is configured."""

import asyncio
import sqlite3
import time
from collections import OrderedDict
from pathlib import Path

import msgspec
import structlog

from actors.runtime import spawn
from agents.database import Database
from proxy.apis.fields import Json

log = structlog.get_logger("responses")

REMEMBERED = 3600.0
"""Seconds for which a response stays in memory, so that clients can refer to its items by id."""
MEMORY = 32 * 1024 * 1024
"""Most bytes of responses in memory."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS responses"
    " (id TEXT PRIMARY KEY, owner TEXT, created REAL NOT NULL, response BLOB NOT NULL, input BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS by_age ON responses (created)",
)


class Kept(msgspec.Struct, frozen=True):
    """A response as JSON, and the items that it answers; `created` in Unix seconds.

    Only `owner` may read it: the name of the key that made it, or None for a request without a key.
    """

    id: str
    owner: str | None
    created: float
    response: bytes
    input: bytes = b"[]"

    @property
    def fields(self) -> Json:
        """The response."""
        return msgspec.json.decode(self.response, type=Json)

    @property
    def items(self) -> list[Json]:
        """The items that it answers."""
        return msgspec.json.decode(self.input, type=list[Json])

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return len(self.response) + len(self.input)


class ResponseStore:
    """Keeps responses for `seconds` in the file at `path`; with 0 in memory alone, for an hour at most."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.seconds = seconds
        self._database = Database(path, _SCHEMA, "database of responses", mode=0o600)
        self._memory: OrderedDict[str, Kept] = OrderedDict()
        self._size = 0
        self._written: dict[str, asyncio.Task[None]] = {}

    @property
    def is_on(self) -> bool:
        """Whether responses are kept so that clients can ask for them."""
        return self.seconds > 0

    def keep(self, kept: Kept) -> None:
        """Keep a response in memory, and start to save it. If saving fails, this is only logged."""
        self._forget(kept.id)
        self._memory[kept.id] = kept
        self._size += kept.size
        while self._size > MEMORY and len(self._memory) > 1:
            self._forget(next(iter(self._memory)))
        if self.is_on:
            before = self._written.get(kept.id)
            task = spawn(self._write(kept, before), name=f"keep {kept.id}")
            self._written[kept.id] = task
            task.add_done_callback(lambda done: self._clear(kept.id, done))

    async def start(self) -> None:
        """Delete responses that are too old, which also checks that the file can be used."""
        if self.is_on:
            try:
                await asyncio.to_thread(self._database.run, self._purge)
            except (sqlite3.Error, OSError) as error:
                log.warning("responses cannot be kept", reason=str(error))

    async def find(self, response_id: str, owner: str | None) -> Kept | None:
        """Return the response with this id, if `owner` may read it. Raises `sqlite3.Error` or `OSError`."""
        kept = self._memory.get(response_id)
        if kept is None and self.is_on:
            await self._settled(response_id)
            kept = await asyncio.to_thread(self._read, response_id)
        limit = time.time() - (self.seconds or REMEMBERED)
        return kept if kept is not None and kept.owner == owner and kept.created > limit else None

    async def delete(self, response_id: str) -> None:
        """Delete a response. Raises `sqlite3.Error` or `OSError`."""
        self._forget(response_id)
        await self._settled(response_id)
        await asyncio.to_thread(self._delete, response_id)

    async def close(self) -> None:
        """Save the responses that are not saved yet, and close the file."""
        for response_id in list(self._written):
            await self._settled(response_id)
        await asyncio.to_thread(self._database.close)

    def _forget(self, response_id: str) -> None:
        if (known := self._memory.pop(response_id, None)) is not None:
            self._size -= known.size

    async def _settled(self, response_id: str) -> None:
        if (task := self._written.get(response_id)) is not None:
            await asyncio.wait([task])

    def _clear(self, response_id: str, done: asyncio.Task[None]) -> None:
        if self._written.get(response_id) is done:
            del self._written[response_id]

    async def _write(self, kept: Kept, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        try:
            await asyncio.to_thread(self._put, kept)
        except (sqlite3.Error, OSError) as error:
            log.warning("a response cannot be kept", response=kept.id, reason=str(error))

    # Blocking

    def _put(self, kept: Kept) -> None:
        def write(database: sqlite3.Connection) -> None:
            row = (kept.id, kept.owner, kept.created, kept.response, kept.input)
            database.execute("INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?, ?)", row)
            self._purge(database)

        self._database.run(write)

    def _purge(self, database: sqlite3.Connection) -> None:
        if self.is_on:  # a reload may have turned it off
            database.execute("DELETE FROM responses WHERE created <= ?", (time.time() - self.seconds,))

    def _read(self, response_id: str) -> Kept | None:
        query = "SELECT id, owner, created, response, input FROM responses WHERE id = ?"
        row = self._database.run(lambda database: database.execute(query, (response_id,)).fetchone())
        return None if row is None else Kept(*row)

    def _delete(self, response_id: str) -> None:
        query = "DELETE FROM responses WHERE id = ?"
        self._database.run(lambda database: database.execute(query, (response_id,)))
