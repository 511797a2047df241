"""Rag: looks a question up in documents, and has the model answer from what it found, with citations."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from agents.api import (
    Agent,
    AgentConfig,
    AgentError,
    AtEnd,
    Call,
    Chat,
    Client,
    Context,
    DeniedError,
    FilePath,
    Filter,
    ModelCallError,
    operation,
)
from agents.rag.documents import Limits, check_collection, check_name
from agents.rag.embedding import Embedding, TextRefusedError
from agents.rag.formats.structure import DocumentError
from agents.rag.index import Index
from agents.rag.ingest import Ingester, OnProgress, Progress, Report
from agents.rag.passage import Metadata, Passage, Scalar
from agents.rag.prompt import build_prompt
from agents.rag.retrieve import Retriever
from agents.rag.search import Searcher
from agents.rag.watch import watch

INDEX = "index.sqlite3"
PENDING = 60.0
"""Seconds after which it is looked whether another process put documents in, which have no vectors then."""

TELL = 10.0
"""Seconds between two lines in the log about an ingest."""

MAX_DIGITS = 18
"""Of a document's number: as many as SQLite's integers hold, whatever they are."""

Wanted = dict[str, Scalar | list[Scalar]]


def _about(text: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **limits)


class RagConfig(AgentConfig, frozen=True, kw_only=True):
    """Where documents come from, which models help, and how much of them a prompt gets."""

    on_error: Annotated[Literal["skip", "fail"], _about("skip would answer without any source")] = "fail"
    folders: Annotated[dict[str, FilePath], _about("watched folders, by the collection they go into")] = (
        msgspec.field(default_factory=dict)
    )
    patterns: Annotated[tuple[str, ...], _about("which of their files, such as *.md or !drafts/*")] = ()
    embed_model: Annotated[str, _about("the model that makes vectors; else words alone are searched")] = ""
    query_prefix: Annotated[str, _about("what that model wants before a question")] = ""
    text_prefix: Annotated[str, _about("what that model wants before a text")] = ""
    rerank_model: Annotated[
        str, _about("the model that puts what was found in order; else its rank does")
    ] = ""
    top_k: Annotated[int, _about("passages for a question", ge=1, le=50)] = 5
    max_characters: Annotated[int, _about("characters of the prompt for all of them", ge=1000)] = 8000
    max_document_mb: Annotated[int, _about("MiB of a document", ge=1)] = 32

    def __post_init__(self) -> None:
        for collection, folder in self.expanded_folders().items():
            try:
                check_collection(collection)
            except DocumentError as error:
                raise ValueError(f"folders: {error}") from error
            if not folder.is_absolute():
                raise ValueError(f"folders.{collection}: expected an absolute path, got {str(folder)!r}")

    def expanded_folders(self) -> dict[str, Path]:
        """The folders, with ~ replaced."""
        return {collection: Path(folder).expanduser() for collection, folder in self.folders.items()}


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The field `rag` of a request: which collections, documents with which metadata, how many passages."""

    collections: list[str] = []
    where: Wanted = {}
    top_k: Annotated[int, msgspec.Meta(ge=1, le=50)] | None = None


class Search(Question, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question without a model."""

    query: str


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document that is sent as text."""

    name: str
    text: str
    collection: str = ""
    metadata: Wanted = {}


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some of them."""

    documents: list[Given]


_client: ContextVar[Client | None] = ContextVar("client", default=None)
"""The request's, so that its budget is charged for the request's calls."""


class _Models:
    """The models of the gateway, as retrieval asks them."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self.model = model

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text."""
        try:
            return await (_client.get() or self._client).embed(self.model, texts)
        except DeniedError as error:
            raise TextRefusedError(error.message) from error  # by a guard, not by the model
        except ModelCallError as error:
            # llama-server says 500 of a text that is longer than its batch.
            if error.status in (400, 413) or "too large to process" in error.message:
                raise TextRefusedError(error.message) from error
            raise

    async def rerank(self, query: str, texts: list[str]) -> list[float]:
        """How relevant each is."""
        return await (_client.get() or self._client).rerank(self.model, query, texts)


class Rag(Agent):
    """`/rag question`, or `/rag:papers question` for one collection; without it, all are searched."""

    description = "Answers from your documents, with citations"
    Config = RagConfig
    config: RagConfig
    _index: Index | None = None

    async def start(self) -> None:
        """Open the index."""
        config, client = self.config, self.services.llm
        self._folders = await asyncio.to_thread(config.expanded_folders)
        self._index = index = await asyncio.to_thread(Index, self.services.folder / INDEX)
        self._embedding = Embedding(
            _Models(client, config.embed_model) if config.embed_model else None,
            query_prefix=config.query_prefix,
            text_prefix=config.text_prefix,
        )
        self._ingester = Ingester(index, self._embedding, limits=Limits(config.max_document_mb * 2**20))
        reranker = _Models(client, config.rerank_model) if config.rerank_model else None
        self._retriever = Retriever(Searcher(index), self._embedding, reranker)

    async def close(self) -> None:
        """Close it."""
        if self._index is not None:
            await asyncio.to_thread(self._index.close)

    async def run(self) -> None:
        """Keep collections in step with their folders, and make the vectors that are missing."""
        async with asyncio.TaskGroup() as group:
            for collection, folder in self._folders.items():
                group.create_task(self._watch(folder, collection))
            group.create_task(self._add_vectors())

    async def _watch(self, folder: Path, collection: str) -> None:
        async def ingest() -> None:
            report = await self._ingester.add_folder(
                folder, collection, patterns=self.config.patterns, on_progress=self._progress(folder)
            )
            if report.added or report.changed or report.deleted or report.embedded:
                self.services.log.info("ingested", folder=str(folder), collection=collection, **_told(report))

        await watch(folder, ingest)

    def _progress(self, folder: Path) -> OnProgress:
        """Tell of a long ingest now and then."""
        clock, log = self.services.clock, self.services.log
        told = clock.monotonic()

        def tell(progress: Progress) -> None:
            nonlocal told
            if clock.monotonic() - told >= TELL:
                told = clock.monotonic()
                log.info("ingesting", folder=str(folder), **msgspec.structs.asdict(progress))

        return tell

    async def _add_vectors(self) -> None:
        while self._embedding.model is not None:
            await self._ingester.add_vectors()
            with suppress(TimeoutError):
                async with asyncio.timeout(PENDING):
                    await self._ingester.wait_for_left_over()

    async def before(self, ctx: Context, request: Chat) -> Chat:
        """Put what is found before the question."""
        wanted, request = _question(request)
        last = max((n for n, one in enumerate(request.messages) if one.role == "user"), default=None)
        if last is None:
            raise DeniedError("/rag needs a question: a user message")
        question = request.messages[last]
        named = [name for name in ctx.argument.split("+") if name]
        _client.set(ctx.llm)
        passages = await self._retrieve(question.text, wanted, named)
        prompt = build_prompt(passages, self.config.max_characters)
        ctx.state = [msgspec.to_builtins(citation) for citation in prompt.citations]
        ctx.note = f"{len(prompt.citations)} sources"
        if not prompt.text:
            return request
        messages = list(request.messages)
        messages[last] = msgspec.structs.replace(question, text=f"{prompt.text}\n\n{question.text}")
        return msgspec.structs.replace(request, messages=messages)

    def stream(self, ctx: Context) -> Filter | None:
        """Add the citations."""
        return None if ctx.state is None else AtEnd(lambda: {"citations": ctx.state})

    async def _retrieve(self, query: str, wanted: Question, named: list[str]) -> list[Passage]:
        there_are = await asyncio.to_thread(self._collections)
        collections = named or wanted.collections or there_are
        if unknown := sorted(set(collections) - set(there_are)):
            known = ", ".join(there_are) or "none"
            raise DeniedError(f"there is no collection {unknown[0][:80]!r}; there are: {known}", status=404)
        k = wanted.top_k or self.config.top_k
        return await self._retriever.retrieve(query, collections, k=k, where=wanted.where or None)

    def _collections(self) -> list[str]:
        return [collection.name for collection in self._open.collections()]

    @property
    def _open(self) -> Index:
        assert self._index is not None
        return self._index

    @operation("POST", "documents")
    async def add_documents(self, call: Call) -> dict[str, Any]:
        """Take documents in: a file as it is, with ?name=, or {"documents": [{"name", "text", ...}]}."""
        total = Report()
        refused: dict[str, str] = {}
        for name, data, media_type, collection, metadata in _given(call):
            try:
                report = await self._ingester.add_document(
                    data, name, collection, media_type=media_type, metadata=metadata
                )
            except DocumentError as error:
                refused[name] = str(error)
                continue
            for field in ("added", "changed", "unchanged", "embedded"):
                setattr(total, field, getattr(total, field) + getattr(report, field))
            total.pending = report.pending
        total.refused = refused
        return _told(total)

    @operation("GET", "documents")
    async def list_documents(self, call: Call) -> dict[str, Any]:
        """List the documents of ?collection=."""
        collection = _checked(check_collection, call.parameters.get("collection") or DEFAULT, "collection")
        listed = await asyncio.to_thread(self._open.documents, collection)
        return {"collection": collection, "documents": msgspec.to_builtins(listed)}

    @operation("DELETE", "documents/{id}")
    async def delete_document(self, call: Call) -> dict[str, Any]:
        """Delete a document by its number."""
        number = call.parameters["id"]
        if not (number.isascii() and number.isdigit()):
            raise AgentError(f"expected a document's number, got {number[:40]!r}", status=400, param="id")
        deleted = 0
        if len(number) <= MAX_DIGITS:
            deleted = await asyncio.to_thread(self._open.delete_documents, [int(number)])
        if not deleted:
            raise AgentError(f"there is no document {number[:40]}", status=404, code="not_found")
        return {"deleted": deleted}

    @operation("GET", "collections")
    async def list_collections(self, call: Call) -> dict[str, Any]:
        """List the collections, with their documents, chunks and vectors counted."""
        return {"collections": msgspec.to_builtins(await asyncio.to_thread(self._open.collections))}

    @operation("DELETE", "collections/{name}")
    async def delete_collection(self, call: Call) -> dict[str, Any]:
        """Delete all the documents of a collection."""
        name = _checked(check_collection, call.parameters["name"], "name")
        return {"deleted": await asyncio.to_thread(self._open.delete_collection, name)}

    @operation("POST", "search")
    async def search(self, call: Call) -> dict[str, Any]:
        """Find passages, without a model's answer: {"query", "collections", "where", "top_k"}."""
        wanted = _decoded(call.body, Search)
        passages = await self._retrieve(wanted.query, wanted, [])
        return {"passages": msgspec.to_builtins(passages)}


DEFAULT = "default"
"""The collection of documents that name none."""


def _question(request: Chat) -> tuple[Question, Chat]:
    if "rag" not in request.extra:
        return Question(), request
    try:
        wanted = msgspec.convert(request.extra["rag"], Question)
    except msgspec.ValidationError as error:
        raise DeniedError(f"rag: {error}", param="rag") from error
    extra = {name: value for name, value in request.extra.items() if name != "rag"}
    return wanted, msgspec.structs.replace(request, extra=extra)


Sent = tuple[str, bytes | str, str, str, Metadata]


def _given(call: Call) -> list[Sent]:
    """Name, text or bytes, media type, collection and metadata of each document; every name can be used."""
    parameters = call.parameters
    default = parameters.get("collection") or DEFAULT
    sent: list[Sent]
    if "name" in parameters:
        metadata = _decoded(parameters.get("metadata", "{}").encode(), Wanted)
        sent = [(parameters["name"], call.body, call.media_type, default, metadata)]
    elif call.media_type.partition(";")[0].strip() == "application/json":
        given = _decoded(call.body, Batch).documents
        sent = [(one.name, one.text, "", one.collection or default, one.metadata) for one in given]
    else:
        raise AgentError("name the document: ?name=file.pdf", status=400, param="name")
    for name, _, _, collection, _ in sent:
        _checked(check_name, name, "name")
        _checked(check_collection, collection, "collection")
    return sent


def _checked(check: Callable[[str], None], value: str, param: str) -> str:
    try:
        check(value)
    except DocumentError as error:
        raise AgentError(str(error), status=400, param=param) from error
    return value


def _decoded(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise AgentError(f"the body cannot be used: {error}", status=400) from error


def _told(report: Report) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(report)
    return told
