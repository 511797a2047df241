"""Parallel: answers a request several ways at once, and makes one answer of these.

The calls take leases of their own, each for as long as it runs, and the request itself never has one: so
nobody holds one model while waiting for another.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal, get_args

import msgspec

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
from agents.events import Finish, Usage, replayed
from agents.parallel.candidates import answers as asked
from agents.parallel.prompts import judged, judging, merging
from agents.parallel.voting import ballot, is_decided, winner

Mode = Literal["best", "vote", "merge", "all"]
MOST = 16


def _about(text: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **limits)


class ParallelConfig(AgentConfig, frozen=True, kw_only=True):
    """What is asked, and what becomes of the answers."""

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
            re.compile(self.vote_on)
        except re.error as error:
            raise ValueError(f"vote_on: {self.vote_on!r} is no regular expression: {error}") from error


class Candidate(msgspec.Struct, frozen=True):
    """An answer, and its place among all that were asked for."""

    place: int
    answer: Answer


class Parallel(Agent):
    """`/parallel:vote`, `/parallel:5` and `/parallel:vote:5` choose the mode and the number of answers."""

    description = "Answers several ways at once: the best, the majority's, one made of all, or each"
    Config = ParallelConfig
    config: ParallelConfig

    async def before(self, ctx: Context, request: Chat) -> Reply:
        """Have it answered, and reply."""
        deadline = asyncio.get_running_loop().time() + self.config.timeout
        mode, n = self._chosen(ctx.argument)
        requests = self._requests(request, n)
        judge = self.config.judge or request.model
        if mode == "all":
            return Reply(self._in_time(_each(ctx, requests, judge), deadline))
        pattern = re.compile(self.config.vote_on) if self.config.vote_on else None
        errors: list[AgentError] = []
        candidates: list[Candidate] = []
        async with aclosing(asked(ctx.llm, requests, judge)) as results:
            async for place, result in results:
                if isinstance(result, AgentError):
                    errors.append(result)
                    continue
                candidates.append(Candidate(place, result))
                ballots = [ballot(one.answer, pattern) for one in candidates]
                if mode == "vote" and is_decided(ballots, len(requests) - len(errors)):
                    break
        if not candidates:
            raise errors[0]
        spent = ctx.llm.tokens
        candidates.sort(key=lambda one: one.place)
        told: dict[str, Any] = {
            "mode": mode,
            "asked": len(requests),
            "answers": len(candidates),
            "tokens": spent,
        }
        if errors:
            told["errors"] = [error.message for error in errors]
        ctx.note = f"{mode} of {len(candidates)} answers"
        if len(candidates) == 1:
            return _one(candidates, 0, told)
        # Tool calls cannot be judged or merged as texts, but they can be counted.
        if mode == "vote" or any(one.answer.tool_calls for one in candidates):
            chosen, votes = winner([ballot(one.answer, pattern) for one in candidates])
            return _one(candidates, chosen, {**told, "votes": votes})
        if mode == "merge":
            return Reply(self._in_time(_merged(ctx, request, candidates, judge, told), deadline))
        return await _best(ctx, request, candidates, judge, told)

    async def _in_time(
        self, events: AsyncGenerator[Event, None], deadline: float
    ) -> AsyncGenerator[Event, None]:
        """The events, as long as there is time: `before` is over by now, and its limit with it.

        The limit is on each event's coming, not on the whole: to the reader, who has the task while we do not
        run, it would look as if the client had left.
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


def _one(candidates: Sequence[Candidate], chosen: int, told: dict[str, Any], *more: Usage) -> Reply:
    """The chosen answer, with what all of them cost."""
    one = candidates[chosen]
    usage = total([candidate.answer.usage for candidate in candidates] + list(more))
    extra = {"parallel": {**told, "chosen": one.place, "model": one.answer.model}}
    return Reply.of(replayed(msgspec.structs.replace(one.answer, usage=usage, extra=extra)))


async def _best(
    ctx: Context, request: Chat, candidates: Sequence[Candidate], judge: str, told: dict[str, Any]
) -> Reply:
    """The answer that the judge chooses; if it names none, the majority's."""
    verdict = await ctx.llm.chat(judging(request, [one.answer for one in candidates], judge))
    chosen = judged(verdict.text, len(candidates))
    told = {**told, "tokens": ctx.llm.tokens, "judge": judge, "judged": chosen is not None}
    if chosen is None:
        ctx.log.warning("the judge named no answer", judge=judge, said=verdict.text[:200])
        chosen, _ = winner([ballot(one.answer) for one in candidates])
    return _one(candidates, chosen, told, verdict.usage)


async def _merged(
    ctx: Context, request: Chat, candidates: Sequence[Candidate], judge: str, told: dict[str, Any]
) -> AsyncGenerator[Event, None]:
    """The answer that a model makes of all, as it writes it."""
    merge = merging(request, [one.answer for one in candidates], judge)
    async with aclosing(ctx.llm.stream(merge)) as events:
        async for event in events:
            if isinstance(event, Finish):
                yield Extra({"parallel": {**told, "tokens": ctx.llm.tokens, "model": judge}})
            if isinstance(event, Usage):
                yield total([*(one.answer.usage for one in candidates), event])
            else:
                yield event


async def _each(ctx: Context, requests: Sequence[Chat], judge: str) -> AsyncGenerator[Event, None]:
    """Every answer under a heading, in order, each as soon as it and all before it are there.

    Raises the first error if there is none.
    """
    results: dict[int, Answer | AgentError] = {}
    errors: list[AgentError] = []
    shown = 0
    async with aclosing(asked(ctx.llm, requests, judge)) as pairs:
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
    yield total([result.usage for result in results.values() if isinstance(result, Answer)])


def _section(place: int, model: str, result: Answer | AgentError) -> str:
    if isinstance(result, AgentError):
        said = f"There is none: {result.message}"
    else:
        calls = (f"`{call.name}({call.arguments})`" for call in result.tool_calls)
        said = "\n\n".join(part for part in (result.text.strip(), *calls) if part)
    return f"{'' if place == 0 else chr(10) * 2}**Answer {place + 1}** ({model})\n\n{said}"


def total(usages: Sequence[Usage]) -> Usage:
    """What several answers cost together. Their durations are added though they may have run side by side."""
    names = Usage.__struct_fields__
    return Usage(**{name: sum(getattr(usage, name) for usage in usages) for name in names})
