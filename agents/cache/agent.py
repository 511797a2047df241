"""The cache: a request that was answered before gets the same answer, without a model."""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from agents.api import Agent, AgentConfig, Answer, Call, Chat, Context, Extra, Finished, Reply, operation
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

    async def start(self) -> None:
        """Open the database."""
        self._store = await asyncio.to_thread(
            Store,
            self.services.folder / FILE,
            ttl=self.config.ttl,
            max_entries=self.config.max_entries,
        )

    async def close(self) -> None:
        """Close it."""
        if hasattr(self, "_store"):
            await asyncio.to_thread(self._store.close)

    async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
        """Reply with the kept answer, if there is one."""
        key = key_of(request, ctx.key, ctx.later)
        found = await asyncio.to_thread(self._store.get, key, ctx.clock.time())
        if found is None:
            ctx.state = key
            ctx.note = "miss"
            return request
        answer, age = msgspec.json.decode(found[0], type=Answer), round(found[1], 1)
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
            await asyncio.to_thread(self._store.put, ctx.state, encoded, ctx.clock.time())

    @operation("DELETE", "answers")
    async def clear(self, call: Call) -> dict[str, Any]:
        """Forget all the answers."""
        return {"deleted": await asyncio.to_thread(self._store.clear)}


def key_of(request: Chat, key: str, later: Sequence[tuple[str, str]] = ()) -> bytes:
    """What is the same for requests that have the same answer."""
    same = msgspec.structs.replace(request, stream=False, include_usage=False, keep_alive=None)
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
