"""Calls that agents make of models, through the guards.

A request meets its guards after all its other agents. What these ask of models meanwhile is no part of the
request yet, so each such call is a request of its own to the guards: those of the request, and those that
the model that is called has by default.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from agents.chat import Chat, Message
from agents.errors import AgentError
from agents.events import Event
from agents.host.pipeline import Run, check_chat
from agents.llm import LLM, ModelInfo


class GuardedLLM:
    """Implements `LLM` by another one. `guard` makes the run of a call, or None where nothing guards it.

    Beside `ModelCallError` it raises what a guard refuses with, `DeniedError`, before the model is asked.
    """

    def __init__(self, llm: LLM, guard: Callable[[str, Chat], Run | None]) -> None:
        self._llm = llm
        self._guard = guard

    async def stream(self, request: Chat, *, key: str = "") -> AsyncGenerator[Event, None]:
        """The answer's events as the guards pass them on, to `Done` or an `AnswerFailed`."""
        run = self._guard(await self.own_name(request.model), request)
        if run is None:
            async with aclosing(self._llm.stream(request, key=key)) as events:
                async for event in events:
                    yield event
            return
        check_chat(request)  # or it would look like the guards' error
        try:
            asked = await run.before()
            answer = self._llm.stream(asked, key=key) if isinstance(asked, Chat) else asked
            async with aclosing(answer) as events:
                async for event in events:
                    for passed in run.feed(event):
                        yield passed
                    if run.ended:
                        return
        finally:
            run.finish()

    async def embed(self, model: str, texts: list[str], *, key: str = "") -> list[list[float]]:
        """A vector for each text, as the guards leave it."""
        return await self._llm.embed(model, await self.guard_texts(model, texts), key=key)

    async def rerank(self, model: str, query: str, texts: list[str], *, key: str = "") -> list[float]:
        """How relevant each text is to the query, both as the guards leave them."""
        query, *texts = await self.guard_texts(model, [query, *texts])
        return await self._llm.rerank(model, query, texts, key=key)

    async def guard_texts(self, model: str, texts: Sequence[str]) -> list[str]:
        """The texts as the model may read them. Raises `AgentError` if it may not."""
        request = Chat(model=model, messages=[Message("user", text) for text in texts])
        run = self._guard(await self.own_name(model), request)
        if run is None or not texts:
            return list(texts)
        check_chat(request)
        passed = await run.before()
        if isinstance(passed, Chat) and len(passed.messages) == len(texts):
            return [message.text for message in passed.messages]
        if not isinstance(passed, Chat):
            await passed.aclose()
        message = f"the guards of model {model!r} let no such texts pass"
        raise AgentError(message, status=400, code="content_filter")

    async def own_name(self, model: str) -> str:
        """The name that a model is configured by."""
        return await self._llm.own_name(model)

    def models(self) -> list[ModelInfo]:
        """The models there are, loaded or not."""
        return self._llm.models()
