"""Answers in SQLite. All methods block, and may be called from any thread."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import TypeVar

import structlog

from agents.files import FileId, file_id, is_damaged, is_still_there, set_aside

log = structlog.get_logger("cache")

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, created REAL NOT NULL, answer BLOB NOT NULL)
"""
INDEX = "CREATE INDEX IF NOT EXISTS by_age ON answers (created)"

T = TypeVar("T")


class Store:
    """At most `max_entries` answers, none older than `ttl` seconds.

    The file is opened on first use, and again after a failure or when it was deleted or replaced. A damaged
    file is set aside and a new one is begun. All methods raise `sqlite3.Error` or `OSError` if that fails
    too.
    """

    def __init__(self, path: Path, *, ttl: float, max_entries: int) -> None:
        self._path = path
        self._ttl = ttl
        self._max_entries = max_entries
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: FileId | None = None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()

    def get(self, key: bytes, now: float) -> tuple[bytes, float] | None:
        """Return an answer and its age in seconds. `now` is in seconds since the epoch."""
        query = "SELECT answer, created FROM answers WHERE key = ? AND created > ?"

        def read(database: sqlite3.Connection) -> tuple[bytes, float] | None:
            with closing(database.execute(query, (key, now - self._ttl))) as rows:
                row = rows.fetchone()
            return (row[0], now - row[1]) if row else None

        return self._run(read)

    def put(self, key: bytes, answer: bytes, now: float) -> None:
        """Store an answer. Expired answers, and the oldest of too many, are deleted."""

        def write(database: sqlite3.Connection) -> None:
            database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, now, answer))
            database.execute("DELETE FROM answers WHERE created <= ?", (now - self._ttl,))
            database.execute(
                "DELETE FROM answers WHERE rowid IN"
                " (SELECT rowid FROM answers ORDER BY created DESC LIMIT -1 OFFSET ?)",
                (self._max_entries,),
            )

        self._run(write)

    def clear(self) -> int:
        """Delete all answers; return their number."""
        return self._run(lambda database: database.execute("DELETE FROM answers").rowcount)

    def open(self) -> None:
        """Check that the file can be used."""
        self._run(lambda _: None)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                return self._transaction(work)
            except sqlite3.Error as error:
                if not is_damaged(error):
                    raise
                self._close()
                aside = set_aside(self._path)
                log.warning(
                    "cache database is damaged; starting a new one", reason=str(error), kept_as=str(aside)
                )
                return self._transaction(work)

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is not None and not is_still_there(self._path, self._file):
            log.warning("cache database was deleted or replaced; opening a new one", file=str(self._path))
            self._close()
        if self._connection is None:
            self._connection = self._connect()
            self._file = file_id(self._path)
        with self._connection as database:
            return work(database)

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            with connection:
                connection.execute(SCHEMA)
                connection.execute(INDEX)
        except BaseException:
            connection.close()
            raise
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
