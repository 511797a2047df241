"""Answers that continue without their client: `background: true`."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from actors.runtime import occurs, spawn
from agents.events import AnswerFailed, Event, Usage
from proxy.answers.translate import tokens_of
from proxy.apis.fields import Json
from proxy.apis.responses.answer import Encoder
from proxy.apis.responses.kept import frames_in
from proxy.apis.server_errors import of_api_error, to_api_error
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.running import RunningRequests

GiveEvents = Callable[[Callable[[Event], None]], Awaitable[None]]
"""Passes the events of an answer on as they come. Raises `ApiError`."""


class Job:
    """A running answer and the events of its stream so far, each at the index of its number."""

    def __init__(
        self,
        exchange: Exchange,
        encoder: Encoder,
        keep: Callable[[Json], None],
        running: RunningRequests,
    ) -> None:
        self._running = running
        self._frames = frames_in(encoder.queued(time.time()))
        self._exchange = exchange
        self._encoder = encoder
        self._keep = keep
        self._news = asyncio.Event()
        self._is_over = False
        self._task: asyncio.Task[None] | None = None
        keep(encoder.response)

    @property
    def response(self) -> Json:
        """The response so far."""
        return self._encoder.response

    @property
    def size(self) -> int:
        """The size of its events in bytes."""
        return sum(map(len, self._frames))

    def start(self, give: GiveEvents, when_over: Callable[[], None]) -> None:
        """Begin the answer."""
        self._task = spawn(self._run(give), name=f"background {self.response['id']}")
        self._task.add_done_callback(lambda _: when_over())

    async def cancel(self, **fields: Any) -> None:
        """End the answer, wait until it has left its model, and set these fields of the response."""
        if self._task is None or self._task.done():
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        self._encoder.response = {**self.response, **fields}
        self._keep(self.response)
        self._end()

    async def follow(self, after: int, interval: float) -> AsyncGenerator[bytes, None]:
        """Yield the events after number `after`, and a comment when none has come for `interval` seconds."""
        count = after + 1
        while True:
            while count < len(self._frames):
                yield self._frames[count]
                count += 1
            if self._is_over:
                return
            if not await occurs(self._news, interval or None):
                yield b": the answer is under way\n\n"

    async def _run(self, give: GiveEvents) -> None:
        exchange = self._exchange
        with self._running.holding(exchange):
            try:
                await give(self._feed)
                exchange.status = exchange.status or 200
            except ApiError as error:
                self._feed(of_api_error(error))
            except asyncio.CancelledError:
                if (cancellation := exchange.take_cancellation()) is None:
                    exchange.client_left()
                    raise
                self._feed(of_api_error(cancellation))
            finally:
                exchange.finish()
        self._keep(self.response)
        self._end()

    def _feed(self, event: Event) -> None:
        match event:
            case Usage():
                self._exchange.tokens = tokens_of(event)
            case AnswerFailed():
                self._exchange.failed(to_api_error(event))
            case _:
                self._exchange.first_byte()
        self._frames += frames_in(self._encoder.encode(event, time.time()))
        self._tell()

    def _end(self) -> None:
        self._is_over = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
