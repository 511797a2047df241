"""What an API consists of: how its clients and its servers speak, and which endpoints it has."""

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
    """What an agent adds to an answer, without fields that some API has itself."""
    return {name: value for name, value in extra.fields.items() if name not in _OWN}


class Decoder(Protocol):
    """Reads a model server's stream, however its bytes are cut."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises `EventTooLongError`."""

    def end(self) -> list[Event]:
        """What the end of the bytes says: nothing after `Done`, else an `AnswerFailed`."""


class Encoder(Protocol):
    """Writes a client's stream."""

    def encode(self, event: Event, now: float) -> bytes:
        """The bytes that say `event`, often none. `now` is in seconds since the epoch."""


class AnswerContext(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed of a request to write its answer; `started` in seconds since the epoch."""

    model: str
    request_id: str
    started: float
    load_seconds: float
    include_usage: bool = False
    token: str = ""
    """Letters and digits that nobody guesses, for the ids in it."""
    echo: Json = {}
    """What the request has for its answer: `Chat.echo`."""


class Codec(msgspec.Struct, frozen=True, kw_only=True):
    """How clients of a generating endpoint speak. `decode` raises `FieldError`."""

    decode: Callable[[bytes], Request]
    encoder: Callable[[AnswerContext], Encoder]
    encode_answer: Callable[[Answer, AnswerContext, float], Json]
    """Takes the time, too, in seconds since the epoch."""


class Embedder(msgspec.Struct, frozen=True, kw_only=True):
    """How clients of an endpoint of embeddings speak. `decode` raises `FieldError`."""

    decode: Callable[[bytes], Embed]
    encode_answer: Callable[[Embeddings, Embed, AnswerContext, float], Json]
    too_long: str | None = None
    """The API's words for a text that is too long; None: the model server's."""


class Tokenizer(msgspec.Struct, frozen=True, kw_only=True):
    """How a model server is asked for the tokens of a text. `decode` raises `UnreadableError`."""

    path: str
    encode: Callable[[str | Tokens], bytes]
    decode: Callable[[bytes], Tokens]


class Counter(msgspec.Struct, frozen=True, kw_only=True):
    """How clients ask for the tokens of a prompt. `decode` raises `FieldError`."""

    decode: Callable[[bytes], Chat]
    encode_answer: Callable[[int], Json]


class ServerApi(msgspec.Struct, frozen=True, kw_only=True):
    """How a kind of model server is spoken with. `ask`, `embed` and `count` give a path and a body."""

    name: ServerApiName
    ask: Callable[[Request, ServerAddress], tuple[str, bytes]]
    decoder: Callable[[str, Request], Decoder]
    """Takes an id for the answer."""
    embed: Callable[[Embed, ServerAddress], tuple[str, bytes]]
    decode_embeddings: Callable[[bytes], Embeddings | AnswerFailed]
    count: Callable[[Chat, ServerAddress], tuple[str, bytes]]
    decode_count: Callable[[bytes], int | AnswerFailed]
    count_reads: bool = False
    """Whether the model reads a prompt to count its tokens, which occupies a slot."""
    failure: Callable[[bytes, int], AnswerFailed]
    media_type: str
    """Of its streams."""
    rewrite: Callable[[bytes, str, ServerAddress], bytes] = lambda body, _model, _address: body
    """Makes a body that names this model, and needs no translation, fit for the server at this address."""
    ignored: Callable[[Request, ServerAddress], list[str]] = lambda _request, _address: []
    """Names what the server cannot be told of a request."""
    tokenizer: Tokenizer | None = None
    """None: the server cuts long texts itself."""


class Dialect(msgspec.Struct, frozen=True):
    """How an API words an error.

    `body` makes an error's JSON body; `frame` the event that ends a broken stream. `reword` puts an error
    about the model of that name into the API's own words, and gives it the status that goes with them.
    """

    name: str
    body: Callable[[ApiError, str], Json]
    frame: Callable[[ApiError, str], bytes]
    reword: Callable[[ApiError, str], ApiError] = lambda error, _model: error


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One POST endpoint, which must say by which `api` servers take its requests as they are.

    For servers of any other API, and always if `api` is None, `codec`, `embedder` or `counter` translates.
    """

    path: str
    request: type[ModelRequest]
    dialect: Dialect
    api: ServerApiName | None
    aliases: tuple[str, ...] = ()
    slot: bool = True
    """Whether the work occupies one of the model's slots."""
    codec: Codec | None = None
    embedder: Embedder | None = None
    counter: Counter | None = None
    assembler: Callable[[Any], Assembler] | None = None
    """Makes a whole answer of a stream that is not translated; takes the request."""
    stream_end: StreamEnd | None = None
    """How a stream that is not translated ends."""
    usage_option: bool = False
    """Whether usage must be asked for by `stream_options`."""
    media_type: str = "text/event-stream"
    """Of its streams."""
    any_media_type: bool = False
    """Whether a body is JSON whatever its `Content-Type` says."""
    load_answer: Callable[[Literal["load", "unload"], str, float], Json] | None = None
    """Answers a request without a prompt, which only loads or unloads the model of that name.

    Takes the time, too, in seconds since the epoch.
    """
    subject: str | None = None
    """The field that a model server complains of where it names none."""
    kinds: tuple[type, ...] = (dict,)
    """The JSON types that its whole answers may have."""
    comment: Callable[[str, str, float], bytes] = lambda _model, words, _now: f": {words}\n\n".encode()
    """Tells a waiting client of a model, in words, what it waits for. It is no event, or one without a text.

    Takes the time, too, in seconds since the epoch.
    """

    @property
    def generates(self) -> bool:
        """Whether a model writes its answers, which then may be streams."""
        return self.codec is not None or self.assembler is not None

    @property
    def paths(self) -> tuple[str, ...]:
        """All the paths under which it is found."""
        return (self.path, *self.aliases)


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """An API: what its folder gives to the table.

    Errors below the path of an endpoint are in the dialect of that endpoint, and errors below one of the
    `prefixes` in `dialect`, whether or not the path exists.
    """

    dialect: Dialect
    endpoints: tuple[Endpoint, ...]
    prefixes: tuple[str, ...] = ()
    server: ServerApi | None = None
    """How servers are spoken with that speak this API."""
