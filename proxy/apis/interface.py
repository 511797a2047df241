"""The types that an API consists of: its endpoints, and the codecs of its clients and servers."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import msgspec

from actors.messages import ServerAddress, ServerApiName
from agents.chat import Chat, Completion
from agents.events import Answer, AnswerFailed, Event, Extra
from proxy.apis.assemble import Assembler
from proxy.apis.embeddings import Embed, Embeddings, Tokens
from proxy.apis.fields import Json
from proxy.apis.requests import ModelRequest
from proxy.apis.stream_end import StreamEnd
from proxy.errors import ApiError

Request = Chat | Completion

_OWN = frozenset(
    [
        "id",
        "object",
        "type",
        "role",
        "created",
        "created_at",
        "model",
        "choices",
        "content",
        "message",
        "response",
        "thinking",
        "delta",
        "usage",
        "timings",
        "stop_reason",
        "stop_sequence",
        "done",
        "done_reason",
        "context",
        "logprobs",
        "error",
    ]
)


def added_fields(extra: Extra) -> dict[str, Any]:
    """Return the fields that an agent adds to an answer, except those that belong to an API."""
    return {name: value for name, value in extra.fields.items() if name not in _OWN}


class Decoder(Protocol):
    """Reads a model server's stream, in pieces of any size."""

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that `data` completes. Raises `EventTooLongError`."""

    def end(self) -> list[Event]:
        """Return the last events at the end of the bytes: an `AnswerFailed` if the answer is incomplete."""


class Encoder(Protocol):
    """Writes a client's stream."""

    def encode(self, event: Event, now: float) -> bytes:
        """Return the bytes of `event`, often none. `now` is in seconds since the epoch."""


class AnswerContext(msgspec.Struct, frozen=True, kw_only=True):
    """The data of a request that its answer needs. `started` is in seconds since the epoch."""

    model: str
    request_id: str
    started: float
    load_seconds: float
    include_usage: bool = False
    token: str = ""
    """Letters and digits that cannot be guessed, for the ids in the answer."""
    echo: Json = {}
    """`Chat.echo`: the data that the request's codec has stored for its answer."""


class Codec(msgspec.Struct, frozen=True, kw_only=True):
    """Reads the requests of a generating endpoint, and writes its answers. `decode` raises `FieldError`."""

    decode: Callable[[bytes], Request]
    encoder: Callable[[AnswerContext], Encoder]
    encode_answer: Callable[[Answer, AnswerContext, float], Json]
    """The last argument is the time, in seconds since the epoch."""
    reasons: bool = True
    """Whether answers have a place for reasoning."""


class Embedder(msgspec.Struct, frozen=True, kw_only=True):
    """Reads the requests of an embeddings endpoint, and writes its answers. `decode` raises `FieldError`."""

    decode: Callable[[bytes], Embed]
    encode_answer: Callable[[Embeddings, Embed, AnswerContext, float], Json]
    too_long: str | None = None
    """The API's message for a text that is too long; None: the model server's message."""


class Tokenizer(msgspec.Struct, frozen=True, kw_only=True):
    """Asks a model server for the tokens of a text. `decode` raises `UnreadableError`."""

    path: str
    encode: Callable[[str | Tokens], bytes]
    decode: Callable[[bytes], Tokens]


class Counter(msgspec.Struct, frozen=True, kw_only=True):
    """Reads requests to count a prompt's tokens, and writes the answers. `decode` raises `FieldError`."""

    decode: Callable[[bytes], Chat]
    encode_answer: Callable[[int], Json]


class ServerApi(msgspec.Struct, frozen=True, kw_only=True):
    """Writes requests to a kind of model server, and reads its answers.

    `ask`, `embed` and `count` return a path and a body.
    """

    name: ServerApiName
    ask: Callable[[Request, ServerAddress], tuple[str, bytes]]
    decoder: Callable[[str, Request], Decoder]
    """The first argument is the answer's id, for servers that give none."""
    embed: Callable[[Embed, ServerAddress], tuple[str, bytes]]
    decode_embeddings: Callable[[bytes], Embeddings | AnswerFailed]
    count: Callable[[Chat, ServerAddress], tuple[str, bytes]]
    decode_count: Callable[[bytes], int | AnswerFailed]
    count_reads: bool = False
    """Whether the model has to read a prompt to count its tokens, which occupies a slot."""
    failure: Callable[[bytes, int], AnswerFailed]
    media_type: str
    """The media type of the server's streams."""
    rewrite: Callable[[bytes, str, ServerAddress], bytes] = lambda body, _model, _address: body
    """Adapts a body that needs no translation, and names this model, to the server at this address."""
    ignored: Callable[[Request, ServerAddress], list[str]] = lambda _request, _address: []
    """Returns the names of a request's fields that cannot be passed to the server."""
    tokenizer: Tokenizer | None = None
    """Used to cut texts that are too long to embed; None: the server cuts them itself."""


class Dialect(msgspec.Struct, frozen=True):
    """The form of an API's errors.

    `body` returns an error's JSON body, `frame` the event that ends a broken stream; the second argument is
    the request's id. `reword` returns the error with the API's own message and status; its second argument
    is the requested model's name.
    """

    name: str
    body: Callable[[ApiError, str], Json]
    frame: Callable[[ApiError, str], bytes]
    reword: Callable[[ApiError, str], ApiError] = lambda error, _model: error


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One POST endpoint. Model servers that speak `api` take its requests without translation.

    For other model servers, and always if `api` is None, `codec`, `embedder` or `counter` translates.
    """

    path: str
    request: type[ModelRequest]
    dialect: Dialect
    api: ServerApiName | None
    aliases: tuple[str, ...] = ()
    slot: bool = True
    """Whether a request occupies one of the model's slots."""
    codec: Codec | None = None
    embedder: Embedder | None = None
    counter: Counter | None = None
    assembler: Callable[[Any], Assembler] | None = None
    """Returns an assembler of whole answers from streams that are not translated, for a request."""
    stream_end: StreamEnd | None = None
    """Finds the end of a stream that is not translated."""
    usage_option: bool = False
    """Whether `stream_options` must be set to get the usage."""
    media_type: str = "text/event-stream"
    """The media type of its streams. Any other than this one needs a `comment` of its own."""
    any_media_type: bool = False
    """Whether a body is read as JSON whatever its `Content-Type` is."""
    load_answer: Callable[[Literal["load", "unload"], str, float], Json] | None = None
    """Returns the answer to a request without a prompt, which only loads or unloads a model.

    The arguments are the action, the model's name, and the time in seconds since the epoch.
    """
    subject: str | None = None
    """The field at fault, for errors of a model server that name none."""
    kinds: tuple[type, ...] = (dict,)
    """The JSON types that its whole answers may have."""
    comment: Callable[[str, str, float], bytes] = lambda _model, words, _now: f": {words}\n\n".encode()
    """Returns bytes that keep a waiting stream alive: a comment, or an event without a text.

    The arguments are the model's name, the reason of the wait in words, and the time in seconds since the
    epoch.
    """

    @property
    def generates(self) -> bool:
        """Whether a model generates the answers, so that they may be streams."""
        return self.codec is not None or self.assembler is not None

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths of the endpoint."""
        return (self.path, *self.aliases)


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """An API, as its folder defines it for `table`.

    Errors of paths below an endpoint's path are in the dialect of that endpoint. Errors of paths below one of
    the `prefixes` are in `dialect`, whether or not the path exists.
    """

    dialect: Dialect
    endpoints: tuple[Endpoint, ...]
    prefixes: tuple[str, ...] = ()
    server: ServerApi | None = None
    """The codec of model servers that speak this API; None: there are none."""
