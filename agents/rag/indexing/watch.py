"""Folders are watched: whatever changes in one is ingested soon after.

By watchfiles: it has the system tell it (inotify and its like) instead of asking about every file again and
again, and waits until a burst of changes is over. What it tells is a hint only: each time the whole folder is
compared with the index. So nothing depends on no hint being lost; and now and then it is compared without
one, for network file systems, which tell nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import structlog
from watchfiles import Change, awatch

from agents.files import file_id, is_still_there
from agents.rag.indexing.folders import SKIPPED
from agents.rag.reading.formats.structure import DocumentError
from agents.rag.store.schema import IndexUnusableError
from agents.rag.trouble import Trouble

log = structlog.get_logger("rag")

RESCAN = 300.0
"""Seconds."""
RETRY = 10.0
"""Seconds until a folder that cannot be read, as one of a mount that is missing, is looked for again."""


async def watch(folder: Path, ingest: Callable[[], Awaitable[object]], *, rescan: float = RESCAN) -> None:
    """Call `ingest` now, when something changes in the folder, and every `rescan` seconds; until cancelled.

    A folder that cannot be read (`ingest` raises `DocumentError`) or watched is told once, and tried again
    every `RETRY` or `rescan` seconds. Another one in its place is watched from then on.
    """
    trouble = Trouble(f"folder {folder} is not watched, only looked at now and then")
    while True:
        pause = rescan
        try:
            await ingest()
            await _follow(folder, ingest, rescan, trouble)
            continue
        except DocumentError as error:
            trouble.met(error)
            pause = min(rescan, RETRY)
        except (IndexUnusableError, OSError, RuntimeError) as error:
            trouble.met(error)
        await asyncio.sleep(pause)


async def _follow(
    folder: Path, ingest: Callable[[], Awaitable[object]], rescan: float, trouble: Trouble
) -> None:
    """Watch until another folder is in its place, as a mount puts it there: the system tells of the old one.

    Raises what keeps it from that, which may be that the folder went away.
    """

    def is_of_interest(_: Change, path: str) -> bool:
        try:
            parts = Path(path).relative_to(folder).parts
        except ValueError:
            parts = ()
        return not any(part.startswith(".") or part in SKIPPED for part in parts)

    watched = await asyncio.to_thread(file_id, folder)
    loop = asyncio.get_running_loop()
    due = loop.time()  # at once: what changed before the watch began has told nobody
    hints = awatch(
        folder,
        watch_filter=is_of_interest,
        rust_timeout=int(min(rescan, 1.0) * 1000),
        yield_on_timeout=True,
    )
    async with aclosing(hints):
        async for changes in hints:
            if not await asyncio.to_thread(is_still_there, folder, watched):
                return
            trouble.over()
            if changes or loop.time() >= due:
                await ingest()
                due = loop.time() + rescan
