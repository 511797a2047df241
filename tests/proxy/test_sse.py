"""Server-sent events, however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sse import BUFFER_LIMIT, EventSplitter, EventTooLongError, ServerSentEvent, split_events
from tests.proxy.test_http1 import CUTS, pieces

LINES = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20)
EVENTS = st.lists(st.tuples(st.sampled_from(["", "message_start"]), st.lists(LINES, min_size=1, max_size=3)))


@given(EVENTS, CUTS, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_cut_gives_the_same_events(
    events: list[tuple[str, list[str]]], cuts: list[int], end: str, comments: bool
) -> None:
    wire = ""
    for kind, lines in events:
        wire += f": ping{end}{end}" if comments else ""
        wire += f"event: {kind}{end}" if kind else ""
        wire += "".join(f"data: {line}{end}" for line in lines) + end
    splitter = EventSplitter()
    got = [event for piece in pieces(wire.encode(), cuts) for event in splitter.feed(piece)]
    assert got == [ServerSentEvent(kind, "\n".join(lines).encode()) for kind, lines in events]


@given(st.binary(max_size=300), CUTS)
def test_no_byte_is_lost(data: bytes, cuts: list[int]) -> None:
    whole, rest = b"", b""
    for piece in pieces(data, cuts):
        blocks, rest = split_events(rest + piece)
        whole += b"".join(blocks)
    assert whole + rest == data


def test_an_endless_event_is_refused() -> None:
    splitter = EventSplitter()
    assert list(splitter.feed(b"data: " + b"x" * (BUFFER_LIMIT - 6))) == []
    with pytest.raises(EventTooLongError):
        list(splitter.feed(b"x"))
