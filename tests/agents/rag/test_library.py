"""The index of a running gateway: damaged, away, and with folders that lose their files."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog

from agents.api import AgentError, Call
from agents.host.host import AgentHost
from agents.rag.agent import INDEX, Rag
from agents.testing import ScriptedLLM, chat, hosted, run_request
from tests.agents.rag.test_agent import send, until

FILES = 12


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    folder = tmp_path / "papers"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number}.md").write_text(f"llama {number} " * 200)
    return folder


async def operate(host: AgentHost, method: str, path: str, **parameters: str) -> Any:
    return await host.operate("rag", method, path, Call(parameters=parameters))


async def documents(host: AgentHost) -> int:
    """How many documents of the folder there are; -1: nobody can say."""
    try:
        return len((await operate(host, "GET", "documents", collection="papers"))["documents"])
    except AgentError:
        return -1


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database at all " * 1000)


def truncated(path: Path) -> None:
    os.truncate(path, 8192)


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")


def without_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE documents")


def zeros(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(size - 4096))


@pytest.mark.parametrize("damage", [garbage, truncated, newer, without_tables, zeros])
async def test_a_damaged_index_is_set_aside_and_its_folders_go_in_again(
    tmp_path: Path, papers: Path, damage: Callable[[Path], None]
) -> None:
    config = {"rag": {"folders": {"papers": str(papers)}}}
    path = tmp_path / "data" / "rag" / INDEX
    llm = ScriptedLLM("x")
    async with hosted(Rag, llm=llm, folder=tmp_path / "data", config=config) as host:
        await until(lambda: documents(host), FILES)
    await asyncio.to_thread(damage, path)
    with structlog.testing.capture_logs() as log:
        async with hosted(Rag, llm=llm, folder=tmp_path / "data", config=config) as host:
            await until(lambda: documents(host), FILES)
            outcome = await run_request(host, chat("/rag:papers llama?"), llm)
            assert outcome.answer.extra["citations"]
            assert host.describe()[0]["counters"]["crashes"] == 0
    (line,) = [line for line in log if line["event"].startswith("index is damaged; starting a new one")]
    kept = Path(line["kept_as"])
    assert kept.name.startswith(f"{INDEX}.broken-")
    assert await asyncio.to_thread(kept.exists)


async def test_one_that_is_damaged_while_it_is_used(tmp_path: Path, papers: Path) -> None:
    config = {"rag": {"folders": {"papers": str(papers)}}}
    path = tmp_path / "data" / "rag" / INDEX
    llm = ScriptedLLM("x")
    async with hosted(Rag, llm=llm, folder=tmp_path / "data", config=config) as host:
        await until(lambda: documents(host), FILES)
        await send(host, {"name": "a.md", "text": "sent"})
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await asyncio.to_thread(zeros, path)
        refused = await run_request(host, chat("/rag:papers llama?"), llm)
        assert refused.refused is None or refused.refused.status == 503
        await until(lambda: documents(host), FILES)
        assert (await send(host, {"name": "a.md", "text": "sent again"}))["added"] == 1
        assert host.describe()[0]["counters"]["crashes"] == 0
    assert list(path.parent.glob(f"{INDEX}.broken-*"))


async def test_one_that_is_deleted_while_it_is_used_begins_anew(tmp_path: Path, papers: Path) -> None:
    config = {"rag": {"folders": {"papers": str(papers)}}}
    folder = tmp_path / "data" / "rag"
    llm = ScriptedLLM("x")
    async with hosted(Rag, llm=llm, folder=tmp_path / "data", config=config) as host:
        await until(lambda: documents(host), FILES)
        await asyncio.to_thread(shutil.rmtree, folder)
        assert await documents(host) == -1, "not what nobody else can see"
        await until(lambda: documents(host), FILES)
        assert (await send(host, {"name": "a.md", "text": "sent"}))["added"] == 1
        assert host.describe()[0]["counters"]["crashes"] == 0
    async with hosted(Rag, llm=llm, folder=tmp_path / "data", config=config) as host:
        await until(lambda: documents(host), FILES)
        listed = await operate(host, "GET", "documents", collection="default")
        assert [one["name"] for one in listed["documents"]] == ["a.md"]


async def test_one_that_cannot_be_opened_keeps_nobody_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "rag" / INDEX
    await asyncio.to_thread(path.mkdir, parents=True)
    llm = ScriptedLLM("x")
    async with hosted(Rag, llm=llm, folder=tmp_path) as host:
        outcome = await run_request(host, chat("/rag llama?"), llm)
        assert outcome.refused is not None
        assert (outcome.refused.status, outcome.refused.code) == (503, "index_unusable")
        assert "unable to open database file" in outcome.refused.message
        await asyncio.to_thread(path.rmdir)
        await until(lambda: documents(host), 0)
        assert (await send(host, {"name": "a.md", "text": "sent"}))["added"] == 1
        assert host.describe()[0]["counters"]["crashes"] == 0


async def test_a_folder_that_comes_back_empty_deletes_nothing_until_that_is_said(
    tmp_path: Path, papers: Path
) -> None:
    config = {"rag": {"folders": {"papers": str(papers)}}}

    async def watched() -> tuple[int, str]:
        (one,) = (await operate(host, "GET", "folders"))["folders"]
        return one["missing"], one["trouble"]

    with structlog.testing.capture_logs() as log:
        async with hosted(Rag, llm=ScriptedLLM(), folder=tmp_path / "data", config=config) as host:
            await until(lambda: documents(host), FILES)
            (papers / "0.md").unlink()
            await until(lambda: documents(host), FILES - 1)
            for number in range(1, FILES):
                (papers / f"{number}.md").rename(tmp_path / f"{number}.md")
            await until(watched, (FILES - 1, f"{FILES - 1} files are gone; their documents are kept"))
            assert await documents(host) == FILES - 1
            (warning,) = [line for line in log if line["event"].startswith("most files of a folder")]
            assert "DELETE /v1/agents/rag/folders/papers/missing" in warning["cure"]
            for number in range(1, FILES):
                (tmp_path / f"{number}.md").rename(papers / f"{number}.md")
            await until(watched, (0, ""))
            assert await documents(host) == FILES - 1
            await asyncio.to_thread(shutil.rmtree, papers)
            with pytest.raises(AgentError, match="no folder of collection 'other' is watched"):
                await operate(host, "DELETE", "folders/other/missing")
            assert await documents(host) == FILES - 1
            assert await operate(host, "DELETE", "folders/papers/missing") == {"deleted": FILES - 1}
            assert await documents(host) == 0


@pytest.mark.parametrize(
    ("path", "parameters", "body"),
    [
        ("collections/default", {"name": "a.md"}, b""),
        ("collections/default", {"document": "a.md"}, b""),
        ("collections/default", {}, b'{"documents": ["a.md"]}'),
        ("documents/1", {"collection": "other"}, b""),
        ("documents", {"name": "a.md", "source": "x"}, b""),
        ("documents", {"collection": "default"}, b""),
        ("folders/default/missing", {"name": "a.md"}, b""),
    ],
)
async def test_whoever_asks_for_less_does_not_delete_more(
    tmp_path: Path, path: str, parameters: dict[str, str], body: bytes
) -> None:
    async with hosted(Rag, llm=ScriptedLLM(), folder=tmp_path) as host:
        await send(host, {"name": "a.md", "text": "a"}, {"name": "b.md", "text": "b"})
        with pytest.raises(AgentError) as caught:
            await host.operate("rag", "DELETE", path, Call(parameters=parameters, body=body))
        assert caught.value.status == 400
        (listed,) = (await operate(host, "GET", "collections"))["collections"]
        assert listed["documents"] == 2


async def test_a_document_is_deleted_by_its_name(tmp_path: Path) -> None:
    async with hosted(Rag, llm=ScriptedLLM(), folder=tmp_path) as host:
        await send(host, {"name": "a.md", "text": "a"}, {"name": "b.md", "text": "b"})
        assert await operate(host, "DELETE", "documents", name="a.md") == {"deleted": 1}
        for path, parameters in (("documents", {"name": "a.md"}), ("collections/other", {})):
            with pytest.raises(AgentError) as caught:
                await operate(host, "DELETE", path, **parameters)
            assert caught.value.status == 404
        (listed,) = (await operate(host, "GET", "documents"))["documents"]
        assert listed["name"] == "b.md"
