"""Source code, by how it is indented and what begins a definition: one rule for all languages.

A parser for each would know more, and be wrong about the next language. Where the rule errs, a chunk begins
at an odd line, and nothing is lost.
"""

import re

from agents.rag.reading.formats.structure import Block, Outline, Structure

MAX_DEPTH = 3
"""Definitions deeper inside of others do not begin a block."""

_DEFINITION = re.compile(
    r"(?:(?:export|default|pub(?:\(\w+\))?|public|private|protected|internal|static|final|abstract|async|inline"
    r"|virtual|override|unsafe|extern|const|sealed|data|open|partial|local)\s+)*"
    r"(?:def|class|func|function\*?|fn|fun|struct|enum|trait|impl|interface|module|namespace|type|object|record"
    r"|protocol|extension|sub|proc|package|macro_rules!|mod|union|message|service)\s+[\w$.:<\"'\[(~*&]"
    r"|create\s+(?:or\s+replace\s+)?(?:table|view|function|procedure|index|trigger)\b",
    re.IGNORECASE,
)
_CONTROL = re.compile(
    r"[})\s]*(?:if|else|elif|for|foreach|while|switch|case|match|try|catch|finally|do|return|with|using|lock|when"
    r"|unless|until|loop|select|await|yield|throw|new)\b"
)
_LEAD = re.compile(r"@|#\[|#(?!\s*(?:if|endif|else|define|include|pragma))|//|/\*|\*|--|\"\"\"|;;")
"""Decorators, attributes and comments, which belong to what follows."""
_CLOSER = re.compile(r"[\]})]|end\b|\"\"\"|'''")


def parse_code(text: str) -> Structure:
    """Blocks are definitions, the larger ones parted at those inside; headings are their first lines."""
    blocks: list[Block] = []
    outline = Outline()
    start = position = lead = 0
    lead_indent: int | None = None
    for line in text.splitlines(keepends=True):
        bare = line.strip()
        indent = _indent(line)
        if bare and _LEAD.match(bare):
            if lead_indent != indent:
                lead, lead_indent = position, indent
        elif bare:
            begins = _begins(bare, indent, outline)
            if begins:
                cut = lead if lead_indent == indent else position
                if cut > start:
                    blocks.append(Block(start, cut, outline.headings))
                    start = cut
                outline.leave(indent)
                if _is_definition(bare, indent):
                    outline.enter(indent, bare.rstrip("{:").strip())
            lead_indent = None
        else:
            lead_indent = None
        position += len(line)
    if start < len(text):
        blocks.append(Block(start, len(text), outline.headings))
    return Structure(text, tuple(blocks))


def _indent(line: str) -> int:
    expanded = line.expandtabs(4)
    return len(expanded) - len(expanded.lstrip())


def _begins(bare: str, indent: int, outline: Outline) -> bool:
    """A definition begins here, or the one at hand is over."""
    if _CLOSER.match(bare):
        return False
    if outline.level is not None and indent <= outline.level:
        return True
    return len(outline.headings) < MAX_DEPTH and _is_definition(bare, indent)


def _is_definition(bare: str, indent: int) -> bool:
    if _DEFINITION.match(bare):
        return True
    # C and its heirs: a name, parentheses, and a body that is opened on the same line.
    return bare.endswith("{") and "(" in bare and indent <= 8 and not _CONTROL.match(bare)
