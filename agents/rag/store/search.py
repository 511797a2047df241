"""The index's two searches, and the passages they find. Blocking; any thread may call.

A vector is compared with all of a collection's, by numpy: exact, and faster at this size than an
index of them. The matrix is kept until the collection changes.
"""

import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import msgspec
import numpy as np
import numpy.typing as npt

from agents.rag.embedding import Vectors
from agents.rag.passage import Filter, Passage
from agents.rag.store.index import Index
from agents.rag.store.schema import match_expression

MAX_MATRICES = 16
"""Kept at a time; the one that was not asked for the longest makes room."""

_WHERE = """
EXISTS (
    SELECT 1 FROM json_each(json_patch(metadata, json_object(
        'name', name, 'title', title, 'kind', kind, 'source', source))) AS field,
    json_each(CASE field.type WHEN 'array' THEN field.value ELSE json_array(field.value) END) AS item
    WHERE field.key = ? AND item.value IN (SELECT value FROM json_each(?))
)
"""


class _Matrix(msgspec.Struct, frozen=True):
    """A collection's vectors of one model: `chunks[i]` has `vectors[i]`."""

    generation: int
    chunks: npt.NDArray[np.int64]
    vectors: Vectors


class Searcher:
    """Searches an index."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._matrices: OrderedDict[tuple[str, str, int], _Matrix] = OrderedDict()
        self._lock = Lock()

    def by_words(
        self, query: str, collections: Sequence[str], limit: int, where: Filter | None = None
    ) -> list[int]:
        """Numbers of chunks with any of the query's words, the best by BM25 first. Any text is a query."""
        match = match_expression(query)
        if match is None:
            return []
        condition, values = _condition(collections, where)
        with self._index.reading() as database:
            rows = database.execute(
                "SELECT words.rowid FROM words JOIN chunks ON chunks.id = words.rowid"
                f" WHERE words MATCH ? AND {condition}"
                " ORDER BY words.rank, words.rowid LIMIT ?",
                (match, *values, limit),
            ).fetchall()
        return [number for (number,) in rows]

    def by_vector(
        self, vector: Vectors, model: str, collections: Sequence[str], limit: int, where: Filter | None = None
    ) -> list[int]:
        """Numbers of chunks, the one with the nearest vector first. `vector` has one row, of length 1."""
        found: list[tuple[float, int]] = []
        for collection in dict.fromkeys(collections):
            with self._index.reading() as database:
                matrix = self._matrix(database, collection, model, vector.shape[1])
                allowed = _allowed(database, collection, where) if where else None
            scores = matrix.vectors @ vector[0]
            chunks = matrix.chunks
            if allowed is not None:
                passes = np.isin(chunks, allowed)
                scores, chunks = scores[passes], chunks[passes]
            best = np.argsort(-scores, kind="stable")[:limit]
            found += zip(scores[best].tolist(), chunks[best].tolist(), strict=True)
        found.sort(key=lambda pair: (-pair[0], pair[1]))
        return [number for _, number in found[:limit]]

    def passages(self, chunks: Sequence[int]) -> list[Passage]:
        """These chunks, in this order; those that are gone meanwhile are left out."""
        with self._index.reading() as database:
            rows = database.execute(
                "SELECT chunks.id, documents.id, name, title, collection, source, kind, headings, text,"
                " position, start, stop, line, page FROM chunks JOIN documents ON documents.id = document"
                " WHERE chunks.id IN (SELECT value FROM json_each(?))",
                (msgspec.json.encode(chunks),),
            ).fetchall()
        found = {}
        for row in rows:
            fields = dict(zip(Passage.__struct_fields__, row, strict=False))
            fields["headings"] = tuple(msgspec.json.decode(fields["headings"]))
            found[row[0]] = Passage(**fields)
        return [found[number] for number in chunks if number in found]

    def _matrix(self, database: sqlite3.Connection, collection: str, model: str, width: int) -> _Matrix:
        row = database.execute("SELECT generation FROM collections WHERE name = ?", (collection,)).fetchone()
        generation = row[0] if row else 0
        key = (collection, model, width)
        with self._lock:
            known = self._matrices.get(key)
            if known is not None and known.generation == generation:
                self._matrices.move_to_end(key)
                return known
        matrix = _load(database, collection, model, width, generation)
        with self._lock:
            self._matrices[key] = matrix
            self._matrices.move_to_end(key)
            if len(self._matrices) > MAX_MATRICES:
                self._matrices.popitem(last=False)
        return matrix


def _load(database: sqlite3.Connection, collection: str, model: str, width: int, generation: int) -> _Matrix:
    rows = database.execute(
        "SELECT chunks.id, vector FROM documents JOIN chunks ON document = documents.id"
        " JOIN vectors ON vectors.chunk = chunks.id"
        " WHERE collection = ? AND model = ? AND length(vector) = ? ORDER BY chunks.id",
        (collection, model, width * np.dtype(np.float32).itemsize),
    ).fetchall()
    numbers = np.array([number for number, _ in rows], np.int64)
    vectors = np.frombuffer(b"".join(vector for _, vector in rows), np.float32)
    return _Matrix(generation, numbers, vectors.reshape(-1, width))


def _allowed(database: sqlite3.Connection, collection: str, where: Filter) -> npt.NDArray[np.int64]:
    condition, values = _condition([collection], where)
    rows = database.execute(f"SELECT id FROM chunks WHERE {condition}", values).fetchall()
    return np.array([number for (number,) in rows], np.int64)


def _condition(collections: Sequence[str], where: Filter | None) -> tuple[str, list[bytes | str]]:
    """What a chunk must meet, in SQL, and the values for its question marks."""
    conditions = ["collection IN (SELECT value FROM json_each(?))"]
    values: list[bytes | str] = [msgspec.json.encode(list(collections)).decode()]
    for key, wanted in (where or {}).items():
        conditions.append(_WHERE)
        several = [wanted] if isinstance(wanted, (str, int, float)) else list(wanted)
        values += [key, msgspec.json.encode(several).decode()]
    return f"document IN (SELECT id FROM documents WHERE {' AND '.join(conditions)})", values
