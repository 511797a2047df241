"""Ingest: what changed only, the rest in spite of what is refused, and vectors whenever there is a model."""

import asyncio
import os
import shutil
import tempfile
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from actors.runtime import spawn
from agents.rag.asking.retrieve import Retriever
from agents.rag.embedding import Embedding, TextRefusedError
from agents.rag.indexing.ingest import BATCH, TRIES, Ingester, IngestProgress, IngestReport
from agents.rag.reading.chunks import Sizes
from agents.rag.reading.documents import MAX_COLLECTION, MAX_NAME, DocumentLimits
from agents.rag.reading.formats.structure import MAX_HEADING, DocumentError
from agents.rag.store.index import Index, ListedDocument
from agents.rag.store.search import Searcher
from tests.agents.rag.embedders import FailingEmbedder, WordEmbedder
from tests.agents.rag.indexing.test_folders import unprivileged
from tests.agents.rag.pdf_files import make_pdf

WORDS_ONLY = Embedding(None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    write(docs / "a.md", "# A\n\nllama one")
    write(docs / "sub" / "b.txt", "llama two")
    write(docs / "c.html", "<h1>C</h1>llama three")
    return docs


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


async def listed(index: Index) -> dict[str, ListedDocument]:
    """Those that were not refused, and of two with the same name the last."""
    documents = await asyncio.to_thread(index.documents, "docs")
    return {document.name: document for document in documents if not document.refused}


async def found(index: Index, query: str) -> list[str]:
    passages = await Retriever(Searcher(index), WORDS_ONLY).retrieve(query, ["docs"], k=50)
    return sorted(passage.document for passage in passages)


async def test_only_what_changed_is_read_again(index: Index, folder: Path) -> None:
    ingester = Ingester(index, WORDS_ONLY)
    assert await ingester.add_folder(folder, "docs") == IngestReport(added=3)
    before = await listed(index)
    assert await ingester.add_folder(folder, "docs") == IngestReport(unchanged=3)
    write(folder / "a.md", "# A\n\nalpaca one, and longer")
    os.utime(folder / "c.html", ns=(1, 1))
    (folder / "sub" / "b.txt").unlink()
    write(folder / "d.py", "def llama(): pass")
    assert await ingester.add_folder(folder, "docs") == IngestReport(
        added=1, changed=1, unchanged=1, deleted=1
    )
    after = await listed(index)
    assert set(after) == {"a.md", "c.html", "d.py"}
    assert after["c.html"].id == before["c.html"].id
    assert await found(index, "llama") == ["c.html", "d.py"]
    assert await found(index, "alpaca") == ["a.md"]


async def test_other_sizes_or_metadata_are_a_change(index: Index, folder: Path) -> None:
    await Ingester(index, WORDS_ONLY).add_folder(folder, "docs")
    smaller = Ingester(index, WORDS_ONLY, sizes=Sizes(100, 10))
    assert (await smaller.add_folder(folder, "docs")).changed == 3
    assert (await smaller.add_folder(folder, "docs", metadata={"tags": ("x",)})).changed == 3
    assert (await smaller.add_folder(folder, "docs", metadata={"tags": ("x",)})).unchanged == 3


async def test_the_rest_goes_in_when_some_are_refused(index: Index, folder: Path) -> None:
    write(folder / "big.md", "x" * 2001)
    write(folder / "binary.txt", b"\0\1\2")
    write(folder / "locked.pdf", make_pdf([["x"]], password="secret"))
    ingester = Ingester(index, WORDS_ONLY, limits=DocumentLimits(bytes=2000))
    with structlog.testing.capture_logs() as logs:
        report = await ingester.add_folder(folder, "docs")
    assert report.added == 3
    assert report.refused == {
        "big.md": "big.md is larger than the 2000 bytes allowed",
        "binary.txt": "binary.txt is not text, and in no other format that can be read",
        "locked.pdf": "locked.pdf is encrypted; take its password off first",
    }
    assert [line["reason"] for line in logs if line["event"] == "document refused"] == [
        *report.refused.values()
    ]
    with structlog.testing.capture_logs() as logs:
        again = await ingester.add_folder(folder, "docs")
    assert again.refused == report.refused
    assert not logs
    larger = Ingester(index, WORDS_ONLY, limits=DocumentLimits(bytes=3000))
    assert (await larger.add_folder(folder, "docs")).refused.keys() == {"binary.txt", "locked.pdf"}
    assert "big.md" in await listed(index)


async def test_one_that_is_refused_now_is_not_found_as_it_was(index: Index, folder: Path) -> None:
    ingester = Ingester(index, WORDS_ONLY)
    await ingester.add_folder(folder, "docs")
    write(folder / "a.md", b"\0 llama")
    await ingester.add_folder(folder, "docs")
    assert await found(index, "llama") == ["c.html", "sub/b.txt"]
    write(folder / "a.md", "# A\n\nllama again")
    assert (await ingester.add_folder(folder, "docs")).changed == 1
    assert await found(index, "llama") == ["a.md", "c.html", "sub/b.txt"]


async def test_what_is_hidden_foreign_or_no_file_is_left_alone(index: Index, folder: Path) -> None:
    write(folder / ".git" / "config.txt", "hidden")
    write(folder / "sub" / ".secret.md", "hidden")
    write(folder / "node_modules" / "x.js", "hidden")
    write(folder / "photo.png", b"\x89PNG")
    write(folder.parent / "outside.md", "outside")
    (folder / "link.md").symlink_to(folder.parent / "outside.md")
    (folder / "inside.md").symlink_to(folder / "a.md")
    (folder / "loop").symlink_to(folder)
    (folder / "nothing.md").symlink_to(folder / "gone.md")
    os.mkfifo(folder / "pipe.txt")
    await Ingester(index, WORDS_ONLY).add_folder(folder, "docs")
    assert list(await listed(index)) == ["a.md", "c.html", "inside.md", "sub/b.txt"]


async def test_names_may_be_any_bytes(index: Index, folder: Path) -> None:
    write(folder / os.fsdecode(b"caf\xe9.md"), "llama of no name")
    write(folder / "new\nline.md", "llama of two lines")
    ingester = Ingester(index, WORDS_ONLY)
    report = await ingester.add_folder(folder, "docs")
    assert report.added == 4
    reason = "the document's name 'new\\nline.md' has a control character in it"
    assert report.refused == {"new\nline.md": reason}
    with structlog.testing.capture_logs() as logs:
        assert (await ingester.add_folder(folder, "docs")).refused == report.refused
    assert not logs
    assert "caf\ufffd.md" in await listed(index)
    await ingester.add_document(b"llama", "x\ud800", "docs")
    assert "x\ufffd" in await found(index, "llama")


async def test_names_have_an_end(index: Index, folder: Path) -> None:
    deep = folder.joinpath(*["d" * 100] * 5)
    write(deep / "a.md", "llama at the end of a long path")
    ingester = Ingester(index, WORDS_ONLY)
    report = await ingester.add_folder(folder, "docs")
    assert report.added == 3
    (reason,) = report.refused.values()
    assert reason.endswith("…' has 509 characters, more than the 500 allowed")
    await ingester.add_document(b"llama", "n" * MAX_NAME, "c" * MAX_COLLECTION)
    for name, collection in (
        ("n" * (MAX_NAME + 1), "docs"),
        ("a\0b", "docs"),
        ("", "docs"),
        ("a", "c" * (MAX_COLLECTION + 1)),
        ("a", "x/y"),
        ("a", "x\0y"),
        ("a", "x\ud800y"),
        ("a", ""),
    ):
        with pytest.raises(DocumentError, match="name"):
            await ingester.add_document(b"llama", name, collection)
    for add in (ingester.add_folder(folder, "x/y"), ingester.add_file(folder / "a.md", "x/y")):
        with pytest.raises(DocumentError, match="the collection's name 'x/y' has a slash"):
            await add


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*.md"], ["a.md"]),
        (["*.md", "*.txt"], ["a.md", "sub/b.txt"]),
        (["sub/*"], ["sub/b.txt"]),
        (["!sub/*"], ["a.md", "c.html"]),
        (["*", "!*.md"], ["c.html", "notes.unknown", "sub/b.txt"]),
    ],
)
async def test_patterns(index: Index, folder: Path, patterns: list[str], expected: list[str]) -> None:
    write(folder / "notes.unknown", "text all the same")
    await Ingester(index, WORDS_ONLY).add_folder(folder, "docs", patterns=patterns)
    assert list(await listed(index)) == expected


async def test_a_folder_that_is_gone_deletes_nothing(index: Index, folder: Path) -> None:
    ingester = Ingester(index, WORDS_ONLY)
    await ingester.add_folder(folder, "docs")
    folder.rename(folder.parent / "elsewhere")
    with pytest.raises(DocumentError, match=r"^folder .*/docs cannot be read: No such file or directory$"):
        await ingester.add_folder(folder, "docs")
    assert len(await listed(index)) == 3


async def test_most_of_a_folder_does_not_vanish_at_once(index: Index, folder: Path) -> None:
    for number in range(7):
        write(folder / f"{number}.md", f"llama {number}")
    ingester = Ingester(index, WORDS_ONLY)
    await ingester.add_folder(folder, "docs")
    for number in range(4):
        (folder / f"{number}.md").unlink()
    assert await ingester.add_folder(folder, "docs") == IngestReport(unchanged=6, deleted=4)
    for name in ("4.md", "5.md", "6.md", "a.md"):
        (folder / name).unlink()
    write(folder / "new.md", "llama new")
    assert await ingester.add_folder(folder, "docs") == IngestReport(added=1, unchanged=2, missing=4)
    assert len(await listed(index)) == 7
    assert await ingester.prune_folder(folder, "docs") == 4
    assert set(await listed(index)) == {"c.html", "sub/b.txt", "new.md"}
    for name in ("c.html", "sub/b.txt", "new.md"):
        (folder / name).unlink()
    assert await ingester.add_folder(folder, "docs") == IngestReport(missing=3)
    folder.rename(folder.parent / "away")
    assert await ingester.prune_folder(folder, "docs") == 3
    assert await listed(index) == {}


async def test_a_folder_below_that_comes_back_empty_keeps_its_documents(index: Index, folder: Path) -> None:
    for number in range(4):
        write(folder / "mount" / "deep" / f"{number}.md", f"llama {number}")
        write(folder / "removed" / f"{number}.md", f"alpaca {number}")
    for number in range(12):
        write(folder / "other" / f"{number}.md", f"vicuna {number}")
    ingester = Ingester(index, WORDS_ONLY)
    await ingester.add_folder(folder, "docs")
    for name in ("mount/deep", "removed"):
        shutil.rmtree(folder / name)
    for number in range(2):
        (folder / "other" / f"{number}.md").unlink()
    (folder / "sub" / "b.txt").unlink()
    assert await ingester.add_folder(folder, "docs") == IngestReport(unchanged=12, deleted=7, missing=4)
    assert await found(index, "llama") == [
        *("a.md", "c.html"),
        *(f"mount/deep/{number}.md" for number in range(4)),
    ]
    (folder / "mount").rmdir()
    assert await ingester.add_folder(folder, "docs") == IngestReport(unchanged=12, deleted=4)


async def test_what_only_has_another_name_has_not_vanished(index: Index, folder: Path) -> None:
    for number in range(7):
        write(folder / "old" / f"{number}.md", f"llama {number}")
    ingester = Ingester(index, WORDS_ONLY)
    await ingester.add_folder(folder, "docs")
    (folder / "old").rename(folder / "new")
    assert await ingester.add_folder(folder, "docs") == IngestReport(added=7, unchanged=3, deleted=7)


async def test_a_file_that_cannot_be_read_this_time_stays_what_it_was(index: Index) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        write(folder / "a.md", "llama one")
        write(folder / "b.md", "llama two")
        ingester = Ingester(index, WORDS_ONLY)
        await ingester.add_folder(folder, "docs")
        write(folder / "a.md", "llama one, changed")
        (folder / "a.md").chmod(0)
        with structlog.testing.capture_logs() as logs, unprivileged():
            for _ in range(2 * TRIES):
                report = await ingester.add_folder(folder, "docs")
                reason = "a.md cannot be read: Permission denied"
                assert report == IngestReport(unchanged=1, refused={"a.md": reason})
        assert [line["event"] for line in logs] == ["document cannot be read now; its earlier contents stay"]
        assert await found(index, "llama") == ["a.md", "b.md"]
        (folder / "a.md").chmod(0o644)
        assert (await ingester.add_folder(folder, "docs")).changed == 1


async def test_what_took_too_long_is_tried_again_but_not_for_ever(index: Index, folder: Path) -> None:
    hurried = Ingester(index, WORDS_ONLY, patience=0.001)
    reason = "a.md could not be read within 0.001 s"
    assert (await hurried.add_folder(folder, "docs")).refused["a.md"] == reason
    assert await Ingester(index, WORDS_ONLY).add_folder(folder, "docs") == IngestReport(changed=3)
    write(folder / "a.md", "# A\n\nllama one, changed")
    for _ in range(TRIES - 1):
        assert (await hurried.add_folder(folder, "docs")).refused == {"a.md": reason}
        assert "a.md" in await found(index, "llama"), "what it was stays"
    last = {"a.md": f"{reason} (tried {TRIES} times)"}
    assert (await hurried.add_folder(folder, "docs")).refused == last
    assert (await Ingester(index, WORDS_ONLY, patience=0.001).add_folder(folder, "docs")).refused == last
    write(folder / "a.md", "# A\n\nllama one, changed again")
    assert (await Ingester(index, WORDS_ONLY).add_folder(folder, "docs")).changed == 1


async def test_two_folders_and_posted_documents_share_a_collection(index: Index, folder: Path) -> None:
    other = folder.parent / "other"
    write(other / "a.md", "llama of another folder")
    write(other / "z.md", "alpaca")
    ingester = Ingester(index, WORDS_ONLY)
    await ingester.add_document(b"llama that was sent", "a.md", "docs")
    await ingester.add_folder(other, "docs")
    await ingester.add_folder(folder, "docs")
    assert await found(index, "llama") == ["a.md", "a.md", "a.md", "c.html", "sub/b.txt"]
    (other / "a.md").unlink()
    assert (await ingester.add_folder(other, "docs")).deleted == 1
    assert await found(index, "llama") == ["a.md", "a.md", "c.html", "sub/b.txt"]


async def test_posted_documents_are_replaced_kept_or_refused(index: Index) -> None:
    ingester = Ingester(index, WORDS_ONLY)
    assert (await ingester.add_document(b"<p>llama", "x", "docs", media_type="text/html")).added == 1
    assert (await ingester.add_document(b"<p>llama", "x", "docs", media_type="text/html")).unchanged == 1
    assert (await ingester.add_document(b"<p>llamas", "x", "docs", media_type="text/html")).changed == 1
    with pytest.raises(DocumentError, match=r"^x is no PDF$"):
        await ingester.add_document(b"llama", "x", "docs", media_type="application/pdf")
    assert await found(index, "llama") == ["x"]


async def test_an_outline_costs_no_more_than_the_text_below_it(tmp_path: Path) -> None:
    pages = 200
    outline = [(f"{level} {'x' * MAX_HEADING}", level, 0) for level in range(1, 101)]
    outline += [(f"{page} {'x' * MAX_HEADING}", 101, page) for page in range(pages)]
    data = make_pdf([["word " * 100]] * pages, outline=outline)
    path = tmp_path / "outline.sqlite3"
    with closing(await asyncio.to_thread(Index, path)) as index:
        tracemalloc.start()
        try:
            await Ingester(index, WORDS_ONLY).add_document(data, "a.pdf", "docs")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    # With all of the headings it would be 8.6 MB in the index, and 9.9 at a time in this process.
    assert path.stat().st_size < 1_000_000
    assert peak < 2_000_000


async def test_a_single_file_is_its_folders(index: Index, folder: Path) -> None:
    ingester = Ingester(index, WORDS_ONLY)
    assert (await ingester.add_file(folder / "a.md", "docs")).added == 1
    assert await ingester.add_folder(folder, "docs") == IngestReport(added=2, unchanged=1)
    assert (await ingester.add_file(folder / "a.md", "docs")).unchanged == 1
    write(folder / "x.pdf", "x")
    assert (await ingester.add_file(folder / "x.pdf", "docs")).refused == {"x.pdf": "x.pdf is no PDF"}
    with pytest.raises(DocumentError, match=r"gone\.md cannot be read: No such file or directory"):
        await ingester.add_file(folder / "gone.md", "docs")
    with pytest.raises(DocumentError, match="sub is no file"):
        await ingester.add_file(folder / "sub", "docs")


async def test_progress_is_told(index: Index, folder: Path) -> None:
    reports: list[IngestProgress] = []
    await Ingester(index, Embedding(WordEmbedder())).add_folder(folder, "docs", on_progress=reports.append)
    assert reports == [
        IngestProgress("reading", 0, 3, "a.md"),
        IngestProgress("reading", 1, 3, "c.html"),
        IngestProgress("reading", 2, 3, "sub/b.txt"),
        IngestProgress("reading", 3, 3),
        IngestProgress("embedding", 0, 3),
        IngestProgress("embedding", 3, 3),
    ]


async def test_vectors_are_made_in_batches_and_once(index: Index, folder: Path) -> None:
    write(folder / "long.txt", "\n\n".join(f"paragraph {number} " * 20 for number in range(40)))
    embedder = WordEmbedder()
    ingester = Ingester(index, Embedding(embedder), sizes=Sizes(400, 0))
    report = await ingester.add_folder(folder, "docs")
    assert report.embedded == 43
    assert report.pending == 0
    assert embedder.asked == [BATCH, 43 - BATCH]
    await ingester.add_folder(folder, "docs")
    assert len(embedder.asked) == 2


class HeldEmbedder(WordEmbedder):
    """Answers when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def embed(self, texts: list[str]) -> list[list[float]]:
        self.is_asked.set()
        await self.may_answer.wait()
        return await super().embed(texts)


async def test_words_do_not_wait_for_others_vectors(index: Index, folder: Path) -> None:
    embedder = HeldEmbedder()
    ingester = Ingester(index, Embedding(embedder))
    async with asyncio.timeout(20):
        large = spawn(ingester.add_folder(folder, "docs"), name="large")
        await embedder.is_asked.wait()
        assert await ingester.add_document(b"alpaca", "small", "docs") == IngestReport(added=1, pending=4)
        assert await found(index, "alpaca") == ["small"]
        assert await ingester.add_folder(folder, "more") == IngestReport(added=3, pending=7)
        await ingester.wait_for_left_over()
        rest = spawn(ingester.add_vectors(), name="rest")
        embedder.may_answer.set()
        await asyncio.gather(large, rest)
    assert await asyncio.to_thread(index.count_pending, "words") == 0


async def test_a_document_makes_its_own_vectors_only(index: Index, folder: Path) -> None:
    await Ingester(index, WORDS_ONLY).add_folder(folder, "docs")
    ingester = Ingester(index, Embedding(WordEmbedder()))
    for _ in range(2):
        report = await ingester.add_document(b"alpaca", "small", "docs")
        assert report.pending == 3
    assert await ingester.add_vectors() == IngestReport(embedded=3)
    assert await Ingester(index, WORDS_ONLY).add_document(b"vicuna", "late", "docs") == IngestReport(added=1)
    assert await ingester.add_document(b"vicuna", "late", "docs") == IngestReport(unchanged=1, embedded=1)


async def test_vectors_come_when_a_model_does_and_anew_with_another(index: Index, folder: Path) -> None:
    await Ingester(index, WORDS_ONLY).add_folder(folder, "docs")
    first = Ingester(index, Embedding(WordEmbedder("first")))
    assert await first.add_folder(folder, "docs") == IngestReport(unchanged=3, embedded=3)
    second = Ingester(index, Embedding(WordEmbedder("second", width=8)))
    assert await second.add_vectors() == IngestReport(embedded=3)
    assert await second.add_vectors() == IngestReport()
    prefixed = Ingester(index, Embedding(WordEmbedder("second", width=8), text_prefix="passage: "))
    assert (await prefixed.add_vectors()).embedded == 3


async def test_a_model_that_fails_leaves_words_and_is_told_once(index: Index, folder: Path) -> None:
    embedder = FailingEmbedder(ConnectionError("no route"))
    ingester = Ingester(index, Embedding(embedder))
    with structlog.testing.capture_logs() as logs:
        assert await ingester.add_folder(folder, "docs") == IngestReport(added=3, pending=3)
        assert await ingester.add_folder(folder, "docs") == IngestReport(unchanged=3, pending=3)
        assert len(await found(index, "llama")) == 3
        embedder.error = None
        assert await ingester.add_folder(folder, "docs") == IngestReport(unchanged=3, embedded=3)
    assert [(line["event"], line.get("reason")) for line in logs] == [
        ("the embedding model fails; words only", "no route"),
        ("works again", None),
    ]


async def test_what_a_model_returns_is_checked(index: Index, folder: Path) -> None:
    class Odd(WordEmbedder):
        async def embed(self, texts: list[str]) -> list[list[float]]:
            return [[float("nan")]] * len(texts)

    with structlog.testing.capture_logs() as logs:
        assert (await Ingester(index, Embedding(Odd())).add_folder(folder, "docs")).pending == 3
    assert logs[0]["reason"] == "expected 3 finite vectors, got an array of shape (3, 1)"


async def test_a_text_that_the_model_does_not_take_costs_only_itself(index: Index, folder: Path) -> None:
    class Short(WordEmbedder):
        async def embed(self, texts: list[str]) -> list[list[float]]:
            if any("three" in text for text in texts):
                raise TextRefusedError("input is too long")
            return await super().embed(texts)

    ingester = Ingester(index, Embedding(Short()))
    assert await ingester.add_folder(folder, "docs") == IngestReport(added=3, embedded=2)
    assert await ingester.add_folder(folder, "docs") == IngestReport(unchanged=3)


async def test_an_ingest_that_was_interrupted_goes_on(tmp_path: Path, folder: Path) -> None:
    for number in range(80):
        write(folder / f"{number}.txt", f"llama {number}")
    path = tmp_path / "again.sqlite3"
    with closing(await asyncio.to_thread(Index, path)) as index:
        embedder = FailingEmbedder(ConnectionError("gone"), after=1)
        report = await Ingester(index, Embedding(embedder)).add_folder(folder, "docs")
        assert (report.embedded, report.pending) == (BATCH, 83 - BATCH)
    with closing(await asyncio.to_thread(Index, path)) as index:
        report = await Ingester(index, Embedding(WordEmbedder())).add_folder(folder, "docs")
        assert report == IngestReport(unchanged=83, embedded=83 - BATCH)
