"""A text and the blocks it is made of: what every format is turned into."""

import re

import msgspec

MAX_HEADING = 200
"""Characters that are kept of a heading: it goes in front of every chunk below it."""

MAX_DEPTH = 8
"""Headings above a place that are kept, from the outermost; a PDF's may nest without end."""

MAX_PATH = 600
"""Characters of all of them together. A chunk has 1200, so they never are the larger part of an index."""

_UNUSABLE = re.compile(r"[\x00\ud800-\udfff]")
"""SQLite ends a string at NUL, and a lone surrogate is no UTF-8."""


class DocumentError(Exception):
    """A document cannot be taken. The message names it and says why."""


class PassingError(DocumentError):
    """A document cannot be taken now, and perhaps later: its file cannot be read, or it takes too long."""


class Block(msgspec.Struct, frozen=True):
    """A paragraph, a list, a definition: `text[start:end]`, better not torn.

    `headings`: from the outermost to the innermost that it stands under, or is. `page`: from 1; None where
    there are no pages.
    """

    start: int
    end: int
    headings: tuple[str, ...] = ()
    page: int | None = None


class Structure(msgspec.Struct, frozen=True):
    """A text, its blocks in order, and its title where it tells one."""

    text: str
    blocks: tuple[Block, ...]
    title: str = ""


class Outline:
    """The headings above a place, kept while a document is read from its beginning."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []
        self.title = ""

    def enter(self, level: int, heading: str) -> None:
        """A heading of this level begins: it ends those of the same and of deeper levels."""
        heading = one_line(heading)
        if not heading:
            return
        self.title = self.title or heading
        self.leave(level)
        self._open.append((level, heading))

    def leave(self, level: int) -> None:
        """The headings of this level and deeper ones end."""
        while self._open and self._open[-1][0] >= level:
            self._open.pop()

    @property
    def headings(self) -> tuple[str, ...]:
        """From the outermost to the innermost, as far as they are kept."""
        path = [heading for _, heading in self._open[:MAX_DEPTH]]
        while sum(map(len, path)) > MAX_PATH:
            path.pop()
        return tuple(path)

    @property
    def level(self) -> int | None:
        """Of the innermost heading."""
        return self._open[-1][0] if self._open else None


class Builder:
    """Puts a text together from blocks, for formats whose source is not what is to be read."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._blocks: list[Block] = []
        self._length = 0

    def add(
        self, text: str, headings: tuple[str, ...], *, page: int | None = None, separator: str = "\n\n"
    ) -> None:
        """Append a block, after `separator` if it is not the first. One without a letter is left out."""
        text = clean(text).strip()
        if not text:
            return
        if self._blocks:
            self._parts.append(separator)
            self._length += len(separator)
        self._parts.append(text)
        self._blocks.append(Block(self._length, self._length + len(text), headings, page))
        self._length += len(text)

    def build(self, title: str = "") -> Structure:
        """What was added."""
        return Structure("".join(self._parts), tuple(self._blocks), title)


def clean(text: str) -> str:
    """The text with one kind of line end, and without what no database takes."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    return _UNUSABLE.sub("\ufffd", text)


def one_line(text: str) -> str:
    """A heading as it is shown: on one line, and not without end."""
    return " ".join(text.split())[:MAX_HEADING]
