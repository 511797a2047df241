"""The ledger and the captures, built together from the settings."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from actors.config.schema import UsageSettings
from actors.folders import captures_folder, usage_file
from actors.runtime import spawn
from proxy.usage.capture_folder import CaptureFolder
from proxy.usage.captures import MIB, Capturable, Captures
from proxy.usage.ledger import Ledger
from proxy.usage.ledger_file import LedgerFile


class UsageRecords:
    """What is recorded of requests, and where."""

    def __init__(
        self, settings: UsageSettings, file: Path | None = None, captured: Path | None = None
    ) -> None:
        self.file = file or usage_file()
        self.ledger = Ledger(LedgerFile(self.file), settings.keep_days)
        kept = settings.captures
        folder = captured or captures_folder()
        self.folder = CaptureFolder(folder, kept.keep_days, kept.max_total_mb * MIB)
        self.captures = Captures(kept, self.folder)

    @property
    def accounts(self) -> tuple[Callable[[Capturable], None], ...]:
        """Who must get each finished request."""
        return self.ledger.account, self.captures.account

    def reconfigure(self, settings: UsageSettings) -> None:
        """Record by these settings from now on."""
        self.ledger.keep_days = settings.keep_days
        self.folder.keep_days = settings.captures.keep_days
        self.folder.most_bytes = settings.captures.max_total_mb * MIB
        self.captures.reconfigure(settings.captures)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Have requests recorded, for the time of a block. At its end all of them are in their files."""
        await self.ledger.start()
        await self.captures.start()
        tasks = [spawn(self.ledger.run(), name="ledger"), spawn(self.captures.run(), name="captures")]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await self.captures.close()
            await self.ledger.close()
