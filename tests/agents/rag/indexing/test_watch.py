"""Watching: what changes in a folder is in the index soon after; and what becomes of folders that go away."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from actors.runtime import spawn
from agents.rag.embedding import Embedding
from agents.rag.indexing.ingest import Ingester
from agents.rag.indexing.watch import watch
from agents.rag.store.index import Index
from tests.gateway import until

WORDS_ONLY = Embedding(None)


@asynccontextmanager
async def watched(index: Index, folder: Path, rescan: float = 300.0) -> AsyncIterator[list[int]]:
    """While the folder is watched; a list of how many documents each ingest found."""
    ingester = Ingester(index, WORDS_ONLY)
    scans: list[int] = []

    async def ingest() -> None:
        report = await ingester.add_folder(folder, "docs")
        scans.append(report.added + report.changed + report.unchanged)

    task = spawn(watch(folder, ingest, rescan=rescan), name="watch")
    try:
        yield scans
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def eventually(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(until, condition, what)


def digests(index: Index) -> dict[str, str]:
    return {listed.name: listed.digest for listed in index.documents("docs")}


async def test_changes_are_ingested(index: Index, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("first")
    async with watched(index, folder) as scans:
        await eventually(lambda: len(scans) >= 2, "the watch has begun")
        before = await asyncio.to_thread(digests, index)
        assert before.keys() == {"a.md"}
        (folder / "sub").mkdir()
        (folder / "sub" / "b.md").write_text("second")
        await eventually(lambda: digests(index).keys() == {"a.md", "sub/b.md"}, "a new file")
        (folder / "a.md").write_text("changed, and longer")
        await eventually(lambda: digests(index)["a.md"] != before["a.md"], "a changed file")
        (folder / "sub" / "b.md").unlink()
        await eventually(lambda: digests(index).keys() == {"a.md"}, "a file that is gone")


async def test_what_is_hidden_wakes_nobody(index: Index, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    (folder / ".git").mkdir(parents=True)
    async with watched(index, folder) as scans:
        await eventually(lambda: len(scans) == 2, "the watch has begun")
        (folder / ".git" / "index").write_text("x")
        (folder / "a.md").write_text("x")
        await eventually(lambda: len(scans) == 3, "the file that is not hidden")
        assert scans == [0, 0, 1]


async def test_a_folder_may_come_later_and_go(index: Index, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    with structlog.testing.capture_logs() as logs:
        async with watched(index, folder, rescan=0.05) as scans:
            await eventually(lambda: len(logs) == 1, "it is told")
            folder.mkdir()
            (folder / "a.md").write_text("x")
            await eventually(lambda: scans[-1:] == [1], "the folder is there")
            await eventually(lambda: len(logs) == 2, "it is watched")
            folder.rename(tmp_path / "away")
            await eventually(lambda: len(logs) == 3, "it is gone")
            assert (await asyncio.to_thread(digests, index)).keys() == {"a.md"}
            (tmp_path / "away").rename(folder)
            (folder / "b.md").write_text("x")
            await eventually(lambda: scans[-1] == 2, "it is back")
    reason = f"folder {folder} cannot be read: No such file or directory"
    assert [line.get("reason") for line in logs[:3]] == [reason, None, reason]


async def test_another_folder_in_its_place_is_watched(index: Index, tmp_path: Path) -> None:
    """As when what is served is replaced as a whole, or a mount comes back over an empty folder."""
    folder, other = tmp_path / "docs", tmp_path / "other"
    for one, name in ((folder, "a.md"), (other, "b.md")):
        one.mkdir()
        (one / name).write_text(name)
    async with watched(index, folder) as scans:
        await eventually(lambda: len(scans) >= 2, "the watch has begun")
        folder.rename(tmp_path / "away")
        other.rename(folder)
        await eventually(lambda: "b.md" in digests(index), "what is in it now")
        (folder / "c.md").write_text("c")
        await eventually(lambda: "c.md" in digests(index), "what changes in it")
