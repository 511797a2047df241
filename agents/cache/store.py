"""Answers in SQLite. All of this blocks, and may be called from any thread."""

import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Lock

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, created REAL NOT NULL, answer BLOB NOT NULL)
"""
INDEX = "CREATE INDEX IF NOT EXISTS by_age ON answers (created)"


class Store:
    """At most `max_entries` answers, none older than `ttl` seconds. Raises `sqlite3.Error`."""

    def __init__(self, path: Path, *, ttl: float, max_entries: int) -> None:
        self._ttl = ttl
        self._max_entries = max_entries
        self._lock = Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._connection:
            self._connection.execute(SCHEMA)
            self._connection.execute(INDEX)

    def close(self) -> None:
        """Use it no more."""
        with self._lock:
            self._connection.close()

    def get(self, key: bytes, now: float) -> tuple[bytes, float] | None:
        """The answer, and the seconds since it was given. `now` is in seconds since the epoch."""
        query = "SELECT answer, created FROM answers WHERE key = ? AND created > ?"
        with self._lock, closing(self._connection.execute(query, (key, now - self._ttl))) as rows:
            row = rows.fetchone()
        return (row[0], now - row[1]) if row else None

    def put(self, key: bytes, answer: bytes, now: float) -> None:
        """Keep an answer; what is too old, and the oldest of too many, make room."""
        with self._lock, self._connection as database:
            database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, now, answer))
            database.execute("DELETE FROM answers WHERE created <= ?", (now - self._ttl,))
            database.execute(
                "DELETE FROM answers WHERE rowid IN"
                " (SELECT rowid FROM answers ORDER BY created DESC LIMIT -1 OFFSET ?)",
                (self._max_entries,),
            )

    def clear(self) -> int:
        """Forget all the answers; return how many there were."""
        with self._lock, self._connection as database:
            return database.execute("DELETE FROM answers").rowcount
