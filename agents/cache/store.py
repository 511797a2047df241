"""Answers in SQLite. All methods block, and may be called from any thread."""

import sqlite3
from contextlib import closing
from pathlib import Path

from agents.database import Database

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, created REAL NOT NULL, answer BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS by_age ON answers (created)",
)


class Store:
    """At most `max_entries` answers, none older than `ttl` seconds.

    All methods raise `sqlite3.Error` or `OSError` if the file cannot be used.
    """

    def __init__(self, path: Path, *, ttl: float, max_entries: int) -> None:
        self._database = Database(path, SCHEMA, "cache database")
        self._ttl = ttl
        self._max_entries = max_entries

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def get(self, key: bytes, now: float) -> tuple[bytes, float] | None:
        """Return an answer and its age in seconds. `now` is in seconds since the epoch."""
        query = "SELECT answer, created FROM answers WHERE key = ? AND created > ?"

        def read(database: sqlite3.Connection) -> tuple[bytes, float] | None:
            with closing(database.execute(query, (key, now - self._ttl))) as rows:
                row = rows.fetchone()
            return (row[0], now - row[1]) if row else None

        return self._database.run(read)

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

        self._database.run(write)

    def clear(self) -> int:
        """Delete all answers; return their number."""
        return self._database.run(lambda database: database.execute("DELETE FROM answers").rowcount)

    def open(self) -> None:
        """Check that the file can be used."""
        self._database.run(lambda _: None)
