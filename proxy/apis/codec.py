"""What every reader of a model server's stream, and every writer of a client's, can do."""

from typing import Any, Protocol

from agents.events import Event, Extra

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
