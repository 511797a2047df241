"""The index's tables, and how a connection to them is opened."""

import re
import sqlite3
from contextlib import suppress
from itertools import islice
from pathlib import Path

from agents.files import is_damaged

VERSION = 1
"""Of the schema: another one's database is not read."""

BUSY = 30.0
"""Seconds that a transaction waits for another process's, `run.py rag add` beside the gateway, say."""

# A number of a document or chunk is never used again, so what is kept of one elsewhere never means another.
# `generation` counts a collection's changes: what was computed of it holds while that is the same.
SCHEMA = (
    "CREATE TABLE collections (name TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID",
    """
    CREATE TABLE documents (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        collection TEXT NOT NULL,
        source TEXT NOT NULL,
        name TEXT NOT NULL,
        digest TEXT NOT NULL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        kind TEXT NOT NULL,
        title TEXT NOT NULL,
        metadata TEXT NOT NULL,
        recipe TEXT NOT NULL,
        refused TEXT NOT NULL,
        UNIQUE (collection, source, name)
    )
    """,
    """
    CREATE TABLE chunks (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
        position INTEGER NOT NULL,
        start INTEGER NOT NULL,
        stop INTEGER NOT NULL,
        line INTEGER NOT NULL,
        page INTEGER,
        headings TEXT NOT NULL,
        text TEXT NOT NULL,
        UNIQUE (document, position)
    )
    """,
    """
    CREATE TABLE vectors (
        chunk INTEGER PRIMARY KEY REFERENCES chunks ON DELETE CASCADE,
        model TEXT NOT NULL,
        vector BLOB
    )
    """,
    # It holds `searchable` texts, which are not the chunks' own, so it is no index of theirs but beside them.
    """
    CREATE VIRTUAL TABLE words USING fts5(
        name, headings, text, tokenize = 'porter unicode61 remove_diacritics 2'
    )
    """,
    "INSERT INTO words (words, rank) VALUES ('rank', 'bm25(1.0, 2.0, 1.0)')",
    f"PRAGMA user_version = {VERSION}",
)

MAX_TERMS = 64
"""Of a query; what comes after them is not looked for."""

MAX_QUERY = 8000
"""Characters of it that are read: to part megabytes into words holds the interpreter's lock for seconds."""

_CAMEL = re.compile(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CAMEL_WORD = re.compile(r"\b\w*(?:[a-z\d][A-Z]|[A-Z][A-Z][a-z])\w*")
_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
    "|[\U00020000-\U0003ffff])"
)
"""Letters of scripts that put no space between words: each is a word of its own here."""


class IndexUnusableError(Exception):
    """The index cannot be opened, read or written. The message names its file and says why."""


class IndexDamagedError(IndexUnusableError):
    """What is in the file is no index, or one of another version: asking again is useless."""


def searchable(text: str) -> str:
    """The text as FTS5 gets it: the parts of camelCase after the whole, Chinese and its like spaced."""
    text = _UNSPACED.sub(r" \1 ", text)
    return _CAMEL_WORD.sub(lambda word: " ".join((word[0], *_CAMEL.split(word[0]))), text)


def match_expression(query: str) -> str | None:
    """What FTS5 is asked for: any of the query's words, whatever else it has in it. None: it has none."""
    words = _WORD.findall(searchable(query[:MAX_QUERY]))
    # Underscores part words for FTS5, and one alone is no word.
    terms = dict.fromkeys(term for word in words for term in word.split("_") if term)
    return " OR ".join(f'"{term}"' for term in islice(terms, MAX_TERMS)) or None


def connect(path: Path | str) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time. Raises `IndexUnusableError`."""
    advice = f"move {path} away to begin anew; the documents are ingested again"
    try:
        connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise IndexUnusableError(f"the index {path} cannot be opened: {error}") from error
    try:
        with suppress(sqlite3.OperationalError):
            # Another process may be changing it just now, and for that SQLite does not wait.
            connection.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing; a machine without power the last transactions, and whole ones.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            version = _create(connection)
        if version != VERSION:
            raise IndexDamagedError(f"the index {path} is of version {version}, not {VERSION}; {advice}")
    except sqlite3.Error as error:
        connection.close()
        if is_damaged(error):
            raise IndexDamagedError(f"the index {path} is damaged ({error}); {advice}") from error
        raise IndexUnusableError(f"the index {path} cannot be opened: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection) -> int:
    """Create the tables, unless another process has meanwhile; return the version."""
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        for statement in SCHEMA:
            connection.execute(statement)
        version = VERSION
    connection.execute("COMMIT")
    return int(version)
