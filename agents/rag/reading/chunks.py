"""A document's text becomes chunks: spans of it that are read, found and cited on their own. Pure.

Chunks end where blocks end, and where headings change; a block is torn only if it is larger than a chunk,
and then at a paragraph, a line, a sentence or a word, in that order. A chunk that goes on under the headings
of the one before repeats a little of it.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import takewhile

import msgspec

from agents.rag.reading.formats.structure import Block

_ENDS = ("\n\n", "\n")
_SENTENCE_END = re.compile(r"[.!?…]['\")\]]*\s|[。\uff01\uff1f]")
_SPACE = re.compile(r"\s")


class Sizes(msgspec.Struct, frozen=True):
    """In characters: what a chunk has at most, and how much of that may repeat the one before.

    1200 are about 300 tokens of English, which every embedding model takes.
    """

    chunk: int = 1200
    overlap: int = 120

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= self.chunk // 4:
            raise ValueError(
                f"an overlap of {self.overlap} is more than a quarter of a chunk of {self.chunk}"
            )
        if self.chunk < 16:
            raise ValueError(f"chunks of {self.chunk} characters are too small; 16 is the least")


class Chunk(msgspec.Struct, frozen=True):
    """`text` is what stands from `start` to `end` in the document's text.

    `headings`: those that all of it stands under. `line` and `page`, from 1, are where it begins.
    """

    text: str
    start: int
    end: int
    headings: tuple[str, ...]
    line: int
    page: int | None


def chunk(text: str, blocks: Sequence[Block], sizes: Sizes | None = None) -> list[Chunk]:
    """All of the text but white space at their edges, in order; no chunk is larger than `sizes.chunk`.

    `blocks` are in order, do not overlap, and hold all of the text that is not white space.
    """
    return _Chunker(text, blocks, sizes or Sizes()).run()


class _Chunker:
    def __init__(self, text: str, blocks: Sequence[Block], sizes: Sizes) -> None:
        self._text = text
        self._blocks = blocks
        self._sizes = sizes
        self._starts = [block.start for block in blocks]
        self._chunks: list[Chunk] = []
        self._line, self._counted = 1, 0
        # What waits to become a chunk: from `_start`, of which what comes before `_new` is repetition.
        self._start: int | None = None
        self._new = self._end = 0
        self._section = 0

    def run(self) -> list[Chunk]:
        headings: tuple[str, ...] | None = None
        for block in self._blocks:
            if block.headings != headings:
                if self._pending >= self._sizes.chunk // 4:
                    self._close()
                headings, self._section = block.headings, block.start
            self._take(block)
        self._close()
        return self._chunks

    @property
    def _pending(self) -> int:
        """Characters that wait to become a chunk and are in none yet."""
        return 0 if self._start is None else self._end - self._new

    def _take(self, block: Block) -> None:
        """Add a block to what waits; close chunks while it is too much."""
        position = block.start
        while position < block.end:
            if self._start is None:
                self._start = self._repeat(position)
                self._new = self._end = position
            limit = self._start + self._sizes.chunk
            if block.end <= limit:
                self._end = position = block.end
            elif position > block.start or self._pending < self._sizes.chunk // 4:
                # A heading never stands alone, apart from what it is the heading of.
                self._end = position = self._cut(position, limit)
                self._close()
            else:
                self._close()

    def _cut(self, start: int, limit: int) -> int:
        """Where to tear, in the later half of `start` to `limit`."""
        least = start + (limit - start + 1) // 2
        for end in _ENDS:
            found = self._text.rfind(end, least, limit)
            if found >= 0:
                return found + len(end)
        window = self._text[least:limit]
        for pattern in (_SENTENCE_END, _SPACE):
            ends = [match.end() for match in pattern.finditer(window)]
            if ends:
                return least + ends[-1]
        return limit

    def _repeat(self, position: int) -> int:
        """Where the chunk begins whose new text begins here: a little before, within the section."""
        least = max(self._section, position - self._sizes.overlap)
        window = self._text[least:position]
        if not self._chunks or not window.strip():
            return position
        for pattern in (_SENTENCE_END, _SPACE):
            if (found := pattern.search(window)) and window[found.end() :].strip():
                return least + found.end()
        return position

    def _close(self) -> None:
        """What waits is a chunk."""
        if self._start is None:
            return
        raw = self._text[self._start : self._end]
        if raw.strip():
            space = raw[: len(raw) - len(raw.lstrip())]
            lines = (
                space.rfind("\n") + 1
            )  # what is in front of the first word on its line may be its indentation
            self._chunks.append(self._chunk(raw[lines:].rstrip(), self._start + lines))
        self._start = None

    def _chunk(self, text: str, start: int) -> Chunk:
        end = start + len(text)
        first = max(0, bisect_right(self._starts, start) - 1)
        last = bisect_right(self._starts, end - 1)
        inside = self._blocks[first:last]
        # A chunk may begin before the last one ended.
        self._line += (
            self._text.count("\n", self._counted, start)
            if start >= self._counted
            else -self._text.count("\n", start, self._counted)
        )
        self._counted = start
        headings = _common([block.headings for block in inside])
        return Chunk(text, start, end, headings, self._line, inside[0].page)


def _common(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    levels = zip(*paths, strict=False)
    return tuple(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
