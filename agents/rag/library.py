"""The index of a running gateway: opened, kept up to date with its folders, and repaired.

A damaged index is set aside, and a new one is filled from the folders, as it is after its file was deleted
or replaced. An index that cannot be opened at present, because it is locked or the disk is full, is tried
again. Meanwhile requests fail with this reason.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from agents.api import AgentError, Clock
from agents.files import set_aside
from agents.rag.asking.retrieve import Retriever
from agents.rag.embedding import Embedding, Reranker
from agents.rag.indexing.ingest import Ingester, IngestProgress, OnProgress
from agents.rag.indexing.watch import watch
from agents.rag.reading.documents import DocumentLimits
from agents.rag.reading.formats.structure import DocumentError
from agents.rag.store.index import Index
from agents.rag.store.schema import IndexDamagedError, IndexUnusableError
from agents.rag.store.search import Searcher
from agents.rag.trouble import Trouble

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

PENDING = 60.0
"""Seconds between checks for documents without vectors, which another process may have added."""

TELL = 10.0
"""Least seconds between two log lines about an ingest."""

RETRY = 1.0
"""Seconds until an unusable index is tried again, or a new one is begun."""

T = TypeVar("T")


class Watched(msgspec.Struct):
    """A watched folder and its state. `missing`: documents kept although their files are gone.

    `trouble`: why the collection is not up to date; empty if it is.
    """

    collection: str
    folder: str
    missing: int = 0
    trouble: str = ""


class Library:
    """The index at `path`, with its ingester and retriever. `folders` are watched, by their collections."""

    def __init__(
        self,
        path: Path,
        embedding: Embedding,
        reranker: Reranker | None,
        *,
        folders: Mapping[str, Path],
        patterns: Sequence[str],
        limits: DocumentLimits,
        log: "FilteringBoundLogger",
        clock: Clock,
    ) -> None:
        self.watched = [Watched(collection, str(folder)) for collection, folder in folders.items()]
        self._path = path
        self._embedding = embedding
        self._reranker = reranker
        self._patterns = patterns
        self._limits = limits
        self._log = log
        self._clock = clock
        self._trouble = Trouble("index cannot be used", file=str(path))
        self._reason = "it is not open yet"
        self._damaged = asyncio.Event()
        self._index: Index | None = None
        self._ingester: Ingester | None = None
        self._retriever: Retriever | None = None

    @property
    def ingester(self) -> Ingester:
        """Raises `AgentError` while the index cannot be used."""
        if self._ingester is None:
            raise _unusable(self._reason)
        return self._ingester

    @property
    def retriever(self) -> Retriever:
        """Raises `AgentError` while the index cannot be used."""
        if self._retriever is None:
            raise _unusable(self._reason)
        return self._retriever

    async def ask(self, work: Callable[[Index], T]) -> T:
        """Run a blocking query on the index. Raises `AgentError` if the index is unusable."""
        index = self._index
        if index is None:
            raise _unusable(self._reason)
        try:
            return await asyncio.to_thread(work, index)
        except IndexUnusableError as error:
            raise _unusable(str(error)) from error

    async def open(self) -> None:
        """Open the index if possible now."""
        loop = asyncio.get_running_loop()

        def on_damage() -> None:
            loop.call_soon_threadsafe(self._damaged.set)

        try:
            index = await asyncio.to_thread(self._opened, on_damage)
        except (IndexUnusableError, OSError) as error:
            self._reason = str(error)
            self._trouble.met(error)
            return
        self._trouble.over()
        self._damaged.clear()
        self._index = index
        self._ingester = Ingester(index, self._embedding, limits=self._limits)
        self._retriever = Retriever(Searcher(index), self._embedding, self._reranker)

    def _opened(self, on_damage: Callable[[], None]) -> Index:
        try:
            return Index(self._path, on_damage=on_damage)
        except IndexDamagedError as error:
            self._set_aside(str(error))
            return Index(self._path, on_damage=on_damage)

    async def close(self) -> None:
        """Close the index; a damaged one is not opened again."""
        index, self._index, self._ingester, self._retriever = self._index, None, None, None
        if index is None:
            return
        await asyncio.to_thread(index.close)
        if index.is_elsewhere:
            self._reason = "it was deleted or replaced, and is opened anew"
            self._log.warning(
                "index was deleted or replaced; opening a new one and ingesting the folders again"
            )
        elif index.is_damaged:
            self._reason = "it is damaged, and another is begun"
            try:
                await asyncio.to_thread(self._set_aside, "found out while it was used")
            except OSError as error:
                self._trouble.met(error)

    def _set_aside(self, reason: str) -> None:
        aside = set_aside(self._path)
        self._log.error(
            "index is damaged; starting a new one and ingesting the folders again",
            reason=reason,
            kept_as=str(aside),
        )

    async def run(self) -> None:
        """Keep collections up to date with their folders, and make missing vectors."""
        while True:
            while self._index is None:
                await asyncio.sleep(RETRY)
                await self.open()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._watch(watched)) for watched in self.watched]
                tasks.append(group.create_task(self._add_vectors()))
                await self._damaged.wait()
                for task in tasks:
                    task.cancel()
            await self.close()

    async def _watch(self, watched: Watched) -> None:
        folder = Path(watched.folder)
        held = Trouble(
            "most files of a folder are gone; their documents stay",
            folder=str(folder),
            cure=f"DELETE /v1/agents/rag/folders/{watched.collection}/missing, or `rag prune {folder}`",
        )

        async def ingest() -> None:
            try:
                report = await self.ingester.add_folder(
                    folder, watched.collection, patterns=self._patterns, on_progress=self._progress(folder)
                )
            except (DocumentError, IndexUnusableError) as error:
                watched.trouble = str(error)
                raise
            watched.missing = report.missing
            watched.trouble = (
                f"{report.missing} files are gone; their documents are kept" if report.missing else ""
            )
            if report.missing:
                held.met(DocumentError(watched.trouble))
            else:
                held.over()
            if report.added or report.changed or report.deleted or report.embedded:
                counts = msgspec.to_builtins(report)
                self._log.info("ingested", folder=str(folder), collection=watched.collection, **counts)

        await watch(folder, ingest)

    async def prune(self, collection: str) -> int:
        """Delete the documents of a watched folder whose files are gone; return their number.

        Raises `AgentError`.
        """
        for watched in self.watched:
            if watched.collection == collection:
                try:
                    deleted = await self.ingester.prune_folder(
                        Path(watched.folder), collection, patterns=self._patterns
                    )
                except (DocumentError, IndexUnusableError) as error:
                    raise AgentError(str(error), status=503) from error
                watched.missing, watched.trouble = 0, ""
                return deleted
        raise AgentError(f"no folder of collection {collection!r} is watched", status=404, code="not_found")

    def _progress(self, folder: Path) -> OnProgress:
        """Log the progress of a long ingest."""
        told_at = self._clock.monotonic()

        def tell(progress: IngestProgress) -> None:
            nonlocal told_at
            if self._clock.monotonic() - told_at >= TELL:
                told_at = self._clock.monotonic()
                self._log.info("ingesting", folder=str(folder), **msgspec.structs.asdict(progress))

        return tell

    async def _add_vectors(self) -> None:
        while self._embedding.model is not None:
            try:
                await self.ingester.add_vectors()
                self._trouble.over()
            except IndexUnusableError as error:
                self._trouble.met(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(PENDING):
                    await self.ingester.wait_for_left_over()


def _unusable(reason: str) -> AgentError:
    message = f"the index of documents cannot be used now: {reason}"
    return AgentError(message, status=503, code="index_unusable", retry_after=round(RETRY))
