"""The page's files: what is shipped, and what its addresses stand for."""

import gzip
import re
from pathlib import Path

import pytest

from proxy.page.files import STATIC, TYPES, read_page

MOST_BYTES = 150_000
"""The whole page, not compressed."""
SOURCES = sorted(file for file in STATIC.rglob("*") if file.is_file())


def test_every_file_is_served_and_all_are_small() -> None:
    page = read_page()
    assert {file.suffix for file in SOURCES} <= set(TYPES)
    assert {STATIC / name for name in page.files} == {file for file in SOURCES if file.name != "index.html"}
    assert sum(len(file.read_bytes()) for file in SOURCES) <= MOST_BYTES


def test_the_index_names_the_files_under_their_digest() -> None:
    page = read_page()
    named = re.findall(rb'(?:href|src)="ui/([0-9a-f]{16})/([^"]+)"', page.index.body)
    assert {digest.decode() for digest, _ in named} == {page.digest}
    names = {name.decode() for _, name in named}
    assert names == set(page.files)  # each is asked for at once, not when a module that needs it was read
    assert b"{{" not in page.index.body
    assert gzip.decompress(page.index.compressed) == page.index.body


def test_another_content_has_another_address(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("{{files}}{{modules}}")
    (tmp_path / "a.js").write_text("1")
    (tmp_path / "notes.txt").write_text("not served")
    first = read_page(tmp_path)
    (tmp_path / "a.js").write_text("2")
    second = read_page(tmp_path)
    assert list(first.files) == ["a.js"]
    assert first.digest != second.digest
    assert read_page(tmp_path) == second


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(STATIC)))
def test_no_file_can_make_html_of_a_text_or_needs_another_origin(file: Path) -> None:
    text = file.read_text()
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        ".cookie",
    ):
        assert word not in text
    assert not re.search(r"\son\w+\s*=\s*[\"']|\sstyle\s*=\s*[\"']", text) or file.suffix != ".html"
    elsewhere = set(re.findall(r"https?://[^\s\"'`<]+", text))
    assert elsewhere <= {"http://www.w3.org/2000/svg"}
