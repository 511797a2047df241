"""Combines several answers into one: a judge's choice, a merged answer, or the majority's answer.

If the judge fails, takes too long or names no answer, the majority decides. Answers that were cut off count
only if there are no others; among equals the earliest wins.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from agents.api import AgentError, Answer, Chat, Context, Event, Extra, Reply, Text
from agents.events import Done, Finish, Reasoning, Usage, replayed
from agents.parallel.prompts import LITTLE_ROOM, ROOM, judged, judging, merging
from agents.parallel.voting import winner

ReportFields = dict[str, Any]
"""The fields that are added to the client's answer."""


class Candidate(msgspec.Struct, frozen=True):
    """An answer, its place among the requested answers, and its vote."""

    place: int
    answer: Answer
    ballot: str

    @property
    def is_whole(self) -> bool:
        """Whether the answer was not cut off and is not empty."""
        return self.answer.reason in ("stop", "tool_calls") and bool(
            self.answer.text or self.answer.tool_calls
        )


def majority(candidates: Sequence[Candidate]) -> tuple[Candidate, int]:
    """Return the answer with the most equal whole answers, and their number."""
    counted = [candidate for candidate in candidates if candidate.is_whole] or candidates
    place, votes = winner([candidate.ballot for candidate in counted])
    return counted[place], votes


def one_reply(ctx: Context, candidate: Candidate, report: ReportFields) -> Reply:
    """Reply with this answer, and the usage of all."""
    return Reply.of(_events(ctx, candidate, report))


def _events(ctx: Context, candidate: Candidate, report: ReportFields) -> list[Event]:
    usage = ctx.llm.usage
    tokens = usage.prompt + usage.completion
    extra = {
        "parallel": {**report, "tokens": tokens, "chosen": candidate.place, "model": candidate.answer.model}
    }
    return list(replayed(msgspec.structs.replace(candidate.answer, usage=usage, extra=extra)))


async def choose_reply(
    ctx: Context,
    request: Chat,
    candidates: Sequence[Candidate],
    judge: str,
    report: ReportFields,
    deadline: float,
) -> Reply:
    """Let the judge choose an answer before `deadline` (the loop's clock); otherwise take the majority's."""
    verdict, error = await _ask_judge(ctx, request, candidates, judge, deadline)
    chosen = judged(verdict, len(candidates))
    report = {**report, "judge": judge, "judged": chosen is not None}
    if chosen is not None:
        return one_reply(ctx, candidates[chosen], report)
    candidate, votes = majority(candidates)
    error = error or "it named no answer"
    _overruled(ctx, judge, error, said=verdict[:200])
    return one_reply(ctx, candidate, {**report, "judge_error": error, "votes": votes})


async def _ask_judge(
    ctx: Context, request: Chat, candidates: Sequence[Candidate], judge: str, deadline: float
) -> tuple[str, str]:
    """Return the judge's text and an empty error, or an empty text and the error."""
    answers = [candidate.answer for candidate in candidates]
    error = ""
    for room in (ROOM, LITTLE_ROOM):
        try:
            async with asyncio.timeout_at(deadline):
                return (await ctx.llm.chat(judging(request, answers, judge, room))).text, ""
        except TimeoutError:
            return "", "it took too long"
        except AgentError as refused:
            error = refused.message
            if not _may_be_too_long(refused):
                break
    return "", error


async def merge_answers(
    ctx: Context,
    request: Chat,
    candidates: Sequence[Candidate],
    judge: str,
    report: ReportFields,
    deadline: float,
) -> AsyncGenerator[Event, None]:
    """Let a model merge all answers and stream the result; the majority's answer if it writes nothing."""
    answers = [candidate.answer for candidate in candidates]
    reason = ""
    for room in (ROOM, LITTLE_ROOM):
        try:
            async with aclosing(
                _stream_merged(ctx, merging(request, answers, judge, room), deadline)
            ) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        extra = {**report, "merged": True, "tokens": ctx.llm.tokens, "model": judge}
                        yield Extra({"parallel": extra})
                    yield event
            return
        except _NothingError as error:
            reason = error.reason
            if not error.may_be_too_long:
                break
    candidate, votes = majority(candidates)
    _overruled(ctx, judge, reason)
    for event in _events(ctx, candidate, {**report, "merged": False, "judge_error": reason, "votes": votes}):
        yield event


class _NothingError(Exception):
    """The model failed before it wrote anything."""

    def __init__(self, reason: str, *, may_be_too_long: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.may_be_too_long = may_be_too_long


async def _stream_merged(ctx: Context, request: Chat, deadline: float) -> AsyncGenerator[Event, None]:
    """Yield the model's events from its first text on, with the usage of all calls.

    Raises `_NothingError`.
    """
    held: list[Event] = []
    begun = False
    async with aclosing(ctx.llm.stream(request)) as events:
        while True:
            try:
                async with asyncio.timeout_at(None if begun else deadline):
                    event = await anext(events, None)
            except TimeoutError:
                raise _NothingError("it took too long") from None
            except AgentError as error:
                if begun:
                    raise
                raise _NothingError(error.message, may_be_too_long=_may_be_too_long(error)) from error
            if event is None:
                return
            held.append(ctx.llm.usage if isinstance(event, Usage) else event)
            begun = begun or isinstance(event, Text | Reasoning | Done)
            if begun:
                for one in held:
                    yield one
                held.clear()


def _overruled(ctx: Context, judge: str, error: str, said: str | None = None) -> None:
    ctx.note = f"{ctx.note}; the majority's, for the judge failed"
    ctx.log.warning("the judge is overruled by the majority", judge=judge, reason=error, said=said)


def _may_be_too_long(error: AgentError) -> bool:
    """Whether a shorter prompt may succeed: a prompt beyond the context is reported as a client error."""
    return error.status in (400, 413, 422)
