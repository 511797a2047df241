"""Whole answers out of streams, pure: what llama.cpp itself would have answered without `stream`.

Every upstream is asked for a stream, because a llama.cpp server notices the disconnect of a client that
waits for a whole answer late or never. Each API's assembler is in its folder; this is what they share.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from proxy.apis.answer_json import UnreadableError, read_any
from proxy.apis.fields import Json
from proxy.wire.sse import ServerSentEvent

INDEX_LIMIT = 2**31
"""Above any index of a choice, a tool call or a block."""


class StreamedError(Exception):
    """The stream carried an error object instead of more of the answer."""

    def __init__(self, error: Json) -> None:
        super().__init__(str(error.get("message", error)))
        self.error = error


class UnfinishedError(Exception):
    """The stream has ended before its answer. The message says what was to come."""


class Assembler(Protocol):
    """Takes the events of one answer, then gives it. `assemble` is how that is asked for."""

    def feed(self, event: ServerSentEvent) -> None:
        """Take the next event. Raises `StreamedError`."""

    def result(self) -> Json:
        """The whole answer. Raises `UnfinishedError`."""


def take(assembler: Assembler, events: Iterable[ServerSentEvent]) -> None:
    """Feed events. Raises `StreamedError`, or `UnreadableError` for what makes no sense."""
    for event in events:
        try:
            assembler.feed(event)
        except _NONSENSE as error:
            raise UnreadableError(f"{error}: {event.data[:200]!r}") from None


def assemble(assembler: Assembler) -> bytes:
    """The whole answer as JSON. Raises `UnfinishedError`, or `UnreadableError` for what makes no sense."""
    try:
        return msgspec.json.encode(assembler.result())
    except _NONSENSE as error:
        raise UnreadableError(str(error)) from None


_NONSENSE = (LookupError, TypeError, AttributeError, ValueError, RecursionError)
"""What events of any other shape than an API's make its assembler raise."""


class Pieces(list[str]):
    """A text in pieces: to add to a whole one would cost its length each time."""


class Calls(dict[int, Json]):
    """Tool calls by their index, of which there may be any."""


def add_text(target: Json, key: str, text: str) -> None:
    """Add a piece to the text in a field."""
    pieces = target.get(key)
    if not isinstance(pieces, Pieces):
        pieces = target[key] = Pieces([pieces] if isinstance(pieces, str) else [])
    pieces.append(text)


def joined(target: Json) -> Json:
    """An object with its texts and tool calls made whole."""
    return {key: _whole(value) for key, value in target.items()}


def _whole(value: Any) -> Any:
    if isinstance(value, Pieces):
        return "".join(value)
    if isinstance(value, Calls):
        return [{**call, "function": joined(call["function"])} for _, call in sorted(value.items())]
    return value


def index_of(value: Any) -> int:
    """An index. Raises `UnreadableError` for what is none."""
    if type(value) is not int or not 0 <= value < INDEX_LIMIT:
        raise UnreadableError(f"no index: {str(value)[:40]}")
    return value


def load(event: ServerSentEvent) -> Json | None:
    """The object of an event, None for `[DONE]`. Raises `StreamedError`, or `UnreadableError`."""
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
