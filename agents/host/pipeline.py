"""Runs a request and its answer through the agents, in the order in which they were named, guards last.

Guards must see the request and the answer as the other agents leave them.

```
 before() -> Chat, or an answer's events      feed(event) -> events      finish(...)
```

A fault of an agent affects only its request, as `on_error` says.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from functools import cached_property
from time import perf_counter
from typing import Any, Literal

import msgspec

from agents.api import Agent, Clock, Context, Filter, Finished, Reply
from agents.chat import Chat, Message
from agents.errors import AgentError, DeniedError, unwrapped
from agents.events import Answer, AnswerCollector, AnswerFailed, AnswerStarted, Done, Event, Finish, checked
from agents.host.supervision import AgentActor, OverdueError, contained, run_within

StepOutcome = Literal["not run", "done", "replied", "denied", "skipped", "failed"]

AT_WORK: ContextVar[frozenset[str]] = ContextVar("at work", default=frozenset())
"""The agents whose `before` has led to the present call, through calls of models."""

BLOCKING = 0.05
"""Seconds that a filter may take for one event before it is logged, because all clients wait meanwhile."""


class Step:
    """One agent's part in one request."""

    def __init__(self, actor: AgentActor, ctx: Context) -> None:
        self.actor = actor
        self.ctx = ctx
        actor.uses.add(self)
        self.outcome: StepOutcome = "not run"
        self.seconds = 0.0
        self.stream_seconds = 0.0
        self._agent: Agent | None = None
        self._filter: Filter | None = None
        self._has_begun = False
        self._is_counted = False

    async def before(self, request: Chat) -> Chat | Reply:
        """Call the agent's `before`. Raises `AgentError` for errors that the client must see."""
        counters = self.actor.counters
        counters.requests += not self._is_counted
        self._is_counted = True
        begun = perf_counter()
        try:
            with contained:
                result = await self._before(request)
        except Exception as error:  # the boundary to somebody else's code
            if (reported := self.record_error("before", error)) is not None:
                raise reported from error
            return request
        finally:
            self.seconds += perf_counter() - begun
        self.actor.succeeded()
        self.outcome = "replied" if isinstance(result, Reply) else "done"
        counters.replied += isinstance(result, Reply)
        return result

    async def _before(self, request: Chat) -> Chat | Reply:
        self._agent = agent = self.actor.agent
        if type(agent).before is Agent.before:
            return request
        token = AT_WORK.set(AT_WORK.get() | {self.actor.name})
        try:
            result: Any = await run_within(
                agent.before(self.ctx, request),
                self.actor.config.timeout,
                name=f"agent {self.actor.name} before {self.ctx.request_id}",
                services=self.actor.services,
            )
        finally:
            AT_WORK.reset(token)
        if not isinstance(result, Chat | Reply):
            raise TypeError(f"before must return a Chat or a Reply, and returned {type(result).__name__}")
        if isinstance(result, Reply):
            return result
        if result is not request:
            check_chat(result, request.messages)
        return result

    def feed(self, events: list[Event]) -> list[Event]:
        """Pass an event through the agent's filter. A failing filter is skipped, or ends the answer."""
        begun = perf_counter()
        if not self._has_begun:
            self._has_begun = True
            if (failure := self._begin()) is not None:
                return [failure]
        if self._filter is None:
            return events
        passed: list[Event] = []
        for index, event in enumerate(events):
            try:
                with contained:
                    passed += [one if one is event else checked(one) for one in self._filter.feed(event)]
            except Exception as error:  # the boundary to somebody else's code
                self._filter = None
                reported = self.record_error("stream", error)
                passed += events[index:] if reported is None else [_failure(reported)]
                break
        seconds = perf_counter() - begun
        self.stream_seconds += seconds
        if seconds > BLOCKING:
            self.ctx.log.warning("slow filter blocks the gateway", milliseconds=round(seconds * 1000))
        return passed

    @property
    def guards(self) -> bool:
        """Whether this step's agent is a guard."""
        return self.actor.kind.guards

    def _begin(self) -> AnswerFailed | None:
        if self.outcome == "skipped":
            return None
        try:
            self._agent = self._agent or self.actor.agent
            with contained:
                self._filter = self._agent.stream(self.ctx)
        except Exception as error:  # the boundary to somebody else's code
            if (reported := self.record_error("stream", error)) is not None:
                return _failure(reported)
        return None

    def record_error(self, method: str, error: Exception, *, skippable: bool = True) -> AgentError | None:
        """Log and count an error; return the error for the client, or None if the agent is skipped."""
        name, counters = self.actor.name, self.actor.counters
        error = unwrapped(error)
        match error:
            case DeniedError():
                self.outcome = "denied"
                counters.denied += 1
                return error
            case OverdueError():
                counters.timeouts += 1
                reported = AgentError(f"agent {name!r} {error} (agents.{name}.timeout)", status=504)
            case AgentError():
                reported = AgentError(
                    f"agent {name!r}: {error.message}",
                    status=error.status,
                    code=error.code,
                    param=error.param,
                    retry_after=error.retry_after,
                )
            case _:
                self.actor.crashed(method, error, request_id=self.ctx.request_id)
                reported = AgentError(f"agent {name!r} failed ({type(error).__name__})", code="agent_failed")
        skipped = skippable and self.actor.config.on_error == "skip"
        self.outcome = "skipped" if skipped else "failed"
        counters.skipped += skipped
        counters.failed += not skipped
        self.ctx.note = reported.message
        self.ctx.log.warning("agent failed", outcome=self.outcome, method=method, reason=reported.message)
        return None if skipped else reported

    @property
    def has_part(self) -> bool:
        """Whether the agent took part, perhaps only with its filter, because an earlier agent replied."""
        return self.outcome in ("done", "replied") or (self.outcome == "not run" and self._filter is not None)

    def describe(self) -> dict[str, Any]:
        """Describe the agent's work for the log. Times are in milliseconds."""
        llm = self.ctx.llm
        fields = {
            "before_ms": round(self.seconds * 1000, 1),
            "stream_ms": round(self.stream_seconds * 1000, 1),
            "calls": llm.calls,
            "tokens": llm.tokens,
            "note": self.ctx.note,
        }
        known = {name: value for name, value in fields.items() if value}
        return {"name": self.actor.name, "outcome": self.outcome, **known}


class Run:
    """The agents of one request, in the order of their ranks. `chat` is the request in its present form.

    `asked` is the request as the client sent it. `guards` makes the steps of a model's default guards, by
    any of its names. They are added if an agent has chosen another model.
    """

    def __init__(
        self,
        chat: Chat,
        steps: Iterable[Step],
        *,
        request_id: str,
        clock: Clock,
        guards: Callable[[str], Awaitable[Iterable[Step]]],
    ) -> None:
        self.chat = self.asked = chat
        self.ended = False
        """Whether the answer is over, so that its writer can stop."""
        self._steps = list(steps)
        self._guards_of = guards
        self._request_id = request_id
        self._clock = clock
        self._begun = clock.monotonic()
        self._raw = AnswerCollector()
        self._sent = AnswerCollector()
        self._is_finished = False

    async def before(self) -> Chat | AsyncGenerator[Event, None]:
        """Return the request for the model, or the events of an agent's reply, which also go through `feed`.

        Raises `AgentError` for errors that the client must see. Close the generator, because it may have
        running calls of models.
        """
        model = self.chat.model
        guards = [step for step in self._steps if step.guards]
        others = self._steps[: len(self._steps) - len(guards)]
        for step in guards if others else ():
            # A guard that refuses the client's own request does so before any other work.
            if isinstance(result := await step.before(self.chat), Reply):
                return self._whole(step, result.events)
        reply = await self._pass(others)
        if self.chat.model != model:
            known = {step.actor.name for step in guards}
            more = await self._guards_of(self.chat.model)
            guards += [step for step in more if step.actor.name not in known]
            self._steps = [*others, *guards]
        return reply or await self._pass(guards) or self.chat

    async def _pass(self, steps: Iterable[Step]) -> AsyncGenerator[Event, None] | None:
        """Let the steps change the request, until one of them replies."""
        for step in steps:
            result = await step.before(self.chat)
            if isinstance(result, Reply):
                return self._whole(step, result.events)
            self.chat = result
        return None

    async def _whole(self, step: Step, events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
        """Complete an agent's reply with missing events.

        If it fails, the agent cannot be skipped any more.
        """
        started = finished = False
        try:
            with contained:
                try:
                    async for event in events:
                        checked(event)
                        if not started and not isinstance(event, AnswerStarted | AnswerFailed):
                            yield self._start()
                        started = True
                        if isinstance(event, Done) and not finished:
                            yield Finish("stop")
                        finished = finished or isinstance(event, Finish)
                        yield event
                        if isinstance(event, Done | AnswerFailed):
                            return
                finally:
                    if (close := getattr(events, "aclose", None)) is not None:
                        await close()
        except Exception as error:  # the boundary to somebody else's code
            reported = step.record_error("reply", error, skippable=False)
            assert reported is not None
            yield _failure(reported)
            return
        if not started:
            yield self._start()
        if not finished:
            yield Finish("stop")
        yield Done()

    def _start(self) -> AnswerStarted:
        return AnswerStarted(f"chatcmpl-{self._request_id}", self.chat.model, int(self._clock.time()))

    def feed(self, event: Event) -> list[Event]:
        """Return the client's events for the answer's next event.

        Nothing follows `Done` or `AnswerFailed`.
        """
        if self.ended:
            return []
        self._raw.feed(event)
        events = [event]
        for step in self._steps:
            events = step.feed(events)
        for count, passed in enumerate(events, 1):
            self._sent.feed(passed)
            if isinstance(passed, Done | AnswerFailed):
                self.ended = True
                return events[:count]
        if isinstance(
            event, Done | AnswerFailed
        ):  # a filter that swallows the end must not keep the client waiting
            self.ended = True
            self._sent.feed(event)
            events.append(event)
        return events

    @cached_property
    def answer(self) -> Answer:
        """The complete answer that the client got, at the end."""
        return self._sent.answer()

    @property
    def failure(self) -> AnswerFailed | None:
        """The failure of the answer, if it failed."""
        return self._sent.failure

    def finish(
        self, *, model: str | None = None, place: str | None = None, failure: str | None = None
    ) -> None:
        """Pass the finished request to its agents' `after`. Never waits; a second call has no effect.

        `model` is the model that answered, `place` where it ran. `failure`, such as a client that left,
        counts only if the answer was not written completely.
        """
        if self._is_finished:
            return
        self._is_finished = True
        interested = [
            step for step in self._steps if step.has_part and step.actor.kind.after is not Agent.after
        ]
        if not interested:
            return
        broken = self._sent.failure
        reason = broken.message if broken is not None else failure or "the answer was not written to its end"
        finished = Finished(
            request_id=self._request_id,
            request=self.chat,
            answer=self.answer,
            raw=self._raw.answer() if self._raw.complete else None,
            model=model or self.chat.model,
            place=place,
            seconds=self._clock.monotonic() - self._begun,
            failure=None if self._sent.complete else reason,
        )
        for step in interested:
            step.actor.tell(step.ctx, finished)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the agents."""
        return tuple(step.actor.name for step in self._steps)

    @property
    def header(self) -> str:
        """The agents so far with their times, as `rag;dur=12.3, guard;dur=0.1`. `dur` is in milliseconds."""
        return ", ".join(
            f"{step.actor.name};dur={step.seconds * 1000:.1f}"
            + ("" if step.outcome == "done" else f";outcome={step.outcome.replace(' ', '-')}")
            for step in self._steps
        )

    @property
    def log_field(self) -> list[dict[str, Any]]:
        """The work of each agent, for the request's log line."""
        return [step.describe() for step in self._steps]


def _failure(error: AgentError) -> AnswerFailed:
    return AnswerFailed(error.status, error.message, code=error.code, param=error.param)


def check_chat(made: Chat, known: Iterable[Message] = ()) -> None:
    """Raise `TypeError` or `ValueError` if an agent returned a request that cannot be encoded.

    Messages in `known` are not checked again.
    """
    if not isinstance(made.messages, list):
        raise TypeError(f"expected a list of messages, got {type(made.messages).__name__}")
    identities = set(map(id, known))
    messages = [message for message in made.messages if id(message) not in identities]
    try:
        new = msgspec.structs.replace(made, messages=messages)
        msgspec.json.decode(msgspec.json.encode(new), type=Chat)
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"no valid Chat: {error}") from error
