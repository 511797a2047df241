"""Everything that the author of an agent imports. docs/agents.md explains an example step by step.

An agent is a class in the file `agent.py` of its own folder, whose name is the agent's name:

```
 request --before--> model --events through stream--> client ...... after
```

Agents run on the gateway's event loop. Blocking work (files, SQLite, long computations) must run in `await
asyncio.to_thread(...)`, otherwise all clients wait. One instance serves all requests at the same time, so
keep the data of a request in its `ctx.state`, never on `self`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeVar

import msgspec

from actors.config.schema import FilePath, Secret
from agents.chat import Chat, Message
from agents.errors import AgentError, BudgetError, DeniedError, ModelCallError
from agents.events import Answer, AnswerFailed, Done, Event, Extra, Finish, Text, Usage
from agents.llm import LLM, Budget, Client, ModelInfo

if TYPE_CHECKING:
    import aiohttp
    from structlog.typing import FilteringBoundLogger

__all__ = [
    "LLM",
    "Agent",
    "AgentConfig",
    "AgentError",
    "Answer",
    "AnswerFailed",
    "AtEnd",
    "Budget",
    "BudgetError",
    "Call",
    "Chat",
    "Client",
    "Clock",
    "Context",
    "DeniedError",
    "DeviceLoad",
    "Event",
    "Extra",
    "FilePath",
    "Filter",
    "Finished",
    "Load",
    "Message",
    "ModelCallError",
    "ModelInfo",
    "Reply",
    "Secret",
    "Services",
    "Text",
    "TextFilter",
    "operation",
]

Json = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Awaitable[Json]])


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of every agent. An agent's own `Config` adds fields, each with a default.

    A field of type `Secret` is never shown. A `FilePath` is relative to the configuration file's folder, and
    `~` is expanded.
    """

    timeout: Annotated[
        float, msgspec.Meta(gt=0, description="seconds that `before`, and `after`, may take")
    ] = 60.0
    on_error: Annotated[
        Literal["skip", "fail"],
        msgspec.Meta(description="when the agent fails: go on without it, or tell the client"),
    ] = "skip"
    always: Annotated[
        bool, msgspec.Meta(description="run for every chat request, whether it asks for the agent or not")
    ] = False
    budget: Annotated[Budget, msgspec.Meta(description="limits of its calls to models, for one request")] = (
        Budget()
    )


class Clock(Protocol):
    """Two clocks: seconds since the epoch, and monotonic seconds."""

    def time(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Monotonic seconds, for measuring durations."""


class DeviceLoad(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of a load on one card, in bytes; None or 0 where unknown.

    `predicted` covers llama.cpp's buffers alone, before any correction; `buffers` is their size in
    llama.cpp's log. `measured` is the driver's figure for the process after the load, `peak` the highest one
    since.
    """

    gpu: str
    driver: str
    predicted: int
    buffers: int | None = None
    measured: int | None = None
    peak: int | None = None


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A successful load of a model, which took `seconds`.

    `file` and `settings` are opaque keys that identify what was loaded. `build` is the model server's
    version, `certainty` describes the prediction in words.
    """

    model: str
    file: str
    settings: str
    build: str
    certainty: str
    seconds: float
    devices: tuple[DeviceLoad, ...]
    host_predicted: int
    host_buffers: int | None = None


class Services:
    """The services that the gateway gives an agent for as long as it runs."""

    def __init__(
        self,
        *,
        llm: LLM,
        http: "aiohttp.ClientSession",
        folder: Path,
        log: "FilteringBoundLogger",
        clock: Clock,
        memory: Callable[[str], Load | None],
    ) -> None:
        self.llm = Client(llm)
        """The models, without a budget, for work that belongs to no request."""
        self.http = http
        """An HTTP client for other services."""
        self.folder = folder
        """The agent's own folder, which exists."""
        self.log = log
        """The gateway's log. Each line carries the agent's name."""
        self.clock = clock
        self.memory = memory
        """Returns the memory of a model's present or last load, by the model's name; None if unknown."""


class Context:
    """One request, as one agent sees it; the same object in `before`, `stream` and `after`."""

    def __init__(
        self,
        services: Services,
        llm: Client,
        *,
        request_id: str,
        model: str,
        argument: str,
        key: str,
        later: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.request_id = request_id
        self.model = model
        """The model's name, as the client gave it."""
        self.argument = argument
        """The text after the agent's name: `vote` in `/parallel:vote`."""
        self.key = key
        """The client's key; "" if there are no keys."""
        self.later = later
        """The later agents of this request, with their arguments; guards are always last."""
        self.llm = llm
        """The models, within this agent's budget for this request."""
        self.http = services.http
        self.folder = services.folder
        self.log = services.log.bind(request_id=request_id)
        self.clock = services.clock
        self.memory = services.memory
        self.state: Any = None
        """Data that `before` leaves for `stream` and `after`."""
        self.note = ""
        """A short description of the agent's work, for the log."""


class Reply(msgspec.Struct, frozen=True):
    """An agent's own answer, instead of the model's. No later agent's `before` runs, but all filters do.

    Only the pieces of the answer are needed: missing `AnswerStarted`, `Finish` and `Done` are added. The
    iterator is closed when the client leaves.
    """

    events: AsyncIterator[Event]

    @staticmethod
    def of(events: Iterable[Event]) -> "Reply":
        """Make a reply from a complete text."""

        async def iterate() -> AsyncIterator[Event]:
            for event in events:
                yield event

        return Reply(iterate())


class Filter(Protocol):
    """Changes an answer on its way to the client, event by event."""

    def feed(self, event: Event) -> Iterable[Event]:
        """Return the events to pass on for `event`.

        The last one is `Done` or `AnswerFailed`; hold nothing longer.
        """


class TextFilter:
    """A filter of the answer's text alone. `rest` returns the text held back until the end."""

    def feed(self, event: Event) -> Iterable[Event]:
        """Pass text through `text`, and other events unchanged."""
        if isinstance(event, Text):
            if changed := self.text(event.text):
                yield Text(changed)
            return
        if isinstance(event, Finish | Done | AnswerFailed) and (rest := self.rest()):
            yield Text(rest)
        yield event

    def text(self, piece: str) -> str:
        """Return the text to pass on for a piece of text."""
        raise NotImplementedError

    def rest(self) -> str:
        """Return the remaining text at the end; a second call returns nothing."""
        return ""


class AtEnd:
    """A filter that only adds fields to the answer, computed at its end."""

    def __init__(self, fields: Callable[[], Json]) -> None:
        self._fields = fields

    def feed(self, event: Event) -> Iterable[Event]:
        """Add the fields before `Finish`."""
        if isinstance(event, Finish) and (fields := self._fields()):
            yield Extra(fields)
        yield event


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A finished request.

    `request` is the request that the model got, `answer` the answer that the client got. `raw` is the
    model's or the replying agent's answer before any filter; None if it was not read completely. `place`:
    where the model ran, in words. `failure`: why the client's answer is incomplete; None if it is complete.
    """

    request_id: str
    request: Chat
    answer: Answer
    raw: Answer | None
    model: str
    place: str | None
    seconds: float
    failure: str | None

    @property
    def usage(self) -> Usage:
        """The tokens and durations of the answer."""
        return self.answer.usage


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call of an operation: the parameters of path and query, and the body, parsed by its media type."""

    parameters: Mapping[str, str] = {}
    body: bytes = b""
    media_type: str = "application/json"


def operation(method: str, path: str) -> Callable[[F], F]:
    """Mark a method `async (self, call: Call) -> dict` as an operation: `@operation("GET", "things/{id}")`.

    Operations are an agent's HTTP endpoints, here `/v1/agents/{agent}/things/7`. A part in braces is a
    parameter. The first line of the method's docstring describes the operation.
    """

    def mark(function: F) -> F:
        function._operation = (method, path)  # type: ignore[attr-defined]
        return function

    return mark


class Agent:
    """Base of all agents: override the methods you need. All except `stream` are asynchronous.

    `Config` is the type of `self.config`: a subclass of `AgentConfig`. An exception from a method is logged
    with the agent's name, counted, and handled as `on_error` says; only `DeniedError` always reaches the
    client.
    """

    description: ClassVar[str] = ""
    guards: ClassVar[bool] = False
    """It protects something. It comes after all other agents, in and out, wherever it was asked for, and has
    each call of a model that they make as a request of its own. So that it can refuse before others work, it
    also has the client's request first; of that, only what it raises or replies counts. Where it runs for
    every request to a model, what would go around it is refused."""
    last: ClassVar[bool] = False
    """It comes after the agents that are not `last`, in and out, and before the guards."""
    Config: ClassVar[type[AgentConfig]] = AgentConfig

    def __init__(self, config: Any, services: Services) -> None:
        self.config = config
        self.services = services

    async def start(self) -> None:
        """Open resources, before the first request. An exception keeps the gateway from starting."""

    async def run(self) -> None:
        """Work in the background until cancelled, or return. After an exception the agent is restarted.

        It is cancelled as soon as the gateway begins to stop, while requests still finish.
        """

    async def close(self) -> None:
        """Close resources."""

    async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
        """Return the request for the next agent or the model, or a reply."""
        return request

    def stream(self, ctx: Context) -> Filter | None:
        """Return a filter for this answer, or None.

        Called when the answer begins, even if `before` did not run.
        """
        return None

    async def after(self, ctx: Context, finished: Finished) -> None:
        """Called, one call at a time, when the client has its last byte or has left. No request waits.

        If an earlier agent replied, `before` did not run, but this agent's filter did.
        """
