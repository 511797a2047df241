"""What an agent does wrong costs its own request what `on_error` says, and nobody else anything."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from actors.runtime import spawn
from agents.api import (
    Agent,
    AgentError,
    BudgetError,
    Call,
    Chat,
    Context,
    DeniedError,
    Event,
    Filter,
    Finished,
    Reply,
    Text,
    operation,
)
from agents.chat import Message
from agents.events import AnswerFailed, Done, Extra, Finish
from agents.host import supervision
from agents.host.discovery import BrokenAgentError
from agents.host.host import AgentHost
from agents.host.supervision import ExitError
from agents.testing import ScriptedLLM, chat, hosted, run_agent, run_request

Log = list[Any]


class Misbehaves(Agent):
    """Does in each of its methods what it is told."""

    do: ClassVar[dict[str, Callable[[], Any]]] = {}
    lives: ClassVar[list[str]] = []

    async def _do(self, what: str) -> Any:
        result = self.do.get(what, lambda: None)()
        return await result if asyncio.iscoroutine(result) else result

    async def start(self) -> None:
        self.lives.append("start")
        await self._do("start")

    async def run(self) -> None:
        await self._do("run")

    async def close(self) -> None:
        self.lives.append("close")
        await self._do("close")

    async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
        result = await self._do("before")
        return request if result is None else result

    def stream(self, ctx: Context) -> Filter | None:
        found = self.do.get("stream")
        return found() if found else None

    async def after(self, ctx: Context, finished: Finished) -> None:
        self.lives.append(f"after {finished.request_id}")
        await self._do("after")


@pytest.fixture(autouse=True)
def do(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Any]]:
    """What to do; and no long waits between an agent's lives."""
    monkeypatch.setattr(supervision, "BACKOFF", 0.01)
    Misbehaves.lives.clear()
    Misbehaves.do.clear()
    return Misbehaves.do


def crash() -> None:
    raise LookupError("a bug")


def fail() -> None:
    raise AgentError("the other service is away", status=503, retry_after=7)


async def hang() -> None:
    await asyncio.Event().wait()


async def hang_on() -> None:
    """Ignores that it is cancelled, once."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    await asyncio.Event().wait()


def leave() -> None:
    sys.exit(3)


async def leave_later() -> None:
    await asyncio.to_thread(leave)


async def fail_together() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(fail))


async def cancel_itself() -> None:
    raise asyncio.CancelledError


async def nonsense() -> int:
    return 5


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        (crash, 500, "agent 'misbehaves' failed (LookupError)"),
        (fail, 503, "agent 'misbehaves': the other service is away"),
        (fail_together, 503, "agent 'misbehaves': the other service is away"),
        (leave, 500, "agent 'misbehaves' failed (ExitError)"),
        (leave_later, 500, "agent 'misbehaves' failed (ExitError)"),
        (hang, 504, "agent 'misbehaves' took longer than 0.05 s (agents.misbehaves.timeout)"),
        (hang_on, 504, "agent 'misbehaves' took longer than 0.05 s (agents.misbehaves.timeout)"),
        (cancel_itself, 500, "agent 'misbehaves' failed (RuntimeError)"),
        (nonsense, 500, "agent 'misbehaves' failed (TypeError)"),
    ],
)
@pytest.mark.parametrize("on_error", ["skip", "fail"])
async def test_before(
    tmp_path: Path, do: Any, log: Log, what: Any, status: int, message: str, on_error: str
) -> None:
    do["before"] = what
    config = {"timeout": 0.05, "on_error": on_error}
    llm = ScriptedLLM("an answer")
    outcome = await run_agent(Misbehaves, "hello", llm=llm, folder=tmp_path, config=config)
    if on_error == "skip":
        assert (outcome.answer.text, outcome.refused) == ("an answer", None)
    else:
        assert outcome.refused is not None
        assert (outcome.refused.status, outcome.refused.message) == (status, message)
        assert llm.requests == []
    (step,) = outcome.report
    assert (step["outcome"], step["note"]) == ("skipped" if on_error == "skip" else "failed", message)
    assert any(line.get("agent") == "misbehaves" and line.get("reason") == message for line in log)
    assert "after test" not in Misbehaves.lives


async def test_the_time_to_ask_again_is_told(tmp_path: Path, do: Any) -> None:
    do["before"] = fail
    config = {"on_error": "fail"}
    outcome = await run_agent(Misbehaves, "hello", llm=ScriptedLLM(), folder=tmp_path, config=config)
    assert outcome.refused is not None
    assert outcome.refused.retry_after == 7


NO_CHATS: list[Any] = [
    chat(model=5),  # type: ignore[arg-type]
    chat(extra={"x": object}),
    chat(extra=None),
    Chat(model="demo", messages=None),  # type: ignore[arg-type]
    Chat(model="demo", messages=["hello"]),  # type: ignore[list-item]
    Chat(model="demo", messages=[Message("user", "\ud800")]),
    Chat(model="demo", messages=[Message("user", images=[None])]),  # type: ignore[list-item]
]


@pytest.mark.parametrize("made", NO_CHATS, ids=ascii)
async def test_what_is_no_chat_is_the_agent_s_error(tmp_path: Path, do: Any, made: Any) -> None:
    do["before"] = lambda: made
    llm = ScriptedLLM("x")
    config = {"on_error": "fail"}
    outcome = await run_agent(Misbehaves, "hello", llm=llm, folder=tmp_path, config=config)
    assert outcome.refused is not None
    assert outcome.refused.message == "agent 'misbehaves' failed (ValueError)" or made.messages is None
    assert llm.requests == []


class _Breaks:
    """A filter that breaks at the second piece of text."""

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self._count = 0

    def feed(self, event: Event) -> Iterable[Event]:
        if isinstance(event, Text):
            self._count += 1
            if self._count == 2:
                raise self._error
            yield Text(event.text.upper())
        else:
            yield event


@pytest.mark.parametrize(
    "error", [LookupError("a bug"), AgentError("no more"), DeniedError("no"), SystemExit(3)]
)
@pytest.mark.parametrize("on_error", ["skip", "fail"])
async def test_a_filter(tmp_path: Path, do: Any, error: BaseException, on_error: str) -> None:
    do["stream"] = lambda: _Breaks(error)
    llm = ScriptedLLM("one two three")
    outcome = await run_agent(Misbehaves, "hello", llm=llm, folder=tmp_path, config={"on_error": on_error})
    if on_error == "skip" and not isinstance(error, DeniedError):
        assert outcome.answer.text == "ONE two three"
        assert isinstance(outcome.events[-1], Done)
    else:
        assert outcome.answer.text == "ONE "
        assert isinstance(outcome.events[-1], AnswerFailed)
        assert llm.busy == []


@pytest.mark.parametrize("what", [crash, leave])
async def test_a_filter_that_cannot_be_had(tmp_path: Path, do: Any, what: Any) -> None:
    do["stream"] = what
    outcome = await run_agent(Misbehaves, "hello", llm=ScriptedLLM("text"), folder=tmp_path)
    assert outcome.answer.text == "text"
    config = {"on_error": "fail"}
    outcome = await run_agent(Misbehaves, "hello", llm=ScriptedLLM("text"), folder=tmp_path, config=config)
    assert isinstance(outcome.events[-1], AnswerFailed)


async def test_a_filter_that_blocks_is_told(tmp_path: Path, do: Any, log: Log) -> None:
    class Slow:
        def feed(self, event: Event) -> Iterable[Event]:
            until = time.perf_counter() + 0.06
            while time.perf_counter() < until:
                pass
            return [event]

    do["stream"] = Slow
    await run_agent(Misbehaves, "hello", llm=ScriptedLLM("text"), folder=tmp_path)
    assert any(line["event"] == "slow filter blocks the gateway" for line in log)


@pytest.mark.parametrize(
    ("error", "status"),
    [(LookupError("a bug"), 500), (AgentError("no more", status=502), 502), (SystemExit(3), 500)],
)
async def test_a_reply_that_breaks_off(tmp_path: Path, do: Any, error: BaseException, status: int) -> None:
    async def events() -> Any:
        yield Text("one ")
        raise error

    do["before"] = lambda: Reply(events())
    outcome = await run_agent(Misbehaves, "hello", llm=ScriptedLLM(), folder=tmp_path)
    last = outcome.events[-1]
    assert outcome.answer.text == "one "
    assert isinstance(last, AnswerFailed)
    assert (last.status, "misbehaves" in last.message) == (status, True)


NO_EVENTS: list[Any] = [
    None,
    "text",
    Text(None),  # type: ignore[arg-type]
    Text("\ud800"),
    Extra({"x": object}),
    Extra({1.5j: "x"}),  # type: ignore[dict-item]
    Extra(None),  # type: ignore[arg-type]
    Finish("because"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("event", NO_EVENTS, ids=repr)
@pytest.mark.parametrize("on_error", ["skip", "fail"])
async def test_what_is_no_event_is_the_filter_s_error(
    tmp_path: Path, do: Any, event: Any, on_error: str
) -> None:
    class Makes:
        def feed(self, given: Event) -> Iterable[Event]:
            return [event, given] if isinstance(given, Text) else [given]

    do["stream"] = Makes
    llm = ScriptedLLM("one two")
    outcome = await run_agent(Misbehaves, "hello", llm=llm, folder=tmp_path, config={"on_error": on_error})
    assert (outcome.answer.extra, outcome.answer.reason) == ({}, "stop")
    if on_error == "skip":
        assert outcome.answer.text == "one two"
        assert isinstance(outcome.events[-1], Done)
    else:
        assert outcome.answer.text == ""
        assert isinstance(outcome.events[-1], AnswerFailed)


@pytest.mark.parametrize("event", NO_EVENTS, ids=repr)
async def test_what_is_no_event_is_the_reply_s_error(tmp_path: Path, do: Any, event: Any) -> None:
    do["before"] = lambda: Reply.of([Text("one"), event, Text("two")])
    outcome = await run_agent(Misbehaves, "hello", llm=ScriptedLLM(), folder=tmp_path)
    last = outcome.events[-1]
    assert isinstance(last, AnswerFailed)
    assert (outcome.answer.text, last.code) == ("one", "agent_failed")


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what is waited for is seen from outside only
            await asyncio.sleep(0.001)


def described(host: AgentHost) -> dict[str, Any]:
    return host.describe()[0]


async def test_one_poisonous_request_restarts_nothing(tmp_path: Path, do: Any) -> None:
    llm = ScriptedLLM("x")
    async with hosted(Misbehaves, llm=llm, folder=tmp_path) as host:
        for _ in range(3):
            do["before"] = crash
            await run_request(host, chat(), llm, header="misbehaves")
            await run_request(host, chat(), llm, header="misbehaves")
            do.clear()
            await run_request(host, chat(), llm, header="misbehaves")
        counters = described(host)["counters"]
    assert (counters["crashes"], counters["skipped"], counters["restarts"]) == (6, 6, 0)
    assert Misbehaves.lives.count("start") == 1


async def test_crashes_in_a_row_restart_it(tmp_path: Path, do: Any) -> None:
    llm = ScriptedLLM("x")
    do["before"] = crash
    async with hosted(Misbehaves, llm=llm, folder=tmp_path) as host:
        for _ in range(3):
            await run_request(host, chat(), llm, header="misbehaves")
        await until(lambda: described(host)["counters"]["restarts"] == 1 and described(host)["state"] == "up")
        do.clear()
        outcome = await run_request(host, chat(), llm, header="misbehaves")
        assert outcome.report[0]["outcome"] == "done"
    assert [word for word in Misbehaves.lives if "after" not in word] == ["start", "close"] * 2


@pytest.mark.parametrize("on_error", ["skip", "fail"])
async def test_while_it_is_down(
    tmp_path: Path, do: Any, monkeypatch: pytest.MonkeyPatch, on_error: str
) -> None:
    monkeypatch.setattr(supervision, "BACKOFF", 30.0)
    llm = ScriptedLLM("x")
    do["run"] = crash
    config = {"misbehaves": {"on_error": on_error}}
    async with hosted(Misbehaves, llm=llm, folder=tmp_path, config=config) as host:
        await until(lambda: described(host)["state"] == "down")
        outcome = await run_request(host, chat(), llm, header="misbehaves")
        assert described(host)["reason"] == "LookupError: a bug"
    if on_error == "skip":
        assert outcome.answer.text == "x"
    else:
        assert outcome.refused is not None
        assert outcome.refused.status == 503
        assert 25 < (outcome.refused.retry_after or 0) <= 30
        assert "is down (LookupError: a bug) and is started again in" in outcome.refused.message


async def test_after_is_done_in_turn_and_survives_a_crash(tmp_path: Path, do: Any) -> None:
    llm = ScriptedLLM("x")
    async with hosted(Misbehaves, llm=llm, folder=tmp_path) as host:
        do["after"] = crash
        await run_request(host, chat(), llm, header="misbehaves", request_id="1")
        await until(lambda: described(host)["counters"]["restarts"] == 1 and described(host)["state"] == "up")
        do.clear()
        for number in "234":
            await run_request(host, chat(), llm, header="misbehaves", request_id=number)
        await until(lambda: "after 4" in Misbehaves.lives)
        assert described(host)["counters"]["crashes"] == 1
    done = [word for word in Misbehaves.lives if word.startswith("after")]
    assert done == ["after 1", "after 2", "after 3", "after 4"]


@pytest.mark.parametrize("method", ["run", "after", "close"])
async def test_an_agent_does_not_end_the_gateway(tmp_path: Path, do: Any, log: Log, method: str) -> None:
    do[method] = leave
    llm = ScriptedLLM("x")
    async with hosted(Misbehaves, llm=llm, folder=tmp_path) as host:
        await run_request(host, chat(), llm, header="misbehaves")
        if method != "close":
            await until(lambda: described(host)["counters"]["restarts"] >= 1)
    said = "agent could not be closed" if method == "close" else "agent crashed"
    assert any(line["event"] == said and isinstance(line["exc_info"], ExitError) for line in log)


async def test_one_that_leaves_at_its_start_is_named(tmp_path: Path, do: Any) -> None:
    do["start"] = leave
    with pytest.raises(BrokenAgentError, match=r"ExitError: tried to end the process \(3\)"):
        async with hosted(Misbehaves, llm=ScriptedLLM(), folder=tmp_path):
            pass


class Leaves(Agent):
    @operation("POST", "leave")
    async def leave(self, call: Call) -> dict[str, Any]:
        """Go."""
        sys.exit(3)


async def test_an_operation_does_not_end_the_gateway(tmp_path: Path) -> None:
    async with hosted(Leaves, llm=ScriptedLLM(), folder=tmp_path) as host:
        with pytest.raises(AgentError, match="ExitError"):
            await host.operate("leaves", "POST", "leave", Call())


async def test_after_that_hangs_delays_nobody(tmp_path: Path, do: Any) -> None:
    do["after"] = hang
    llm = ScriptedLLM("x")
    config = {"misbehaves": {"timeout": 0.05}}
    async with hosted(Misbehaves, llm=llm, folder=tmp_path, config=config) as host:
        outcome = await run_request(host, chat(), llm, header="misbehaves")
        assert outcome.answer.text == "x"
        await until(lambda: described(host)["counters"]["timeouts"] == 1)
        assert described(host)["counters"]["restarts"] == 0


async def test_too_much_of_it_is_dropped(tmp_path: Path, do: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "MAILBOX_LIMIT", 2)
    monkeypatch.setattr(supervision, "DRAIN", 0.01)
    do["after"] = hang
    llm = ScriptedLLM("x")
    async with hosted(Misbehaves, llm=llm, folder=tmp_path) as host:
        for _ in range(6):
            await run_request(host, chat(), llm, header="misbehaves")
        assert described(host)["counters"]["dropped"] >= 3


async def test_one_agent_s_crash_is_not_another_s(tmp_path: Path, do: Any) -> None:
    class Fine(Agent):
        async def before(self, ctx: Context, request: Chat) -> Chat:
            return request

    do["before"] = crash
    llm = ScriptedLLM("x")
    async with hosted(Misbehaves, Fine, llm=llm, folder=tmp_path) as host:
        outcome = await run_request(host, chat("/misbehaves /fine x"), llm)
        assert [step["outcome"] for step in outcome.report] == ["skipped", "done"]


class Calls(Agent):
    """Calls a model, again and again; what it got it answers."""

    async def before(self, ctx: Context, request: Chat) -> Reply:
        count = 0
        try:
            while count < 9:
                await ctx.llm.chat(request)
                count += 1
        except BudgetError as error:
            return Reply.of([Text(f"{count}: {error.message}")])
        return Reply.of([Text("all")])


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        ({"calls": 2}, "2: the budget of 2 calls is used up (budget.calls of agent 'calls')"),
        ({"calls": 0}, "0: the budget of 0 calls"),
        ({"calls": 9}, "all"),
        # A prompt of 1 and an answer of 3 tokens each.
        ({"tokens": 8}, "2: the budget of 8 tokens is used up (budget.tokens of agent 'calls')"),
        ({"tokens": 2}, "0: the budget of 2 tokens"),
        ({"tokens": 36}, "all"),
        ({"seconds": 60}, "all"),
    ],
)
async def test_budgets(tmp_path: Path, budget: dict[str, Any], text: str) -> None:
    llm = ScriptedLLM("one two three")
    outcome = await run_agent(Calls, "hello", llm=llm, folder=tmp_path, config={"budget": budget})
    assert outcome.answer.text.startswith(text)
    assert llm.busy == []


async def test_a_budget_of_seconds(tmp_path: Path) -> None:
    llm = ScriptedLLM("one two three")
    llm.hold.clear()
    config = {"budget": {"seconds": 0.02}}
    outcome = await run_agent(Calls, "hello", llm=llm, folder=tmp_path, config=config)
    assert outcome.answer.text.startswith("0: the budget of 0.02 seconds")
    assert llm.busy == []


async def test_what_it_cost_is_reported(tmp_path: Path) -> None:
    outcome = await run_agent(Calls, "hello", llm=ScriptedLLM("one two three"), folder=tmp_path)
    assert (outcome.report[0]["calls"], outcome.report[0]["tokens"]) == (9, 36)


async def test_an_error_of_a_model_keeps_its_status(tmp_path: Path) -> None:
    llm = ScriptedLLM(AnswerFailed(429, "the queue is full", code="queue_full"))
    config = {"on_error": "fail"}
    outcome = await run_agent(Calls, "hello", llm=llm, folder=tmp_path, config=config)
    assert outcome.refused is not None
    assert (outcome.refused.status, outcome.refused.code) == (429, "queue_full")
    assert outcome.refused.message == "agent 'calls': the queue is full"


@pytest.mark.parametrize("where", ["before", "reply"])
async def test_a_client_that_leaves_ends_all_of_it(tmp_path: Path, where: str) -> None:
    class Many(Agent):
        async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
            async def ask() -> None:
                async with asyncio.TaskGroup() as group:
                    for _ in range(3):
                        group.create_task(ctx.llm.chat(request))

            async def events() -> Any:
                yield Text("begun")
                await ask()

            if where == "reply":
                return Reply(events())
            await ask()
            return request

    llm = ScriptedLLM("x")
    llm.hold.clear()
    async with hosted(Many, llm=llm, folder=tmp_path) as host:
        request = spawn(run_request(host, chat(), llm, header="many"), name="request")
        await until(lambda: len(llm.busy) == 3)
        request.cancel()
        await asyncio.wait([request])
        assert llm.busy == []


async def test_a_client_that_leaves_is_not_held_up_by_one_who_ignores_it(tmp_path: Path, do: Any) -> None:
    do["before"] = hang_on
    llm = ScriptedLLM("x")
    async with hosted(Misbehaves, llm=llm, folder=tmp_path) as host:
        request = spawn(run_request(host, chat(), llm, header="misbehaves"), name="request")
        await until(lambda: described(host)["counters"]["requests"] == 1)
        request.cancel()
        done, _ = await asyncio.wait([request], timeout=30)
        assert done, "the agent hangs on for good"
