"""Markdown, by markdown-it-py: its top-level blocks, as they stand in the source."""

from itertools import accumulate

from markdown_it import MarkdownIt

from agents.rag.reading.formats.structure import Block, Outline, Structure

_PARSER = MarkdownIt("commonmark").enable("table").disable("inline")
"""The text inside a block is kept as written, so inline markup is not parsed."""


def parse_markdown(text: str) -> Structure:
    """Blocks are paragraphs, lists, tables, fences; lines that make none of them go with the next block."""
    lines = text.split("\n")
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    starts[-1] = len(text)
    tokens = _PARSER.parse(text)
    blocks: list[Block] = []
    outline = Outline()
    position = 0
    for index, token in enumerate(tokens):
        if token.level or token.map is None or token.nesting < 0:
            continue
        if token.type == "heading_open":
            outline.enter(int(token.tag[1:]), tokens[index + 1].content)
        end = starts[min(token.map[1], len(lines))]
        if end > position:
            blocks.append(Block(position, end, outline.headings))
            position = end
    if position < len(text):
        blocks.append(Block(position, len(text), outline.headings))
    return Structure(text, tuple(blocks), outline.title)
