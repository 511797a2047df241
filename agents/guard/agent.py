"""The guard: refuses what matches a pattern, or makes it unreadable, in requests and in answers."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import msgspec

from agents.api import (
    Agent,
    AgentConfig,
    AgentError,
    Chat,
    Context,
    DeniedError,
    Event,
    Filter,
    Message,
    Text,
)
from agents.events import Done, Failure, Finish, Logprobs, Reasoning, ToolCallDelta
from agents.guard.scanner import TIMEOUT, Found, Scanner, compile_pattern

Channel = tuple[type, int]


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
            messages = await asyncio.to_thread(self._checked, request.messages)
        if messages == request.messages:
            return request
        ctx.note = "redacted the request"
        return msgspec.structs.replace(request, messages=messages)

    def _checked(self, messages: list[Message]) -> list[Message]:
        return [
            msgspec.structs.replace(
                message,
                text=self._clean(message.text),
                reasoning=self._clean(message.reasoning),
                tool_calls=[
                    msgspec.structs.replace(call, arguments=self._clean(call.arguments))
                    for call in message.tool_calls
                ],
            )
            for message in messages
        ]

    def _clean(self, text: str) -> str:
        for number, pattern in enumerate(self._deny, 1):
            if pattern.search(text, timeout=TIMEOUT, concurrent=True):
                message = f"the request is not let pass (pattern {number} of agents.guard.deny)"
                raise DeniedError(message, code="content_filter")
        for pattern in self._redact:
            text = pattern.sub(lambda _: self.config.replacement, text, timeout=TIMEOUT, concurrent=True)
        return text

    def stream(self, ctx: Context) -> Filter | None:
        """A filter of all that a client may read in an answer."""
        if self.config.where == "in" or not (self._deny or self._redact):
            return None
        return _Filter(self, ctx)

    def screen(self) -> "Screen":
        """For one text of an answer."""
        longest = self.config.longest
        return Screen(Scanner(self._deny, longest), Scanner(self._redact, longest), self.config.replacement)


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
    """Text, thoughts and the arguments of each tool call are a text each, which ends with the answer.

    So what is held back of one may come after the beginning of another. Log probabilities would spell out
    what is held back, and are left out.
    """

    def __init__(self, guard: Guard, ctx: Context) -> None:
        self._guard = guard
        self._ctx = ctx
        self._screens: dict[Channel, Screen] = {}

    def feed(self, event: Event) -> Iterable[Event]:
        """Pass on what may be shown; what may not be ends the answer with `content_filter`."""
        match event:
            case Text():
                yield from self._show((Text, 0), event, event.text)
            case Reasoning():
                yield from self._show((Reasoning, 0), event, event.text)
            case ToolCallDelta():
                yield from self._show((ToolCallDelta, event.index), event, event.arguments)
            case Logprobs():
                pass
            case Finish() | Failure():
                for channel in list(self._screens):
                    yield from self._show(channel, None, "", last=True)
                yield event
            case _:
                yield event

    def _show(
        self, channel: Channel, event: Event | None, piece: str, *, last: bool = False
    ) -> Iterator[Event]:
        screen = self._screens.get(channel)
        if screen is None:
            screen = self._screens[channel] = self._guard.screen()
        with _in_time():
            shown = screen.feed(piece, last=last)
        if shown:
            yield _event(channel, event, shown)
        elif isinstance(event, ToolCallDelta) and event.name:
            yield _event(channel, event, "")
        if screen.redacted:
            self._ctx.note = "redacted the answer"
        if screen.denied is not None:
            self._ctx.note = f"denied the answer, by pattern {screen.denied.index + 1}"
            self._ctx.log.info("denied the answer", pattern=screen.denied.index + 1)
            yield Finish("content_filter")
            yield Done()


def _event(channel: Channel, event: Event | None, text: str) -> Event:
    if channel[0] is Text:
        return Text(text)
    if channel[0] is Reasoning:
        return Reasoning(text)
    given = event if isinstance(event, ToolCallDelta) else ToolCallDelta(channel[1])
    return msgspec.structs.replace(given, arguments=text)
