"""The cache: a request that was answered before gets the same answer, without a model."""

import asyncio
import hashlib
import sqlite3
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from agents.api import (
    Agent,
    AgentConfig,
    AgentError,
    Answer,
    Call,
    Chat,
    Context,
    Extra,
    Finished,
    Reply,
    Services,
    operation,
)
from agents.cache.store import Store
from agents.events import Event, Finish, replayed

FILE = "answers.sqlite3"


class CacheConfig(AgentConfig, frozen=True, kw_only=True):
    """How long answers are kept, and how many."""

    ttl: Annotated[float, msgspec.Meta(gt=0, description="seconds that an answer is kept")] = 3600.0
    max_entries: Annotated[int, msgspec.Meta(ge=1, description="answers that are kept")] = 10_000
    max_kb: Annotated[int, msgspec.Meta(ge=1, description="KiB of an answer that is kept at most")] = 256


class Cache(Agent):
    """Answers are kept as the model gave them, so a hit passes the same filters as the first time.

    Requests are the same if they are the same as earlier agents have left them, whether streamed or not, and
    the same agents with the same arguments come after: these may change a request, or answer it themselves.
    Guards always come after, so what was answered without one is no answer with one. Keys do not share
    answers.
    """

    description = "Answers a request that was answered before, without a model"
    Config = CacheConfig
    config: CacheConfig

    def __init__(self, config: CacheConfig, services: Services) -> None:
        super().__init__(config, services)
        self._store = Store(services.folder / FILE, ttl=config.ttl, max_entries=config.max_entries)

    async def start(self) -> None:
        """Open the database. Without it, requests go on as if nothing had been kept."""
        try:
            await asyncio.to_thread(self._store.open)
        except (sqlite3.Error, OSError) as error:
            self.services.log.warning("the cache cannot be opened", reason=str(error))

    async def close(self) -> None:
        """Close it."""
        await asyncio.to_thread(self._store.close)

    async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
        """Reply with the kept answer, if there is one."""

        def look_up() -> tuple[bytes, tuple[bytes, float] | None]:
            key = key_of(request, ctx.key, ctx.later)  # of megabytes, it takes a while
            return key, self._store.get(key, ctx.clock.time())

        try:
            key, found = await asyncio.to_thread(look_up)
            answer = msgspec.json.decode(found[0], type=Answer) if found else None
        except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
            raise AgentError(f"the kept answers cannot be read: {error}") from error
        if found is None or answer is None:
            ctx.state = key
            ctx.note = "miss"
            return request
        age = round(found[1], 1)
        ctx.note = f"hit, {age} s old"
        return Reply.of(_replayed(answer, age, int(ctx.clock.time())))

    async def after(self, ctx: Context, finished: Finished) -> None:
        """Keep the answer, if it is whole and not too large."""
        answer = finished.raw
        if ctx.state is None or answer is None or answer.reason not in ("stop", "tool_calls"):
            return
        if finished.request.model != ctx.model:
            return  # a hit would not meet the guards that the other model has of its own
        encoded = msgspec.json.encode(answer)
        if len(encoded) <= self.config.max_kb * 1024:
            try:
                await asyncio.to_thread(self._store.put, ctx.state, encoded, ctx.clock.time())
            except (sqlite3.Error, OSError) as error:
                raise AgentError(f"the answer cannot be kept: {error}") from error

    @operation("DELETE", "answers")
    async def clear(self, call: Call) -> dict[str, Any]:
        """Forget all the answers."""
        try:
            return {"deleted": await asyncio.to_thread(self._store.clear)}
        except (sqlite3.Error, OSError) as error:
            raise AgentError(f"the kept answers cannot be deleted: {error}", status=503) from error


def key_of(request: Chat, key: str, later: Sequence[tuple[str, str]] = ()) -> bytes:
    """What is the same for requests that have the same answer."""
    same = msgspec.structs.replace(
        request, stream=False, include_usage=False, keep_alive=None, ignored=[], echo={}
    )
    return hashlib.sha256(msgspec.json.encode((key, later, same), order="deterministic")).digest()


def _replayed(answer: Answer, age: float, now: int) -> list[Event]:
    """The answer's events. Its tokens are told as before, but all of the prompt was at hand, in no time."""
    usage = msgspec.structs.replace(
        answer.usage,
        cached=answer.usage.prompt,
        total_seconds=0.0,
        load_seconds=0.0,
        prompt_seconds=0.0,
        completion_seconds=0.0,
    )
    events: list[Event] = []
    for event in replayed(msgspec.structs.replace(answer, created=now, usage=usage)):
        if isinstance(event, Finish):
            events.append(Extra({"cache": {"age": age}}))
        events.append(event)
    return events
