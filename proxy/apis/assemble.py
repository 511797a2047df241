"""Common parts of the assemblers, which make from a stream the answer that llama.cpp gives without `stream`.

Every model server is asked for a stream, because a llama.cpp server notices the disconnect of a client that
waits for a whole answer late or never. Each API's assembler is in its folder. Pure.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from proxy.apis.answer_json import UnreadableError, read_any
from proxy.apis.fields import Json
from proxy.wire.sse import ServerSentEvent

INDEX_LIMIT = 2**31
"""The upper limit of the index of a choice, a tool call or a block."""


class StreamedError(Exception):
    """The stream contained an error object instead of the rest of the answer."""

    def __init__(self, error: Json) -> None:
        super().__init__(str(error.get("message", error)))
        self.error = error


class UnfinishedError(Exception):
    """The stream ended before its answer was complete. The message names the missing part."""


class Assembler(Protocol):
    """Makes a whole answer from the events of its stream. Call `take` and `assemble`, not the methods."""

    def feed(self, event: ServerSentEvent) -> None:
        """Add the next event. Raises `StreamedError`."""

    def result(self) -> Json:
        """Return the whole answer. Raises `UnfinishedError`."""


def take(assembler: Assembler, events: Iterable[ServerSentEvent]) -> None:
    """Feed events. Raises `StreamedError`, or `UnreadableError` for an invalid event."""
    for event in events:
        try:
            assembler.feed(event)
        except _NONSENSE as error:
            raise UnreadableError(f"{error}: {event.data[:200]!r}") from None


def assemble(assembler: Assembler) -> bytes:
    """Return the whole answer as JSON. Raises `UnfinishedError`, or `UnreadableError` for invalid events."""
    try:
        return msgspec.json.encode(assembler.result())
    except _NONSENSE as error:
        raise UnreadableError(str(error)) from None


_NONSENSE = (LookupError, TypeError, AttributeError, ValueError, RecursionError)
"""The exceptions that an assembler may raise for events that do not have its API's form."""


class Pieces(list[str]):
    """A text in pieces. Appending to one string would copy all of it each time."""


class Calls(dict[int, Json]):
    """Tool calls by index. Indexes may have gaps."""


def add_text(target: Json, key: str, text: str) -> None:
    """Append a piece to the text in a field."""
    pieces = target.get(key)
    if not isinstance(pieces, Pieces):
        pieces = target[key] = Pieces([pieces] if isinstance(pieces, str) else [])
    pieces.append(text)


def joined(target: Json) -> Json:
    """Return an object with the pieces of its texts and tool calls joined."""
    return {key: _whole(value) for key, value in target.items()}


def _whole(value: Any) -> Any:
    if isinstance(value, Pieces):
        return "".join(value)
    if isinstance(value, Calls):
        return [{**call, "function": joined(call["function"])} for _, call in sorted(value.items())]
    return value


def index_of(value: Any) -> int:
    """Return the value, if it is an index. Raises `UnreadableError`."""
    if type(value) is not int or not 0 <= value < INDEX_LIMIT:
        raise UnreadableError(f"no index: {str(value)[:40]}")
    return value


def load(event: ServerSentEvent) -> Json | None:
    """Return the JSON object of an event, None for `[DONE]`. Raises `StreamedError` or `UnreadableError`."""
    if event.data == b"[DONE]":
        return None
    value = read_any(event.data)
    if event.type == "error" and not isinstance(value, dict):
        raise StreamedError({"message": str(value)[:500]})
    if not isinstance(value, dict):
        raise UnreadableError("no JSON object")
    if (error := value.get("error")) is not None and (event.type in ("", "error")):
        raise StreamedError(error if isinstance(error, dict) else {"message": str(error)})
    if event.type == "error":
        raise StreamedError(value)
    return value
