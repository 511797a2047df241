"""Chunks: nothing is lost, nothing is too large, and they end where the text does."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.rag.reading.chunks import Chunk, Sizes, chunk
from agents.rag.reading.documents import parse
from agents.rag.reading.formats.structure import Block

SIZES = st.integers(16, 200).flatmap(lambda size: st.builds(Sizes, st.just(size), st.integers(0, size // 4)))
PARAGRAPH = st.text(alphabet="ab .\n\t。é", max_size=300)


def chunks_of(text: str, name: str = "a.md", size: int = 1200, overlap: int = 0) -> list[Chunk]:
    document = parse(text.encode(), name)
    return chunk(document.text, document.blocks, Sizes(size, overlap))


@given(paragraphs=st.lists(st.tuples(PARAGRAPH, st.sampled_from(["x", "y", "z"])), max_size=12), sizes=SIZES)
def test_nothing_is_lost_and_nothing_is_too_large(paragraphs: list[tuple[str, str]], sizes: Sizes) -> None:
    text, blocks = "", []
    for number, (paragraph, heading) in enumerate(paragraphs):
        start = len(text)
        text += paragraph
        if len(text) > start:
            blocks.append(Block(start, len(text), ("top", heading), number + 1))
        text += "\n\n"
    covered = [not letter.strip() for letter in text]
    before = -1
    for piece in chunk(text, blocks, sizes):
        assert piece.text == text[piece.start : piece.end]
        assert 0 < len(piece.text.strip()) <= len(piece.text) <= sizes.chunk
        assert piece.text == piece.text.rstrip()
        assert piece.start > before or before == -1
        assert piece.line == text.count("\n", 0, piece.start) + 1
        assert piece.headings[0] == "top"
        first = next(block for block in blocks if block.end > piece.start)
        assert piece.page == first.page
        covered[piece.start : piece.end] = [True] * len(piece.text)
        before = piece.start
    assert all(covered)


@given(text=PARAGRAPH.map(lambda text: text * 3), sizes=SIZES)
def test_repetition_is_bounded(text: str, sizes: Sizes) -> None:
    pieces = chunk(text, [Block(0, len(text))] if text else [], sizes)
    for before, after in pairwise(pieces):
        assert before.end - after.start <= sizes.overlap
        assert after.end > before.end


def test_a_section_is_a_chunk() -> None:
    first, second = "alpha " * 50, "beta " * 50
    pieces = chunks_of(f"# A\n\n{first}\n\n# B\n\n{second}\n", size=600)
    assert [(piece.headings, piece.line) for piece in pieces] == [(("A",), 1), (("B",), 5)]


def test_small_sections_share_a_chunk_and_what_is_above_all_of_them() -> None:
    (piece,) = chunks_of("# Guide\n\n## A\n\none\n\n## B\n\ntwo\n")
    assert piece.headings == ("Guide",)


def test_a_heading_is_never_alone() -> None:
    pieces = chunks_of("# A heading\n\n" + "word " * 100, size=200)
    assert pieces[0].text.startswith("# A heading\n\nword")
    assert all(piece.headings == ("A heading",) for piece in pieces)


def test_paragraphs_are_not_torn_if_they_fit() -> None:
    paragraphs = [f"{letter * 90}" for letter in "abcdef"]
    pieces = chunks_of("\n\n".join(paragraphs), "a.txt", size=200)
    assert [piece.text.split("\n\n") for piece in pieces] == [paragraphs[n : n + 2] for n in (0, 2, 4)]


def test_a_long_paragraph_is_torn_at_a_sentence_and_repeats_the_last_one() -> None:
    text = "".join(f"This is sentence {number}. " for number in range(40))
    pieces = chunks_of(text, "a.txt", size=200, overlap=40)
    assert all(piece.text.startswith("This is") and piece.text.endswith(".") for piece in pieces)
    assert pieces[1].text.split(". ")[0] + "." == pieces[0].text.split(". ")[-1]


def test_code_keeps_its_indentation() -> None:
    source = "class C:\n    x = 1\n\n" + "".join(
        f"    def m{n}(self):\n        return {'x + ' * 60}{n}\n\n" for n in range(3)
    )
    pieces = chunks_of(source, "a.py", size=400)
    assert [piece.headings for piece in pieces[1:]] == [("class C", f"def m{n}(self)") for n in (1, 2)]
    assert pieces[1].text.startswith("    def m1")


def test_sizes_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="more than a quarter"):
        Sizes(chunk=100, overlap=26)
    with pytest.raises(ValueError, match="too small"):
        Sizes(chunk=15, overlap=0)
