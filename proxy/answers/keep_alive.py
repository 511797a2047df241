"""A streaming client that waits, for its turn, a download, a load or a long prompt, is told so now and then.

Without a byte for a minute, proxies and clients give up. Comment lines are no events, and a line of JSON
without a text adds nothing, so nobody is confused. The head of the
answer goes out with the first of them: from then on, an error can only be an event.
"""

import asyncio
from collections.abc import Callable

from aiohttp import web

from actors.runtime import spawn


class Waiting:
    """Writes a comment every `interval` seconds (0: never) until the answer begins."""

    def __init__(
        self, request: web.Request, client: web.StreamResponse, interval: float, comment: Callable[[], bytes]
    ) -> None:
        self._request = request
        self._client = client
        self._interval = interval
        self._make = comment
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._set_timer()

    @property
    def begun(self) -> bool:
        """Whether the head of the answer is out."""
        return self._client.prepared

    def _set_timer(self) -> None:
        if self._interval > 0:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._tick)

    def _tick(self) -> None:
        self._task = spawn(self._comment(), name="comment")
        self._set_timer()

    async def _comment(self) -> None:
        try:
            await self._client.prepare(self._request)
            await self._client.write(self._make())
        except ConnectionError:
            self.end()  # the handler learns of it by its own cancellation

    def end(self) -> None:
        """Nothing is written after this, and what was written is whole."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
