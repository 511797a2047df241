"""PDF, by pypdf: the text of each page, under the headings of the document's own outline."""

import re
from io import BytesIO
from typing import Any

from pypdf import PasswordType, PdfReader
from pypdf.errors import DependencyError, PyPdfError

from agents.rag.reading.formats.structure import Builder, DocumentError, Outline, Structure, one_line

MAX_PAGES = 5000
MAX_OUTLINE = 5000
"""Entries of a table of contents; its links may form a circle."""

_HYPHEN = re.compile(r"(?<=[a-zà-ÿ])-\n(?=[a-zà-ÿ])")
_GAP = re.compile(r"\n[ \t]*\n")


def parse_pdf(data: bytes, name: str, max_characters: int) -> Structure:
    """Blocks are a page's paragraphs. Raises `DocumentError` for what is encrypted, broken, or a picture."""
    try:
        reader = PdfReader(BytesIO(data), strict=False)
        if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
            raise DocumentError(f"{name} is encrypted; take its password off first")
        return _read(reader, name, max_characters)
    except DependencyError:
        raise DocumentError(f"{name} is encrypted; take its encryption off first") from None
    # pypdf raises nearly every type there is for files that are no PDF or a broken one.
    except (
        PyPdfError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        OSError,
    ) as error:
        raise DocumentError(f"{name} cannot be read as PDF: {error}") from error
    except RecursionError:
        raise DocumentError(f"{name} cannot be read as PDF: it refers to itself") from None


def _read(reader: PdfReader, name: str, max_characters: int) -> Structure:
    if len(reader.pages) > MAX_PAGES:
        raise DocumentError(f"{name} has {len(reader.pages)} pages, more than {MAX_PAGES}; split it")
    starts = _headings(reader)
    builder = Builder()
    headings: tuple[str, ...] = ()
    characters = 0
    for number, page in enumerate(reader.pages, 1):
        begun = starts.get(number, ())
        headings = begun[0] if begun else headings
        text = page.extract_text()
        characters += len(text)
        if characters > max_characters:
            raise DocumentError(f"{name} has more than {max_characters} characters of text; split it")
        for paragraph in _GAP.split(_HYPHEN.sub("", text)):
            builder.add(paragraph, headings, page=number)
        headings = begun[-1] if begun else headings
    if not characters:
        raise DocumentError(f"{name} has no text, only pictures; recognise its letters first (OCR)")
    title = (reader.metadata.title if reader.metadata else None) or ""
    return builder.build(one_line(str(title)))


def _headings(reader: PdfReader) -> dict[int, list[tuple[str, ...]]]:
    """The paths of the headings that begin on each page, in order. A broken outline is none."""
    found: dict[int, list[tuple[str, ...]]] = {}
    outline = Outline()
    left: list[tuple[Any, int]] = []
    try:
        left = [(entry, 1) for entry in reversed(reader.outline)]
        for _ in range(MAX_OUTLINE):
            if not left:
                break
            entry, level = left.pop()
            if isinstance(entry, list):
                left += [(inner, level + 1) for inner in reversed(entry)]
                continue
            number = reader.get_destination_page_number(entry)
            outline.enter(level, str(entry.title or ""))
            if number is not None and number >= 0:
                found.setdefault(number + 1, []).append(outline.headings)
    except Exception:  # a table of contents is a help; without it the pages are still there
        return {}
    return found
