"""Parses server-sent events. Pure and incremental."""

import itertools
import re
from collections.abc import Iterator

import msgspec

BUFFER_LIMIT = 8 * 1024 * 1024
"""Most bytes of one event; an event with the logprobs of a long answer has some hundred KiB."""


_EVENT_END = re.compile(rb"[\r\n](?:(?<=\r)\n)?+(?:\r?\n|\r(?!\Z)|(?<=\r)\r)")
"""The ends of an event's last line and of its empty line. A CR after LF may be the start of a CRLF."""
_LONGEST_UNFINISHED_END = len(b"\r\n\r")


class EventTooLongError(Exception):
    """An event did not end within `BUFFER_LIMIT` bytes."""


class ServerSentEvent(msgspec.Struct, frozen=True):
    """One event. `type` is empty if the stream does not name it."""

    type: str
    data: bytes


class BlockSplitter:
    """Splits a stream between its events, in time linear in its length, however it is cut.

    A line ends with LF, CRLF or CR, an event with an empty line.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def holds(self) -> bool:
        """Whether an unfinished event is held."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that `data` completes, each with its empty line. Raises `EventTooLongError`."""
        if self._rest or b"\r" in data:
            blocks = self._split(data)
        elif data.endswith(b"\n\n") and data.find(b"\n\n") == len(data) - 2:
            return [data]  # nearly always
        else:
            *events, rest = data.split(b"\n\n")
            blocks = [event + b"\n\n" for event in events]
            self._rest += rest
        if len(self._rest) > BUFFER_LIMIT:
            raise EventTooLongError(f"an event of more than {BUFFER_LIMIT} bytes")
        return blocks

    def _split(self, data: bytes) -> list[bytes]:
        rest = self._rest
        position = max(0, len(rest) - _LONGEST_UNFINISHED_END)
        rest += data
        ends = [match.end() for match in _EVENT_END.finditer(rest, position)]
        blocks = [bytes(rest[start:end]) for start, end in itertools.pairwise([0, *ends])]
        if ends:
            del rest[: ends[-1]]
        return blocks

    def rest(self) -> bytes:
        """Return the held part of an unfinished event."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest


def parse_event(block: bytes) -> ServerSentEvent | None:
    """Parse one event; None for a comment. Several data lines are joined with newlines.

    A line `error: {...}`, with which older llama.cpp servers end a stream, is parsed as an event of type
    "error".
    """
    if block.startswith(b"data: ") and block.find(b"\n") == len(block) - 2 and b"\r" not in block:
        return ServerSentEvent("", block[6:-2])
    kind = ""
    data: list[bytes] = []
    for line in block.splitlines():
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value.decode("utf-8", "replace")
        elif name == b"error" and value:
            return ServerSentEvent("error", value)
    return ServerSentEvent(kind, b"\n".join(data)) if data else None


class EventSplitter:
    """Parses events from bytes, however they are cut."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks = BlockSplitter()

    def feed(self, data: bytes) -> Iterator[ServerSentEvent]:
        """Yield the events that `data` completes. Raises `EventTooLongError`."""
        for block in self._blocks.feed(data):
            if (event := parse_event(block)) is not None:
                yield event

    def end(self) -> Iterator[ServerSentEvent]:
        """Yield the last event, if it is unfinished."""
        if (event := parse_event(self._blocks.rest())) is not None:
            yield event
