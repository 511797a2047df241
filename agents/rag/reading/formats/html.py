"""HTML, by selectolax: what a browser would show of it, block by block."""

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

from agents.rag.reading.formats.structure import Builder, Outline, Structure, clean, one_line

_UNSEEN_TAGS = "head script style noscript template svg math iframe object nav select button datalist dialog"
_INLINE_TAGS = """
a abbr b bdi bdo big br cite code data del dfn em font i img input ins kbd label mark q rp rt ruby s samp
small span strike strong sub sup time tt u var wbr
"""
_UNSEEN = frozenset(_UNSEEN_TAGS.split())
_INLINE = frozenset(_INLINE_TAGS.split())
_ROWS = frozenset(("li", "tr", "dt", "dd"))
_CELLS = frozenset(("td", "th"))
_SPACE = re.compile(r"[ \t\n\r\f]+")


def parse_html(text: str) -> Structure:
    """Blocks are the elements that a browser begins a line for; scripts, menus and forms are left out."""
    parser = LexborHTMLParser(text)
    title = parser.css_first("title")
    reading = _Reading()
    if parser.body is not None:
        for node, entering in _walk(parser.body):
            reading.visit(node, entering=entering)
    reading.flush()
    named = one_line(clean(title.text())) if title is not None else ""
    return reading.builder.build(named or reading.outline.title)


def _walk(root: LexborNode) -> Iterator[tuple[LexborNode, bool]]:
    """Every node when it begins and when it ends. Without recursion: a page may be as deep as it is long."""
    node = root
    entering = True
    while True:
        yield node, entering
        child = node.child if entering and node.tag not in _UNSEEN else None
        if child is not None:
            node = child
        elif entering:
            entering = False
        elif node.mem_id == root.mem_id:  # equal nodes are those with the same HTML
            return
        elif node.next is not None:
            node, entering = node.next, True
        elif node.parent is not None:
            node = node.parent
        else:
            return


class _Reading:
    """What has been seen of a page, up to the node at hand."""

    def __init__(self) -> None:
        self.builder = Builder()
        self.outline = Outline()
        self._line: list[str] = []
        self._separator = "\n\n"
        self._preformatted = 0

    def visit(self, node: LexborNode, *, entering: bool) -> None:
        tag = node.tag or ""
        if tag == "-text":
            if entering:
                self._add(node.text_content or "")
        elif tag == "br":
            self._line.append("\n" if entering else "")
        elif tag == "img":
            self._add(f" {node.attributes.get('alt') or ''} " if entering else "")
        elif tag in _CELLS:
            self._line.append("" if entering else " | ")
        elif tag not in _INLINE and tag[:1] not in "-!":
            self._block(tag, entering=entering)

    def _block(self, tag: str, *, entering: bool) -> None:
        level = int(tag[1]) if re.fullmatch("h[1-6]", tag) else None
        if level and not entering:
            self.outline.enter(level, clean("".join(self._line)))
        self.flush()
        if tag in _ROWS and entering:
            self._separator = "\n"
        if tag == "pre":
            self._preformatted += 1 if entering else -1

    def _add(self, text: str) -> None:
        self._line.append(text if self._preformatted else _SPACE.sub(" ", text))

    def flush(self) -> None:
        """What stands in the line is a block."""
        text = "".join(self._line)
        self._line.clear()
        if not self._preformatted:
            text = re.sub(r" *\n *", "\n", re.sub("  +", " ", text)).strip().removesuffix(" |")
        if text.strip():
            self.builder.add(text, self.outline.headings, separator=self._separator)
            self._separator = "\n\n"
