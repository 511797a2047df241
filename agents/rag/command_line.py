"""`run.py rag`: adds documents to the index, lists and deletes them, with or without a running gateway.

Words are indexed here. A gateway with an embedding model adds the missing vectors later.
"""

import argparse
import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from actors.commands.effective_config import read_sound
from actors.folders import data_folder
from actors.terminal import complain, printable, program, say
from agents.rag.agent import INDEX
from agents.rag.bodies import DEFAULT
from agents.rag.embedding import Embedding
from agents.rag.indexing.ingest import Ingester, IngestProgress, IngestReport
from agents.rag.reading.formats.structure import DocumentError
from agents.rag.store.index import Index, ListedDocument
from agents.rag.store.schema import IndexUnusableError

ACTIONS = ("add", "list", "delete", "prune")
COUNTS = ("added", "changed", "unchanged", "deleted")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="add: files or folders; delete: documents, as `list` shows them; prune: folders, whose"
        " documents are deleted where the file is gone",
    )
    parser.add_argument(
        "--collection", help="which one (default: default); with `delete` and no PATH, all of it is deleted"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command on the folder of the agent `rag`; return the exit status."""
    return rag(data_folder(read_sound(options).agent_data) / "rag", options)


def rag(folder: Path, options: argparse.Namespace) -> int:
    """Add, list, or delete documents in the agent's `folder`; return the exit status.

    1: something was refused or does not exist; the rest was done. 2: the arguments are ambiguous, and
    nothing was done.
    """
    paths, collection = options.paths, options.collection
    if options.action in ("add", "prune") and not paths:
        return _unclear(f"rag {options.action}: name a file or a folder")
    if options.action == "list" and paths:
        return _unclear("rag list: takes no PATH, only --collection")
    if options.action == "delete" and not paths and not collection:
        return _unclear("rag delete: name documents, or with --collection alone a whole collection")
    try:
        with closing(Index(folder / INDEX)) as index:
            match options.action:
                case "add":
                    return asyncio.run(_add(index, paths, collection or DEFAULT))
                case "list":
                    return _list(index, collection)
                case "prune":
                    return asyncio.run(_prune(index, paths, collection))
                case _ if paths:
                    return _delete(index, paths, collection or DEFAULT)
                case _:
                    return _delete_collection(index, collection)
    except IndexUnusableError as error:
        return _failed(str(error))


def _unclear(message: str) -> int:
    complain(message)
    return 2


def _failed(message: str) -> int:
    complain(printable(message))
    return 1


async def _add(index: Index, paths: list[Path], collection: str) -> int:
    ingester = Ingester(index, Embedding(None))
    failed = False
    for path in paths:
        shown: tqdm[Any] = tqdm(desc=printable(str(path)), unit=" files", disable=None)
        with shown:

            def show(progress: IngestProgress, bar: "tqdm[Any]" = shown) -> None:
                bar.total = progress.total
                bar.update(progress.done - bar.n)

            try:
                add = ingester.add_folder if await asyncio.to_thread(path.is_dir) else ingester.add_file
                report = await add(path, collection, on_progress=show)
            except DocumentError as error:
                _failed(str(error))
                failed = True
                continue
        _tell(path, report, collection)
        nothing = not any(getattr(report, name) for name in COUNTS)
        if nothing and not report.refused and not report.missing:
            _failed(f"{path}: there is no document")
        failed = failed or nothing or bool(report.refused) or bool(report.missing)
    return int(failed)


def _tell(path: Path, report: IngestReport, collection: str) -> None:
    say(f"{printable(str(path))}: " + ", ".join(f"{getattr(report, name)} {name}" for name in COUNTS))
    for reason in report.refused.values():
        complain(f"refused: {printable(reason)}")
    if report.missing:
        _failed(
            f"{report.missing} files are gone, most of what there was; their documents are kept."
            f" To delete them: {program()} rag prune {path} --collection {collection}"
        )


async def _prune(index: Index, folders: list[Path], collection: str | None) -> int:
    """Delete the documents of these folders whose files are gone, from one collection or from all."""
    status = 0
    ingester = Ingester(index, Embedding(None))
    collections = [entry.name for entry in await asyncio.to_thread(index.collections)]
    for folder in folders:
        deleted = 0
        try:
            for name in collections if collection is None else [collection]:
                # All files that were documents, since the patterns that found them are unknown here.
                deleted += await ingester.prune_folder(folder, name, patterns=["*"])
        except DocumentError as error:
            status = _failed(str(error))
            continue
        say(f"{printable(str(folder))}: {deleted} deleted")
        if not deleted:
            place = "" if collection is None else f" in collection {collection!r}"
            status = _failed(f"no document of {folder}{place} is without its file")
    return status


def _delete(index: Index, paths: list[Path], collection: str) -> int:
    """Delete the named documents, by the names that `list` shows."""
    listed = index.documents(collection)
    status = 0
    for path in paths:
        found = [entry for entry in listed if _is_named(entry, path)]
        if not found:
            others = [entry.name for entry in index.collections() if _has(index, entry.name, path)]
            hint = f"; there is one in {', '.join(map(repr, others))} (--collection)" if others else ""
            status = _failed(f"there is no document {str(path)!r} in collection {collection!r}{hint}")
        elif len(found) > 1:
            names = ", ".join(map(_shown, found[:10]))
            status = _failed(
                f"{str(path)!r} is the name of {len(found)} documents; name one in full: {names}"
            )
        elif index.delete_documents([found[0].id]):
            say(printable(f"deleted {_shown(found[0])} from collection {collection!r}"))
            if found[0].source and Path(_shown(found[0])).exists():
                complain("its file is still there: where its folder is watched it comes back")
    return status


def _has(index: Index, collection: str, path: Path) -> bool:
    return any(_is_named(entry, path) for entry in index.documents(collection))


def _is_named(document: ListedDocument, path: Path) -> bool:
    if str(path) in (document.name, _shown(document)):
        return True
    return bool(document.source) and str(path.expanduser().absolute()) == _shown(document)


def _delete_collection(index: Index, collection: str) -> int:
    deleted = index.delete_collection(collection)
    if not deleted:
        return _failed(f"there is no collection {collection!r}; nothing was deleted")
    say(f"deleted collection {collection!r}: {deleted} documents")
    return 0


def _list(index: Index, collection: str | None) -> int:
    collections = [entry for entry in index.collections() if collection in (None, entry.name)]
    if collection is not None and not collections:
        return _failed(f"there is no collection {collection!r}")
    for entry in collections:
        say(
            f"{printable(entry.name)}: {entry.documents} documents, {entry.chunks} chunks, "
            f"{entry.vectors} with vectors, {entry.refused} refused"
        )
        for document in index.documents(entry.name):
            what = f"refused: {document.refused}" if document.refused else f"{document.chunks} chunks"
            say(printable(f"  {document.id}  {_shown(document)}  {what}"))
    return 0


def _shown(document: ListedDocument) -> str:
    return f"{document.source}/{document.name}" if document.source else document.name
