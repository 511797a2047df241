"""Plain text: paragraphs, under headings that are underlined, as in reStructuredText and in many a README."""

import re

from agents.rag.reading.formats.structure import Block, Outline, Structure

_UNDERLINE = re.compile(r"([=\-~^\"'`#*+.:_])\1{2,}[ \t]*")


def parse_plain(text: str) -> Structure:
    """Blocks are what blank lines part. A kind of underline ranks by when it is first seen."""
    blocks: list[Block] = []
    outline = Outline()
    ranks: dict[str, int] = {}
    start = position = 0
    previous = before = ""
    for line in text.splitlines(keepends=True):
        bare = line.strip()
        if not previous and bare and position > start:
            blocks.append(Block(start, position, outline.headings))
            start = position
        if _is_underline(bare, previous, before):
            outline.enter(ranks.setdefault(bare[0], len(ranks) + 1), previous)
        position += len(line)
        before, previous = previous, bare
    blocks.append(Block(start, len(text), outline.headings))
    return Structure(text, tuple(block for block in blocks if block.end > block.start), outline.title)


def _is_underline(line: str, title: str, before: str) -> bool:
    """Of a title on a line of its own, which may have a line of the same kind above."""
    return (
        bool(title)
        and len(line) >= len(title)
        and _UNDERLINE.fullmatch(line) is not None
        and not _UNDERLINE.fullmatch(title)
        and (not before or before == line)
    )
