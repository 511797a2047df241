"""The guard: refuses or redacts text that matches patterns, in requests and in answers."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import thread_time
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
    Text,
)
from agents.events import AnswerFailed, Done, Finish, Logprobs, Reasoning, ToolCallDelta, ToolCalls
from agents.guard.cleaner import Cleaner, ForbiddenError
from agents.guard.scanner import TIMEOUT, Found, Scanner, compile_pattern

T = TypeVar("T")

REDACTED = "redacted the answer"

THREADS = 4

IN_THE_WAY, FOR_AN_EVENT = 2.0, 0.002
"""Seconds of CPU that patterns may take for an answer, and for each event of it more: everybody waits for a
filter."""


def _about(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


class GuardConfig(AgentConfig, frozen=True, kw_only=True):
    """Patterns are regular expressions of the package `regex`."""

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
            if compile_pattern(pattern).search(self.replacement):
                # A text may pass more than once, for example a candidate's answer and the reply made of it.
                raise ValueError(f"{pattern!r} matches the replacement {self.replacement!r} itself")


class Guard(Agent):
    """Refuses or redacts by patterns. An answer is held back only where a match may have begun."""

    guards = True
    description = "Refuses or redacts what matches patterns, in requests and answers"
    Config = GuardConfig
    config: GuardConfig

    def __init__(self, config: GuardConfig, services: Any) -> None:
        super().__init__(config, services)
        self._deny = [compile_pattern(pattern) for pattern in config.deny]
        self._redact = [compile_pattern(pattern) for pattern in config.redact]

    async def start(self) -> None:
        """Start the guard's own threads, so that only guarded requests wait for a slow pattern."""
        self._threads = ThreadPoolExecutor(THREADS, "guard")

    async def close(self) -> None:
        """Abandon the threads, whose work has a time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def before(self, ctx: Context, request: Chat) -> Chat:
        """Check all messages, so that a denied text does not return in a later turn's history."""
        if self.config.where == "out":
            return request
        cleaner = self.cleaner(self.config.timeout)
        with _in_time():
            try:
                loop = asyncio.get_running_loop()
                checked = await loop.run_in_executor(self._threads, cleaner.request, request)
            except ForbiddenError as error:
                message = f"the request is not let pass (pattern {error.number} of agents.guard.deny)"
                raise DeniedError(message, code="content_filter") from None
            except RecursionError:
                raise DeniedError("the request is nested too deeply to be checked") from None
        if checked == request:
            return request
        ctx.note = "redacted the request"
        return checked

    def cleaner(self, seconds: float) -> Cleaner:
        """Return a cleaner with a limit of `seconds`."""
        return Cleaner(self._deny, self._redact, self.config.replacement, seconds=seconds)

    def stream(self, ctx: Context) -> Filter | None:
        """Return a filter of everything that a client can read in an answer."""
        if self.config.where == "in" or not (self._deny or self._redact):
            return None
        return _Filter(self, ctx)

    def screen(self, tick: Callable[[], None]) -> "Screen":
        """Return a screen for one text of an answer. `tick` is that of `Scanner`."""
        deny, redact = (
            Scanner(patterns, self.config.longest, tick) for patterns in (self._deny, self._redact)
        )
        return Screen(deny, redact, self.config.replacement)


@contextmanager
def _in_time() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        message = f"the patterns take too long for a text, {TIMEOUT} s and more: make them simpler"
        raise AgentError(message) from None


class Screen:
    """Redacts one text as it arrives. `denied`: the text has reached a denied match, and ends there."""

    def __init__(self, deny: Scanner, redact: Scanner, replacement: str) -> None:
        self.denied: Found | None = None
        self.redacted = False
        self._deny = deny
        self._redact = redact
        self._replacement = replacement

    def feed(self, piece: str, *, last: bool = False) -> str:
        """Return the text that may be shown now."""
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
    """Filters one answer.

    Answer and reasoning are one text each, and end with the answer, so held-back reasoning may come after
    the beginning of the answer. A tool call is held until the end, because strings in its JSON arguments can
    be matched and replaced only when they are complete. Log probabilities are left out, because they would
    reveal held-back text.
    """

    def __init__(self, guard: Guard, ctx: Context) -> None:
        self._guard = guard
        self._ctx = ctx
        self._screens: dict[type[Text | Reasoning], Screen] = {}
        self._calls = ToolCalls()
        self._is_over = False
        self._left = IN_THE_WAY
        self._until = 0.0

    def _tick(self) -> None:
        if thread_time() > self._until:
            raise TimeoutError

    def feed(self, event: Event) -> Iterable[Event]:
        """Pass on text that may be shown; a denied match ends the answer with `content_filter`."""
        begun = thread_time()
        self._until = begun + self._left
        try:
            with _in_time():
                yield from self._shown(event)
        except ForbiddenError as error:
            self._is_over = True
            self._ctx.note = f"denied the answer, by pattern {error.number}"
            self._ctx.log.info("denied the answer", pattern=error.number)
            yield Finish("content_filter")
            yield Done()
        finally:
            self._left += FOR_AN_EVENT - (thread_time() - begun)

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
                # The text as the client will read it, across pieces.
                fields = msgspec.json.decode(msgspec.json.encode(event.fields))
                yield Extra(self._noted(fields, self._guard.cleaner(self._left).value(fields)))
            case Finish() | AnswerFailed() | Done():
                for kind in list(self._screens):
                    yield from self._screened(kind, "", last=True)
                cleaner = self._guard.cleaner(self._left)
                for index, call in enumerate(self._calls.take()):
                    shown = self._noted(call, cleaner.call(call))
                    yield ToolCallDelta(index, shown.id, shown.name, shown.arguments)
                yield self._failure(event, cleaner) if isinstance(event, AnswerFailed) else event
            case _:
                yield event

    def _screened(self, kind: type[Text | Reasoning], piece: str, *, last: bool = False) -> Iterator[Event]:
        screen = self._screens.get(kind)
        if screen is None:
            screen = self._screens[kind] = self._guard.screen(self._tick)
        if shown := screen.feed(piece, last=last):
            yield kind(shown)
        if screen.redacted:
            self._ctx.note = REDACTED
        if screen.denied is not None:
            raise ForbiddenError(screen.denied.index + 1)

    def _failure(self, failure: AnswerFailed, cleaner: Cleaner) -> AnswerFailed:
        """Redact a failure's message, because it may quote the answer."""
        try:
            message, extra = cleaner.text(failure.message), cleaner.value(failure.extra)
        except ForbiddenError as error:
            message, extra = f"the error is not let pass (pattern {error.number} of agents.guard.deny)", {}
        return self._noted(failure, msgspec.structs.replace(failure, message=message, extra=extra))

    def _noted(self, original: T, shown: T) -> T:
        if shown != original:
            self._ctx.note = REDACTED
        return shown
