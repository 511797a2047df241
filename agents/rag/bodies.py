"""Reads the bodies of requests and operations into msgspec types. Pure."""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from actors.errors import UNREADABLE
from agents.api import AgentError, Call, Chat, DeniedError
from agents.rag.passage import Metadata, Scalar
from agents.rag.reading.documents import check_collection, check_name
from agents.rag.reading.formats.structure import DocumentError

DEFAULT = "default"
"""The collection of documents without a collection."""

MAX_DOCUMENTS = 10_000
"""Most documents in one body, because other writers wait for all of them."""

MAX_COLLECTIONS = 1000
"""Most collections in a question."""

MAX_FIELDS = 100
"""Most fields of metadata to filter by, because each is compared with every document."""

Wanted = dict[str, Scalar | list[Scalar]]
Sent = tuple[str, bytes | str, str, str, Metadata]
"""A document's name, text or bytes, media type, collection and metadata."""


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The field `rag` of a request: collections, a filter by metadata, and the number of passages."""

    collections: Annotated[list[str], msgspec.Meta(max_length=MAX_COLLECTIONS)] = []
    where: Annotated[Wanted, msgspec.Meta(max_length=MAX_FIELDS)] = {}
    top_k: Annotated[int, msgspec.Meta(ge=1, le=50)] | None = None


class Search(Question, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A search for passages without a model's answer."""

    query: str


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document sent as text."""

    name: str
    text: str
    collection: str = ""
    metadata: Wanted = {}


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Several documents sent as text."""

    documents: Annotated[list[Given], msgspec.Meta(max_length=MAX_DOCUMENTS)]


def take_question(request: Chat) -> tuple[Question, Chat]:
    """Split a request into its question for retrieval and the rest. Raises `DeniedError`."""
    if "rag" not in request.extra:
        return Question(), request
    try:
        wanted = msgspec.convert(request.extra["rag"], Question)
    except msgspec.ValidationError as error:
        raise DeniedError(f"rag: {error}", param="rag") from error
    extra = {name: value for name, value in request.extra.items() if name != "rag"}
    return wanted, msgspec.structs.replace(request, extra=extra)


def given_documents(call: Call) -> list[Sent]:
    """Read the documents of a body. Raises `AgentError` for invalid documents and names."""
    parameters = call.parameters
    default = parameters.get("collection") or DEFAULT
    sent: list[Sent]
    if "name" in parameters:
        metadata = decoded(parameters.get("metadata", "{}").encode(errors="replace"), Wanted)
        sent = [(parameters["name"], call.body, call.media_type, default, metadata)]
    elif call.media_type.partition(";")[0].strip() == "application/json":
        given = decoded(call.body, Batch).documents
        sent = [(one.name, one.text, "", one.collection or default, one.metadata) for one in given]
    else:
        raise AgentError("name the document: ?name=file.pdf", status=400, param="name")
    for name, _, _, collection, _ in sent:
        checked(check_name, name, "name")
        checked(check_collection, collection, "collection")
    return sent


def checked(check: Callable[[str], None], value: str, param: str) -> str:
    """Return the checked value. Raises `AgentError` if the check raises `DocumentError`."""
    try:
        check(value)
    except DocumentError as error:
        raise AgentError(str(error), status=400, param=param) from error
    return value


def decoded(body: bytes, kind: Any) -> Any:
    """Decode a JSON body as this type. Raises `AgentError`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE as error:
        raise AgentError(f"the body cannot be used: {error}", status=400) from error


def refuse_others(call: Call, *known: str) -> None:
    """Raise `AgentError` if a deleting operation got unknown parameters, which may limit it."""
    for name in call.parameters:
        if name not in known:
            message = f"{name[:80]!r} means nothing here, so nothing was deleted; known: {', '.join(known)}"
            raise AgentError(message, status=400, param=name[:80])
    if call.body.strip():
        raise AgentError("a body means nothing here, so nothing was deleted", status=400)
