"""The models, for agents: the protocol that the front door implements, and a client with a budget.

A call takes its own lease. So it belongs in `before`, where the request does not hold a lease yet, or in
`after`, where it no longer does. A request that held one model while it waited for another could wait for
ever.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Annotated, Protocol, TypeVar

import msgspec

from agents.chat import Chat
from agents.errors import BudgetError, ModelCallError
from agents.events import (
    Answer,
    AnswerCollector,
    AnswerFailed,
    Done,
    Event,
    Reasoning,
    Text,
    ToolCallDelta,
    Usage,
)

T = TypeVar("T")
CALLER: ContextVar[str] = ContextVar("caller", default="")
"""The agent whose call of a model it is."""
Limit = Annotated[int, msgspec.Meta(ge=0)]


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be called by its name or an alias. `slots`: requests that it answers at a time."""

    name: str
    aliases: tuple[str, ...] = ()
    loaded: bool = False
    slots: int = 1


class LLM(Protocol):
    """The gateway's models. `key` is the key of the call's request: turns are shared between keys.

    Every call waits for its turn and for its model's load. Raises `ModelCallError`. Agents' calls pass the
    guards (`agents.host.guarded`), but no other agents.
    """

    def stream(self, request: Chat, *, key: str = "") -> AsyncGenerator[Event, None]:
        """Yield the answer's events, up to `Done` or `AnswerFailed`. Closing the iterator ends the lease."""

    async def embed(self, model: str, texts: list[str], *, key: str = "") -> list[list[float]]:
        """A vector for each text."""

    async def rerank(self, model: str, query: str, texts: list[str], *, key: str = "") -> list[float]:
        """How relevant each text is to the query: larger is more."""

    async def own_name(self, model: str) -> str:
        """Return a model's configured name, given any of its names; an unknown name is returned unchanged."""

    def models(self) -> list[ModelInfo]:
        """The models there are, loaded or not."""


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of an agent's calls to models for one request; None: no limit.

    `tokens` counts prompts and answers. `seconds` counts from the first call.
    """

    calls: Limit | None = None
    tokens: Limit | None = None
    seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None


class Client:
    """The models, for one agent and one request, within a budget. Raises `BudgetError` beyond it.

    Calls pass the guards of the request and of the called model. A refused call raises `DeniedError` and
    does not reach the model.
    """

    def __init__(self, llm: LLM, *, agent: str = "", budget: Budget | None = None, key: str = "") -> None:
        self.calls = 0
        self._llm = llm
        self._agent = agent
        self._budget = budget or Budget()
        self._key = key
        self._written: list[int] = []
        self._reported: list[Usage | None] = []
        self._deadline: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens used so far, including answers in progress."""
        usage = self.usage
        return usage.prompt + usage.completion

    @property
    def usage(self) -> Usage:
        """The tokens and durations of all chats together, including judges and failures.

        Durations are added although chats may run in parallel. For an interrupted chat the written tokens
        are known, but not those of its prompt.
        """
        each = [
            own or Usage(completion=count) for own, count in zip(self._reported, self._written, strict=True)
        ]
        return Usage(**{name: sum(getattr(one, name) for one in each) for name in Usage.__struct_fields__})

    def models(self) -> list[ModelInfo]:
        """The models there are, loaded or not."""
        return self._llm.models()

    async def chat(self, request: Chat) -> Answer:
        """Return the whole answer. Raises `ModelCallError` if it failed."""
        collector = AnswerCollector()
        async with aclosing(self.stream(request)) as events:
            async for event in events:
                collector.feed(event)
        return collector.answer()

    async def stream(self, request: Chat) -> AsyncGenerator[Event, None]:
        """Yield the answer's events, up to `Done`. Raises `ModelCallError` if it fails."""
        self._begin_call()
        index = len(self._written)
        self._written.append(0)
        self._reported.append(None)
        events = self._llm.stream(request, key=self._key)
        async with aclosing(events):
            while True:
                event = await self._in_time(anext(events, None))
                self._count(index, event)
                if isinstance(event, AnswerFailed):
                    raise ModelCallError(event.message, status=event.status, code=event.code)
                if event is None:
                    raise ModelCallError(f"model {request.model!r} broke off its answer", status=502)
                yield event
                if isinstance(event, Done):
                    return

    async def embed(self, model: str, texts: list[str]) -> list[list[float]]:
        """A vector for each text."""
        self._begin_call()
        return await self._in_time(self._llm.embed(model, texts, key=self._key))

    async def rerank(self, model: str, query: str, texts: list[str]) -> list[float]:
        """How relevant each text is to the query: larger is more."""
        self._begin_call()
        return await self._in_time(self._llm.rerank(model, query, texts, key=self._key))

    def _begin_call(self) -> None:
        if self._deadline is None and self._budget.seconds is not None:
            self._deadline = asyncio.get_running_loop().time() + self._budget.seconds
        if self._budget.calls is not None and self.calls >= self._budget.calls:
            raise self._exceeded("calls")
        self._check_tokens()
        self.calls += 1
        CALLER.set(self._agent)

    def _count(self, index: int, event: Event | None) -> None:
        if isinstance(event, Text | Reasoning | ToolCallDelta):
            self._written[index] += 1  # model servers send one event per token
            self._check_tokens()
        elif isinstance(event, Usage):
            self._reported[index] = event

    def _check_tokens(self) -> None:
        if self._budget.tokens is not None and self.tokens > self._budget.tokens:
            raise self._exceeded("tokens")

    async def _in_time(self, work: Awaitable[T]) -> T:
        limit = asyncio.timeout_at(self._deadline)
        try:
            async with limit:
                return await work
        except TimeoutError:
            if limit.expired():
                raise self._exceeded("seconds") from None
            raise

    def _exceeded(self, what: str) -> BudgetError:
        limit = getattr(self._budget, what)
        return BudgetError(
            f"the budget of {limit:g} {what} is used up (budget.{what} of agent {self._agent!r})"
        )
