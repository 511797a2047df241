"""The canonical stream: the events of an answer, and the whole answer collected from them.

The order is that of OpenAI's stream: `AnswerStarted`, then any of `Text`, `Reasoning` and `ToolCallDelta`,
each after its `Logprobs` if there are any, then `Extra` if an agent adds fields, `Finish`, `Usage`, `Done`.
`AnswerFailed` may come at any time and is the last event.
"""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from agents.chat import ToolCall

Reason = Literal["stop", "length", "tool_calls", "content_filter"]


class AnswerStarted(msgspec.Struct, frozen=True, gc=False):
    """The answer begins. `created` is in seconds since the epoch.

    `prompt` counts its tokens with the `cached` ones, where a server tells them so early.
    """

    id: str
    model: str
    created: int
    prompt: int = 0
    cached: int = 0


class Text(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer."""

    text: str


class Reasoning(msgspec.Struct, frozen=True, gc=False):
    """A piece of the model's reasoning before the answer."""

    text: str


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of a tool call. The first piece has id and name; `arguments` is a piece of JSON text."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Logprobs(msgspec.Struct, frozen=True):
    """Log probabilities of the next piece's tokens: `token`, `logprob`, `bytes`, `top_logprobs` of each."""

    tokens: list[Any]


class Extra(msgspec.Struct, frozen=True):
    """Fields that an agent adds to a whole answer, or to the last event of a stream before usage.

    Each field is named after the agent or its content ("citations"), and is JSON. A field of the API is
    never replaced.
    """

    fields: dict[str, Any]


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The end of the model's output, with the reason, and the stop sequence if its server names it."""

    reason: Reason
    stop_sequence: str | None = None


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens, where the prompt's include the `cached` ones; durations in seconds, 0 if unknown."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    total_seconds: float = 0.0
    load_seconds: float = 0.0
    prompt_seconds: float = 0.0
    completion_seconds: float = 0.0


class AnswerFailed(msgspec.Struct, frozen=True):
    """The answer failed. The fields are those of `proxy.errors.ApiError`; `kind` may be empty."""

    status: int
    message: str
    kind: str = ""
    code: str | None = None
    param: str | None = None
    extra: dict[str, Any] = {}


class Done(msgspec.Struct, frozen=True, gc=False):
    """The answer is complete."""


Event = (
    Text | Reasoning | ToolCallDelta | Logprobs | AnswerStarted | Extra | Finish | Usage | AnswerFailed | Done
)


def checked(event: Any) -> Event:
    """Return the event, if it is one and can be encoded. Raises `TypeError` or `ValueError`."""
    if not isinstance(event, Event):
        raise TypeError(f"expected an event, and got {type(event).__name__}")
    try:
        msgspec.json.decode(msgspec.json.encode(event), type=type(event))
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"no valid {type(event).__name__}: {error}") from error
    return event


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    id: str = ""
    model: str = ""
    created: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    logprobs: list[Any] = []
    reason: Reason = "stop"
    stop_sequence: str | None = None
    usage: Usage = Usage()
    extra: dict[str, Any] = {}


class ToolCalls:
    """Collects tool calls from their pieces."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: dict[int, list[str]] = {}

    def feed(self, delta: ToolCallDelta) -> None:
        """Add the next piece."""
        parts = self._parts.setdefault(delta.index, ["", ""])
        parts[0] = parts[0] or delta.id
        parts[1] = parts[1] or delta.name
        parts.append(delta.arguments)

    def take(self) -> list[ToolCall]:
        """Return the calls so far, complete, and reset."""
        calls = [ToolCall(parts[0], parts[1], "".join(parts[2:])) for _, parts in sorted(self._parts.items())]
        self._parts.clear()
        return calls


class AnswerCollector:
    """Collects an answer from its events. `failure` is set if it failed, `complete` if it reached its end."""

    def __init__(self) -> None:
        self.failure: AnswerFailed | None = None
        self.complete = False
        self._start = AnswerStarted("", "", 0)
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls = ToolCalls()
        self._logprobs: list[Any] = []
        self._finish = Finish("stop")
        self._usage = Usage()
        self._extra: dict[str, Any] = {}

    def feed(self, event: Event) -> None:
        """Add the next event."""
        match event:
            case Text():
                self._text.append(event.text)
            case Reasoning():
                self._reasoning.append(event.text)
            case ToolCallDelta():
                self._calls.feed(event)
            case Logprobs():
                self._logprobs += event.tokens
            case AnswerStarted():
                self._start = event
            case Extra():
                self._extra |= event.fields
            case Finish():
                self._finish = event
            case Usage():
                self._usage = event
            case AnswerFailed():
                self.failure = event
            case Done():
                self.complete = True

    def answer(self) -> Answer:
        """Return the answer, or the part of it that has arrived."""
        return Answer(
            id=self._start.id,
            model=self._start.model,
            created=self._start.created,
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            tool_calls=self._calls.take(),
            logprobs=self._logprobs,
            reason=self._finish.reason,
            stop_sequence=self._finish.stop_sequence,
            usage=self._usage,
            extra=self._extra,
        )


def replayed(answer: Answer) -> Iterator[Event]:
    """Yield the events of a whole answer, each of its parts in one piece."""
    yield AnswerStarted(answer.id, answer.model, answer.created)
    if answer.reasoning:
        yield Reasoning(answer.reasoning)
    if answer.logprobs:
        yield Logprobs(answer.logprobs)
    if answer.text:
        yield Text(answer.text)
    for index, call in enumerate(answer.tool_calls):
        yield ToolCallDelta(index, call.id, call.name, call.arguments)
    if answer.extra:
        yield Extra(answer.extra)
    yield Finish(answer.reason, answer.stop_sequence)
    yield answer.usage
    yield Done()
