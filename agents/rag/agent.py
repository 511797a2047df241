"""Rag: searches documents for a question, and lets the model answer from the passages, with citations."""

import asyncio
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
from agents.rag.asking.prompt import NOTHING, build_prompt
from agents.rag.bodies import (
    DEFAULT,
    Question,
    Search,
    checked,
    decoded,
    given_documents,
    refuse_others,
    take_question,
)
from agents.rag.embedding import Embedding, TextRefusedError, TextTooLongError
from agents.rag.indexing.ingest import IngestReport
from agents.rag.library import Library
from agents.rag.passage import Passage
from agents.rag.reading.documents import DocumentLimits, check_collection
from agents.rag.reading.formats.structure import DocumentError
from agents.rag.store.index import Index
from agents.rag.store.schema import IndexUnusableError

INDEX = "index.sqlite3"
MAX_DIGITS = 18
"""Most digits of a document's number; SQLite's integers hold all such numbers."""


def _about(text: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **limits)


class RagConfig(AgentConfig, frozen=True, kw_only=True):
    """Where documents come from, which models are used, and how large the sources in a prompt may be."""

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
        """The folders, with `~` expanded."""
        return {collection: Path(folder).expanduser() for collection, folder in self.folders.items()}


_client: ContextVar[Client | None] = ContextVar("client", default=None)
"""The client of the present request, so that its calls count against the request's budget."""


class _Models:
    """The gateway's models, behind the protocols of retrieval."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self.model = model

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text."""
        try:
            return await (_client.get() or self._client).embed(self.model, texts)
        except DeniedError as error:
            raise TextRefusedError(error.message) from error  # refused by a guard, not by the model
        except ModelCallError as error:
            if error.code == "context_length_exceeded":
                raise TextTooLongError(error.message) from error
            if error.status in (400, 413):
                raise TextRefusedError(error.message) from error
            raise

    async def rerank(self, query: str, texts: list[str]) -> list[float]:
        """Rate each text's relevance."""
        return await (_client.get() or self._client).rerank(self.model, query, texts)


class Rag(Agent):
    """`/rag question` searches all collections, `/rag:papers question` only one."""

    description = "Answers from your documents, with citations"
    Config = RagConfig
    config: RagConfig

    async def start(self) -> None:
        """Open the index, if possible now."""
        config, client = self.config, self.services.llm
        self._library = Library(
            self.services.folder / INDEX,
            Embedding(
                _Models(client, config.embed_model) if config.embed_model else None,
                query_prefix=config.query_prefix,
                text_prefix=config.text_prefix,
            ),
            _Models(client, config.rerank_model) if config.rerank_model else None,
            folders=await asyncio.to_thread(config.expanded_folders),
            patterns=config.patterns,
            limits=DocumentLimits(config.max_document_mb * 2**20),
            log=self.services.log,
            clock=self.services.clock,
        )
        await self._library.open()

    async def close(self) -> None:
        """Close the index."""
        await self._library.close()

    async def run(self) -> None:
        """Keep collections up to date with their folders, and make missing vectors."""
        await self._library.run()

    async def before(self, ctx: Context, request: Chat) -> Chat:
        """Put the passages before the question."""
        wanted, request = take_question(request)
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
        before = prompt.text if passages else NOTHING
        messages = list(request.messages)
        messages[last] = msgspec.structs.replace(question, text=f"{before}\n\n{question.text}")
        return msgspec.structs.replace(request, messages=messages)

    def stream(self, ctx: Context) -> Filter | None:
        """Add the citations."""
        return None if ctx.state is None else AtEnd(lambda: {"citations": ctx.state})

    async def _retrieve(self, query: str, wanted: Question, named: list[str]) -> list[Passage]:
        there_are = await self._library.ask(Index.collection_names)
        collections = named or wanted.collections or there_are
        if unknown := sorted(set(collections) - set(there_are)):
            known = ", ".join(there_are) or "none"
            raise DeniedError(f"there is no collection {unknown[0][:80]!r}; there are: {known}", status=404)
        k = wanted.top_k or self.config.top_k
        try:
            return await self._library.retriever.retrieve(query, collections, k=k, where=wanted.where or None)
        except IndexUnusableError as error:
            raise AgentError(str(error), status=503, code="index_unusable") from error

    @operation("POST", "documents")
    async def add_documents(self, call: Call) -> dict[str, Any]:
        """Add documents: a raw file, with ?name=, or {"documents": [{"name", "text", ...}]}."""
        total = IngestReport()
        refused: dict[str, str] = {}
        for name, data, media_type, collection, metadata in given_documents(call):
            try:
                report = await self._library.ingester.add_document(
                    data, name, collection, media_type=media_type, metadata=metadata
                )
            except DocumentError as error:
                refused[name] = str(error)
                continue
            except IndexUnusableError as error:
                raise AgentError(str(error), status=503, code="index_unusable") from error
            for field in ("added", "changed", "unchanged", "embedded"):
                setattr(total, field, getattr(total, field) + getattr(report, field))
            total.pending = report.pending
        total.refused = refused
        return msgspec.to_builtins(total)  # type: ignore[no-any-return]

    @operation("GET", "documents")
    async def list_documents(self, call: Call) -> dict[str, Any]:
        """List the documents of ?collection=."""
        collection = _collection(call)
        listed = await self._library.ask(lambda index: index.documents(collection))
        return {"collection": collection, "documents": msgspec.to_builtins(listed)}

    @operation("DELETE", "documents")
    async def delete_named_document(self, call: Call) -> dict[str, Any]:
        """Delete the document ?name= in ?collection=."""
        refuse_others(call, "name", "collection")
        if not call.parameters.get("name"):
            raise AgentError("name the document: ?name=file.pdf", status=400, param="name")
        collection, name = _collection(call), call.parameters["name"]
        listed = await self._library.ask(lambda index: index.documents(collection))
        numbers = [one.id for one in listed if one.name == name]
        if len(numbers) > 1:
            message = f"{len(numbers)} documents of collection {collection!r} are called {name[:80]!r};"
            message += f" delete one by its number: {', '.join(map(str, numbers[:20]))}"
            raise AgentError(message, status=409, code="ambiguous", param="name")
        return await self._delete(numbers, f"document {name[:80]!r} in collection {collection!r}")

    @operation("DELETE", "documents/{id}")
    async def delete_document(self, call: Call) -> dict[str, Any]:
        """Delete a document by its number."""
        refuse_others(call, "id")
        number = call.parameters["id"]
        if not (number.isascii() and number.isdigit()):
            raise AgentError(f"expected a document's number, got {number[:40]!r}", status=400, param="id")
        numbers = [int(number)] if len(number) <= MAX_DIGITS else []
        return await self._delete(numbers, f"document {number[:40]}")

    async def _delete(self, numbers: list[int], what: str) -> dict[str, Any]:
        deleted = await self._library.ask(lambda index: index.delete_documents(numbers))
        if not deleted:
            raise AgentError(f"there is no {what}", status=404, code="not_found")
        return {"deleted": deleted}

    @operation("GET", "collections")
    async def list_collections(self, call: Call) -> dict[str, Any]:
        """List the collections, with the numbers of their documents, chunks and vectors."""
        return {"collections": msgspec.to_builtins(await self._library.ask(Index.collections))}

    @operation("DELETE", "collections/{name}")
    async def delete_collection(self, call: Call) -> dict[str, Any]:
        """Delete all documents of a collection."""
        refuse_others(call, "name")
        name = checked(check_collection, call.parameters["name"], "name")
        deleted = await self._library.ask(lambda index: index.delete_collection(name))
        if not deleted:
            raise AgentError(f"there is no collection {name!r}", status=404, code="not_found")
        return {"deleted": deleted}

    @operation("GET", "folders")
    async def list_folders(self, call: Call) -> dict[str, Any]:
        """List the watched folders, with the reason if one differs from its collection."""
        return {"folders": msgspec.to_builtins(self._library.watched)}

    @operation("DELETE", "folders/{collection}/missing")
    async def prune_folder(self, call: Call) -> dict[str, Any]:
        """Delete the documents of a watched folder whose files are gone, however many."""
        refuse_others(call, "collection")
        collection = checked(check_collection, call.parameters["collection"], "collection")
        return {"deleted": await self._library.prune(collection)}

    @operation("POST", "search")
    async def search(self, call: Call) -> dict[str, Any]:
        """Find passages, without a model's answer: {"query", "collections", "where", "top_k"}."""
        wanted = decoded(call.body, Search)
        passages = await self._retrieve(wanted.query, wanted, [])
        return {"passages": msgspec.to_builtins(passages)}


def _collection(call: Call) -> str:
    return checked(check_collection, call.parameters.get("collection") or DEFAULT, "collection")
