"""Finds out whether a model server's stream is complete. Each API's `StreamEnd` is in its folder. Pure."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from agents.events import AnswerFailed
from proxy.apis.answer_json import UnreadableError, read_any, reader
from proxy.apis.server_errors import truncated
from proxy.wire.sse import EventSplitter, ServerSentEvent

_OLD_ERROR = re.compile(rb"(?:\A|[\r\n])error:")
"""The beginning of the last line of older llama.cpp servers' broken streams, which clients do not know."""


class _Choice(msgspec.Struct):
    finish_reason: Any = None


class Last(msgspec.Struct):
    """The fields that mark the end of an answer in any API."""

    type: Any = None
    choices: list[_Choice] | None = None
    stop: Any = None
    done: Any = None
    error: Any = None


read_last = reader(Last)
"""Reads those fields of an event, or of a whole answer."""


class StreamEnd(msgspec.Struct, frozen=True):
    """The end of an API's streams. `needed` describes the last event, for error messages."""

    needed: str
    is_last: Callable[[Last], bool]
    failure: Callable[[Any], AnswerFailed]
    """Reads the error in a stream."""
    done_marker: bool = False
    """Whether `[DONE]` ends a stream too."""
    lines: bool = False
    """Whether a stream consists of lines of JSON."""
    missing: Callable[[Iterable[bytes]], bytes] = lambda _: b""
    """Returns the last event if the newest events, its argument, show that the server omitted it."""
    is_answer: Callable[[Last], bool] = lambda _: True
    """Whether a body that is not a stream contains an answer."""

    def of(self, answers: float) -> "StreamEnd":
        """Return the end of a stream with so many answers.

        With several answers only `[DONE]` ends it, since the last event of one does not end the others.
        """
        if answers <= 1 or not self.done_marker:
            return self
        return msgspec.structs.replace(self, needed="the end of each answer", is_last=lambda _: False)

    def events(self, data: bytes) -> list[ServerSentEvent]:
        """Return the events in a piece of a stream, the last one even if it is unfinished.

        Framing of HTTP chunks between events is skipped.
        """
        if self.lines:
            return [ServerSentEvent("", line) for line in data.splitlines() if line.startswith(b"{")]
        splitter = EventSplitter()
        return [*splitter.feed(data), *splitter.end()]


class Outcome(msgspec.Struct, frozen=True):
    """The result of a stream, which is complete if `failure` is None.

    `told`: the stream's last event has already reported the failure to the client. `missing` is the last
    event that a complete stream still lacks.
    """

    failure: AnswerFailed | None = None
    told: bool = False
    missing: bytes = b""


def outcome(tail: bytes, end: StreamEnd) -> Outcome:
    """Return the result of a stream, by its last bytes.

    `tail` begins and ends between events, or in the framing of HTTP chunks.
    """
    is_whole = False
    events = end.events(tail)
    for event in events:
        if event.data == b"[DONE]":
            is_whole = is_whole or end.done_marker
            continue
        try:
            last = read_last(event.data)
        except UnreadableError:
            last = Last()
        if event.type == "error" or last.error is not None:
            told = last.error is not None and not _OLD_ERROR.search(tail)
            return Outcome(end.failure(_error(event, last)), told)
        is_whole = is_whole or end.is_last(last)
    if is_whole:
        return Outcome()
    missing = end.missing(event.data for event in events)
    return Outcome(missing=missing) if missing else Outcome(truncated(end.needed))


def _error(event: ServerSentEvent, last: Last) -> Any:
    if last.error is not None:
        return last.error
    try:
        return read_any(event.data)
    except UnreadableError:
        return event.data[:500].decode("utf-8", "replace")


def is_whole(tail: bytes, ends: Iterable[StreamEnd]) -> bool:
    """Whether a stream, which may be of any of these APIs, is complete."""
    return any(outcome(tail, end).failure is None for end in ends)
