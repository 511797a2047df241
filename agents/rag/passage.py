"""The results and filters of a search."""

from collections.abc import Mapping, Sequence

import msgspec

Scalar = str | int | float | bool
Metadata = Mapping[str, Scalar | Sequence[Scalar]]
"""Data about a document besides its text."""

Filter = Mapping[str, Scalar | Sequence[Scalar]]
"""A document passes if, for every key, its metadata has that value, or one of those values. If its metadata
has a list, one match in it is enough. `name`, `title`, `kind` and `source` are metadata too."""


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk found by a search.

    `chunk`: its number in the index; `position`: its place in the document, from 0; `start`, `end`:
    characters of the document's text; `line` and `page`: where it begins, from 1. `score`: higher is better;
    only comparable within one answer.
    """

    chunk: int
    document_id: int
    document: str
    title: str
    collection: str
    source: str
    kind: str
    headings: tuple[str, ...]
    text: str
    position: int
    start: int
    end: int
    line: int
    page: int | None
    score: float = 0.0
