"""The changes of the gateway's state: found a few times a second, numbered, and kept for a while.

Nothing reports a change. As long as somebody listens, a ticker looks at the state and compares it with what
it saw before; so nothing else costs more because of it. A reader takes the changes since its own number. If
these are no longer kept, because it was away or too slow, it begins again with a snapshot.
"""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import msgspec

from actors.runtime import occurs, spawn
from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import ModelStatus
from actors.supervisor import Supervisor
from proxy.admin.live.models import Download, Models
from proxy.admin.live.requests import Requests, RunningRequest, WaitingRequest, is_shown
from proxy.exchange import Exchange
from proxy.handlers.health import Views

INTERVAL = 0.25
"""Least seconds between two looks at the state."""
SHARE = 0.005
"""Largest share of the event loop's time for these looks. With many requests there are fewer of them."""
LINGER = 30.0
"""Seconds for which changes are still noted after the last reader has left, so that it can continue."""
SILENCE = 10.0
"""Seconds without a change after which a reader gets a comment, so that it notices a lost connection."""
MOST_BYTES = 2 << 20
"""Most bytes of changes that are kept."""
MOST_ENDED = 500
"""Most ended requests that are reported of one interval."""

Json = dict[str, Any]


class EndedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that has ended. `at` is its start; the fields are those of `/admin/activity`."""

    id: str
    at: float
    key: str | None
    model: str | None
    agents: tuple[str, ...]
    endpoint: str
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    queued_seconds: float
    loaded_seconds: float
    first_token_seconds: float | None
    seconds: float
    status: int
    outcome: str
    error: str | None
    place: str | None

    @classmethod
    def of(cls, exchange: Exchange) -> "EndedRequest":
        """Describe a request that ends now."""
        first = exchange.first_byte_at
        return cls(
            id=exchange.listed_as,
            at=exchange.started,
            key=exchange.client or None,
            model=exchange.model,
            agents=exchange.agents,
            endpoint=exchange.endpoint,
            prompt_tokens=exchange.tokens.get("prompt_tokens"),
            cached_tokens=exchange.tokens.get("cached_tokens"),
            completion_tokens=exchange.tokens.get("completion_tokens"),
            queued_seconds=round(exchange.queued, 3),
            loaded_seconds=round(exchange.loaded, 3),
            first_token_seconds=None if first is None else round(first - exchange.started_at, 3),
            seconds=round(time.monotonic() - exchange.started_at, 3),
            status=exchange.status,
            outcome=exchange.outcome,
            error=exchange.error,
            place=exchange.place,
        )


class _Seen(msgspec.Struct):
    """The state at the latest look, without what changes by itself."""

    models: dict[str, tuple[object, ...]] = {}
    requests: dict[str, tuple[object, ...]] = {}
    waiting: list[tuple[object, ...]] = []
    memory: bytes = b""
    downloads: bytes = b""


class Feed:
    """Finds changes, and gives them to readers as server-sent events."""

    def __init__(self, supervisor: Supervisor, models: Models, requests: Requests, views: Views) -> None:
        self._supervisor = supervisor
        self._models = models
        self._requests = requests
        self._views = views
        self._run = secrets.token_hex(4)
        self._number = 0
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0
        self._seen = _Seen()
        self._ended: deque[EndedRequest] = deque(maxlen=MOST_ENDED)
        self._without_facts: list[ModelStatus] = []
        self._facts_of: dict[str, int] = {}
        """The epoch in which the facts of each model were read last."""
        self._news = asyncio.Event()
        self._readers = 0
        self._ticker: asyncio.Task[None] | None = None
        self._is_closed = False
        self.more_downloads: Callable[[], list[Json]] = list
        """Returns the downloads of models that are not loaded."""

    def account(self, exchange: Exchange) -> None:
        """Note a finished request, if anybody listens."""
        if self._ticker is not None and not exchange.inner and is_shown(exchange):
            self._ended.append(EndedRequest.of(exchange))

    def publish(self, kind: str, data: object) -> None:
        """Report something that is no part of the state, if anybody listens."""
        if self._ticker is not None:
            self._add(kind, msgspec.json.encode(data))
            self._tell()

    def close(self) -> None:
        """End all readers."""
        self._is_closed = True
        self._stop()
        self._tell()

    # Reading

    async def follow(self, after: str | None) -> AsyncGenerator[bytes, None]:
        """Yield events: those after the cursor `after`, or a snapshot first if these are not kept."""
        with self._listening():
            number = self._number_of(after)
            while not self._is_closed:
                if number is None or not self._has_all_after(number):
                    frame = await self._snapshot()
                    number = self._number
                    yield frame
                elif self._number > number:
                    frames = [frame for known, frame in self._kept if known > number]
                    number = self._number
                    yield b"".join(frames)
                elif not await occurs(self._news, SILENCE):
                    yield b":\n\n"

    def _number_of(self, cursor: str | None) -> int | None:
        run, _, number = (cursor or "").partition("-")
        is_ours = run == self._run and number.isascii() and number.isdigit() and len(number) < 20
        return int(number) if is_ours and int(number) <= self._number else None

    def _has_all_after(self, number: int) -> bool:
        return number == self._number or bool(self._kept and self._kept[0][0] <= number + 1)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        if self._ticker is None and not self._is_closed:
            self._ticker = spawn(self._tick(), name="changes for /admin/events")
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    async def _snapshot(self) -> bytes:
        models = await self._models.listed(remembers=True)
        self._look()  # so that the next changes are those since this snapshot
        state = {
            "models": models,
            "requests": self._requests.running(),
            "waiting": self._requests.waiting(),
            "memory": self._memory(),
            "downloads": self._downloads(),
            "version": self._views.version,
            "uptime_seconds": self._views.uptime,
        }
        return self._frame("snapshot", msgspec.json.encode(state))

    # Writing

    def _frame(self, kind: str, body: bytes) -> bytes:
        return b"id: %s-%d\nevent: %s\ndata: %s\n\n" % (self._run.encode(), self._number, kind.encode(), body)

    def _add(self, kind: str, body: bytes) -> None:
        self._number += 1
        frame = self._frame(kind, body)
        self._kept.append((self._number, frame))
        self._kept_bytes += len(frame)
        while self._kept_bytes > MOST_BYTES:
            self._kept_bytes -= len(self._kept.popleft()[1])

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _tick(self) -> None:
        alone_since = None
        try:
            while alone_since is None or time.monotonic() - alone_since < LINGER:
                alone_since = None if self._readers else alone_since or time.monotonic()
                began, before = time.monotonic(), self._number
                self._look()
                if self._number > before:
                    self._tell()
                spent = time.monotonic() - began
                await self._read_facts()
                await asyncio.sleep(max(INTERVAL, spent / SHARE))
        finally:
            if self._ticker is asyncio.current_task():
                self._stop()

    def _stop(self) -> None:
        """Note no more changes. An older cursor is of no use then."""
        if self._ticker is not None and self._ticker is not asyncio.current_task():
            self._ticker.cancel()
        self._ticker = None
        self._number += 1
        self._kept.clear()
        self._kept_bytes = 0
        self._seen = _Seen()
        self._ended.clear()

    def _look(self) -> None:
        """Note what has changed since the last look."""
        self._look_at_models()
        self._look_at_requests()
        waiting = self._requests.waiting()
        if (seen := [_waiting_key(one) for one in waiting]) != self._seen.waiting:
            self._seen.waiting = seen
            self._add("waiting", msgspec.json.encode(waiting))
        for kind, data in (("memory", self._memory()), ("downloads", self._downloads())):
            if (body := msgspec.json.encode(data)) != getattr(self._seen, kind):
                setattr(self._seen, kind, body)
                self._add(kind, body)

    def _look_at_models(self) -> None:
        known = {}
        for status in self._supervisor.describe():
            known[status.name] = key = _model_key(status)
            if self._seen.models.get(status.name) != key:
                self._add("model", msgspec.json.encode(self._models.describe(status)))
                if self._may_have_facts(status):
                    self._without_facts.append(status)
        for name in self._seen.models.keys() - known.keys():
            self._add("model_removed", msgspec.json.encode({"name": name}))
        self._seen.models = known

    def _may_have_facts(self, status: ModelStatus) -> bool:
        """Whether a model's files have come onto the disk since its facts were read."""
        return (
            status.state not in (State.STOPPED, State.FETCHING)
            and self._facts_of.get(status.name) != status.epoch
            and not self._models.has_facts(status.name)
        )

    def _look_at_requests(self) -> None:
        known = {}
        now = time.monotonic()
        for exchange in self._requests.shown():
            known[exchange.listed_as] = key = _request_key(exchange)
            if self._seen.requests.get(exchange.listed_as) != key:
                self._add("request", msgspec.json.encode(RunningRequest.of(exchange, now)))
        self._seen.requests = known
        while self._ended:
            self._add("request_ended", msgspec.json.encode(self._ended.popleft()))

    async def _read_facts(self) -> None:
        """Read the facts of models whose files have come onto the disk, and report these models again."""
        while self._without_facts:
            status = self._without_facts.pop()
            self._facts_of[status.name] = status.epoch
            await self._models.read_facts(status)
            self._seen.models.pop(status.name, None)

    def _memory(self) -> Json:
        memory = self._views.memory()
        return {part: memory[part] for part in ("gpus", "gpus_lost", "gpu_error", "host")}

    def _downloads(self) -> list[Json]:
        return [
            {"name": name, **msgspec.structs.asdict(Download.of(progress))}
            for name in self._seen.models
            if (progress := self._supervisor.progress(name)) is not None
        ] + self.more_downloads()


def _model_key(status: ModelStatus) -> tuple[object, ...]:
    return (
        status.state,
        status.epoch,
        status.busy,
        status.slots,
        status.waiting,
        status.pinned,
        status.idle_timeout,
        status.keep_alive,
        status.idle_seconds is None,
        status.failures,
        status.error,
        status.place,
        status.placement,
        status.aliases,
    )


def _request_key(exchange: Exchange) -> tuple[object, ...]:
    return (
        exchange.phase,
        exchange.model,
        exchange.place,
        exchange.first_byte_at,
        exchange.count_tokens() if exchange.count_tokens is not None else None,
    )


def _waiting_key(one: WaitingRequest) -> tuple[object, ...]:
    return one.id, one.model, one.place, one.reason
