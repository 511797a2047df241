"""Server-sent events, however the bytes are cut, and what that costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.sse import BUFFER_LIMIT, BlockSplitter, EventSplitter, EventTooLongError, ServerSentEvent
from tests.proxy.wire.test_http1 import CUTS, pieces

LINES = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20)
EVENTS = st.lists(st.tuples(st.sampled_from(["", "message_start"]), st.lists(LINES, min_size=1, max_size=3)))


@given(EVENTS, CUTS, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
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


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["data: a", "data:b", ": c", "", "id"]), st.sampled_from(["\n", "\r\n", "\r"])
        )
    ),
    CUTS,
)
def test_any_ends_of_lines_give_the_events_of_the_standard(
    lines: list[tuple[str, str]], cuts: list[int]
) -> None:
    """Mixed in any way, and cut anywhere, in the middle of a CRLF too."""
    wire = "".join(line + end for line, end in lines).encode()
    expected: list[ServerSentEvent] = []
    data: list[bytes] = []
    for line in wire.splitlines():
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            expected.append(ServerSentEvent("", b"\n".join(data)))
            data = []
    splitter = EventSplitter()
    got = [event for piece in pieces(wire, cuts) for event in splitter.feed(piece)]
    assert [*got, *splitter.end()] == expected + ([ServerSentEvent("", b"\n".join(data))] if data else [])


@given(st.binary(max_size=300) | st.text("\r\na", max_size=60).map(str.encode), CUTS)
def test_no_byte_is_lost(data: bytes, cuts: list[int]) -> None:
    splitter = BlockSplitter()
    whole = b"".join(block for piece in pieces(data, cuts) for block in splitter.feed(piece))
    assert splitter.holds == (whole != data)
    assert whole + splitter.rest() == data


def test_an_event_passes_at_once_in_all_but_half_a_crlf() -> None:
    for end in (b"\n", b"\r\n", b"\r"):
        splitter, event = BlockSplitter(), b"data: a" + end + end
        assert splitter.feed(event[:-1]) == []
        assert splitter.feed(event[-1:]) == [event]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_huge_event_in_tiny_pieces(end: bytes) -> None:
    """Each piece costs what it is long. To look at all that is held each time would take a day."""
    splitter, piece = BlockSplitter(), b": " + b"x" * (16 - len(b": " + end)) + end
    count = BUFFER_LIMIT // len(piece) - 1
    for _ in range(count):
        assert splitter.feed(piece) == []
    assert splitter.feed(end) == [piece * count + end]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_many_tiny_events_in_one_piece(end: bytes) -> None:
    splitter, event = BlockSplitter(), b":" + end + end
    assert splitter.feed(b":" + event * 100_000) == [b":" + event, *[event] * 99_999]


def test_an_endless_event_is_refused() -> None:
    splitter = EventSplitter()
    assert list(splitter.feed(b"data: " + b"x" * (BUFFER_LIMIT - 6))) == []
    with pytest.raises(EventTooLongError):
        list(splitter.feed(b"x"))


def test_the_last_line_of_an_old_llama_cpp_server_is_an_error() -> None:
    (event,) = EventSplitter().feed(b'error: {"code":500}\n\n')
    assert event == ServerSentEvent("error", b'{"code":500}')
