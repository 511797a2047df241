"""The ledger's file, as the ledger writes it. All methods block, and raise `sqlite3.Error` or `OSError`."""

import os
import sqlite3
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from agents.database import Database
from proxy.usage.rows import COLUMNS, SCHEMA, TABLE, Row, action_row, storable

PURGED = 10_000
"""Most rows that one transaction deletes, so that it ends soon."""

# A row that is there already was written by a transaction that seemed to fail.
_INSERT = f"INSERT OR IGNORE INTO {TABLE} VALUES ({', '.join('?' * len(COLUMNS))})"
_PURGE = f"DELETE FROM {TABLE} WHERE number IN (SELECT number FROM {TABLE} WHERE at < ? LIMIT {PURGED})"


class LedgerFile:
    """The file, with mode 0600: who asked for what is nobody else's business."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, SCHEMA, "ledger of usage", mode=0o600)

    def write(self, rows: Sequence[Row], oldest: float) -> int:
        """Append rows, and delete rows from before `oldest` (Unix time): both or neither.

        Returns the number of the newest row in the file; 0 if there is none.
        """
        return self._database.run(partial(_write, rows, oldest))

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _write(rows: Sequence[Row], oldest: float, database: sqlite3.Connection) -> int:
    try:
        database.executemany(_INSERT, rows)
    except (UnicodeEncodeError, OverflowError):
        database.executemany(_INSERT, map(storable, rows))
    database.execute(_PURGE, (oldest,))
    (newest,) = database.execute(f"SELECT max(number) FROM {TABLE}").fetchone()
    return newest or 0


def record_command(path: Path, action: str) -> None:
    """Record what a command has done. Where there is no ledger, none is made."""
    if not path.exists():
        return
    file = LedgerFile(path)
    try:
        file.write([action_row(time.time(), os.urandom(16).hex(), action)], 0)
    finally:
        file.close()
