"""The guard: refuses what matches a pattern, or makes it unreadable, in requests and in answers."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from agents.api import (
    Agent,
    AgentConfig,
    AgentError,
    Chat,
    Context,
    DeniedError,
    Event,
    Extra,
    Filter,
    Message,
    Text,
)
from agents.chat import NamedTool, ToolCall
from agents.events import Done, Failure, Finish, Logprobs, Reasoning, ToolCallDelta, ToolCalls
from agents.guard.scanner import TIMEOUT, Found, Scanner, compile_pattern
from agents.guard.strings import clean_text, clean_value

T = TypeVar("T")

REDACTED = "redacted the answer"


def _about(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


class GuardConfig(AgentConfig, frozen=True, kw_only=True):
    """Patterns are regular expressions, as of the package `regex`."""

    on_error: Annotated[Literal["skip", "fail"], _about("skip would let everything pass")] = "fail"
    deny: Annotated[tuple[str, ...], _about("patterns that end a request, or an answer")] = ()
    redact: Annotated[tuple[str, ...], _about("patterns that are replaced")] = ()
    replacement: Annotated[str, _about("what `redact` leaves in their place")] = "[redacted]"
    where: Annotated[Literal["both", "in", "out"], _about("in: requests alone; out: answers alone")] = "both"
    longest: Annotated[
        int, msgspec.Meta(ge=1, le=10_000, description="characters of an answer that a match may have")
    ] = 256

    def __post_init__(self) -> None:
        for pattern in (*self.deny, *self.redact):
            compile_pattern(pattern)


class Guard(Agent):
    """Refuses or redacts by patterns; an answer is held back only where one could be in the making."""

    guards = True
    description = "Refuses or redacts what matches patterns, in requests and answers"
    last = True
    Config = GuardConfig
    config: GuardConfig

    def __init__(self, config: GuardConfig, services: Any) -> None:
        super().__init__(config, services)
        self._deny = [compile_pattern(pattern) for pattern in config.deny]
        self._redact = [compile_pattern(pattern) for pattern in config.redact]

    async def before(self, ctx: Context, request: Chat) -> Chat:
        """Look through all the messages: what was denied once is not to be asked in the next turn."""
        if self.config.where == "out":
            return request
        with _in_time():
            try:
                checked = await asyncio.to_thread(self._checked, request)
            except _ForbiddenError as error:
                message = f"the request is not let pass (pattern {error.number} of agents.guard.deny)"
                raise DeniedError(message, code="content_filter") from None
        if checked == request:
            return request
        ctx.note = "redacted the request"
        return checked

    def _checked(self, request: Chat) -> Chat:
        """The request, with all of it cleaned that a model or its server may read."""
        choice, form = request.tool_choice, request.format
        return msgspec.structs.replace(
            request,
            messages=[self._message(message) for message in request.messages],
            tools=[
                msgspec.structs.replace(
                    tool,
                    name=self.clean(tool.name),
                    description=self.clean(tool.description),
                    parameters=clean_value(tool.parameters, self.clean),
                )
                for tool in request.tools
            ],
            tool_choice=NamedTool(self.clean(choice.name)) if isinstance(choice, NamedTool) else choice,
            format=clean_value(form, self.clean) if isinstance(form, dict) else form,
            extra=clean_value(request.extra, self.clean),
        )

    def _message(self, message: Message) -> Message:
        return msgspec.structs.replace(
            message,
            text=self.clean(message.text),
            reasoning=self.clean(message.reasoning),
            tool_name=self.clean(message.tool_name),
            tool_calls=[self.clean_call(call) for call in message.tool_calls],
        )

    def clean_call(self, call: ToolCall) -> ToolCall:
        """A tool call as it may be shown. The arguments are checked as they are written, too."""
        self._check(call.arguments)
        return msgspec.structs.replace(
            call, name=self.clean(call.name), arguments=clean_text(call.arguments, self.clean)
        )

    def clean(self, text: str) -> str:
        """A whole text as it may be shown. Raises `_ForbiddenError`, `TimeoutError`."""
        self._check(text)
        for pattern in self._redact:
            text = pattern.sub(lambda _: self.config.replacement, text, timeout=TIMEOUT, concurrent=True)
        return text

    def _check(self, text: str) -> None:
        for number, pattern in enumerate(self._deny, 1):
            if pattern.search(text, timeout=TIMEOUT, concurrent=True):
                raise _ForbiddenError(number)

    def stream(self, ctx: Context) -> Filter | None:
        """A filter of all that a client may read in an answer."""
        if self.config.where == "in" or not (self._deny or self._redact):
            return None
        return _Filter(self, ctx)

    def screen(self) -> "Screen":
        """For one text of an answer."""
        longest = self.config.longest
        return Screen(Scanner(self._deny, longest), Scanner(self._redact, longest), self.config.replacement)


class _ForbiddenError(Exception):
    """A text has what the pattern of this number denies."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _in_time() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise AgentError(f"a pattern takes more than {TIMEOUT} s for a text: make it simpler") from None


class Screen:
    """Makes of a text what may be shown of it. `denied`: it has come to what may not, and there it ends."""

    def __init__(self, deny: Scanner, redact: Scanner, replacement: str) -> None:
        self.denied: Found | None = None
        self.redacted = False
        self._deny = deny
        self._redact = redact
        self._replacement = replacement

    def feed(self, piece: str, *, last: bool = False) -> str:
        """What may be shown now."""
        return "".join(self._shown(piece, last=last))

    def _shown(self, piece: str, *, last: bool) -> Iterator[str]:
        if self.denied is not None:
            return
        for part in self._deny.feed(piece, last=last):
            if isinstance(part, Found):
                self.denied = part
                break
            yield from self._redacted(part)
        if last or self.denied is not None:
            yield from self._redacted("", last=True)

    def _redacted(self, piece: str, *, last: bool = False) -> Iterator[str]:
        for part in self._redact.feed(piece, last=last):
            self.redacted = self.redacted or isinstance(part, Found)
            yield self._replacement if isinstance(part, Found) else part


class _Filter:
    """What a client may see of one answer.

    Text and thoughts are a text each, which ends with the answer: so what is held back of one may come after
    the beginning of the other. A tool call is held until the end, since its arguments are JSON: what its
    strings say can be told, and replaced, only when they are whole. Log probabilities would spell out what is
    held back, and are left out.
    """

    def __init__(self, guard: Guard, ctx: Context) -> None:
        self._guard = guard
        self._ctx = ctx
        self._screens: dict[type[Text | Reasoning], Screen] = {}
        self._calls = ToolCalls()
        self._is_over = False

    def feed(self, event: Event) -> Iterable[Event]:
        """Pass on what may be shown; what may not be ends the answer with `content_filter`."""
        try:
            with _in_time():
                yield from self._shown(event)
        except _ForbiddenError as error:
            self._is_over = True
            self._ctx.note = f"denied the answer, by pattern {error.number}"
            self._ctx.log.info("denied the answer", pattern=error.number)
            yield Finish("content_filter")
            yield Done()

    def _shown(self, event: Event) -> Iterator[Event]:
        if self._is_over:
            return
        match event:
            case Text() | Reasoning():
                yield from self._screened(type(event), event.text)
            case ToolCallDelta():
                self._calls.feed(event)
            case Logprobs():
                pass
            case Extra():
                # As the client will read it, whatever it is made of.
                fields = msgspec.json.decode(msgspec.json.encode(event.fields))
                yield Extra(self._noted(fields, clean_value(fields, self._guard.clean)))
            case Finish() | Failure() | Done():
                for kind in list(self._screens):
                    yield from self._screened(kind, "", last=True)
                for index, call in enumerate(self._calls.take()):
                    shown = self._noted(call, self._guard.clean_call(call))
                    yield ToolCallDelta(index, shown.id, shown.name, shown.arguments)
                yield event
            case _:
                yield event

    def _screened(self, kind: type[Text | Reasoning], piece: str, *, last: bool = False) -> Iterator[Event]:
        screen = self._screens.get(kind)
        if screen is None:
            screen = self._screens[kind] = self._guard.screen()
        if shown := screen.feed(piece, last=last):
            yield kind(shown)
        if screen.redacted:
            self._ctx.note = REDACTED
        if screen.denied is not None:
            raise _ForbiddenError(screen.denied.index + 1)

    def _noted(self, said: T, shown: T) -> T:
        if shown != said:
            self._ctx.note = REDACTED
        return shown
