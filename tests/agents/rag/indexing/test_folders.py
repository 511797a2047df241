"""Folders that cannot be looked into are told from folders with nothing in them."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.rag.indexing.folders import list_folder
from agents.rag.reading.formats.structure import DocumentError

NOBODY = 65534


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may look into every folder, so not as root."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Below one that everybody may look into, as the folders of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "sub").mkdir()
        (folder / "sub" / "b.md").write_text("x")
        (folder / "a.md").write_text("x")
        yield folder
        folder.chmod(0o755)
        (folder / "sub").chmod(0o755)


def test_what_may_be_in_a_folder_that_cannot_be_read_is_not_gone(folder: Path) -> None:
    (folder / "sub").chmod(0)
    with unprivileged():
        listing = list_folder(folder)
    assert list(listing.files) == ["a.md"]
    assert listing.unreadable == ("sub",)
    assert listing.hides("sub/b.md")
    assert not listing.hides("subject.md")


def test_a_folder_that_cannot_be_read_at_all_is_an_error(folder: Path) -> None:
    folder.chmod(0)
    with unprivileged(), pytest.raises(DocumentError, match="cannot be read: Permission denied"):
        list_folder(folder)
