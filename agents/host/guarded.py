"""Passes agents' calls of models through the guards.

A request passes its guards after all other agents. A call that these agents make in the meantime is not part
of the request, so it passes the guards like a request of its own: the request's guards, and the default
guards of the called model.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from agents.chat import Chat, Message
from agents.errors import AgentError
from agents.events import Event
from agents.host.pipeline import Run, check_chat
from agents.llm import LLM, ModelInfo


class GuardedLLM:
    """Implements `LLM` on top of another one. `guard` makes the run of a call; None if no guard applies.

    `key` returns the key of calls that name none.

    Besides `ModelCallError` it raises a guard's `DeniedError`, before the model is called.
    """

    def __init__(
        self, llm: LLM, guard: Callable[[str, Chat], Run | None], key: Callable[[], str] = lambda: ""
    ) -> None:
        self._llm = llm
        self._key = key
        self._guard = guard

    async def stream(self, request: Chat, *, key: str = "") -> AsyncGenerator[Event, None]:
        """Yield the answer's events after the guards, up to `Done` or `AnswerFailed`."""
        run = self._guard(await self.own_name(request.model), request)
        if run is None:
            async with aclosing(self._llm.stream(request, key=key or self._key())) as events:
                async for event in events:
                    yield event
            return
        check_chat(request)  # otherwise it would look like an error of the guards
        try:
            asked = await run.before()
            answer = self._llm.stream(asked, key=key or self._key()) if isinstance(asked, Chat) else asked
            async with aclosing(answer) as events:
                async for event in events:
                    for passed in run.feed(event):
                        yield passed
                    if run.ended:
                        return
        finally:
            run.finish()

    async def embed(self, model: str, texts: list[str], *, key: str = "") -> list[list[float]]:
        """Return a vector for each text, after the guards."""
        return await self._llm.embed(model, await self.guard_texts(model, texts), key=key or self._key())

    async def rerank(self, model: str, query: str, texts: list[str], *, key: str = "") -> list[float]:
        """Rate each text's relevance to the query, both after the guards."""
        query, *texts = await self.guard_texts(model, [query, *texts])
        return await self._llm.rerank(model, query, texts, key=key or self._key())

    async def guard_texts(self, model: str, texts: Sequence[str]) -> list[str]:
        """Pass texts through the guards. Raises `AgentError` if one is refused."""
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
        """Return the name under which a model is configured."""
        return await self._llm.own_name(model)

    def models(self) -> list[ModelInfo]:
        """Return all models, loaded or not."""
        return self._llm.models()
