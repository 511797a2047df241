"""An ingest that is killed at any point leaves whole documents, and the next one does the rest."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from agents.rag.embedding import Embedding
from agents.rag.indexing.ingest import Ingester
from agents.rag.store.index import Index
from agents.rag.store.search import Searcher
from tests.agents.rag.embedders import WordEmbedder
from tests.gateway import CHECKOUT, until

DOCUMENTS, CHUNKS = 30, 4

INGEST = """
import asyncio, sys
from pathlib import Path
from agents.rag.embedding import Embedding
from agents.rag.store.index import Index
from agents.rag.indexing.ingest import Ingester
from tests.agents.rag.embedders import WordEmbedder
ingester = Ingester(Index(Path(sys.argv[1])), Embedding(WordEmbedder()))
def tell(progress):
    print(progress.stage, progress.done, flush=True)
asyncio.run(ingester.add_folder(Path(sys.argv[2]), "docs", on_progress=tell))
"""


@pytest.mark.parametrize("stage", ["reading 17", "embedding 64"])
async def test_killed_ingest(tmp_path: Path, stage: str) -> None:
    path, folder = tmp_path / "index.sqlite3", tmp_path / "docs"
    folder.mkdir()
    for number in range(DOCUMENTS):
        sections = [f"# Part {part}\n\n" + f"document{number} part{part} " * 50 for part in range(CHUNKS)]
        (folder / f"{number:02}.md").write_text("\n\n".join(sections))
    await asyncio.to_thread(_kill, path, folder, stage)
    with closing(await asyncio.to_thread(Index, path)) as index:
        left = await asyncio.to_thread(index.documents, "docs")
        assert {document.chunks for document in left} == {CHUNKS}
        embedder = WordEmbedder()
        report = await Ingester(index, Embedding(embedder)).add_folder(folder, "docs")
        assert (report.added, report.unchanged) == (DOCUMENTS - len(left), len(left))
        (collection,) = await asyncio.to_thread(index.collections)
        assert collection.documents == DOCUMENTS
        assert collection.chunks == collection.vectors == DOCUMENTS * CHUNKS
        for number in range(DOCUMENTS):
            found = await asyncio.to_thread(Searcher(index).by_words, f"document{number}", ["docs"], 99)
            assert len(found) == CHUNKS
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _kill(path: Path, folder: Path, stage: str) -> None:
    """Let an ingest come so far, and kill it; the reader that it started ends by itself."""
    command = [sys.executable, "-c", INGEST, str(path), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as process:
        assert process.stdout is not None
        stages = []
        for line in process.stdout:
            stages.append(line.strip())
            if stages[-1] == stage:
                break
        readers = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGKILL)
    assert stages[-1] == stage
    assert process.returncode == -signal.SIGKILL
    until(lambda: not any(reader.is_running() for reader in readers), "the reader has ended")
