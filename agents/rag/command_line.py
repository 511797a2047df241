"""`run.py rag`: documents into the index, beside a gateway or without one.

Words go in here; vectors follow when a gateway with an embedding model runs, which looks for what has none.
"""

import argparse
import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from actors.terminal import complain, printable, say
from agents.rag.agent import DEFAULT, INDEX
from agents.rag.embedding import Embedding
from agents.rag.formats.structure import DocumentError
from agents.rag.index import Index
from agents.rag.ingest import Ingester, Progress, Report
from agents.rag.schema import IndexUnusableError


def rag(folder: Path, options: argparse.Namespace) -> int:
    """Add, list, or delete documents in the agent's `folder`; return the exit status.

    1: something was refused, or is not there; the rest went in.
    """
    collection = options.collection or DEFAULT
    try:
        with closing(Index(folder / INDEX)) as index:
            match options.action:
                case "add":
                    return asyncio.run(_add(index, options.paths, collection))
                case "list":
                    return _list(index)
                case _:
                    say(f"deleted {index.delete_collection(collection)} documents")
                    return 0
    except IndexUnusableError as error:
        complain(str(error))
        return 1


async def _add(index: Index, paths: list[Path], collection: str) -> int:
    if not paths:
        complain("rag add: name a file or a folder")
        return 2
    ingester = Ingester(index, Embedding(None))
    failed = False
    for path in paths:
        shown: tqdm[Any] = tqdm(desc=printable(str(path)), unit=" files", disable=None)
        with shown:

            def show(progress: Progress, bar: "tqdm[Any]" = shown) -> None:
                bar.total = progress.total
                bar.update(progress.done - bar.n)

            try:
                add = ingester.add_folder if await asyncio.to_thread(path.is_dir) else ingester.add_file
                report = await add(path, collection, on_progress=show)
            except DocumentError as error:
                complain(str(error))
                failed = True
                continue
        _tell(path, report)
        failed = failed or bool(report.refused)
    return int(failed)


def _tell(path: Path, report: Report) -> None:
    counts = ("added", "changed", "unchanged", "deleted")
    say(f"{printable(str(path))}: " + ", ".join(f"{getattr(report, name)} {name}" for name in counts))
    for reason in report.refused.values():
        complain(f"refused: {printable(reason)}")


def _list(index: Index) -> int:
    for collection in index.collections():
        say(
            f"{printable(collection.name)}: {collection.documents} documents, {collection.chunks} chunks, "
            f"{collection.vectors} with vectors, {collection.refused} refused"
        )
        for one in index.documents(collection.name):
            what = f"refused: {one.refused}" if one.refused else f"{one.chunks} chunks"
            say(printable(f"  {one.id}  {one.source and one.source + '/'}{one.name}  {what}"))
    return 0
