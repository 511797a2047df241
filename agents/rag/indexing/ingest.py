"""Puts documents and folders into the index: only changes, first the words, then the vectors.

A document can be found by its words as soon as it is read. Vectors follow in batches, for every chunk
without one: new chunks, chunks from before there was an embedding model or from another model, and chunks
whose process was killed. So no document is ever half indexed, and missing vectors are known.

Words and vectors are written by separate turns, so that a small document is indexed at once while the
vectors of a book take minutes.
"""

import asyncio
import hashlib
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog

from agents.rag.embedding import Embedding, TextRefusedError, Vectors
from agents.rag.indexing.folders import File, FolderListing, list_folder, read_file
from agents.rag.indexing.vanished import kept_documents
from agents.rag.passage import Metadata
from agents.rag.reading.chunks import Sizes
from agents.rag.reading.documents import READING, DocumentLimits, check_collection, check_name
from agents.rag.reading.formats.structure import DocumentError, PassingError, clean
from agents.rag.reading.reader import Reader
from agents.rag.store.index import Entry, Index, ListedDocument

log = structlog.get_logger("rag")

BATCH = 32
"""Most texts in one call of the embedding model."""

TRIES = 5
"""Most attempts to read a document that takes too long; then the document is refused."""


class IngestProgress(msgspec.Struct, frozen=True):
    """`done` of `total` files are read, or chunks embedded; `name` is the present file."""

    stage: Literal["reading", "embedding"]
    done: int
    total: int
    name: str = ""


class IngestReport(msgspec.Struct):
    """The result of an ingest, in documents; `embedded` and `pending` are chunks with and without a vector.

    `missing`: documents kept although their files are gone, because suspiciously many are gone. `refused`:
    documents that could not be added, with reasons.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    missing: int = 0
    refused: dict[str, str] = {}
    embedded: int = 0
    pending: int = 0


OnProgress = Callable[[IngestProgress], None]


def _ignore(_: IngestProgress) -> None:
    pass


class Ingester:
    """Puts documents into an index, one call at a time; others wait for their turn.

    Vectors have a separate turn, for which only `add_vectors` waits. An ingest that finds it taken leaves
    its chunks to `add_vectors`.

    `timeout` and `patience`: CPU seconds and real seconds for reading a document. All methods raise
    `IndexUnusableError` when the database fails.
    """

    def __init__(
        self,
        index: Index,
        embedding: Embedding,
        *,
        limits: DocumentLimits | None = None,
        sizes: Sizes | None = None,
        timeout: float = 60.0,
        patience: float = 900.0,
    ) -> None:
        self._index = index
        self._embedding = embedding
        self._limits = limits or DocumentLimits()
        self._sizes = sizes or Sizes()
        self._timeout = timeout
        self._patience = patience
        self._tries: dict[tuple[str, str, str], tuple[str, int]] = {}
        """For each document, how often it failed for a temporary reason, and its digest."""
        self._turn = asyncio.Lock()
        self._embedding_turn = asyncio.Lock()
        self._left_over = asyncio.Event()

    async def add_document(
        self,
        data: bytes | str,
        name: str,
        collection: str,
        *,
        media_type: str = "",
        metadata: Metadata | None = None,
    ) -> IngestReport:
        """Add an uploaded document, replacing an earlier one of this name.

        `media_type`: its Content-Type. A text is encoded only when its turn comes, so that it is in memory
        once. Only the document's own missing vectors are made. Raises `DocumentError` if it cannot be added;
        then an earlier document of this name stays.
        """
        check_name(name)
        check_collection(collection)
        report = IngestReport()
        async with self._turn, self._reader() as reader:
            data = data.encode() if isinstance(data, str) else data
            entry = Entry(
                collection=collection,
                name=clean(name),
                digest=await asyncio.to_thread(_digest, data),
                size=len(data),
                metadata=_plain(metadata),
                recipe=self._recipe(refused=False),
            )
            known = (await self._known(collection, entry.source)).get(entry.name)
            if known is not None and _is_same(known, entry):
                number = known.id
                report.unchanged = 1
            else:
                number = await self._put(reader, entry, data, media_type)
                _count(report, known)
        await self._embed_unless_busy(report, document=number)
        return report

    async def add_folder(
        self,
        folder: Path,
        collection: str,
        *,
        patterns: Sequence[str] = (),
        metadata: Metadata | None = None,
        on_progress: OnProgress = _ignore,
    ) -> IngestReport:
        """Update a collection from a folder: add new and changed files, remove vanished ones.

        A folder that is empty or has lost most of its files may be a missing mount, and so may an empty
        subfolder: their documents are kept (`prune_folder` deletes them). `patterns` are those of
        `folders.list_folder`, which finds the documents. Files that cannot be added are in the report, and
        their earlier contents are removed from the index, unless the reason is temporary. Raises
        `DocumentError` if the folder itself cannot be read; then nothing is changed.
        """
        check_collection(collection)
        folder = await asyncio.to_thread(_absolute, folder)
        report = IngestReport()
        async with self._turn, self._reader() as reader:
            listing = await asyncio.to_thread(list_folder, folder, patterns)
            source = clean(str(folder))
            known = await self._known(collection, source)
            for done, file in enumerate(listing.files.values()):
                on_progress(IngestProgress("reading", done, len(listing.files), file.name))
                entry = self._entry(file, collection, source, metadata)
                await self._add_file(reader, file, entry, known.get(file.name), report)
            on_progress(IngestProgress("reading", len(listing.files), len(listing.files)))
            await self._delete_vanished(known, listing, collection, source, report)
        await self._embed_unless_busy(report, on_progress)
        for hidden in listing.unreadable:
            log.warning("folder cannot be read; its documents stay", folder=str(folder / hidden))
        return report

    async def prune_folder(self, folder: Path, collection: str, *, patterns: Sequence[str] = ()) -> int:
        """Delete the documents of a folder whose files are gone; return their number.

        A folder that does not exist has no files. Raises `DocumentError` if an existing one cannot be read.
        """
        folder = await asyncio.to_thread(_absolute, folder)
        async with self._turn:
            if await asyncio.to_thread(folder.exists):
                listing = await asyncio.to_thread(list_folder, folder, patterns)
            else:
                listing = FolderListing({}, ())
            known = await self._known(collection, clean(str(folder)))
            numbers = [document.id for document in _vanished(known, listing)]
            return await asyncio.to_thread(self._index.delete_documents, numbers)

    async def _delete_vanished(
        self,
        known: Mapping[str, ListedDocument],
        listing: FolderListing,
        collection: str,
        source: str,
        report: IngestReport,
    ) -> None:
        """Delete vanished documents, unless they are suspiciously many. A renamed file has not vanished."""
        vanished = _vanished(known, listing)
        if not vanished:
            return
        now = (await self._known(collection, source)).values()
        there = {document.digest for document in now if document.digest and document.name in listing.files}
        lost = [document for document in vanished if document.digest not in there]
        kept = kept_documents([document.name for document in lost], len(known), listing)
        report.missing = len(kept)
        numbers = [document.id for document in vanished if document.name not in kept]
        report.deleted = await asyncio.to_thread(self._index.delete_documents, numbers)

    async def add_file(
        self,
        path: Path,
        collection: str,
        *,
        metadata: Metadata | None = None,
        on_progress: OnProgress = _ignore,
    ) -> IngestReport:
        """Add one file of a folder, without changing the folder's other documents.

        If it cannot be added, the report says so. Raises `DocumentError` if there is no such file.
        """
        check_collection(collection)
        path = await asyncio.to_thread(_absolute, path)
        report = IngestReport()
        async with self._turn, self._reader() as reader:
            try:
                status = await asyncio.to_thread(path.stat)
            except OSError as error:
                raise DocumentError(f"{path} cannot be read: {error.strerror}") from error
            if not stat.S_ISREG(status.st_mode):
                raise DocumentError(f"{path} is no file")
            file = File(clean(path.name), path, status.st_size, status.st_mtime_ns)
            source = clean(str(path.parent))
            known = (await self._known(collection, source)).get(file.name)
            on_progress(IngestProgress("reading", 0, 1, file.name))
            entry = self._entry(file, collection, source, metadata)
            await self._add_file(reader, file, entry, known, report)
            on_progress(IngestProgress("reading", 1, 1))
        await self._embed_unless_busy(report, on_progress)
        return report

    async def add_vectors(self, on_progress: OnProgress = _ignore) -> IngestReport:
        """Make missing vectors. To be called when an embedding model has become available, and
        after `wait_for_left_over`.

        And after `wait_for_left_over`.
        """
        report = IngestReport()
        async with self._embedding_turn:
            await self._embed(report, on_progress)
        return report

    async def wait_for_left_over(self) -> None:
        """Wait until an ingest has left vectors to `add_vectors`, unless one has since the last return."""
        await self._left_over.wait()
        self._left_over.clear()

    def _reader(self) -> Reader:
        return Reader(self._limits, self._sizes, timeout=self._timeout, patience=self._patience)

    def _recipe(self, *, refused: bool) -> str:
        """Return the further inputs of reading a document; for a refused one, the limits too."""
        recipe: list[object] = [READING, self._sizes.chunk, self._sizes.overlap]
        if refused:
            recipe += [self._limits.bytes, self._limits.characters, f"{self._timeout} of CPU"]
        return "/".join(map(str, recipe))

    def _entry(self, file: File, collection: str, source: str, metadata: Metadata | None) -> Entry:
        return Entry(
            collection=collection,
            source=source,
            name=file.name,
            digest="",
            size=file.size,
            mtime_ns=file.mtime_ns,
            metadata=_plain(metadata),
            recipe=self._recipe(refused=False),
        )

    async def _known(self, collection: str, source: str) -> dict[str, ListedDocument]:
        listed = await asyncio.to_thread(self._index.documents, collection, source)
        return {document.name: document for document in listed}

    async def _add_file(
        self, reader: Reader, file: File, entry: Entry, known: ListedDocument | None, report: IngestReport
    ) -> None:
        """Add a file. One that cannot be opened has no digest, and is tried each time."""
        if known is not None and known.digest and (known.size, known.mtime_ns) == (file.size, file.mtime_ns):
            recipe = self._recipe(refused=bool(known.refused))
            if _is_same(known, msgspec.structs.replace(entry, digest=known.digest, recipe=recipe)):
                report.unchanged += 1
                if known.refused:
                    report.refused[file.name] = known.refused
                return
        try:
            check_name(file.name)
            data = await asyncio.to_thread(read_file, file, self._limits.bytes)
            entry = msgspec.structs.replace(entry, digest=await asyncio.to_thread(_digest, data))
            if known is not None and not known.refused and _is_same(known, entry):
                await asyncio.to_thread(self._index.touch, known.id, file.size, file.mtime_ns)
                report.unchanged += 1
                return
            await self._put(reader, entry, data)
            _count(report, known)
            self._tries.pop((entry.collection, entry.source, entry.name), None)
        except PassingError as error:
            report.refused[file.name] = await self._put_off(entry, str(error), known)
        except DocumentError as error:
            await self._refuse(entry, str(error), known)
            report.refused[file.name] = str(error)

    async def _put(self, reader: Reader, entry: Entry, data: bytes, media_type: str = "") -> int:
        reading = await reader.read(data, entry.name, media_type)
        entry = msgspec.structs.replace(entry, kind=reading.kind, title=reading.title)
        return await asyncio.to_thread(self._index.put, entry, reading.chunks)

    async def _put_off(self, entry: Entry, reason: str, known: ListedDocument | None) -> str:
        """Keep the earlier contents and try again with the next ingest; return the reason.

        A file that can be opened is tried `TRIES` times.
        """
        key, version = (entry.collection, entry.source, entry.name), f"{entry.size} {entry.mtime_ns}"
        last, tries = self._tries.get(key, ("", 0))
        tries = tries + 1 if last == version else 1
        self._tries[key] = version, tries
        if entry.digest and tries >= TRIES:
            del self._tries[key]
            reason = f"{reason} (tried {tries} times)"
            await self._refuse(entry, reason, known)
        elif known is None or known.refused:
            # Without a digest the document counts as unknown, and is read again.
            await self._refuse(msgspec.structs.replace(entry, digest=""), reason, known)
        elif tries == 1:
            source = entry.source
            log.warning(
                "document cannot be read now; its earlier contents stay", source=source, reason=reason
            )
        return reason

    async def _refuse(self, entry: Entry, reason: str, known: ListedDocument | None) -> None:
        entry = msgspec.structs.replace(entry, recipe=self._recipe(refused=True))
        if known is not None and known.refused == reason and _is_same(known, entry):
            return
        log.warning("document refused", collection=entry.collection, source=entry.source, reason=reason)
        await asyncio.to_thread(self._index.put, entry, [], refused=reason)

    async def _embed_unless_busy(
        self, report: IngestReport, on_progress: OnProgress = _ignore, document: int | None = None
    ) -> None:
        model = self._embedding.model
        if model is None:
            return
        if self._embedding_turn.locked():
            self._left_over.set()
            report.pending = await asyncio.to_thread(self._index.count_pending, model)
            return
        async with self._embedding_turn:
            await self._embed(report, on_progress, document)

    async def _embed(
        self, report: IngestReport, on_progress: OnProgress, document: int | None = None
    ) -> None:
        """Make the missing vectors of one document or of all, as long as the model works."""
        model = self._embedding.model
        if model is None:
            return
        left = await asyncio.to_thread(self._index.count_pending, model, document)
        total, last = left, 0
        while batch := await asyncio.to_thread(self._index.pending, model, BATCH, last, document):
            on_progress(IngestProgress("embedding", total - left, total))
            if not await self._embed_batch(model, batch, report):
                break
            last = batch[-1][0]
            left = max(0, left - len(batch))
        if total:
            on_progress(IngestProgress("embedding", total - left, total))
        report.pending = await asyncio.to_thread(self._index.count_pending, model)

    async def _embed_batch(self, model: str, batch: Sequence[tuple[int, str]], report: IngestReport) -> bool:
        """Return false if the model is not available. A refused text is found by halving and left out."""
        vectors: Vectors | None
        try:
            vectors = await self._embedding.embed_texts([text for _, text in batch])
            if vectors is None:
                return False
        except TextRefusedError as error:
            if len(batch) > 1:
                half = len(batch) // 2
                halves = (batch[:half], batch[half:])
                return all([await self._embed_batch(model, part, report) for part in halves])
            log.warning("chunk without a vector; only words find it", reason=str(error))
            vectors = None
        numbers = [number for number, _ in batch]
        await asyncio.to_thread(self._index.put_vectors, model, numbers, vectors)
        report.embedded += len(batch) if vectors is not None else 0
        return True


def _vanished(known: Mapping[str, ListedDocument], listing: FolderListing) -> list[ListedDocument]:
    """Return the documents whose files were searched and are gone."""
    return [one for name, one in known.items() if name not in listing.files and not listing.hides(name)]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _absolute(path: Path) -> Path:
    return path.expanduser().resolve()


def _plain(metadata: Metadata | None) -> dict[str, Any]:
    """Return metadata in the form in which the index returns it."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(metadata or {}))
    return plain


def _is_same(known: ListedDocument, entry: Entry) -> bool:
    return (known.digest, known.metadata, known.recipe) == (entry.digest, entry.metadata, entry.recipe)


def _count(report: IngestReport, known: ListedDocument | None) -> None:
    if known is None:
        report.added += 1
    else:
        report.changed += 1
