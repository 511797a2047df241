"""The output of a program: cut into lines, cleaned, and never too much at once."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.runtime import spawn
from actors.servers.output_lines import LINE_LIMIT, PIECE, Lines


def lines_of(*pieces: bytes) -> list[str]:
    found: list[str] = []
    lines = Lines(found.append)
    for piece in pieces:
        lines.feed(piece)
    lines.end()
    assert list(lines.tail) == found[-60:]
    return found


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b"a\n\n b \r\n", ["a", " b"]),
        (b"10 %\r20 %\rdone\n", ["10 %", "20 %", "done"]),
        (b"\x1b[31mred\x1b[0m \x1b]0;title\x07x\x1bM\n", ["red x"]),
        (b"a\0b\x08\x7f\xc2\x9bc\td\n", ["abc d"]),
        (b"\xff\xfe caf\xc3\xa9\n", ["\ufffd\ufffd caf\u00e9"]),
        (b"\0\0\0\n \n\x1b[2J\n", []),
        (b"no end", ["no end"]),
        (b"x" * (LINE_LIMIT * 3) + b"\nnext\n", ["x" * LINE_LIMIT, "next"]),
    ],
)
def test_lines(output: bytes, expected: list[str]) -> None:
    assert lines_of(output) == expected
    assert lines_of(*(output[at : at + 1] for at in range(len(output)))) == expected


@given(st.lists(st.binary(max_size=50)))
def test_where_it_is_cut_does_not_matter(pieces: list[bytes]) -> None:
    assert lines_of(*pieces) == lines_of(b"".join(pieces))


def test_whatever_comes_is_progress() -> None:
    lines = Lines(lambda _: None)
    before = lines.last_progress
    lines.feed(b".")
    assert lines.last_progress > before


@pytest.mark.parametrize("output", [b"x" * 20_000_000, b"a\n" * 500_000], ids=["without-end", "lines"])
async def test_a_flood_leaves_the_loop_to_others(output: bytes) -> None:
    lines = Lines(lambda _: None)
    flood = spawn(lines.take(output), name="flood")
    longest = 0.0
    while not flood.done():
        began = time.process_time()  # not the wall clock's, which counts what else the machine does
        await asyncio.sleep(0)
        longest = max(longest, time.process_time() - began)
    assert longest < 0.05, "seconds of work between two turns of the loop"
    assert len(output) > PIECE
