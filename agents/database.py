"""An SQLite file that may be damaged, deleted or replaced while it is in use. All methods block."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import TypeVar

import structlog

from agents.files import FileId, file_id, is_damaged, is_still_there, set_aside

log = structlog.get_logger("database")

T = TypeVar("T")


class Database:
    """The file, opened on first use, and again after a failure or when it was deleted or replaced.

    A damaged file is set aside and a new one is started. `name` is its name in the log, `schema` the
    statements that create missing tables, `mode` the permissions of a new file.
    """

    def __init__(self, path: Path, schema: Sequence[str], name: str, *, mode: int = 0o644) -> None:
        self._path = path
        self._schema = schema
        self._name = name
        self._mode = mode
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: FileId | None = None

    def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do the work in a transaction. May be called from any thread.

        Raises `sqlite3.Error` or `OSError` if that fails with a new file too.
        """
        with self._lock:
            try:
                return self._transaction(work)
            except sqlite3.Error as error:
                if not is_damaged(error):
                    raise
                self._close()
                aside = set_aside(self._path)
                log.warning(
                    "database is damaged; starting a new one",
                    database=self._name,
                    reason=str(error),
                    kept_as=str(aside),
                )
                return self._transaction(work)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is not None and not is_still_there(self._path, self._file):
            log.warning(
                "database was deleted or replaced; opening a new one",
                database=self._name,
                file=str(self._path),
            )
            self._close()
        if self._connection is None:
            self._connection = self._connect()
            self._file = file_id(self._path)
        with self._connection as database:
            return work(database)

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch(self._mode)  # SQLite gives its other files the same permissions
        connection = sqlite3.connect(self._path, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            with connection:
                for statement in self._schema:
                    connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
