"""The engine's events about our containers.

The stream may end silently, with or without the engine. Then it is opened again.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from actors.servers.docker.engine import Engine, EngineError
from actors.servers.docker.schema import EngineEvent

log = structlog.get_logger("docker")

RETRY_FIRST = 0.1
"""Seconds until the first reconnection to a lost engine; the pauses grow to `RETRY_LAST`."""
RETRY_LAST = 2.0


class Events:
    """A stream of events that is opened again whenever it ends.

    `label` returns the containers' label; `resync` is called when a stream has begun, to look up earlier
    changes; `handle` gets each event; `away` is called when a stream has ended or cannot begin. The first
    two raise `EngineError`.
    """

    def __init__(
        self,
        engine: Engine,
        label: Callable[[], Awaitable[str]],
        resync: Callable[[], Awaitable[None]],
        handle: Callable[[EngineEvent], None],
        away: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._label = label
        self._resync = resync
        self._handle = handle
        self._away = away

    async def watch(self) -> None:
        """Watch until cancelled."""
        pause = RETRY_FIRST
        reason = ""
        while True:
            try:
                label = await self._label()
                since = (await self._engine.info()).time
                reason = ""
                await self._listen(label, since)
                pause = RETRY_FIRST
                log.warning("the Docker Engine's events have ended; asking for them again")
            except EngineError as error:
                if str(error) != reason:
                    reason = str(error)
                    log.warning("the Docker Engine cannot be used", reason=reason)
            self._away()
            await asyncio.sleep(pause)
            pause = min(RETRY_LAST, pause * 2)

    async def _listen(self, label: str, since: float) -> None:
        """Read one stream until it ends. Raises `EngineError`.

        The stream starts at a time before the containers are listed, so that every change is either in the
        list or an event.
        """
        filters = filter_of(label, type=["container"], event=["oom", "die", "destroy"])
        async with self._engine.stream(
            "tell its events", "GET", "events", params={"since": f"{since:.6f}", "filters": filters}
        ) as events:
            await self._resync()
            async for line in events.content:
                self._handle(msgspec.json.decode(line, type=EngineEvent))


def filter_of(label: str, **more: list[str]) -> str:
    """Return the parameter `filters` of the engine's lists and events."""
    return msgspec.json.encode({"label": [label], **more}).decode()
