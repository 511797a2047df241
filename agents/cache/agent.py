"""The cache: repeats the stored answer of an identical request, without a model."""

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
    """How long answers are stored, and how many."""

    ttl: Annotated[float, msgspec.Meta(gt=0, description="seconds that an answer is kept")] = 3600.0
    max_entries: Annotated[int, msgspec.Meta(ge=1, description="answers that are kept")] = 10_000
    max_kb: Annotated[int, msgspec.Meta(ge=1, description="KiB of an answer that is kept at most")] = 256


class Cache(Agent):
    """Stores answers as the model gave them, so that a hit passes the same filters as the first answer.

    Requests are identical if they are equal after the earlier agents, streamed or not, and if the same
    agents with the same arguments follow, because these may change a request or answer it. Guards always
    follow, so an answer given without a guard is not used with one. Keys do not share answers.
    """

    description = "Answers a request that was answered before, without a model"
    Config = CacheConfig
    config: CacheConfig

    def __init__(self, config: CacheConfig, services: Services) -> None:
        super().__init__(config, services)
        self._store = Store(services.folder / FILE, ttl=config.ttl, max_entries=config.max_entries)

    async def start(self) -> None:
        """Open the database. Without it, requests are served as if nothing were stored."""
        try:
            await asyncio.to_thread(self._store.open)
        except (sqlite3.Error, OSError) as error:
            self.services.log.warning("the cache cannot be opened", reason=str(error))

    async def close(self) -> None:
        """Close the database."""
        await asyncio.to_thread(self._store.close)

    async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
        """Reply with the stored answer, if there is one."""

        def look_up() -> tuple[bytes, tuple[bytes, float] | None]:
            key = key_of(request, ctx.key, ctx.later)  # slow for megabytes
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
        """Store the answer, if it is complete and not too large."""
        answer = finished.raw
        if ctx.state is None or answer is None or answer.reason not in ("stop", "tool_calls"):
            return
        if finished.request.model != ctx.model:
            return  # a hit would bypass the guards that the other model has by default
        encoded = msgspec.json.encode(answer)
        if len(encoded) <= self.config.max_kb * 1024:
            try:
                await asyncio.to_thread(self._store.put, ctx.state, encoded, ctx.clock.time())
            except (sqlite3.Error, OSError) as error:
                raise AgentError(f"the answer cannot be kept: {error}") from error

    @operation("DELETE", "answers")
    async def clear(self, call: Call) -> dict[str, Any]:
        """Delete all answers."""
        try:
            return {"deleted": await asyncio.to_thread(self._store.clear)}
        except (sqlite3.Error, OSError) as error:
            raise AgentError(f"the kept answers cannot be deleted: {error}", status=503) from error


def key_of(request: Chat, key: str, later: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return a key that is equal for identical requests."""
    same = msgspec.structs.replace(
        request, stream=False, include_usage=False, keep_alive=None, ignored=[], echo={}
    )
    return hashlib.sha256(msgspec.json.encode((key, later, same), order="deterministic")).digest()


def _replayed(answer: Answer, age: float, now: int) -> list[Event]:
    """Yield a stored answer's events. Its tokens are reported again, with the whole prompt as cached."""
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
