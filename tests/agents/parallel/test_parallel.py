"""/parallel: which models are asked, how, in which order; and what becomes of the answers."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.runtime import spawn
from agents.api import ModelInfo
from agents.chat import Chat, Message, Sampling, ToolCall
from agents.events import Answer, AnswerFailed, Done, Event, Finish, Text, Usage
from agents.parallel.agent import Parallel
from agents.parallel.candidates import groups
from agents.parallel.prompts import judged
from agents.testing import ScriptedLLM, chat, run_agent


def extra(outcome: Any) -> dict[str, Any]:
    fields: dict[str, Any] = outcome.answer.extra["parallel"]
    return fields


async def test_the_judge_chooses(tmp_path: Path) -> None:
    llm = ScriptedLLM("first", "second", "third", '{"best": 2}')
    outcome = await run_agent(Parallel, "Which?", llm=llm, folder=tmp_path)
    assert outcome.answer.text == "second"
    assert (extra(outcome)["judged"], extra(outcome)["chosen"]) == (True, 1)
    judge = llm.requests[3]
    assert judge.format is not None
    assert judge.sampling.temperature == 0.0
    assert '<answer number="2">\nsecond\n</answer>' in judge.messages[-1].text
    assert judge.messages[-1].text.startswith("Which?\n")
    assert isinstance(outcome.events[-1], Done)


@pytest.mark.parametrize("said", ["I like them all", '{"best": 9}', "", '{"best": 0}'])
async def test_a_judge_who_names_none_is_overruled_by_the_majority(tmp_path: Path, said: str) -> None:
    llm = ScriptedLLM("one", "Two", "two.", said)
    outcome = await run_agent(Parallel, "Which?", llm=llm, folder=tmp_path)
    assert outcome.answer.text == "Two"
    assert extra(outcome)["judged"] is False


async def test_the_majority(tmp_path: Path) -> None:
    llm = ScriptedLLM("4", "5", "**5**")
    outcome = await run_agent(Parallel, "2+3?", llm=llm, folder=tmp_path, argument="vote")
    assert (outcome.answer.text, extra(outcome)["votes"]) == ("5", 2)
    assert len(llm.requests) == 3


async def test_a_decided_vote_cancels_the_losers(tmp_path: Path) -> None:
    """Of five the first three agree; the others hang, and are stopped."""
    llm = _Slow("yes", "yes", "yes", models={"demo": ModelInfo(name="demo", slots=5)})
    outcome = await run_agent(Parallel, "?", llm=llm, folder=tmp_path, argument="vote:5")
    assert (outcome.answer.text, extra(outcome)["votes"], extra(outcome)["answers"]) == ("yes", 3, 3)
    assert len(llm.requests) == 5
    assert llm.busy == []


class _Slow(ScriptedLLM):
    """Has as many quick answers as scripts; whoever comes later gets none."""

    async def stream(self, request: Chat, *, key: str = "") -> Any:
        if len(self.requests) >= len(self._scripts):
            self.requests.append(request)
            self.busy.append(request.model)
            try:
                await asyncio.Event().wait()
            finally:
                self.busy.remove(request.model)
        async for event in super().stream(request, key=key):
            yield event


async def test_one_answer_made_of_all(tmp_path: Path) -> None:
    llm = ScriptedLLM("a", "b", "c", "the best of it")
    request = chat("Tell", sampling=Sampling(max_tokens=9))
    outcome = await run_agent(Parallel, request, llm=llm, folder=tmp_path, argument="merge")
    assert outcome.answer.text == "the best of it"
    assert sum(isinstance(event, Text) for event in outcome.events) == 4, "streamed as it is written"
    assert llm.requests[3].sampling.max_tokens == 9
    assert '<answer number="3">\nc\n</answer>' in llm.requests[3].messages[-1].text


async def test_each_is_shown(tmp_path: Path) -> None:
    call = Answer(text="", tool_calls=[ToolCall("1", "f", "{}")])
    llm = ScriptedLLM("a", AnswerFailed(502, "the server died"), call)
    outcome = await run_agent(Parallel, "Tell", llm=llm, folder=tmp_path, argument="all")
    assert outcome.answer.text == (
        "**Answer 1** (demo)\n\na\n\n"
        "**Answer 2** (demo)\n\nThere is none: the server died\n\n"
        "**Answer 3** (demo)\n\n`f({})`"
    )
    assert (extra(outcome)["asked"], extra(outcome)["answers"]) == (3, 2)
    assert [type(event) for event in outcome.events[-3:]] == [Finish, Usage, Done]


@pytest.mark.parametrize("mode", ["best", "vote", "merge", "all"])
async def test_all_that_it_cost_is_told(tmp_path: Path, mode: str) -> None:
    def said(request: Chat) -> Answer:
        return Answer(text="1", usage=Usage(prompt=10, completion=3, cached=2, completion_seconds=0.5))

    llm = ScriptedLLM(said)
    outcome = await run_agent(Parallel, "?", llm=llm, folder=tmp_path, argument=mode)
    calls = {"best": 4, "vote": 2, "merge": 4, "all": 3}[mode]  # of a vote, those that decided it
    usage = outcome.answer.usage
    assert (usage.prompt, usage.completion, usage.cached) == (10 * calls, 3 * calls, 2 * calls)
    assert usage.completion_seconds == 0.5 * calls


async def test_samples_differ(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    await run_agent(Parallel, "?", llm=llm, folder=tmp_path, argument="all")
    assert [request.sampling.temperature for request in llm.requests] == [0.8] * 3
    llm = ScriptedLLM("x")
    request = chat("?", sampling=Sampling(temperature=0.1, seed=7))
    await run_agent(Parallel, request, llm=llm, folder=tmp_path, argument="all:2")
    assert [request.sampling.seed for request in llm.requests] == [7, 8]
    assert [request.sampling.temperature for request in llm.requests] == [0.1] * 2


async def test_several_models_one_after_the_other(tmp_path: Path) -> None:
    models = {
        "a": ModelInfo(name="a", slots=4),
        "b": ModelInfo(name="b", aliases=("b2",), loaded=True, slots=4),
        "c": ModelInfo(name="c", slots=4),
    }
    order: list[list[str]] = []

    def said(request: Chat) -> str:
        order.append(sorted(set(llm.busy)))
        return request.model

    llm = ScriptedLLM(said, models=models)
    config = {"models": ["a", "b", "c", "b2"], "mode": "all", "judge": "a"}
    outcome = await run_agent(Parallel, "?", llm=llm, folder=tmp_path, config=config)
    assert [request.model for request in llm.requests] == ["b", "b2", "c", "a"]
    assert all(len(busy) == 1 or busy == ["b", "b2"] for busy in order), "never two models at a time"
    assert outcome.answer.text.index("(a)") < outcome.answer.text.index("(b)")
    assert all(request.sampling.temperature is None for request in llm.requests)


def test_the_loaded_model_is_first_and_the_judge_last() -> None:
    def requests(*names: str) -> list[Chat]:
        return [chat(model=name) for name in names]

    known = [ModelInfo(name="a", slots=2), ModelInfo(name="b", slots=3), ModelInfo(name="c", loaded=True)]
    assert groups(requests("a", "b", "c", "a"), known, "a") == [([2], 1), ([1], 3), ([0, 3], 2)]
    assert groups(requests("a", "c"), known, "c") == [([1], 1), ([0], 2)]
    assert groups(requests("x"), known, "x") == [([0], 1)]


@pytest.mark.parametrize(("slots", "most"), [(1, 1), (2, 2), (8, 6)])
async def test_no_more_at_a_time_than_there_are_slots(tmp_path: Path, slots: int, most: int) -> None:
    llm = ScriptedLLM("some words to say", models={"demo": ModelInfo(name="demo", slots=slots)})
    await run_agent(Parallel, "?", llm=llm, folder=tmp_path, argument="all:6")
    assert llm.most_busy == most


async def test_who_fails_is_left_out(tmp_path: Path) -> None:
    llm = ScriptedLLM(AnswerFailed(502, "died"), "b", AnswerFailed(429, "full"))
    outcome = await run_agent(Parallel, "?", llm=llm, folder=tmp_path)
    assert outcome.answer.text == "b"
    assert extra(outcome)["errors"] == ["died", "full"]
    assert len(llm.requests) == 3, "one answer needs no judge"


async def test_all_fail(tmp_path: Path) -> None:
    llm = ScriptedLLM(AnswerFailed(404, "there is no such model", code="model_not_found"))
    outcome = await run_agent(Parallel, "?", llm=llm, folder=tmp_path)
    assert outcome.refused is not None
    assert (outcome.refused.status, outcome.refused.code) == (404, "model_not_found")


async def test_tool_calls_are_voted_on(tmp_path: Path) -> None:
    def calls(argument: int) -> Answer:
        return Answer(tool_calls=[ToolCall("1", "f", f'{{"x": {argument}}}')], reason="tool_calls")

    llm = ScriptedLLM(calls(1), calls(2), calls(2))
    outcome = await run_agent(Parallel, "?", llm=llm, folder=tmp_path)
    assert outcome.answer.tool_calls[0].arguments == '{"x": 2}'
    assert outcome.answer.reason == "tool_calls"


@pytest.mark.parametrize("argument", ["worst", "0", "17", "vote:x", "²"])
async def test_what_it_cannot_do_is_told(tmp_path: Path, argument: str) -> None:
    outcome = await run_agent(Parallel, "?", llm=ScriptedLLM("x"), folder=tmp_path, argument=argument)
    assert outcome.refused is not None
    assert outcome.refused.status == 400
    assert "expected best, vote, merge, all, or a number from 1 to 16" in outcome.refused.message


async def test_a_task_after_a_tools_result_is_a_turn_of_its_own(tmp_path: Path) -> None:
    request = Chat(model="demo", messages=[Message("user", "?"), Message("tool", "42")])
    llm = ScriptedLLM("a", "b", "c", "1")
    await run_agent(Parallel, request, llm=llm, folder=tmp_path)
    assert [message.role for message in llm.requests[3].messages] == ["user", "tool", "user"]


@pytest.mark.parametrize("mode", ["best", "all"])
async def test_a_client_that_leaves_stops_all_of_them(tmp_path: Path, mode: str) -> None:
    llm = ScriptedLLM("x", models={"demo": ModelInfo(name="demo", slots=4)})
    llm.hold.clear()
    work = run_agent(Parallel, "?", llm=llm, folder=tmp_path, argument=mode)
    request = spawn(work, name="request")
    await _until(lambda: len(llm.busy) == 3)
    request.cancel()
    await asyncio.wait([request])
    assert llm.busy == []


async def test_a_budget_that_ends_in_the_middle_leaves_what_there_is(tmp_path: Path) -> None:
    llm = ScriptedLLM("a", "b", "c", models={"demo": ModelInfo(name="demo", slots=1)})
    config = {"budget": {"calls": 2}, "mode": "vote"}
    outcome = await run_agent(Parallel, "?", llm=llm, folder=tmp_path, config=config)
    assert outcome.answer.text == "a"
    assert extra(outcome)["errors"] == ["the budget of 2 calls is used up (budget.calls of agent 'parallel')"]


class Hangs(ScriptedLLM):
    """The calls from this one on, counted from 0, say nothing for ever."""

    def __init__(self, slow: int, *scripts: Any) -> None:
        super().__init__(*scripts, models={"demo": ModelInfo(name="demo", slots=1)})
        self._slow = slow

    async def stream(self, request: Chat, *, key: str = "") -> AsyncGenerator[Event, None]:
        if len(self.requests) == self._slow:
            self.hold.clear()
        async with aclosing(super().stream(request, key=key)) as events:
            async for event in events:
                yield event


async def test_the_time_limit_holds_while_it_streams(tmp_path: Path) -> None:
    llm = Hangs(1, "x")
    work = run_agent(Parallel, "?", llm=llm, folder=tmp_path, argument="all", config={"timeout": 0.2})
    outcome = await asyncio.wait_for(work, 5)
    last = outcome.events[-1]
    assert isinstance(last, AnswerFailed)
    assert (last.status, last.message) == (
        504,
        "agent 'parallel': took longer than 0.2 s (agents.parallel.timeout)",
    )
    assert outcome.answer.text == "**Answer 1** (demo)\n\nx"
    assert llm.busy == []


@pytest.mark.parametrize("mode", ["best", "merge"])
async def test_a_judge_that_hangs_costs_no_answer(tmp_path: Path, mode: str) -> None:
    llm = Hangs(3, "one", "two", "Two.")
    config = {"timeout": 1.5, "mode": mode}
    outcome = await run_agent(Parallel, "?", llm=llm, folder=tmp_path, config=config)
    assert outcome.refused is None
    assert (outcome.answer.text, extra(outcome)["votes"]) == ("two", 2)
    assert extra(outcome)["judge_error"] == "it took too long"
    assert "the judge failed" in outcome.report[0]["note"]
    assert llm.busy == []


async def test_an_answer_that_hangs_costs_no_other_answer(tmp_path: Path) -> None:
    llm = Hangs(2, "one", "two")
    outcome = await run_agent(Parallel, "?", llm=llm, folder=tmp_path, config={"timeout": 1.5})
    assert outcome.refused is None
    assert outcome.answer.text == "one"
    assert extra(outcome)["errors"] == ["1 answers took too long (agents.parallel.timeout)"]


@pytest.mark.parametrize("mode", ["best", "merge"])
@pytest.mark.parametrize("status", [400, 429, 502])
async def test_a_judge_that_fails_is_overruled_by_the_majority(
    tmp_path: Path, mode: str, status: int
) -> None:
    llm = ScriptedLLM("one", "two", "Two.", AnswerFailed(status, "no judgement"))
    outcome = await run_agent(Parallel, "?", llm=llm, folder=tmp_path, argument=mode)
    assert outcome.refused is None
    assert outcome.answer.text == "two"
    assert extra(outcome)["judge_error"] == "no judgement"
    assert extra(outcome)["judged" if mode == "best" else "merged"] is False
    assert outcome.answer.usage.prompt == 3
    assert sum(isinstance(event, Done) for event in outcome.events) == 1
    assert len(llm.requests) == (5 if status == 400 else 4), "less may be taken, where the prompt was refused"


@pytest.mark.parametrize("mode", ["best", "merge"])
async def test_a_judge_gets_no_more_than_it_takes(tmp_path: Path, mode: str) -> None:
    """Three long answers to a long conversation, and a judge who reads 12,000 characters."""

    def said(request: Chat) -> Any:
        text = request.messages[-1].text
        if "<answer" not in text:
            return f"begin {len(llm.requests)} " + "long " * 20_000 + "end"
        size = sum(len(message.text) for message in request.messages)
        return AnswerFailed(400, "exceeds the available context size") if size > 12_000 else '{"best": 3}'

    llm = ScriptedLLM(said)
    messages = [Message("user", "once " * 3000), Message("assistant", "yes"), Message("user", "and? " * 3000)]
    request = Chat(model="demo", messages=messages)
    outcome = await run_agent(Parallel, request, llm=llm, folder=tmp_path, argument=mode)
    assert outcome.answer.text == '{"best": 3}' or outcome.answer.text.startswith("begin 3 ")
    first, second = (one.messages[-1].text for one in llm.requests[3:])
    assert len(first) < 15_000 + 25_000
    for text in (first, second):
        assert "begin 2 long" in text
        assert "long end\n</answer>" in text
    assert [message.role for message in llm.requests[4].messages] == ["user"]


async def test_a_cut_off_answer_does_not_win_over_a_whole_one(tmp_path: Path) -> None:
    cut = Answer(text="so", reason="length")
    llm = ScriptedLLM(cut, cut, "so it is", AnswerFailed(502, "gone"))
    outcome = await run_agent(Parallel, "?", llm=llm, folder=tmp_path)
    assert outcome.answer.text == "so it is"


@pytest.mark.parametrize("mode", ["best", "vote", "merge", "all"])
async def test_what_failed_or_was_stopped_was_not_for_nothing(tmp_path: Path, mode: str) -> None:
    """Two answers that are the same, one that breaks off after four words."""

    def said(request: Chat) -> Any:
        return Answer(text="1", usage=Usage(prompt=10, completion=3, cached=2))

    class Breaks(ScriptedLLM):
        async def stream(self, request: Chat, *, key: str = "") -> AsyncGenerator[Event, None]:
            if not self.requests:
                self.requests.append(request)
                for word in ["a", "b", "c", "d"]:
                    yield Text(word)
                yield AnswerFailed(502, "gone")
                return
            async for event in super().stream(request, key=key):
                yield event

    outcome = await run_agent(Parallel, "?", llm=Breaks(said), folder=tmp_path, argument=mode)
    calls = 3 if mode in ("best", "merge") else 2
    usage = outcome.answer.usage
    assert (usage.prompt, usage.completion, usage.cached) == (10 * calls, 4 + 3 * calls, 2 * calls)


async def test_a_pattern_that_takes_for_ever_leaves_the_whole_text(tmp_path: Path) -> None:
    llm = ScriptedLLM("a" * 40 + "bc")
    config = {"vote_on": r"(.*a){6}b\1", "mode": "vote"}
    outcome = await asyncio.wait_for(run_agent(Parallel, "?", llm=llm, folder=tmp_path, config=config), 20)
    assert extra(outcome)["votes"] == 2


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ('{"best": 2}', 1),
        ('```json\n{ "best" : 3 }\n```', 2),
        ('Of the 3 answers: {"best": 1}', 0),
        ("2", 1),
        ("The best is 2, yes 2.", 1),
        ("2 or 3", None),
        ('{"best": 4}', None),
        ('{"best": 0}', None),
        ("9" * 6000, None),
        ("\u0663", None),
    ],
)
def test_what_a_judge_may_mean(said: str, place: int | None) -> None:
    assert judged(said, 3) == place


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what is waited for is seen from outside only
            await asyncio.sleep(0.001)


def test_a_pattern_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"vote_on: '\(' is no regular expression"):
        msgspec.convert({"vote_on": "("}, Parallel.Config)
