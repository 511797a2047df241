"""Handles damaged, deleted and replaced database files.

All functions block.
"""

import sqlite3
from datetime import datetime
from pathlib import Path

_PRIMARY = 0xFF
"""The bits of an SQLite error code that give its kind."""

BESIDE = ("-wal", "-shm", "-journal")
"""SQLite's own files beside a database. Beside another database they do damage."""


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, no database, or a database of another schema, so that a retry is useless.

    A locked or unwritable file, or a full disk, may be only temporary, so it does not count.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return type(error) is sqlite3.DatabaseError
    if code & _PRIMARY == sqlite3.SQLITE_ERROR:
        return str(error).startswith(("no such table", "no such column", "table ", "malformed"))
    return code & _PRIMARY in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)


FileId = tuple[int, int]
"""Identifies a file: a new file in the place of a deleted one has another id."""


def file_id(path: Path) -> FileId | None:
    """Return the id of the file; None if it does not exist or the id is unknown."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_still_there(path: Path, opened: FileId | None) -> bool:
    """Whether the opened file was neither deleted nor replaced, as far as known."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return opened is None
    except OSError:
        return True
    return opened in (None, (found.st_dev, found.st_ino))


def set_aside(path: Path) -> Path:
    """Rename an unusable database; return its new path. Raises `OSError`."""
    stem = f"{path.name}.broken-{datetime.now():%Y%m%d-%H%M%S}"
    names = (stem, *(f"{stem}.{number}" for number in range(1, 1000)))
    aside = next(one for name in names if not (one := path.with_name(name)).exists())
    path.rename(aside)
    for ending in BESIDE:
        beside = path.with_name(path.name + ending)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + ending))
    return aside
