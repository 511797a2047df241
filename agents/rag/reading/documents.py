"""Bytes and a name become a text with a structure; or it is said why not. Pure.

Time and memory are the caller's to bound: some of the formats can be made to cost any amount of both, so
`reader` calls this in a process of its own. The parsers are imported there only, when they are needed: the
gateway's process has no use for them.
"""

import re
from pathlib import PurePath
from typing import Literal

import msgspec

from agents.rag.reading.formats.structure import Block, DocumentError, Structure, clean

READING = 2
"""To be raised when documents are read or chunked in another way: those in an index are read again then."""

Kind = Literal["text", "markdown", "html", "pdf", "code"]

_SUFFIXES: dict[Kind, str] = {
    "text": "txt text rst adoc asciidoc org log csv tsv json jsonl tex srt vtt",
    "markdown": "md markdown mdx mkd",
    "html": "html htm xhtml",
    "pdf": "pdf",
    "code": """
        py pyi js mjs cjs jsx ts tsx c h cc cpp cxx hh hpp cs java kt kts go rs rb php swift scala lua pl pm r
        jl ex exs erl hs ml clj lisp el sh bash zsh fish ps1 sql proto graphql vue svelte css scss dart zig
        nim toml yaml yml ini cfg conf cmake gradle tf nix dockerfile makefile
    """,
}
KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
"""Suffixes without their dot, or whole names of files that have none, in lower case."""

_MEDIA_TYPES: dict[str, Kind] = {
    "text/markdown": "markdown",
    "text/x-markdown": "markdown",
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/pdf": "pdf",
    "application/javascript": "code",
    "text/javascript": "code",
    "text/css": "code",
}
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"))
_SHORT_BOMS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_GUESSES = ["cp1252", "cp1251", "cp932", "gb18030", "euc_kr", "big5"]
_SAMPLE = 65536
"""Bytes that an encoding is guessed from."""


MAX_NAME = 500
"""Characters of a document's name, which is kept with every chunk, for its words are searched too."""

MAX_COLLECTION = 200
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NO_COLLECTION = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff/]")
"""A slash would part it in the path of a URL."""


class DocumentLimits(msgspec.Struct, frozen=True):
    """The largest document that is accepted: bytes as uploaded, characters of its text."""

    bytes: int = 32 * 2**20
    characters: int = 10_000_000


class Document(msgspec.Struct, frozen=True):
    """What can be read of a document. `blocks` are spans of `text`, in order."""

    name: str
    kind: Kind
    text: str
    blocks: tuple[Block, ...]
    title: str


def check_name(name: str) -> None:
    """Raises `DocumentError` for what no document is called; it names the document as far as that goes."""
    if not name:
        raise DocumentError("a document has no name")
    if len(name) > MAX_NAME:
        raise DocumentError(
            f"the document's name {_shown(name)} has {len(name)} characters, more than the {MAX_NAME} allowed"
        )
    if _CONTROLS.search(name):
        raise DocumentError(f"the document's name {_shown(name)} has a control character in it")


def check_collection(name: str) -> None:
    """Raises `DocumentError` for what no collection is called."""
    if not name:
        raise DocumentError("the collection has no name")
    if len(name) > MAX_COLLECTION:
        raise DocumentError(
            f"the collection's name {_shown(name)} has {len(name)} characters,"
            f" more than the {MAX_COLLECTION} allowed"
        )
    if _NO_COLLECTION.search(name):
        raise DocumentError(f"the collection's name {_shown(name)} has a slash or a control character in it")


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:79]}…")


def kind_of_name(name: str) -> Kind | None:
    """The format that a file's name tells; None if it tells none that is known."""
    path = PurePath(name.lower())
    return KIND_OF_SUFFIX.get(path.suffix[1:] or path.name)


def parse(data: bytes, name: str, media_type: str = "", limits: DocumentLimits | None = None) -> Document:
    """What can be read of a document, by its media type, else its name, else its first bytes.

    `media_type` is that of a Content-Type header, parameters included; generic ones tell nothing. Raises
    `DocumentError` for what is too large, empty, encrypted, broken, or not in a format that is known.
    """
    limits = limits or DocumentLimits()
    if len(data) > limits.bytes:
        raise DocumentError(f"{name} has {len(data)} bytes, more than the {limits.bytes} allowed")
    kind = _kind(data, name, media_type)
    structure = _structure(data, name, media_type, kind, limits)
    if len(structure.text) > limits.characters:
        raise DocumentError(
            f"{name} has {len(structure.text)} characters of text, more than the {limits.characters} allowed"
        )
    if not structure.text.strip():
        raise DocumentError(f"{name} has no text")
    return Document(name, kind, structure.text, structure.blocks, structure.title)


def _kind(data: bytes, name: str, media_type: str) -> Kind:
    kind = _MEDIA_TYPES.get(media_type.partition(";")[0].strip().lower()) or kind_of_name(name)
    if kind:
        return kind
    start = data[:1024].lstrip().lower()
    if start.startswith(b"%pdf-"):
        return "pdf"
    return "html" if start.startswith((b"<!doctype html", b"<html")) else "text"


def _structure(data: bytes, name: str, media_type: str, kind: Kind, limits: DocumentLimits) -> Structure:
    if kind == "pdf":
        if b"%PDF-" not in data[:1024]:
            raise DocumentError(f"{name} is no PDF")
        from agents.rag.reading.formats.pdf import parse_pdf

        return parse_pdf(data, name, limits.characters)
    text = _decode(data, name, _charset(data, media_type, kind))
    match kind:
        case "html":
            from agents.rag.reading.formats.html import parse_html

            return parse_html(text)
        case "markdown":
            from agents.rag.reading.formats.markdown import parse_markdown

            return parse_markdown(text)
        case "code":
            from agents.rag.reading.formats.code import parse_code

            return parse_code(text)
        case "text":
            from agents.rag.reading.formats.plain import parse_plain

            return parse_plain(text)


def _charset(data: bytes, media_type: str, kind: Kind) -> str | None:
    """The encoding that the document or who sent it declares."""
    found = _CHARSET.search(media_type.encode(errors="replace"))
    if found is None and kind == "html":
        found = _CHARSET.search(data[:1024])
    return found[1].decode() if found else None


def _decode(data: bytes, name: str, charset: str | None) -> str:
    """Raises `DocumentError` for what is no text in any encoding."""
    for mark, encoding in (*_BOMS, *_SHORT_BOMS):
        if data.startswith(mark):
            return clean(data.decode(encoding, errors="replace").removeprefix("\ufeff"))
    if b"\0" in data:
        raise DocumentError(f"{name} is not text, and in no other format that can be read")
    try:
        text = data.decode(charset or "utf-8")
    except (UnicodeDecodeError, LookupError):
        text = _guess(data)
    if len(_CONTROL.findall(text)) > len(text) // 100:
        raise DocumentError(f"{name} is not text, and in no other format that can be read")
    return clean(text)


def _guess(data: bytes) -> str:
    """Western where most is ASCII, for which guessing does worse."""
    from charset_normalizer import from_bytes

    sample = data[:_SAMPLE]
    encoding = "cp1252"
    if sum(byte > 127 for byte in sample) * 5 > len(sample):
        best = from_bytes(sample, cp_isolation=_GUESSES).best()
        encoding = best.encoding if best is not None else encoding
    return data.decode(encoding, errors="replace")
