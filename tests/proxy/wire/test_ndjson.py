"""Lines of JSON, however they are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.ndjson import LineSplitter
from proxy.wire.sse import BUFFER_LIMIT, EventTooLongError


@given(st.lists(st.binary(max_size=20)))
def test_any_cut_gives_the_same_lines(pieces: list[bytes]) -> None:
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    assert [*lines, splitter.rest()] == b"".join(pieces).split(b"\n")


def test_an_endless_line_is_cut_off() -> None:
    splitter = LineSplitter()
    for _ in range(BUFFER_LIMIT // 65536):
        assert splitter.feed(b"x" * 65536) == []
    with pytest.raises(EventTooLongError):
        splitter.feed(b"x")
