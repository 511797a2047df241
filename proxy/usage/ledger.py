"""Records finished requests: at once in memory, and within a second in the file.

The event loop only appends to a list. A thread writes it, one transaction for all that has ended since the
last one, so that a killed gateway loses no more than the last second. While the file cannot be written,
because it is locked or the disk is full, rows wait; those that find no room any more are counted.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from proxy.usage.rows import Recordable, Row, row_of

log = structlog.get_logger("usage")

PERIOD = 1.0
"""Seconds between two transactions."""
MOST = 50_000
"""Most rows that wait; about 30 MB."""
BATCH = 5000
"""Most rows of one transaction."""
DAY = 86_400.0
IDLE_PURGE = 3600.0
"""Seconds after which old rows are deleted although there are no new ones."""


class File(Protocol):
    """Where rows are kept. Its methods block, and raise `sqlite3.Error` or `OSError`."""

    def write(self, rows: Sequence[Row], oldest: float) -> int:
        """Append rows that are not there yet, delete those from before `oldest`; return the newest number."""

    def close(self) -> None:
        """Close it."""


class Ledger:
    """Keeps a row of each request for `keep_days` days, which may be changed; 0: it records nothing.

    `dropped` counts the requests that have no row because there was no room.
    """

    def __init__(
        self,
        file: File,
        keep_days: float,
        *,
        most: int = MOST,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.keep_days = keep_days
        self.dropped = 0
        self._file = file
        self._most = most
        self._clock = clock
        self._waiting: list[Row] = []
        self._last_number = 0
        self._writing = asyncio.Lock()
        self._purged = clock()
        self._has_failed = False
        self._told = 0

    @property
    def waiting(self) -> int:
        """The number of rows that are not in the file yet."""
        return len(self._waiting)

    def account(self, request: Recordable) -> None:
        """Record a finished request. Synchronous and fast; never raises."""
        if not request.recorded or not self.keep_days:
            return
        if len(self._waiting) >= self._most:
            self.dropped += 1
            return
        # Numbers follow the clock, so that those of the next run of the gateway are larger.
        number = int(self._clock() * 1e6)
        if number <= self._last_number:
            number = self._last_number + 1
        self._last_number = number
        self._waiting.append(row_of(number, request))

    async def start(self) -> None:
        """Delete old rows, which also checks that the file can be used. A failure is only logged."""
        if self.keep_days:
            await self._purge()

    async def run(self) -> None:
        """Write once a second what has come, until cancelled."""
        while True:
            await asyncio.sleep(PERIOD)
            await self.save()
            if self.keep_days and self._clock() - self._purged > IDLE_PURGE:
                await self._purge()

    async def save(self) -> bool:
        """Write all rows that wait; return whether they are in the file now. A failure is only logged.

        They wait until the transaction has ended, so that they are written again if it fails, or if the
        task is cancelled meanwhile. The file ignores a row that it has already.
        """
        async with self._writing:
            while self._waiting:
                rows = self._waiting[:BATCH]
                if not await self._write(rows):
                    return False
                del self._waiting[: len(rows)]
            return True

    async def close(self) -> None:
        """Write all rows that wait, and close the file."""
        if not await self.save():
            log.warning("the usage of the last requests is lost", requests=len(self._waiting))
        await asyncio.to_thread(self._file.close)

    async def _purge(self) -> None:
        async with self._writing:
            self._purged = self._clock()
            await self._write(())

    async def _write(self, rows: Sequence[Row]) -> bool:
        """Write rows in a thread; return whether they are in the file. Only the first failure is logged."""
        # Where nothing is recorded any more, what was recorded stays until somebody deletes the file.
        oldest = self._clock() - self.keep_days * DAY if self.keep_days else 0.0
        try:
            newest = await asyncio.to_thread(self._file.write, rows, oldest)
        except (sqlite3.Error, OSError) as error:
            if not self._has_failed:
                self._has_failed = True
                log.warning("usage cannot be recorded; it waits in memory", reason=str(error))
            return False
        self._last_number = max(self._last_number, newest)
        if self._has_failed:
            self._has_failed = False
            log.info("usage is recorded again", dropped=self.dropped - self._told)
            self._told = self.dropped
        return True
