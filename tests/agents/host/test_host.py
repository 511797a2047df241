"""Which agents a request has, in which order, and what the host tells of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.gpu import calibration
from agents.api import (
    Agent,
    AgentConfig,
    AgentError,
    AtEnd,
    Call,
    Chat,
    Context,
    DeniedError,
    DeviceLoad,
    Event,
    Extra,
    Filter,
    Finished,
    Load,
    Message,
    Reply,
    Text,
    TextFilter,
    operation,
)
from agents.events import Answer, AnswerFailed, AnswerStarted, Done, Finish, Usage
from agents.testing import ScriptedLLM, chat, hosted, run_agent, run_request

TRACE: list[str] = []


class _Tag(TextFilter):
    def __init__(self, name: str) -> None:
        self.name = name

    def text(self, piece: str) -> str:
        return f"{piece}{self.name}"


class A(Agent):
    """Leaves a trace of all that it is asked to do."""

    async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
        name = type(self).__name__.lower()
        TRACE.append(f"{name} before {ctx.argument}".strip())
        last = request.messages[-1]
        messages = [*request.messages[:-1], Message("user", f"{last.text}+{name}")]
        return msgspec.structs.replace(request, messages=messages)

    def stream(self, ctx: Context) -> Filter | None:
        return _Tag(type(self).__name__.lower())

    async def after(self, ctx: Context, finished: Finished) -> None:
        TRACE.append(f"{type(self).__name__.lower()} after {finished.answer.text}".strip())


class B(A):
    pass


class C(A):
    pass


class Always(A):
    Config = type(
        "AlwaysConfig", (AgentConfig,), {"__annotations__": {"always": bool}, "always": True}, frozen=True
    )


@pytest.fixture(autouse=True)
def _no_trace() -> None:
    TRACE.clear()


async def test_the_same_order_in_and_out_and_after(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    async with hosted(A, B, C, llm=llm, folder=tmp_path) as host:
        outcome = await run_request(host, chat("/c /a:why /b hello"), llm)
    assert llm.requests[0].messages[-1].text == "hello+c+a+b"
    assert outcome.answer.text == "xcab"
    assert TRACE[:3] == ["c before", "a before why", "b before"]
    assert sorted(TRACE[3:]) == ["a after xcab", "b after xcab", "c after xcab"]
    assert [step["outcome"] for step in outcome.report] == ["done"] * 3
    assert [part.partition(";")[0] for part in outcome.header.split(", ")] == ["c", "a", "b"]


async def test_who_asks_first_is_first_and_each_runs_once(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    defaults = {"demo": ["b"]}
    async with hosted(A, B, C, Always, llm=llm, folder=tmp_path, defaults=defaults) as host:
        request = chat("/a:last /b hello", extra={"agents": ["c", "a:first"], "other": 1})
        run = host.plan(request, header="c:header", defaults=["a"], request_id="r")
        assert run is not None
        sent = await run.before()
    assert TRACE == ["always before", "b before", "a before last", "c before header"]
    assert isinstance(sent, Chat)
    assert sent.extra == {"other": 1}


async def test_what_needs_no_agent_is_left_alone(tmp_path: Path) -> None:
    async with hosted(A, llm=ScriptedLLM(), folder=tmp_path, defaults={"tagged": ["a"]}) as host:
        assert host.plan(chat("see /etc/hosts")) is None
        assert host.plan(Chat(model="tagged", messages=[])) is None
        assert host.plan(chat(model="tagged")) is not None
        plan = host.plan(Chat(model="demo", messages=[Message("user", "/a hi"), Message("user", "and?")]))
        assert plan is not None
        assert plan.chat.messages[0].text == "hi"
        assert plan.header == ""


@pytest.mark.parametrize(
    ("body", "header", "model", "expected"),
    [
        (b'{"messages":[{"content":"hello"}]}', None, "demo", False),
        (b'{"messages":[{"content":"/a hello"}]}', None, "demo", True),
        (rb'{"messages":[{"content":"\/a hello"}]}', None, "demo", True),
        (rb'{"messages":[{"content":"\u002fa hello"}]}', None, "demo", True),
        (rb'{"messages":[{"content":"\u002Fa hello"}]}', None, "demo", True),
        (rb'{"messages":[{"content":" \n\u000a\t/a"}]}', None, "demo", True),
        (b'{"messages":[{"content":"/a:why hello"}]}', None, "demo", True),
        (b'{"messages":[{"content":"/b hello"}]}', None, "demo", False),
        (b'{"messages":[{"content":"/ab hello"}]}', None, "demo", False),
        (b'{"messages":[{"content":"see /a"}]}', None, "demo", False),
        (b'{"agents":["a"]}', None, "demo", True),
        (b"{}", "a", "demo", True),
        (b"{}", "", "demo", False),
        (b"{}", None, "tagged", True),
    ],
)
async def test_a_glance_at_the_bytes(
    tmp_path: Path, body: bytes, header: str | None, model: str, expected: bool
) -> None:
    async with hosted(A, llm=ScriptedLLM(), folder=tmp_path, defaults={"tagged": ["a"]}) as host:
        assert host.may_apply(body, header, model) is expected


async def test_an_agent_that_always_runs_needs_no_glance(tmp_path: Path) -> None:
    async with hosted(Always, llm=ScriptedLLM(), folder=tmp_path) as host:
        assert host.may_apply(b"{}", None, "demo")
        assert host.plan(chat()) is not None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"header": "nobody"}, "the header: there is no agent 'nobody'; enabled are: a, b"),
        ({"defaults": ["nobody"]}, "the key: there is no agent 'nobody'"),
        ({"field": ["a", "nobody"]}, "agents: there is no agent 'nobody'"),
        ({"field": "a"}, "agents: expected a list of agents' names"),
        ({"field": [5]}, "agents: expected a list of agents' names"),
    ],
)
async def test_agents_that_there_are_not(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    async with hosted(A, B, llm=ScriptedLLM(), folder=tmp_path) as host:
        field = asked.pop("field", None)
        with pytest.raises(AgentError) as caught:
            host.plan(chat(extra={"agents": field} if field else {}), **asked)
        assert message in caught.value.message
        assert caught.value.status == 400


class Says(Agent):
    """Answers by itself, with the pieces that it is told."""

    events: Iterable[Event] = ()

    async def before(self, ctx: Context, request: Chat) -> Reply:
        return Reply.of(self.events)

    async def after(self, ctx: Context, finished: Finished) -> None:
        TRACE.append(f"says after {finished.raw.text if finished.raw else None}")


@pytest.mark.parametrize(
    ("events", "text", "last"),
    [
        ([Text("hi")], "hi", [Text("hia"), Finish("stop"), Done()]),
        ([], "", [Finish("stop"), Done()]),
        ([Text("hi"), Finish("length"), Usage(1, 2), Done()], "hi", [Finish("length"), Usage(1, 2), Done()]),
        ([Text("hi"), Done(), Text("more")], "hi", [Text("hia"), Finish("stop"), Done()]),
        (
            [AnswerStarted("i", "m", 1), Text("hi"), AnswerFailed(502, "gone")],
            "hi",
            [Text("hia"), AnswerFailed(502, "gone")],
        ),
        ([AnswerFailed(502, "gone")], "", [AnswerFailed(502, "gone")]),
    ],
)
async def test_a_reply_is_made_whole_and_filtered(
    tmp_path: Path, events: list[Event], text: str, last: list[Event]
) -> None:
    llm = ScriptedLLM("never")
    Says.events = events
    async with hosted(A, Says, B, llm=llm, folder=tmp_path) as host:
        outcome = await run_request(host, chat("/says /a hello"), llm)
    assert llm.requests == []
    assert outcome.request is None
    assert outcome.answer.text == (text + "a" if text else "")
    assert outcome.events[-len(last) :] == last
    assert sum(isinstance(event, AnswerStarted) for event in outcome.events) <= 1
    said = f"says after {text if isinstance(last[-1], Done) else None}"
    assert sorted(TRACE) == [f"a after {outcome.answer.text}".rstrip(), said], "a's before never ran"
    assert outcome.report[1]["outcome"] == "not run"


class Listens(Agent):
    """Has nothing but an `after`."""

    async def after(self, ctx: Context, finished: Finished) -> None:
        TRACE.append("listens after")


async def test_who_had_no_part_behind_a_reply_is_told_nothing(tmp_path: Path) -> None:
    llm = ScriptedLLM("never")
    Says.events = [Text("hi")]
    async with hosted(A, Says, Listens, llm=llm, folder=tmp_path) as host:
        await run_request(host, chat("/listens /says /a hello"), llm)
        await run_request(host, chat("/says /listens hello"), llm)
    assert sorted(TRACE) == ["a after hia", "listens after", "says after hi", "says after hi"]


class Extras(Agent):
    def stream(self, ctx: Context) -> Filter:
        return AtEnd(lambda: {"extras": ctx.request_id})


async def test_fields_come_before_the_finish(tmp_path: Path) -> None:
    outcome = await run_agent(Extras, "hello", llm=ScriptedLLM("x"), folder=tmp_path)
    assert outcome.answer.extra == {"extras": "test"}
    index = outcome.events.index(Extra({"extras": "test"}))
    assert isinstance(outcome.events[index + 1], Finish)


class Picky(Agent):
    async def before(self, ctx: Context, request: Chat) -> Chat:
        raise DeniedError("not today", status=403, code="closed")


async def test_a_refusal_reaches_the_client_as_it_is(tmp_path: Path) -> None:
    llm = ScriptedLLM("never")
    async with hosted(A, Picky, llm=llm, folder=tmp_path) as host:
        outcome = await run_request(host, chat("/a /picky hello"), llm)
    assert outcome.refused is not None
    assert (outcome.refused.status, outcome.refused.code, outcome.refused.message) == (
        403,
        "closed",
        "not today",
    )
    assert TRACE == ["a before", "a after"], "who was asked is told the end"


async def test_after_is_told_of_a_client_that_left(tmp_path: Path) -> None:
    seen: list[Finished] = []

    class Sees(Agent):
        async def after(self, ctx: Context, finished: Finished) -> None:
            seen.append(finished)

    async with hosted(Sees, llm=ScriptedLLM(), folder=tmp_path) as host:
        ways: list[tuple[list[Event], str | None]] = [
            ([Text("x")], "the client left"),
            ([Text("x"), Done()], "the client left"),
            ([AnswerFailed(502, "gone")], None),
            ([], None),
        ]
        for events, failure in ways:
            run = host.plan(chat(), header="sees", request_id="r")
            assert run is not None
            await run.before()
            for event in events:
                run.feed(event)
            run.finish(model="demo-1", place="cpu", failure=failure)
            run.finish(model="again")
    assert [one.failure for one in seen] == [
        "the client left",
        None,
        "gone",
        "the answer was not written to its end",
    ]
    assert [one.raw is None for one in seen] == [True, False, True, True]
    assert (seen[0].model, seen[0].place, seen[0].answer.text) == ("demo-1", "cpu", "x")


class Shop(Agent):
    """Has operations."""

    description = "Sells things"
    Config = AgentConfig

    @operation("GET", "things/{id}")
    async def get(self, call: Call) -> dict[str, Any]:
        """Tell of a thing.

        More of it.
        """
        return dict(call.parameters)

    @operation("POST", "things")
    async def add(self, call: Call) -> dict[str, Any]:
        """Add one."""
        if not call.body:
            raise AgentError("a thing has a body", status=422)
        return {"size": len(call.body) // (len(call.body) - 1)}


async def test_operations(tmp_path: Path) -> None:
    async with hosted(Shop, llm=ScriptedLLM(), folder=tmp_path) as host:
        call = Call(parameters={"full": "1"})
        assert await host.operate("shop", "GET", "/things/7", call) == {"full": "1", "id": "7"}
        assert await host.operate("shop", "POST", "things", Call(body=b"abc")) == {"size": 1}
        for agent, method, path, status, message in (
            ("nobody", "GET", "things/7", 404, "there is no agent 'nobody'"),
            ("shop", "GET", "other", 404, "agent 'shop' has no operation 'other'"),
            ("shop", "GET", "things/7/8", 404, "has no operation"),
            ("shop", "PUT", "things", 405, "'things' of agent 'shop' takes POST"),
            ("shop", "POST", "things", 422, "a thing has a body"),
        ):
            with pytest.raises(AgentError) as caught:
                await host.operate(agent, method, path, Call())
            assert caught.value.status == status
            assert message in caught.value.message
        with pytest.raises(AgentError, match=r"agent 'shop' failed .ZeroDivisionError."):
            await host.operate("shop", "POST", "things", Call(body=b"a"))


async def test_what_is_told_of_an_agent(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    async with hosted(Shop, llm=llm, folder=tmp_path) as host:
        await run_request(host, chat("/shop hello"), llm)
        (shop,) = host.describe()
    assert (shop["name"], shop["description"], shop["state"]) == (
        "shop",
        "Sells things",
        "up",
    )
    assert shop["options"]["timeout"]["default"] == 60.0
    assert shop["counters"]["requests"] == 1
    assert [(one["method"], one["path"], one["description"]) for one in shop["operations"]] == [
        ("POST", "things", "Add one."),
        ("GET", "things/{id}", "Tell of a thing."),
    ]
    assert msgspec.json.encode(shop)


async def test_a_filter_that_swallows_the_end_does_not_keep_the_client(tmp_path: Path) -> None:
    class Hole:
        def feed(self, event: Event) -> list[Event]:
            return []

    class Swallows(Agent):
        def stream(self, ctx: Context) -> Filter:
            return Hole()

    outcome = await run_agent(Swallows, "hello", llm=ScriptedLLM("x"), folder=tmp_path)
    assert outcome.events == [Done()]
    assert outcome.answer == Answer()


class Remembers(Agent):
    def stream(self, ctx: Context) -> AtEnd:
        return AtEnd(lambda: {"load": ctx.memory(ctx.model)})


async def test_an_author_sees_a_load_and_no_record_of_the_gateway(tmp_path: Path) -> None:
    device: dict[str, Any] = {"gpu": "H100", "driver": "1", "predicted": 3, "buffers": 4, "peak": 6}
    figures: dict[str, Any] = {"model": "demo", "file": "f", "settings": "s", "build": "b", "seconds": 1.5}
    figures |= {"certainty": "exact", "host_predicted": 7, "host_buffers": 8}
    record = calibration.Load(**figures, devices=(calibration.DeviceLoad(**device),))
    loads = {"demo": record}
    outcome = await run_agent(Remembers, "x", llm=ScriptedLLM("x"), folder=tmp_path, memory=loads.get)
    load = outcome.answer.extra["load"]
    assert type(load) is Load
    assert load == Load(**figures, devices=(DeviceLoad(**device),))
    assert load.__struct_fields__ == record.__struct_fields__, "an agent reads all of it"
