"""Watches folders, and ingests changes soon after they happen.

The package watchfiles uses the system's notifications (such as inotify) and waits until a burst of changes
is over. A notification is only a hint: each time the whole folder is compared with the index, so a lost one
does no harm. The folder is also compared from time to time, for network file systems without notifications.
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
"""Seconds between comparisons without a notification."""
RETRY = 10.0
"""Seconds until an unreadable folder, such as a missing mount, is tried again."""


async def watch(folder: Path, ingest: Callable[[], Awaitable[object]], *, rescan: float = RESCAN) -> None:
    """Call `ingest` now, after each change in the folder, and every `rescan` seconds, until cancelled.

    A folder that cannot be read (`ingest` raises `DocumentError`) or watched is logged once, and tried again
    every `RETRY` or `rescan` seconds. A new folder in its place is watched from then on.
    """
    trouble = Trouble("folder is not watched, only looked at now and then", folder=str(folder))
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
    """Watch until another folder takes its place, as a mount does: notifications only concern the old one.

    Raises the error that prevents watching, such as that the folder is gone.
    """

    def is_of_interest(_: Change, path: str) -> bool:
        try:
            parts = Path(path).relative_to(folder).parts
        except ValueError:
            parts = ()
        return not any(part.startswith(".") or part in SKIPPED for part in parts)

    watched = await asyncio.to_thread(file_id, folder)
    loop = asyncio.get_running_loop()
    due = loop.time()  # at once, because changes before the watch began were not notified
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
