"""Databases of agents: when the file itself is no good or another one, and what becomes of it then.

Blocking.
"""

import sqlite3
from datetime import datetime
from pathlib import Path

_PRIMARY = 0xFF
"""What of an SQLite error code is the kind; the rest are details."""

BESIDE = ("-wal", "-shm", "-journal")
"""SQLite's own files beside a database; without it they are worth nothing, and with another one they harm."""


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether asking again is useless: what is in the file is no database, or not the one it should be.

    A file that is locked, cannot be written or has no room is another matter: that passes.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return type(error) is sqlite3.DatabaseError
    if code & _PRIMARY == sqlite3.SQLITE_ERROR:
        return str(error).startswith(("no such table", "no such column", "table ", "malformed"))
    return code & _PRIMARY in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)


FileId = tuple[int, int]
"""Which file it is: one in the place of another that was deleted has another."""


def file_id(path: Path) -> FileId | None:
    """That of the file that is there; None if there is none, or nobody can say."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_still_there(path: Path, opened: FileId | None) -> bool:
    """Whether the file that was opened was neither deleted nor replaced, as far as can be said."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return opened is None
    except OSError:
        return True
    return opened in (None, (found.st_dev, found.st_ino))


def set_aside(path: Path) -> Path:
    """Rename a database that is no good; return where it is now. Raises `OSError`."""
    stem = f"{path.name}.broken-{datetime.now():%Y%m%d-%H%M%S}"
    names = (stem, *(f"{stem}.{number}" for number in range(1, 1000)))
    aside = next(one for name in names if not (one := path.with_name(name)).exists())
    path.rename(aside)
    for ending in BESIDE:
        beside = path.with_name(path.name + ending)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + ending))
    return aside
