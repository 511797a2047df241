"""Whether what a model server sent is a whole answer, pure. Each API's `StreamEnd` is in its folder."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from agents.events import AnswerFailed
from proxy.apis.answer_json import UnreadableError, read_any, reader
from proxy.apis.server_errors import truncated
from proxy.wire.sse import EventSplitter, ServerSentEvent

_OLD_ERROR = re.compile(rb"(?:\A|[\r\n])error:")
"""How older llama.cpp servers begin a last line that clients do not know."""


class _Choice(msgspec.Struct):
    finish_reason: Any = None


class Last(msgspec.Struct):
    """What tells the end of an answer in any API."""

    type: Any = None
    choices: list[_Choice] | None = None
    stop: Any = None
    done: Any = None
    error: Any = None


read_last = reader(Last)
"""What an event says of the end, or a whole answer."""


class StreamEnd(msgspec.Struct, frozen=True):
    """How the streams of an API end. `needed` is what their last event has, in words."""

    needed: str
    is_last: Callable[[Last], bool]
    failure: Callable[[Any], AnswerFailed]
    """Reads the error in them."""
    done_marker: bool = False
    """`[DONE]` ends them too."""
    lines: bool = False
    """The stream consists of lines of JSON."""
    missing: Callable[[Iterable[bytes]], bytes] = lambda _: b""
    """Takes the newest events; returns the last one if they show that the server left it out on purpose."""
    is_answer: Callable[[Last], bool] = lambda _: True
    """Whether there is an answer in one that is no stream."""

    def of(self, answers: float) -> "StreamEnd":
        """The end of so many answers in one stream: the last event of one says nothing of the others."""
        if answers <= 1 or not self.done_marker:
            return self
        return msgspec.structs.replace(self, needed="the end of each answer", is_last=lambda _: False)

    def events(self, data: bytes) -> list[ServerSentEvent]:
        """The events in a piece of a stream, the last one even if its end is missing.

        The framing of chunks between events is no part of any.
        """
        if self.lines:
            return [ServerSentEvent("", line) for line in data.splitlines() if line.startswith(b"{")]
        splitter = EventSplitter()
        return [*splitter.feed(data), *splitter.end()]


class Outcome(msgspec.Struct, frozen=True):
    """What became of a stream. Without a `failure` it is whole; `told`: its last event says so already.

    `missing` is the event that a whole one still lacks.
    """

    failure: AnswerFailed | None = None
    told: bool = False
    missing: bytes = b""


def outcome(tail: bytes, end: StreamEnd) -> Outcome:
    """What the last events of a stream say. `tail` begins and ends between events, or in the framing."""
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
    """Whether a stream that may be of any of these APIs has come to the end of its answer."""
    return any(outcome(tail, end).failure is None for end in ends)
