"""Keys and their spent tokens in SQLite. All methods block, and raise `KeyStoreError`."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from agents.files import FileId, file_id
from proxy.access.keys import Key, Rights, digest_of

VERSION = 1
"""Version of the schema; a database of another version is not read."""
BUSY = 10.0
"""Seconds that a transaction waits for another process, such as `run.py key add` beside the gateway."""
KEPT_DAYS = 8
"""Days for which spent tokens are kept."""

_SCHEMA = f"""
    CREATE TABLE IF NOT EXISTS keys (
        name TEXT PRIMARY KEY, digest BLOB NOT NULL UNIQUE, hint TEXT NOT NULL, rights TEXT NOT NULL,
        created REAL NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS spent (
        name TEXT NOT NULL, day INTEGER NOT NULL, tokens INTEGER NOT NULL, PRIMARY KEY (name, day)
    ) STRICT;
    PRAGMA user_version = {VERSION};
"""


class KeyStoreError(Exception):
    """The database of keys cannot be used. The message names its file and says why."""


class KeyStore:
    """The database of keys, with mode 0600. It is made by the first change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._opened: FileId | None = None
        self._openings = 0
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def all_keys(self) -> list[Key]:
        """Return all keys, in the order in which they were made."""
        if not self.path.exists():
            return []
        with self._transaction() as database:
            rows = database.execute("SELECT name, digest, hint, rights FROM keys ORDER BY created, name")
            return [
                Key(name=name, digest=digest, hint=hint, rights=msgspec.json.decode(rights, type=Rights))
                for name, digest, hint, rights in rows
            ]

    def add(self, key: Key) -> bool:
        """Add a key; return false if there is one with its name."""
        rights = msgspec.json.encode(key.rights).decode()
        with self._transaction(make=True) as database:
            added = database.execute(
                "INSERT OR IGNORE INTO keys VALUES (?, ?, ?, ?, ?)",
                (key.name, key.digest, key.hint, rights, time.time()),
            )
            return added.rowcount > 0

    def rotate(self, name: str, secret: str, hint: str) -> bool:
        """Replace a key's secret; return false if there is no such key."""
        if not self.path.exists():
            return False
        with self._transaction() as database:
            changed = database.execute(
                "UPDATE keys SET digest = ?, hint = ? WHERE name = ?", (digest_of(secret), hint, name)
            )
            return changed.rowcount > 0

    def revoke(self, name: str) -> bool:
        """Delete a key; return false if there is no such key."""
        if not self.path.exists():
            return False
        with self._transaction() as database:
            return database.execute("DELETE FROM keys WHERE name = ?", (name,)).rowcount > 0

    def version(self) -> object:
        """Return a value that changes with the database, whichever process changes it; None without a file.

        SQLite counts the changes since a connection was opened, so a new connection has a new version.
        """
        if not self.path.exists():
            self.close()
            return None
        with self._transaction() as database:
            (changes,) = database.execute("PRAGMA data_version").fetchone()
            return file_id(self.path), self._openings, changes

    def spent(self, day: int) -> dict[str, int]:
        """Return the tokens that each key has spent on a day, in days since 1970."""
        if not self.path.exists():
            return {}
        with self._transaction() as database:
            return dict(database.execute("SELECT name, tokens FROM spent WHERE day = ?", (day,)).fetchall())

    def save_spent(self, day: int, tokens: Mapping[str, int], *, make: bool = True) -> None:
        """Record the tokens that keys have spent on a day, and drop those of old days.

        `make`: make the database if there is none.
        """
        with self._transaction(make=make) as database:
            database.executemany(
                "INSERT OR REPLACE INTO spent VALUES (?, ?, ?)",
                [(name, day, count) for name, count in tokens.items()],
            )
            database.execute("DELETE FROM spent WHERE day < ?", (day - KEPT_DAYS,))

    @contextmanager
    def _transaction(self, *, make: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                if self._connection is not None and self._opened != file_id(self.path):
                    self.close()  # the file was deleted or replaced
                if self._connection is None:
                    self._connection = self._open(make=make)
                    self._opened = file_id(self.path)
                    self._openings += 1
                with self._connection:
                    yield self._connection
        except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
            self.close()
            raise KeyStoreError(f"the keys in {self.path} cannot be used: {error}") from None

    def _open(self, *, make: bool) -> sqlite3.Connection:
        is_new = make and self._make_file()
        # Without `mode=rw` SQLite would make an empty file in the place of a deleted one.
        address = f"{self.path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(address, uri=True, timeout=BUSY, check_same_thread=False)
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0 and make:
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            elif version != VERSION:
                raise sqlite3.DatabaseError(f"its schema has version {version}, not {VERSION}")
        except BaseException:
            connection.close()
            # An empty file cannot be told from a damaged database, with which no gateway starts.
            if is_new and not self.path.stat().st_size:
                self.path.unlink()
            raise
        return connection

    def _make_file(self) -> bool:
        """Make an empty file if there is none; return whether there was none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            return True
        return False
