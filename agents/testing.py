"""The test kit for authors of agents: scripted models, and the real machinery around an agent.

```python
async def test_shout(tmp_path):
    outcome = await run_agent(Shout, "hello", llm=ScriptedLLM("hi there"), folder=tmp_path)
    assert outcome.answer.text == "HI THERE"
```

Requests pass the gateway's own host, pipeline, budgets and supervision. Only the models are scripted.
"""

import asyncio
import hashlib
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from agents.api import Agent, AgentError
from agents.chat import Chat, Message
from agents.events import Answer, AnswerCollector, AnswerFailed, Event, Text, Usage, replayed
from agents.host.discovery import Loaded
from agents.host.host import AgentHost
from agents.llm import ModelInfo

Scripted = str | Answer | AnswerFailed
Script = Scripted | Callable[[Chat], Scripted]

DIMENSIONS = 64


class ScriptedLLM:
    """Models that answer by script: each call takes the next of `scripts`; the last one is repeated.

    A script is a text, an answer, a failure, or a function of the request that returns one of these. A text
    is streamed word by word. `requests` are the chats so far, in order; `busy` are the models that answer at
    present, `most_busy` is their largest number. While `hold` is not set, no model answers.
    """

    def __init__(self, *scripts: Script, models: Mapping[str, ModelInfo] | None = None) -> None:
        self.requests: list[Chat] = []
        self.keys: list[str] = []
        self.busy: list[str] = []
        self.most_busy = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self._scripts = scripts or ("",)
        self._models = models or {}

    async def stream(self, request: Chat, *, key: str = "") -> AsyncGenerator[Event, None]:
        """Yield the next script's events."""
        script = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
        self.requests.append(request)
        self.keys.append(key)
        self.busy.append(request.model)
        self.most_busy = max(self.most_busy, len(self.busy))
        try:
            await asyncio.sleep(0)
            await self.hold.wait()
            answer = script(request) if callable(script) else script
            for event in played(request, answer):
                yield event
                await asyncio.sleep(0)
        finally:
            self.busy.remove(request.model)

    async def embed(self, model: str, texts: list[str], *, key: str = "") -> list[list[float]]:
        """Return vectors of words: texts that share words are near each other."""
        await self.hold.wait()
        return [_vector(text) for text in texts]

    async def rerank(self, model: str, query: str, texts: list[str], *, key: str = "") -> list[float]:
        """Rate each text by the share of the query's words in it."""
        await self.hold.wait()
        words = set(query.lower().split())
        return [len(words & set(text.lower().split())) / max(1, len(words)) for text in texts]

    async def own_name(self, model: str) -> str:
        """Return the name of the constructor's model with this alias."""
        return next((one.name for one in self._models.values() if model in one.aliases), model)

    def models(self) -> list[ModelInfo]:
        """Return the constructor's models."""
        return list(self._models.values())


def played(request: Chat, scripted: Scripted) -> list[Event]:
    """Yield the events of a scripted answer: a text word by word, one token each."""
    if isinstance(scripted, AnswerFailed):
        return [scripted]
    answer = scripted if isinstance(scripted, Answer) else Answer(id="a", model=request.model, text=scripted)
    words = answer.text.split(" ")
    if answer.usage == Usage():
        prompt = sum(len(message.text.split()) for message in request.messages)
        answer = msgspec.structs.replace(answer, usage=Usage(prompt=prompt, completion=len(words)))
    events: list[Event] = []
    for event in replayed(answer):
        if isinstance(event, Text):
            pieces = [word + " " for word in words[:-1]] + [words[-1]]
            events += [Text(piece) for piece in pieces if piece]
        else:
            events.append(event)
    return events


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a request.

    `request` is the request that the model got; None if an agent answered or nobody did. `events` and
    `answer` are what the client got; `refused` is the error that it got instead. `report` is the log's:
    name, outcome, note.
    """

    request: Chat | None
    events: list[Event]
    answer: Answer
    refused: AgentError | None
    report: list[dict[str, Any]]
    header: str


def chat(text: str = "hello", *, model: str = "demo", **fields: Any) -> Chat:
    """Make a request with one user message."""
    return Chat(model=model, messages=[Message("user", text)], **fields)


@asynccontextmanager
async def hosted(
    *agents: type[Agent],
    llm: ScriptedLLM,
    folder: Path,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> "AsyncGenerator[AgentHost, None]":
    """Yield a started host of these agents. Each agent is named by its class's name in lower case.

    `config` contains each agent's options by name. Other `options` are those of `AgentHost`.
    """
    loaded = []
    for kind in agents:
        name = kind.__name__.lower()
        settings = msgspec.convert((config or {}).get(name, {}), kind.Config)
        loaded.append(Loaded(name, kind.__module__, kind, settings))
    async with aiohttp.ClientSession() as http:
        host = AgentHost(loaded, llm=llm, http=http, folder=folder, **options)
        await host.start()
        try:
            yield host
        finally:
            await host.stop()


async def run_request(host: AgentHost, request: Chat, llm: ScriptedLLM, **asked: Any) -> Outcome:
    """Run a request as the front door does. `asked` are the arguments of `AgentHost.plan`."""
    run = host.plan(request, **{"request_id": "test", **asked})
    collector = AnswerCollector()
    events: list[Event] = []
    if run is None:
        events = [event async for event in llm.stream(request)]
        for event in events:
            collector.feed(event)
        return Outcome(
            request=request, events=events, answer=collector.answer(), refused=None, report=[], header=""
        )
    sent: Chat | None = None
    refused: AgentError | None = None
    try:
        result = await run.before()
        sent = result if isinstance(result, Chat) else None
        async with aclosing(llm.stream(result) if isinstance(result, Chat) else result) as stream:
            async for event in stream:
                events += run.feed(event)
                if run.ended:
                    break
    except AgentError as error:
        refused = error
    finally:
        run.finish(model=request.model)
    return Outcome(
        request=sent,
        events=events,
        answer=run.answer,
        refused=refused,
        report=run.log_field,
        header=run.header,
    )


async def run_agent(
    agent: type[Agent],
    request: Chat | str,
    *,
    llm: ScriptedLLM,
    folder: Path,
    config: Mapping[str, Any] | None = None,
    argument: str = "",
    memory: Callable[[str], object] = lambda model: None,
) -> Outcome:
    """Run one request through one agent; return when its `after` is done."""
    name = agent.__name__.lower()
    asked = f"{name}:{argument}" if argument else name
    whole = chat(request) if isinstance(request, str) else request
    async with hosted(agent, llm=llm, folder=folder, config={name: config or {}}, memory=memory) as host:
        return await run_request(host, whole, llm, header=asked)


def _vector(text: str) -> list[float]:
    vector = [0.0] * DIMENSIONS
    for word in text.lower().split():
        vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % DIMENSIONS] += 1
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]
