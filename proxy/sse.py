"""Server-sent events, pure and incremental."""

from collections.abc import Iterator

import msgspec

BUFFER_LIMIT = 8 * 1024 * 1024
"""Bytes of one event; an event with the logprobs of a long answer has some hundred KiB."""


class EventTooLongError(Exception):
    """An event did not end within `BUFFER_LIMIT` bytes."""


class ServerSentEvent(msgspec.Struct, frozen=True):
    """One event. `type` is empty when the stream does not name it."""

    type: str
    data: bytes


def split_events(buffer: bytes) -> tuple[list[bytes], bytes]:
    """Split whole events off `buffer`; return them, each with its empty line, and the unfinished rest."""
    if b"\r" in buffer:
        return _split_carriage_returns(buffer)
    *events, rest = buffer.split(b"\n\n")
    return [event + b"\n\n" for event in events], rest


def _split_carriage_returns(buffer: bytes) -> tuple[list[bytes], bytes]:
    events: list[bytes] = []
    start = position = 0
    while (end := buffer.find(b"\n", position)) >= 0:
        if buffer[position:end].rstrip(b"\r") == b"" and end >= start:
            events.append(buffer[start : end + 1])
            start = end + 1
        position = end + 1
    return events, buffer[start:]


def parse_event(block: bytes) -> ServerSentEvent | None:
    """Parse one event; None for a comment. Several data lines are joined with newlines."""
    if block.startswith(b"data: ") and block.find(b"\n") == len(block) - 2:
        return ServerSentEvent("", block[6:-2])
    kind = ""
    data: list[bytes] = []
    for raw in block.split(b"\n"):
        line = raw.rstrip(b"\r")
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value.decode("utf-8", "replace")
    return ServerSentEvent(kind, b"\n".join(data)) if data else None


class EventSplitter:
    """Makes events of bytes, however they were cut."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[ServerSentEvent]:
        """Yield the events that `data` completes. Raises `EventTooLongError`."""
        blocks, self._rest = split_events(self._rest + data)
        if len(self._rest) > BUFFER_LIMIT:
            raise EventTooLongError(f"an event of more than {BUFFER_LIMIT} bytes")
        for block in blocks:
            if (event := parse_event(block)) is not None:
                yield event
