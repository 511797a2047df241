"""Parallel: makes several answers to a request at the same time, and combines them into one.

Each call takes its own lease while it runs, and the request itself has none, so no lease is held while
another one is awaited.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal, get_args

import msgspec
import regex

from agents.api import (
    Agent,
    AgentConfig,
    AgentError,
    Answer,
    Chat,
    Context,
    DeniedError,
    Event,
    Extra,
    Reply,
    Text,
)
from agents.events import Finish
from agents.parallel.candidates import ask_each
from agents.parallel.choice import Candidate, choose_reply, majority, merge_answers, one_reply
from agents.parallel.voting import ballot, is_decided

Mode = Literal["best", "vote", "merge", "all"]
MOST = 16


def _about(text: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **limits)


class ParallelConfig(AgentConfig, frozen=True, kw_only=True):
    """Which models are called how often, and how the answers are combined."""

    timeout: Annotated[float, _about("seconds for all the answers and their judgement", gt=0)] = 600.0
    on_error: Annotated[Literal["skip", "fail"], _about("skip would pass a plain answer off")] = "fail"
    mode: Annotated[Mode, _about("best (judged), vote (the majority), merge (one made of all), all")] = "best"
    n: Annotated[int, _about("answers, where `models` names none", ge=1, le=MOST)] = 3
    models: Annotated[tuple[str, ...], _about("models that answer, each once", max_length=MOST)] = ()
    judge: Annotated[str, _about("the model that judges or merges; else the request's")] = ""
    temperature: Annotated[float, _about("of several answers of one model, if it has none", ge=0, le=2)] = 0.8
    vote_on: Annotated[str, _about("a pattern: its first group's last match is voted on")] = ""

    def __post_init__(self) -> None:
        try:
            regex.compile(self.vote_on)
        except regex.error as error:
            raise ValueError(f"vote_on: {self.vote_on!r} is no regular expression: {error}") from error


class Parallel(Agent):
    """`/parallel:vote`, `/parallel:5` and `/parallel:vote:5` choose the mode and the number of answers."""

    description = "Answers several ways at once: the best, the majority's, one made of all, or each"
    Config = ParallelConfig
    config: ParallelConfig

    async def before(self, ctx: Context, request: Chat) -> Reply:
        """Get the answers, and reply."""
        now, limit = asyncio.get_running_loop().time(), self.config.timeout
        deadline = now + limit
        mode, n = self._chosen(ctx.argument)
        requests = self._requests(request, n)
        judge = self.config.judge or request.model
        if mode == "all":
            return Reply(self._in_time(_stream_each(ctx, requests, judge), deadline))
        # Answers that have arrived by then are used; the rest of the time is for the judge, with a reserve.
        candidates, errors = await self._ask_candidates(ctx, requests, judge, mode, now + 0.7 * limit)
        report: dict[str, Any] = {"mode": mode, "asked": len(requests), "answers": len(candidates)}
        if errors:
            report["errors"] = [error.message for error in errors]
        ctx.note = f"{mode} of {len(candidates)} answers"
        if len(candidates) == 1:
            return one_reply(ctx, candidates[0], report)
        # Tool calls cannot be judged or merged as text, but votes for them can be counted.
        if mode == "vote" or any(one.answer.tool_calls for one in candidates):
            chosen, votes = majority(candidates)
            return one_reply(ctx, chosen, {**report, "votes": votes})
        judged_by = now + 0.95 * limit
        if mode == "merge":
            events = merge_answers(ctx, request, candidates, judge, report, judged_by)
            return Reply(self._in_time(events, deadline))
        return await choose_reply(ctx, request, candidates, judge, report, judged_by)

    async def _ask_candidates(
        self, ctx: Context, requests: Sequence[Chat], judge: str, mode: Mode, deadline: float
    ) -> tuple[list[Candidate], list[AgentError]]:
        """Return the answers that arrive in time, in order, and the errors of others.

        Raises if there is none.
        """
        pattern = regex.compile(self.config.vote_on) if self.config.vote_on else None
        errors: list[AgentError] = []
        candidates: list[Candidate] = []
        async with aclosing(ask_each(ctx.llm, requests, judge)) as results:
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        found = await anext(results, None)
                except TimeoutError:
                    count = len(requests) - len(candidates) - len(errors)
                    late = AgentError(f"{count} answers took too long (agents.parallel.timeout)", status=504)
                    errors.append(late)
                    break
                if found is None:
                    break
                place, result = found
                if isinstance(result, AgentError):
                    errors.append(result)
                    continue
                candidates.append(Candidate(place, result, ballot(result, pattern)))
                ballots = [one.ballot for one in candidates]
                if mode == "vote" and is_decided(ballots, len(requests) - len(errors)):
                    break
        if not candidates:
            raise errors[0]
        return sorted(candidates, key=lambda one: one.place), errors

    async def _in_time(
        self, events: AsyncGenerator[Event, None], deadline: float
    ) -> AsyncGenerator[Event, None]:
        """Pass on events within the time limit, since the limit of `before` no longer applies.

        The limit applies to the wait for each event. A limit on the whole would cancel the reader's task
        between events, which would look as if the client had left.
        """
        async with aclosing(events):
            while True:
                limit = asyncio.timeout_at(deadline)
                try:
                    async with limit:
                        event = await anext(events, None)
                except TimeoutError:
                    if not limit.expired():
                        raise
                    message = f"took longer than {self.config.timeout:g} s (agents.parallel.timeout)"
                    raise AgentError(message, status=504) from None
                if event is None:
                    return
                yield event

    def _chosen(self, argument: str) -> tuple[Mode, int]:
        mode, n = self.config.mode, self.config.n
        for word in filter(None, argument.split(":")):
            if word in get_args(Mode):
                mode = word  # type: ignore[assignment]  # mypy does not narrow by membership
            elif word.isascii() and word.isdigit() and 1 <= int(word) <= MOST:
                n = int(word)
            else:
                modes = ", ".join(get_args(Mode))
                raise DeniedError(f"/parallel:{argument}: expected {modes}, or a number from 1 to {MOST}")
        return mode, n

    def _requests(self, request: Chat, n: int) -> list[Chat]:
        models = self.config.models or (request.model,) * n
        sampling = request.sampling
        if not self.config.models and sampling.temperature is None:
            sampling = msgspec.structs.replace(sampling, temperature=self.config.temperature)
        return [
            msgspec.structs.replace(
                request,
                model=model,
                sampling=sampling
                if sampling.seed is None
                else msgspec.structs.replace(sampling, seed=sampling.seed + place),
                include_usage=True,
            )
            for place, model in enumerate(models)
        ]


async def _stream_each(ctx: Context, requests: Sequence[Chat], judge: str) -> AsyncGenerator[Event, None]:
    """Yield every answer under a heading, in order, each as soon as all before it are complete.

    Raises the first error if there is no answer.
    """
    results: dict[int, Answer | AgentError] = {}
    errors: list[AgentError] = []
    shown = 0
    async with aclosing(ask_each(ctx.llm, requests, judge)) as pairs:
        async for place, result in pairs:
            results[place] = result
            if isinstance(result, AgentError):
                errors.append(result)
            while shown in results and len(errors) < len(results):
                yield Text(_section(shown, requests[shown].model, results[shown]))
                shown += 1
    if len(errors) == len(results):
        raise errors[0]
    ctx.note = f"all of {len(results) - len(errors)} answers"
    yield Extra({"parallel": {"mode": "all", "asked": len(requests), "answers": len(results) - len(errors)}})
    yield Finish("stop")
    yield ctx.llm.usage


def _section(place: int, model: str, result: Answer | AgentError) -> str:
    if isinstance(result, AgentError):
        text = f"There is none: {result.message}"
    else:
        calls = (f"`{call.name}({call.arguments})`" for call in result.tool_calls)
        text = "\n\n".join(part for part in (result.text.strip(), *calls) if part)
    return f"{'' if place == 0 else chr(10) * 2}**Answer {place + 1}** ({model})\n\n{text}"
