"""The actor's mailbox loop and the one way to start a task.

`tell` is synchronous and never waits. Handlers are synchronous and short; slow work is a task that reports
an event when it is done. Only the front door waits for replies, with its own deadline.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

import structlog

log = structlog.get_logger("actors.runtime")

MAILBOX_LIMIT = 100_000
"""Most messages in a mailbox. The door limits requests, so a full mailbox is a defect and raises."""

_tasks: set[asyncio.Task[Any]] = set()

M = TypeVar("M")
T = TypeVar("T")


async def occurs(event: asyncio.Event, timeout: float | None = None) -> bool:
    """Wait for the event; false when `timeout` seconds pass first."""
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        return False
    return True


def spawn(work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Start a task, keep a reference to it, and log an unexpected exception."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _tasks.add(task)
    task.add_done_callback(_finished)
    return task


def _finished(task: asyncio.Task[Any]) -> None:
    _tasks.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("task failed", task=task.get_name(), exc_info=error)


class Actor(Generic[M]):
    """A mailbox, and turns of the event loop in which its messages are handled one at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._mailbox: deque[M] = deque()
        self._runs = False

    def start(self) -> None:
        """Begin to handle messages."""
        self._runs = True
        asyncio.get_running_loop().call_soon(self._handle_messages)

    def tell(self, message: M) -> None:
        """Put a message into the mailbox. Raises `asyncio.QueueFull` when messages are not handled."""
        if len(self._mailbox) >= MAILBOX_LIMIT:
            raise asyncio.QueueFull
        self._mailbox.append(message)
        if self._runs and len(self._mailbox) == 1:
            asyncio.get_running_loop().call_soon(self._handle_messages)

    def handle(self, message: M) -> None:
        """React to one message. Must not block; an exception is logged and costs this message only."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Handle no more messages."""
        self._runs = False

    def _handle_messages(self) -> None:
        while self._runs and self._mailbox:
            message = self._mailbox.popleft()
            try:
                self.handle(message)
            except Exception:  # one bad message must not stop the handling of others
                log.exception("message could not be handled", actor=self.name, message=repr(message)[:500])
