"""All that the author of an agent imports. docs/agents.md walks through an example.

An agent is a class in the file `agent.py` of a folder of its own, whose name is the agent's:

```
 request --before--> model --events through stream--> client ...... after
```

Everything runs on the gateway's event loop: what blocks (files, SQLite, numbers by the million) belongs into
`await asyncio.to_thread(...)`, or all clients wait. One instance serves all the requests at the same time, so
what belongs to one request is kept in its `ctx.state`, never on `self`.
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
    """The options that every agent has; an agent's own `Config` adds fields to them, each with a default.

    A field of the type `Secret` is text that is shown nowhere; one of `FilePath` is taken from the folder of
    the configuration file, and has `~` replaced.
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
    """Seconds: since the epoch, and of a clock that is never set."""

    def time(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds for measuring."""


class DeviceLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What a load took on one card: bytes, None or 0 where nobody told.

    `predicted` is of llama.cpp's buffers alone, before any correction; `buffers` is the same by llama.cpp's
    log. `measured` is the driver's figure for the process after the load, `peak` the highest until now.
    """

    gpu: str
    driver: str
    predicted: int
    buffers: int | None = None
    measured: int | None = None
    peak: int | None = None


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A load of a model that succeeded, in `seconds`.

    `file` and `settings` tell two loads apart, and say nothing else. `build` is the model server's version,
    `certainty` the prediction's: in words.
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
    """What the gateway gives an agent for as long as it runs."""

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
        """The models, without a budget: for work that belongs to no request."""
        self.http = http
        """A client for other services."""
        self.folder = folder
        """A folder for the agent alone, which exists."""
        self.log = log
        """The gateway's log; each line has the agent's name."""
        self.clock = clock
        self.memory = memory
        """What the present or last load of a model took, by the model's name; None if that is not known."""


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
        """What was written behind the agent's name: `vote` in `/parallel:vote`."""
        self.key = key
        """Whose request it is, "" where there are no keys."""
        self.later = later
        """The agents that come after this one, with their arguments; guards always do."""
        self.llm = llm
        """The models, within this agent's budget for this request."""
        self.http = services.http
        self.folder = services.folder
        self.log = services.log.bind(request_id=request_id)
        self.clock = services.clock
        self.memory = services.memory
        self.state: Any = None
        """For what `before` leaves to `stream` and `after`."""
        self.note = ""
        """What the agent did, in a few words, for the log."""


class Reply(msgspec.Struct, frozen=True):
    """An agent's own answer, instead of the model's. No later agent's `before` runs; all the filters do.

    The pieces of the answer are enough: missing `AnswerStarted`, `Finish` and `Done` are added. The iterator
    is closed when the client leaves.
    """

    events: AsyncIterator[Event]

    @staticmethod
    def of(events: Iterable[Event]) -> "Reply":
        """A reply that is at hand."""

        async def iterate() -> AsyncIterator[Event]:
            for event in events:
                yield event

        return Reply(iterate())


class Filter(Protocol):
    """Changes an answer on its way to the client, event by event."""

    def feed(self, event: Event) -> Iterable[Event]:
        """What is passed on for `event`. The last one is `Done` or `AnswerFailed`; hold nothing longer."""


class TextFilter:
    """A filter of the answer's text alone. `rest` is what was held back until the text's end."""

    def feed(self, event: Event) -> Iterable[Event]:
        """Pass the text through `text`, and everything else on."""
        if isinstance(event, Text):
            if changed := self.text(event.text):
                yield Text(changed)
            return
        if isinstance(event, Finish | Done | AnswerFailed) and (rest := self.rest()):
            yield Text(rest)
        yield event

    def text(self, piece: str) -> str:
        """What is passed on for a piece of text."""
        raise NotImplementedError

    def rest(self) -> str:
        """What is left to say at the end; called again, nothing."""
        return ""


class AtEnd:
    """A filter that only adds fields to the answer, asked for when it ends."""

    def __init__(self, fields: Callable[[], Json]) -> None:
        self._fields = fields

    def feed(self, event: Event) -> Iterable[Event]:
        """Add the fields before `Finish`."""
        if isinstance(event, Finish) and (fields := self._fields()):
            yield Extra(fields)
        yield event


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is over.

    `request` is what the model got, `answer` what the client got. `raw` is what the model said, or the agent
    that replied, before any filter; None if that was not read to its end. `place`: where the model ran, in
    words. `failure`: why the client's answer is not whole; None: it is.
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
        """Tokens and durations of the answer."""
        return self.answer.usage


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call of an operation: what its path and query named, and its body, as the media type says."""

    parameters: Mapping[str, str] = {}
    body: bytes = b""
    media_type: str = "application/json"


def operation(method: str, path: str) -> Callable[[F], F]:
    """Make a method `async (self, call: Call) -> dict` an operation: `@operation("GET", "things/{id}")`.

    It is what the agent offers beside its requests, under `/v1/agents/{agent}/things/7`. A part in braces
    is a parameter. The first line of the docstring describes it.
    """

    def mark(function: F) -> F:
        function._operation = (method, path)  # type: ignore[attr-defined]
        return function

    return mark


class Agent:
    """Base of all agents: override what you need. All methods but `stream` are asynchronous.

    `Config` is the type of `self.config`: a subclass of `AgentConfig`. Whatever a method raises is logged
    with the agent's name, counted, and becomes what `on_error` says; only `DeniedError` always reaches the
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
        """Open what is needed, before the first request. What it raises keeps the gateway from starting."""

    async def run(self) -> None:
        """Work in the background until cancelled, or return; if it raises, the agent is started anew.

        It is cancelled as soon as the gateway is to stop, while requests are still finished.
        """

    async def close(self) -> None:
        """Close what was opened."""

    async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
        """The request as the next agent, or the model, shall see it; or an answer."""
        return request

    def stream(self, ctx: Context) -> Filter | None:
        """A filter for this request's answer. Asked for when it begins, though `before` may not have run."""
        return None

    async def after(self, ctx: Context, finished: Finished) -> None:
        """The client has had its last byte, or left. One call after the other; the requests do not wait.

        `before` may not have run, if an earlier agent replied, but then there was a filter of this one's.
        """
