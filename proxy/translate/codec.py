"""What every reader of a model server's stream, and every writer of a client's, can do."""

from typing import Protocol

from agents.events import Event


class Decoder(Protocol):
    """Reads a model server's stream, however its bytes are cut."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises `EventTooLongError`."""

    def end(self) -> list[Event]:
        """What the end of the bytes says: nothing after `Done`, else a `Failure`."""


class Encoder(Protocol):
    """Writes a client's stream."""

    def encode(self, event: Event, now: float) -> bytes:
        """The bytes that say `event`, often none. `now` is in seconds since the epoch."""
