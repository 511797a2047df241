"""The database file of `actors.gpu.calibration`: its schema, migrations, and damage."""

import sqlite3
from contextlib import suppress
from pathlib import Path

VERSION = 2
"""Version of the schema. Version 1 is migrated; a database of any other version is not read."""

# The bounds are triggers, so that no way of writing gets around them. A load's number is never used again,
# or a late peak might be taken for another load's.
SCHEMA = (
    """
    CREATE TABLE loads (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        model TEXT NOT NULL,
        file TEXT NOT NULL,
        settings TEXT NOT NULL,
        build TEXT NOT NULL,
        certainty TEXT NOT NULL,
        seconds REAL NOT NULL,
        host_predicted INTEGER NOT NULL,
        host_buffers INTEGER
    )
    """,
    "CREATE INDEX loads_of_a_file ON loads (file, settings, id)",
    """
    CREATE TRIGGER bound_loads AFTER INSERT ON loads BEGIN
        DELETE FROM loads WHERE file = new.file AND settings = new.settings AND id <= (
            SELECT id FROM loads WHERE file = new.file AND settings = new.settings
            ORDER BY id DESC LIMIT 1 OFFSET 50
        );
        DELETE FROM loads WHERE id <= (SELECT id FROM loads ORDER BY id DESC LIMIT 1 OFFSET 5000);
    END
    """,
    """
    CREATE TABLE devices (
        load INTEGER NOT NULL REFERENCES loads ON DELETE CASCADE,
        position INTEGER NOT NULL,
        gpu TEXT NOT NULL,
        driver TEXT NOT NULL,
        predicted INTEGER NOT NULL,
        reserved INTEGER NOT NULL,
        buffers INTEGER,
        measured INTEGER,
        peak INTEGER,
        PRIMARY KEY (load, position)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX devices_of_a_card ON devices (gpu, load)",
    """
    CREATE TABLE surcharges (
        file TEXT NOT NULL,
        settings TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        successes INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (file, settings)
    )
    """,
    """
    CREATE TRIGGER bound_surcharges AFTER INSERT ON surcharges BEGIN
        DELETE FROM surcharges WHERE rowid <= (
            SELECT rowid FROM surcharges ORDER BY rowid DESC LIMIT 1 OFFSET 1000
        );
    END
    """,
    "CREATE TABLE dry_runs (key TEXT PRIMARY KEY, value BLOB NOT NULL)",
    """
    CREATE TRIGGER bound_dry_runs AFTER INSERT ON dry_runs BEGIN
        DELETE FROM dry_runs WHERE rowid <= (
            SELECT rowid FROM dry_runs ORDER BY rowid DESC LIMIT 1 OFFSET 1000
        );
    END
    """,
)
"""Of version 1."""

# Old loads are deleted except those with the largest shortfall, because a correction must not be forgotten.
NEWS = (
    "DROP TRIGGER bound_loads",
    """
    CREATE TRIGGER bound_loads AFTER INSERT ON loads BEGIN
        DELETE FROM loads WHERE file = new.file AND settings = new.settings AND id <= (
            SELECT id FROM loads WHERE file = new.file AND settings = new.settings
            ORDER BY id DESC LIMIT 1 OFFSET 50
        ) AND id NOT IN (
            SELECT load FROM (
                SELECT load, max(buffers - predicted) AS lacking
                FROM devices JOIN loads ON loads.id = devices.load
                WHERE file = new.file AND settings = new.settings AND NOT EXISTS (
                    SELECT 1 FROM devices AS own WHERE own.load = devices.load AND own.buffers IS NULL
                )
                GROUP BY position, (SELECT count(*) FROM devices AS own WHERE own.load = devices.load)
            ) WHERE lacking > 0
        );
        DELETE FROM loads WHERE id <= (SELECT id FROM loads ORDER BY id DESC LIMIT 1 OFFSET 5000);
    END
    """,
    "ALTER TABLE surcharges ADD COLUMN others INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE surcharges ADD COLUMN model TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE surcharges ADD COLUMN paths TEXT NOT NULL DEFAULT ''",
    f"PRAGMA user_version = {VERSION}",
)
"""Additions of version 2: the counts by which a surcharge is dropped."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is damaged or no database: the one error without a subclass in Python's module."""
    return type(error) is sqlite3.DatabaseError


def connect(database: Path | str) -> sqlite3.Connection:
    """Open the database.

    Raises `sqlite3.DatabaseError`, no subclass, if it is damaged or of another schema.
    """
    connection = sqlite3.connect(database, isolation_level="IMMEDIATE", check_same_thread=False)
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (things,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            fresh = version == things == 0
            if fresh or version == 1:
                for statement in (*SCHEMA, *NEWS) if fresh else NEWS:
                    connection.execute(statement)
            elif version != VERSION:
                raise sqlite3.DatabaseError(f"its schema is of version {version}, not {VERSION}")
        with suppress(sqlite3.OperationalError):
            # Another process may be switching the journal mode, for which SQLite does not wait.
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def move_aside(path: Path) -> Path:
    """Rename a damaged database. Its journal goes first, so that the next database does not read it."""
    aside = path.with_name(f"{path.name}.broken")
    for suffix in ("-wal", "-shm", ""):
        source, target = Path(f"{path}{suffix}"), Path(f"{aside}{suffix}")
        target.unlink(missing_ok=True)
        if source.exists():
            source.replace(target)
    return aside
