"""The guard: what is refused, what is replaced, and that nothing leaks."""

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from agents.api import Agent, AtEnd, Context, Filter, ModelInfo, Reply
from agents.chat import Chat, Image, Message, NamedTool, Sampling, Tool, ToolCall
from agents.events import (
    Answer,
    AnswerFailed,
    AnswerStarted,
    Done,
    Event,
    Extra,
    Finish,
    Logprobs,
    Reasoning,
    Text,
    ToolCallDelta,
    Usage,
)
from agents.guard.agent import IN_THE_WAY, THREADS, Guard, GuardConfig
from agents.testing import ScriptedLLM, chat, hosted, run_agent, run_request
from tests.gateway import until

SECRETS: dict[str, Any] = {"deny": [r"\bclassified\b", r"top\s+secret"], "redact": [r"\d{4}", "(?i)alice"]}


async def test_a_request_is_refused(tmp_path: Path) -> None:
    llm = ScriptedLLM("never said")
    outcome = await run_agent(Guard, "is it classified?", llm=llm, folder=tmp_path, config=SECRETS)
    assert outcome.refused is not None
    assert (outcome.refused.status, outcome.refused.code) == (400, "content_filter")
    assert "pattern 1 of agents.guard.deny" in outcome.refused.message
    assert "classified" not in outcome.refused.message
    assert llm.requests == []
    assert outcome.report[0]["outcome"] == "denied"


@pytest.mark.parametrize(
    "message",
    [
        Message("system", "top  secret"),
        Message("assistant", reasoning="top secret"),
        Message("assistant", tool_calls=[ToolCall("1", "f", '{"x": "top secret"}')]),
        Message("tool", "top secret"),
        Message("tool", "x", tool_name="top secret"),
        Message("top secret", "x"),
        Message("user", images=[Image(url="http://x/?top secret")]),
        Message("user", images=[Image("image/top secret", "QUJD")]),
        Message("user", images=[Image("image/png", "this is no picture at all, but top secret")]),
    ],
)
async def test_no_message_is_overlooked(tmp_path: Path, message: Message) -> None:
    request = Chat(model="demo", messages=[message, Message("user", "go on")])
    outcome = await run_agent(Guard, request, llm=ScriptedLLM("x"), folder=tmp_path, config=SECRETS)
    assert outcome.refused is not None
    assert "pattern 2" in outcome.refused.message


async def test_requests_and_answers_are_redacted(tmp_path: Path) -> None:
    llm = ScriptedLLM("ALICE has 1234 and 12 of 56789")
    outcome = await run_agent(Guard, "Who is Alice, 4321?", llm=llm, folder=tmp_path, config=SECRETS)
    assert llm.requests[0].messages[0].text == "Who is [redacted], [redacted]?"
    assert outcome.answer.text == "[redacted] has [redacted] and 12 of [redacted]9"
    assert outcome.answer.reason == "stop"


async def test_an_answer_ends_where_it_may_not_go_on(tmp_path: Path) -> None:
    llm = ScriptedLLM("So far so good, but this is top secret and there is more")
    outcome = await run_agent(Guard, "hello", llm=llm, folder=tmp_path, config=SECRETS)
    assert outcome.answer.text == "So far so good, but this is "
    assert outcome.answer.reason == "content_filter"
    assert outcome.events[-1] == Done()
    assert llm.busy == [], "the model was stopped"


@pytest.mark.parametrize(
    ("where", "refused", "text"),
    [("in", True, "top secret"), ("out", False, ""), ("both", True, "")],
)
async def test_where(tmp_path: Path, where: str, refused: bool, text: str) -> None:
    config = {**SECRETS, "where": where}
    outcome = await run_agent(Guard, "top secret", llm=ScriptedLLM(""), folder=tmp_path, config=config)
    assert (outcome.refused is not None) is refused
    outcome = await run_agent(Guard, "x", llm=ScriptedLLM("top secret"), folder=tmp_path, config=config)
    assert outcome.answer.text == text


async def test_thoughts_and_tool_calls_are_answers_too(tmp_path: Path) -> None:
    said = Answer(
        reasoning="ask alice",
        text="now",
        tool_calls=[ToolCall("1", "call", '{"who":"alice","pin":"1234"}'), ToolCall("2", "quit", "{}")],
        logprobs=[{"token": "ask"}],
    )
    outcome = await run_agent(Guard, "x", llm=ScriptedLLM(said), folder=tmp_path, config=SECRETS)
    answer = outcome.answer
    assert (answer.reasoning, answer.text) == ("ask [redacted]", "now")
    assert answer.tool_calls[0] == ToolCall("1", "call", '{"who":"[redacted]","pin":"[redacted]"}')
    assert answer.tool_calls[1] == ToolCall("2", "quit", "{}")
    assert answer.logprobs == []


def test_options_are_checked_at_the_start() -> None:
    with pytest.raises(ValueError, match="no regular expression"):
        GuardConfig(deny=("(",))
    with pytest.raises(ValueError, match="matches an empty text"):
        GuardConfig(redact=("a*",))
    with pytest.raises(ValueError, match=r"'red' matches the replacement '\[redacted\]' itself"):
        GuardConfig(redact=("red",))


PATTERNS = ["bad", r"\bbad\b", "a+b", "(?i)ABBA", r"b\s+a", "d(?!a)", r"^a|b$", "a.?b", "dad"]


@given(
    st.lists(st.sampled_from(PATTERNS), max_size=2),
    st.lists(st.sampled_from(PATTERNS), max_size=2),
    st.lists(st.tuples(st.booleans(), st.text(alphabet="abd AB", max_size=4)), max_size=8),
)
async def test_however_it_is_cut_the_same_is_shown_and_nothing_leaks(
    tmp_path_factory: pytest.TempPathFactory,
    deny: list[str],
    redact: list[str],
    pieces: list[tuple[bool, str]],
) -> None:
    """Text and thoughts in any mixture, against each of them in one piece."""
    guard = Guard(GuardConfig(deny=tuple(deny), redact=tuple(redact), replacement="#", longest=64), None)
    for kind in (Text, Reasoning):
        text = "".join(piece for is_text, piece in pieces if is_text is (kind is Text))
        alone = [(kind is Text, piece) for is_text, piece in pieces if is_text is (kind is Text)]
        whole = shown(guard, kind, [(kind is Text, text)])
        assert shown(guard, kind, alone) == whole
        assert whole == by_definition(deny, redact, text)
        mixed = shown(guard, kind, pieces)
        assert whole.startswith(mixed), "the other text may have ended the answer earlier"


def shown(guard: Guard, kind: type[Event], pieces: Iterable[tuple[bool, str]]) -> str:
    """All that a client gets to read of a kind."""
    made = guard.stream(_NO_CONTEXT)
    events: list[Event] = [AnswerStarted("", "", 0)]
    events += [Text(piece) if is_text else Reasoning(piece) for is_text, piece in pieces]
    text = ""
    for event in (*events, Finish("stop"), Usage(), Done()):
        for passed in made.feed(event) if made else [event]:
            if isinstance(passed, kind):
                text += passed.text  # type: ignore[union-attr]
            if isinstance(passed, Done):
                return text
    raise AssertionError("the answer never ended")


def by_definition(deny: list[str], redact: list[str], text: str) -> str:
    """What may be shown of a whole text that is shorter than the longest match."""
    starts = [found.start() for pattern in deny for found in regex.compile(pattern).finditer(text)]
    rest = text[: min(starts)] if starts else text
    result = ""
    place = 0
    while place < len(rest):
        matches = (regex.compile(pattern).match(rest, place) for pattern in redact)
        found = next((match[0] for match in matches if match and match[0]), "")
        result += "#" if found else rest[place]
        place += len(found) or 1
    return result


class _NoContext:
    """Takes a note, and the log's one line."""

    note = ""

    @property
    def log(self) -> "_NoContext":
        return self

    def info(self, *_: object, **__: object) -> None:
        """Not written anywhere."""


_NO_CONTEXT: Any = _NoContext()


async def test_a_broken_answer_shows_what_may_be_shown_before_the_error(tmp_path: Path) -> None:
    async with hosted(Guard, llm=ScriptedLLM(), folder=tmp_path, config={"guard": SECRETS}) as host:
        run = host.plan(chat(), header="guard", request_id="r")
        assert run is not None
        await run.before()
        assert run.feed(Text("tell alic")) == [Text("tell ")]
        assert run.feed(AnswerFailed(502, "gone")) == [Text("alic"), AnswerFailed(502, "gone")]


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (
            AnswerFailed(500, "no JSON: alice 1234", kind="x", extra={"said": "to alice"}),
            AnswerFailed(500, "no JSON: [redacted] [redacted]", kind="x", extra={"said": "to [redacted]"}),
        ),
        (
            AnswerFailed(502, "no JSON: top secret", code="x", extra={"said": 1}),
            AnswerFailed(502, "the error is not let pass (pattern 2 of agents.guard.deny)", code="x"),
        ),
    ],
)
async def test_an_error_that_quotes_the_answer_is_an_answer_too(
    tmp_path: Path, failure: AnswerFailed, told: AnswerFailed
) -> None:
    outcome = await run_agent(Guard, "x", llm=ScriptedLLM(failure), folder=tmp_path, config=SECRETS)
    assert [event for event in outcome.events if isinstance(event, AnswerFailed)] == [told]


async def test_a_tool_call_is_told_when_it_is_whole(tmp_path: Path) -> None:
    async with hosted(Guard, llm=ScriptedLLM(), folder=tmp_path, config={"guard": SECRETS}) as host:
        run = host.plan(chat(), header="guard", request_id="r")
        assert run is not None
        await run.before()
        assert run.feed(ToolCallDelta(0, "1", "f", "")) == []
        assert run.feed(ToolCallDelta(0, arguments='{"who": "al')) == []
        assert run.feed(Logprobs([1])) == []
        assert run.feed(ToolCallDelta(0, arguments='ice"}')) == []
        assert run.feed(Finish("tool_calls")) == [
            ToolCallDelta(0, "1", "f", '{"who": "[redacted]"}'),
            Finish("tool_calls"),
        ]
        assert run.feed(Done()) == [Done()]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (r'{"who": "\u0061lice", "x": 1.0}', '{"who": "[redacted]", "x": 1.0}'),
        ('{"alice": ["a", {"b": "alice"}]}', '{"[redacted]": ["a", {"b": "[redacted]"}]}'),
        ('{"pin": 1234, "n": 12}', '{"pin": "[redacted]", "n": 12}'),
        (r'{"a": "\"alice\"", "b": "\ud83d\ude00"}', r'{"a": "\"[redacted]\"", "b": "\ud83d\ude00"}'),
        (r'{"a": "\u0061lice", "b": "ali\u0063e', r'{"a": "[redacted]", "b": "[redacted]'),
        (r'{"a": "alice\"', r'{"a": "[redacted]\"'),
        ("tell alice", "tell [redacted]"),
        ('{"a": "x\\', '{"a": "x\\'),
        ("", ""),
    ],
)
async def test_arguments_are_read_as_json_and_stay_json(tmp_path: Path, arguments: str, shown: str) -> None:
    said = Answer(tool_calls=[ToolCall("1", "call_alice", arguments)], reason="tool_calls")
    llm = ScriptedLLM(said)
    turns = [Message("assistant", tool_calls=said.tool_calls), Message("tool", "ok", tool_name="call_alice")]
    request = Chat(model="demo", messages=turns)
    outcome = await run_agent(Guard, request, llm=llm, folder=tmp_path, config=SECRETS)
    assert outcome.answer.tool_calls == [ToolCall("1", "call_[redacted]", shown)]
    assert llm.requests[0].messages[0].tool_calls == outcome.answer.tool_calls
    assert llm.requests[0].messages[1].tool_name == "call_[redacted]"


@pytest.mark.parametrize("arguments", [r'{"x": "top\u0020secret"}', r'{"x": ["top\nsecret"]}', "top secret"])
async def test_arguments_that_may_not_be_shown(tmp_path: Path, arguments: str) -> None:
    said = Answer(text="Well", tool_calls=[ToolCall("1", "f", arguments)], reason="tool_calls")
    outcome = await run_agent(Guard, "x", llm=ScriptedLLM(said), folder=tmp_path, config=SECRETS)
    assert (outcome.answer.text, outcome.answer.tool_calls) == ("Well", [])
    assert outcome.answer.reason == "content_filter"
    request = Chat(model="demo", messages=[Message("assistant", tool_calls=said.tool_calls)])
    outcome = await run_agent(Guard, request, llm=ScriptedLLM("x"), folder=tmp_path, config=SECRETS)
    assert outcome.refused is not None


NEVER: dict[str, Any] = {"x": [{"y": "top secret"}]}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [Tool("classified")]},
        {"tools": [Tool("f", "top secret")]},
        {"tools": [Tool("f", parameters=NEVER)]},
        {"tools": [Tool("f", parameters={"properties": {"classified": {}}})]},
        {"tool_choice": NamedTool("classified")},
        {"format": NEVER},
        {"extra": {"grammar": "top secret"}},
        {"extra": NEVER},
        {"think": "top secret"},
        {"sampling": Sampling(stop=["x", "top secret"])},
    ],
)
async def test_no_field_is_overlooked(tmp_path: Path, fields: dict[str, Any]) -> None:
    llm = ScriptedLLM("x")
    outcome = await run_agent(Guard, chat(**fields), llm=llm, folder=tmp_path, config=SECRETS)
    assert outcome.refused is not None
    assert llm.requests == []


async def test_fields_are_redacted(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    schema = {"properties": {"alice": {"const": "1234"}}, "maxLength": 4096}
    request = chat(
        tools=[Tool("f_alice", "for Alice", schema)],
        tool_choice=NamedTool("f_alice"),
        format=schema,
        extra={"user": "alice", "n_probs": 1000},
    )
    await run_agent(Guard, request, llm=llm, folder=tmp_path, config=SECRETS)
    (sent,) = llm.requests
    clean = {"properties": {"[redacted]": {"const": "[redacted]"}}, "maxLength": 4096}
    assert sent.tools == [Tool("f_[redacted]", "for [redacted]", clean)]
    assert sent.tool_choice == NamedTool("f_[redacted]")
    assert sent.format == clean
    assert sent.extra == {"user": "[redacted]", "n_probs": 1000}


async def test_what_is_too_deep_to_be_checked_is_refused(tmp_path: Path) -> None:
    deep: Any = "alice"
    for _ in range(5_000):
        deep = [deep]
    llm = ScriptedLLM("x")
    async with hosted(Guard, llm=llm, folder=tmp_path, config={"guard": SECRETS}) as host:
        for _ in range(4):
            outcome = await run_request(host, chat(extra={"deep": deep}), llm, header="guard")
            assert outcome.refused is not None
            assert outcome.refused.status == 400
        assert host.describe()[0]["counters"]["crashes"] == 0
    assert llm.requests == []


CARD = 4111_1111_1111_1111


async def test_a_large_number_is_a_text_and_a_small_one_a_setting(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    request = chat(
        sampling=Sampling(seed=CARD, max_tokens=1234, stop=["1234"]),
        tools=[Tool("f", parameters={"enum": [CARD, float(CARD), -CARD, 1234, 0.12345]})],
        extra={"card": CARD, "n_probs": 1000, "sure": True},
    )
    await run_agent(
        Guard, request, llm=llm, folder=tmp_path, config={"redact": [r"\d{4}"], "replacement": "#"}
    )
    (sent,) = llm.requests
    assert sent.sampling == Sampling(max_tokens=1234, stop=["#"])
    assert sent.tools[0].parameters == {"enum": ["####", "####.0", "-####", 1234, 0.12345]}
    assert sent.extra == {"card": "####", "n_probs": 1000, "sure": True}


async def test_an_id_that_matches_by_chance_is_replaced_and_still_links(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    calls = [ToolCall("call_1234", "f"), ToolCall("top secret", "g"), ToolCall("call_a", "h")]
    results = [Message("tool", "x", tool_call_id=call.id) for call in calls]
    request = Chat(model="demo", messages=[Message("assistant", tool_calls=calls), *results])
    await run_agent(Guard, request, llm=llm, folder=tmp_path, config=SECRETS)
    first, *others = llm.requests[0].messages
    ids = [call.id for call in first.tool_calls]
    assert ids == ["callaaaaa", "callbaaaa", "call_a"]
    assert [message.tool_call_id for message in others] == ids


async def test_a_picture_is_left_alone(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    picture = Image("image/png", "iVBORw0KGgo1234" * 4)
    request = Chat(model="demo", messages=[Message("user", "x", images=[picture])])
    await run_agent(Guard, request, llm=llm, folder=tmp_path, config=SECRETS)
    assert llm.requests[0].messages[0].images == [picture]


class Cites(Agent):
    """Adds fields to the answer, and a word to its text, as its argument says."""

    async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
        if ctx.argument == "reply":
            return Reply.of([Text("hi"), Extra({"citations": [{"quote": "top secret"}]})])
        return request

    def stream(self, ctx: Context) -> Filter:
        class Cite(AtEnd):
            def feed(self, event: Event) -> Iterable[Event]:
                for passed in super().feed(event):
                    yield Text(passed.text.replace("hi", "alice")) if isinstance(passed, Text) else passed

        return Cite(lambda: {"citations": [{"quote": ctx.argument, "page": 1234}]})


@pytest.mark.parametrize("order", ["/guard /cites:{}", "/cites:{} /guard"])
async def test_what_other_agents_add_is_seen_wherever_they_come(tmp_path: Path, order: str) -> None:
    llm = ScriptedLLM("hi there")
    async with hosted(Guard, Cites, llm=llm, folder=tmp_path, config={"guard": SECRETS}) as host:
        outcome = await run_request(host, chat(order.format("alice") + " x"), llm)
        assert outcome.answer.text == "[redacted] there"
        assert outcome.answer.extra == {"citations": [{"quote": "[redacted]", "page": 1234}]}
        outcome = await run_request(host, chat(order.format("classified") + " x"), llm)
        assert (outcome.answer.extra, outcome.answer.reason) == ({}, "content_filter")
        outcome = await run_request(host, chat(order.format("reply") + " x"), llm)
        assert (outcome.answer.extra, outcome.answer.reason) == ({}, "content_filter")


async def test_a_pattern_that_takes_for_ever_fails_closed(tmp_path: Path) -> None:
    config = {"redact": [r"(a|a)*(a|a)*(a|a)*b\1"], "longest": 5000, "where": "out"}
    llm = ScriptedLLM("a" * 4000 + "c")
    async with hosted(Guard, llm=llm, folder=tmp_path, config={"guard": config}) as host:
        outcome = await run_request(host, chat(), llm, header="guard")
    (failure,) = [event for event in outcome.events if isinstance(event, AnswerFailed)]
    assert "the patterns take too long" in failure.message
    assert outcome.answer.text == ""


async def test_many_slow_texts_cost_their_request_its_time_and_nothing_more(tmp_path: Path) -> None:
    config = {"redact": [r"(a+)+b\1\1"], "timeout": 0.3, "where": "in"}
    request = Chat(model="demo", messages=[Message("user", "a" * 200 + "bc")] * 5000)
    llm = ScriptedLLM("x")
    async with hosted(Guard, llm=llm, folder=tmp_path, config={"guard": config}) as host:
        outcome = await run_request(host, request, llm, header="guard")
        threads = host._actors["guard"].agent._threads  # type: ignore[attr-defined]
        waiting = [threads.submit(time.monotonic) for _ in range(THREADS)]
        await asyncio.to_thread(until, lambda: all(one.done() for one in waiting), "its threads are free")
    assert outcome.refused is not None
    assert llm.requests == []


class Asks(Agent):
    """Asks the model itself, in one of the ways, and says what became of it."""

    async def before(self, ctx: Context, request: Chat) -> Chat | Reply:
        if ctx.argument.startswith("self-"):  # not by the request's client
            ctx.argument, ctx.llm = ctx.argument.removeprefix("self-"), self.services.llm
        text = "alice, top secret" if ctx.argument.endswith("!") else "alice"
        way = ctx.argument.rstrip("!")
        if way == "chat":
            answer = await ctx.llm.chat(chat(text))
            return Reply.of([Text(f"it said {answer.text}")])
        if way == "embed":
            await ctx.llm.embed("demo", ["x", text])
        elif way == "rerank":
            await ctx.llm.rerank("demo", text, ["x", text])
        return request


class Hears(ScriptedLLM):
    """Keeps the texts that it makes vectors of, and puts in order."""

    def __init__(self, *scripts: Any, **options: Any) -> None:
        super().__init__(*scripts, **options)
        self.heard: list[str] = []

    async def embed(self, model: str, texts: list[str], *, key: str = "") -> list[list[float]]:
        self.heard += texts
        return await super().embed(model, texts, key=key)

    async def rerank(self, model: str, query: str, texts: list[str], *, key: str = "") -> list[float]:
        self.heard += [query, *texts]
        return await super().rerank(model, query, texts, key=key)


@pytest.mark.parametrize("way", ["chat", "embed", "rerank", "self-chat", "self-embed"])
@pytest.mark.parametrize("by", ["header", "always", "model"])
async def test_calls_of_other_agents_are_guarded(tmp_path: Path, way: str, by: str) -> None:
    llm = Hears("1234", models={"demo": ModelInfo(name="demo", aliases=("alias",))})
    config = {"guard": {**SECRETS, "always": by == "always"}}
    defaults = {"demo": ["guard"]} if by == "model" else {}
    header = f"guard,asks:{way}" if by == "header" else f"asks:{way}"
    async with hosted(Guard, Asks, llm=llm, folder=tmp_path, config=config, defaults=defaults) as host:
        request = chat("hm?", model="alias" if by == "model" else "demo")
        outcome = await run_request(host, request, llm, model="demo", header=header)
        asked = llm.heard or [message.text for message in llm.requests[0].messages]
        assert "[redacted]" in asked
        assert not any("alice" in text for text in asked)
        if way.endswith("chat"):
            assert outcome.answer.text == "it said [redacted]"
        llm.heard.clear()
        llm.requests.clear()
        denied = await run_request(host, request, llm, model="demo", header=f"{header}!")
        assert denied.refused is not None
        assert denied.refused.code == "content_filter"
        assert (llm.heard, llm.requests) == ([], [])


@pytest.mark.parametrize("own", [False, True])
async def test_guards_that_ask_models_do_not_guard_themselves(tmp_path: Path, own: bool) -> None:
    class Judges(Agent):
        guards = True

        async def before(self, ctx: Context, request: Chat) -> Chat:
            client = self.services.llm if own else ctx.llm
            await client.chat(chat(f"{type(self).__name__}? {request.messages[-1].text}"))
            return request

    class Doubts(Judges):
        pass

    llm = ScriptedLLM("yes")
    async with hosted(Judges, Doubts, llm=llm, folder=tmp_path) as host:
        outcome = await run_request(host, chat("hm"), llm, header="judges,doubts")
    assert outcome.answer.text == "yes"
    assert [one.messages[-1].text for one in llm.requests] == [
        "Doubts? Judges? hm",
        "Judges? hm",
        "Judges? Doubts? hm",
        "Doubts? hm",
        "hm",
    ]
    llm = ScriptedLLM("yes")
    async with hosted(Judges, Guard, llm=llm, folder=tmp_path, config={"guard": SECRETS}) as host:
        outcome = await run_request(host, chat("for alice"), llm, header="judges,guard")
    assert outcome.answer.text == "yes"
    assert [one.messages[-1].text for one in llm.requests] == [
        "Judges? for [redacted]",
        "for [redacted]",
    ]


async def test_many_short_looks_at_an_answer_are_a_long_one(tmp_path: Path) -> None:
    """Each look takes a moment, and there is one for every letter."""
    config = {"redact": [r"(?:(?:a+)+b){2}c"], "longest": 30, "where": "out"}
    llm = ScriptedLLM("a" * 3_000_000)
    async with hosted(Guard, llm=llm, folder=tmp_path, config={"guard": config}) as host:
        begun = time.thread_time()
        outcome = await run_request(host, chat(), llm, header="guard")
    (failure,) = [event for event in outcome.events if isinstance(event, AnswerFailed)]
    assert "the patterns take too long" in failure.message
    assert time.thread_time() - begun < 3 * IN_THE_WAY


class Blunders(Agent):
    """Calls models as nobody should."""

    async def before(self, ctx: Context, request: Chat) -> Chat:
        blunders: list[Any] = [
            lambda: ctx.llm.embed("demo", [5, None]),  # type: ignore[list-item]
            lambda: ctx.llm.rerank("demo", 5, ["x"]),  # type: ignore[arg-type]
            lambda: ctx.llm.chat(Chat(model="demo", messages=["x"])),  # type: ignore[list-item]
            lambda: ctx.llm.chat(Chat(model="demo", messages=None)),  # type: ignore[arg-type]
        ]
        await blunders[int(ctx.argument)]()
        return request


async def test_whoever_calls_models_wrongly_is_at_fault_and_not_the_guard(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    config = {"guard": {**SECRETS, "always": True}, "blunders": {"on_error": "fail"}}
    async with hosted(Guard, Blunders, llm=llm, folder=tmp_path, config=config) as host:
        for number in range(4):
            outcome = await run_request(host, chat(), llm, header=f"blunders:{number}")
            assert outcome.refused is not None
        crashes = {one["name"]: one["counters"]["crashes"] for one in host.describe()}
    assert crashes["guard"] == 0
    assert llm.requests == []
