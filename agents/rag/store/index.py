"""The index: one SQLite file with the collections, their documents, chunks and vectors.

Everything here blocks, and may be called from any thread: one connection writes and one reads, each behind a
lock, so that a search does not wait for a document that is being written. Several processes may use one file.

A document goes in, or out, in one transaction: whoever kills the process leaves whole documents. Vectors come
later, a batch per transaction; a chunk without one is found by its words.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

import msgspec

from agents.files import file_id, is_damaged, is_still_there
from agents.rag.embedding import Vectors
from agents.rag.passage import Metadata, Scalar
from agents.rag.reading.chunks import Chunk
from agents.rag.store.schema import IndexDamagedError, IndexUnusableError, connect, searchable

POSTED = ""
"""The source of documents that came from no folder."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A document as the index knows it, beside its chunks.

    `source`: the folder it is kept in step with; `name`: its path below that, with slashes, or what it was
    called by who sent it. Of both there is one per collection. `size` in bytes, `mtime_ns` since 1970.
    `recipe`: how it was read; one that was read by another is read again.
    """

    collection: str
    name: str
    digest: str
    source: str = POSTED
    size: int = 0
    mtime_ns: int = 0
    kind: str = ""
    title: str = ""
    metadata: Metadata = {}
    recipe: str = ""


class ListedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A document in a list. `refused`: why it has no chunks."""

    id: int
    collection: str
    source: str
    name: str
    digest: str
    size: int
    mtime_ns: int
    kind: str
    title: str
    metadata: dict[str, Scalar | list[Scalar]]
    recipe: str
    refused: str
    chunks: int


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """A collection in figures. Chunks without a vector: `chunks - vectors`."""

    name: str
    documents: int
    refused: int
    chunks: int
    vectors: int


class Index:
    """Opens or creates the file. Raises `IndexUnusableError` if that is not possible."""

    def __init__(self, path: Path, *, on_damage: Callable[[], None] = lambda: None) -> None:
        self.is_damaged = False
        """It was found out while it was used. `on_damage` was called then, in whatever thread that was."""
        self.is_elsewhere = False
        """The file was deleted, or another one put in its place. `on_damage` was called then too."""
        self._on_damage = on_damage
        with suppress(OSError):  # opening it says what is wrong
            path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._write_lock, self._read_lock = Lock(), Lock()
        self._writer = connect(path)
        try:
            self._reader = connect(path)
        except IndexUnusableError:
            self._writer.close()
            raise
        self._file = file_id(path)

    def close(self) -> None:
        """Wait for who is using it, and close the file."""
        for connection, lock in ((self._writer, self._write_lock), (self._reader, self._read_lock)):
            with lock:
                connection.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one state of the index, whatever is written meanwhile."""
        with self._read_lock:
            yield from self._transaction(self._reader, "BEGIN")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock:
            yield from self._transaction(self._writer, "BEGIN IMMEDIATE")

    def _transaction(self, connection: sqlite3.Connection, begin: str) -> Iterator[sqlite3.Connection]:
        """All of the block or nothing. Raises `IndexUnusableError` for a database that fails."""
        if not is_still_there(self._path, self._file):
            self.is_elsewhere = True
            self._on_damage()
            raise IndexUnusableError(f"the index {self._path} was deleted or replaced, and is opened anew")
        try:
            connection.execute(begin)
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if is_damaged(error):
                self.is_damaged = True
                self._on_damage()
                raise IndexDamagedError(f"the index {self._path} is damaged: {error}") from error
            raise IndexUnusableError(f"the index {self._path} cannot be used: {error}") from error
        finally:
            with suppress(sqlite3.Error):  # a closed one has nothing to take back
                connection.rollback()

    # Documents

    def put(self, entry: Entry, chunks: Sequence[Chunk], *, refused: str = "") -> int:
        """Take a document in, in place of the one of this name; return its number.

        `refused`: why it has no chunks. It is remembered, so that it is not read again until it changes.
        """
        with self._writing() as database:
            _delete(
                database,
                "SELECT id FROM documents WHERE collection = ? AND source = ? AND name = ?",
                (entry.collection, entry.source, entry.name),
            )
            fields = {
                **msgspec.structs.asdict(entry),
                "metadata": msgspec.json.encode(entry.metadata).decode(),
                "refused": refused,
            }
            number = database.execute(
                "INSERT INTO documents (collection, source, name, digest, size, mtime_ns, kind, title,"
                " metadata, recipe, refused) VALUES (:collection, :source, :name, :digest, :size, :mtime_ns,"
                " :kind, :title, :metadata, :recipe, :refused)",
                fields,
            ).lastrowid
            assert number is not None
            for position, chunk in enumerate(chunks):
                _insert_chunk(database, number, position, chunk, entry.name)
            _changed(database, [entry.collection])
        return number

    def touch(self, number: int, size: int, mtime_ns: int) -> None:
        """The document's file was written anew, with the same bytes in it."""
        with self._writing() as database:
            database.execute(
                "UPDATE documents SET size = ?, mtime_ns = ? WHERE id = ?", (size, mtime_ns, number)
            )

    def delete_documents(self, numbers: Iterable[int]) -> int:
        """Delete those of these documents that there are; return how many."""
        with self._writing() as database:
            return sum(_delete(database, "SELECT ?", (number,)) for number in numbers)

    def delete_collection(self, name: str) -> int:
        """Delete all the documents of a collection; return how many there were."""
        with self._writing() as database:
            return _delete(database, "SELECT id FROM documents WHERE collection = ?", (name,))

    def documents(self, collection: str, source: str | None = None) -> list[ListedDocument]:
        """Those of a collection, or of one source in it, by name."""
        with self.reading() as database:
            rows = database.execute(
                "SELECT id, collection, source, name, digest, size, mtime_ns, kind, title, metadata, recipe,"
                " refused, (SELECT count(*) FROM chunks WHERE document = documents.id) FROM documents"
                " WHERE collection = ? AND (source = ? OR ? IS NULL) ORDER BY name, source",
                (collection, source, source),
            ).fetchall()
        return [
            ListedDocument(
                **dict(
                    zip(ListedDocument.__struct_fields__, row, strict=True),
                    metadata=msgspec.json.decode(row[9]),
                )
            )
            for row in rows
        ]

    def collection_names(self) -> list[str]:
        """Those that have documents. Costs nothing, however many these are."""
        with self.reading() as database:
            rows = database.execute(
                "SELECT name FROM collections"
                " WHERE EXISTS (SELECT 1 FROM documents WHERE collection = collections.name) ORDER BY name"
            ).fetchall()
        return [name for (name,) in rows]

    def collections(self) -> list[Collection]:
        """Those that have documents, by name, counted."""
        with self.reading() as database:
            rows = database.execute(
                "SELECT collection, sum(refused = ''), sum(refused != ''),"
                " sum((SELECT count(*) FROM chunks WHERE document = documents.id)),"
                " sum((SELECT count(vector) FROM chunks JOIN vectors ON vectors.chunk = chunks.id"
                "      WHERE document = documents.id))"
                " FROM documents GROUP BY collection ORDER BY collection"
            ).fetchall()
        return [Collection(**dict(zip(Collection.__struct_fields__, row, strict=True))) for row in rows]

    # Vectors

    def count_pending(self, model: str, document: int | None = None) -> int:
        """Chunks that have no vector of this model, of one document or of all."""
        values = {"model": model, "document": document}
        with self.reading() as database:
            (count,) = database.execute(f"SELECT count(*) {_pending(document)}", values).fetchone()
        return int(count)

    def pending(
        self, model: str, limit: int, after: int = 0, document: int | None = None
    ) -> list[tuple[int, str]]:
        """The next of them: the chunk's number, and the text to make a vector of, its headings in front."""
        with self.reading() as database:
            rows = database.execute(
                "SELECT chunks.id, name, title, headings, text"
                " FROM documents JOIN chunks ON document = documents.id"
                f" WHERE chunks.id IN (SELECT chunks.id {_pending(document)} AND chunks.id > :after"
                " ORDER BY chunks.id LIMIT :limit) ORDER BY chunks.id",
                {"model": model, "limit": limit, "after": after, "document": document},
            ).fetchall()
        texts = []
        for number, name, title, headings, text in rows:
            # A document's title is often its first heading too.
            path = dict.fromkeys((title or name, *msgspec.json.decode(headings)))
            texts.append((number, f"{' > '.join(path)}\n{text}"))
        return texts

    def put_vectors(self, model: str, numbers: Sequence[int], vectors: Vectors | None) -> None:
        """Vectors for these chunks, where they are still there; None: the model does not take their texts.

        A model that makes vectors of another length than before is another one, and its old ones are dropped.
        """
        blobs = [row.tobytes() for row in vectors] if vectors is not None else [None] * len(numbers)
        with self._writing() as database:
            if vectors is not None:
                database.execute(
                    "DELETE FROM vectors WHERE model = ? AND length(vector) != ?",
                    (model, vectors.shape[1] * vectors.itemsize),
                )
            database.executemany(
                "INSERT OR REPLACE INTO vectors SELECT id, ?, ? FROM chunks WHERE id = ?",
                [(model, blob, number) for number, blob in zip(numbers, blobs, strict=True)],
            )
            marks = ", ".join("?" * len(numbers))
            rows = database.execute(
                "SELECT DISTINCT collection FROM documents JOIN chunks ON document = documents.id"
                f" WHERE chunks.id IN ({marks})",
                numbers,
            ).fetchall()
            _changed(database, [collection for (collection,) in rows])


_PENDING = (
    "FROM chunks LEFT JOIN vectors ON vectors.chunk = chunks.id AND vectors.model = :model"
    " WHERE vectors.chunk IS NULL"
)


def _pending(document: int | None) -> str:
    return _PENDING + (" AND chunks.document = :document" if document is not None else "")


def _insert_chunk(
    database: sqlite3.Connection, document: int, position: int, chunk: Chunk, name: str
) -> None:
    number = database.execute(
        "INSERT INTO chunks (document, position, start, stop, line, page, headings, text)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(document, position, chunk.start, chunk.end, chunk.line, chunk.page),
            *(msgspec.json.encode(chunk.headings).decode(), chunk.text),
        ),
    ).lastrowid
    database.execute(
        "INSERT INTO words (rowid, name, headings, text) VALUES (?, ?, ?, ?)",
        (number, *map(searchable, (name, " ".join(chunk.headings), chunk.text))),
    )


def _delete(database: sqlite3.Connection, documents: str, values: Sequence[str | int]) -> int:
    """Delete the documents whose numbers a query tells, and what is theirs; return how many there were."""
    found = database.execute(
        f"SELECT DISTINCT collection FROM documents WHERE id IN ({documents})", values
    ).fetchall()
    database.execute(
        f"DELETE FROM words WHERE rowid IN (SELECT id FROM chunks WHERE document IN ({documents}))", values
    )
    deleted = database.execute(f"DELETE FROM documents WHERE id IN ({documents})", values).rowcount
    _changed(database, [collection for (collection,) in found])
    return deleted


def _changed(database: sqlite3.Connection, collections: Sequence[str]) -> None:
    database.executemany(
        "INSERT INTO collections VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET generation = generation + 1",
        [(name,) for name in collections],
    )
