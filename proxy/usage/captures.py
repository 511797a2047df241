"""Captures whole requests and their answers, where that is switched on.

A thread removes their secrets and writes them. What there is no room or no disk for is not captured, and
counted: nobody waits for it.
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from fnmatch import translate
from typing import Protocol

import structlog

from actors.config.schema import CaptureSettings
from proxy.usage.capture import Capture, Room
from proxy.usage.capture_folder import CaptureFolder
from proxy.usage.rows import Recordable

log = structlog.get_logger("captures")

MIB = 2**20
MEMORY = 64 * MIB
"""Most bytes of all captures that are not written yet."""


class Capturable(Recordable, Protocol):
    """A finished request, as captures see it."""

    @property
    def capture(self) -> Capture | None:
        """Its capture, if it has one."""


class Captures:
    """Captures the requests that the settings choose. `dropped` counts those that were not kept."""

    def __init__(self, settings: CaptureSettings, folder: CaptureFolder, *, memory: int = MEMORY) -> None:
        self.dropped = 0
        self._folder = folder
        self._room = Room(memory)
        self.reconfigure(settings)
        self._waiting: asyncio.Queue[tuple[Capture, Capturable]] = asyncio.Queue()
        self._has_failed = False

    def reconfigure(self, settings: CaptureSettings) -> None:
        """Choose requests by these settings from now on."""
        self._settings = settings
        self._models = _pattern(settings.models)
        self._keys = _pattern(settings.keys)
        self.is_on = bool(settings.models or settings.keys)
        """Whether anything is captured."""

    def begin(self, key: str, models: Iterable[str]) -> Capture | None:
        """Return a capture for a request with this key to a model with these names; None if not chosen."""
        is_chosen = (key and self._keys.match(key.casefold())) or any(
            self._models.match(name.casefold()) for name in models
        )
        if not is_chosen:
            return None
        if self._room.left <= 0:
            self.dropped += 1
            return None
        return Capture(self._room, int(self._settings.max_mb * MIB))

    def account(self, request: Capturable) -> None:
        """Have the capture of a finished request written. Synchronous; never raises."""
        if (capture := request.capture) is None:
            return
        if self._settings.failures_only and request.outcome == "ok":
            capture.release()
        else:
            self._waiting.put_nowait((capture, request))

    async def start(self) -> None:
        """Delete what is too old or too much, also if nothing is captured any more."""
        await self._try(self._folder.open)

    async def run(self) -> None:
        """Write captures as their requests end, until cancelled."""
        while True:
            await self._keep(*await self._waiting.get())

    async def close(self) -> None:
        """Write the captures that wait."""
        while not self._waiting.empty():
            await self._keep(*self._waiting.get_nowait())

    async def _keep(self, capture: Capture, request: Capturable) -> None:
        if not await self._try(lambda: self._folder.write(capture.read(request))):
            self.dropped += 1
        capture.release()

    async def _try(self, work: Callable[[], None]) -> bool:
        """Do blocking work. Only the first of several failures is logged."""
        try:
            await asyncio.to_thread(work)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                log.warning("captures cannot be kept", reason=str(error))
            return False
        if self._has_failed:
            self._has_failed = False
            log.info("captures are kept again", dropped=self.dropped)
        return True


def _pattern(globs: list[str]) -> re.Pattern[str]:
    """Compile globs; without any, nothing matches."""
    return re.compile("|".join(translate(glob.casefold()) for glob in globs) or r"(?!)")
