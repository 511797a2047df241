"""Whole answers out of literal streams; the equality with llama.cpp's own is tested end to end."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.apis.answer_json import UnreadableError
from proxy.apis.anthropic.stream import MessageAssembler
from proxy.apis.assemble import Assembler, StreamedError, UnfinishedError, assemble, take
from proxy.apis.llama_cpp.stream import NativeAssembler
from proxy.apis.ollama.stream import LineAssembler
from proxy.apis.openai.responses import ResponseAssembler
from proxy.apis.openai.stream import ChatAssembler, CompletionAssembler
from proxy.wire.sse import EventSplitter, ServerSentEvent


def assembled(assembler: Assembler, *events: dict[str, Any] | str) -> dict[str, Any]:
    text = "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events)
    for event in EventSplitter().feed(text.encode()):
        assembler.feed(event)
    return assembler.result()


def chunk(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def test_parallel_tool_calls_and_reasoning() -> None:
    def call(index: int, **fields: Any) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, **fields}]}

    answer = assembled(
        ChatAssembler(),
        chunk(role="assistant", content=None),
        chunk(reasoning_content="I thi"),
        chunk(reasoning_content="nk"),
        chunk(**call(0, id="1", type="function", function={"name": "a", "arguments": "{"})),
        chunk(**call(1, id="2", type="function", function={"name": "b", "arguments": ""})),
        chunk(**call(1, function={"arguments": "[]"})),
        chunk(**call(0, function={"arguments": "}"})),
        chunk(finish="tool_calls"),
        "[DONE]",
    )
    (choice,) = answer["choices"]
    assert answer["object"] == "chat.completion"
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["reasoning_content"] == "I think"
    assert choice["message"]["tool_calls"] == [
        {"id": "1", "type": "function", "function": {"name": "a", "arguments": "{}"}},
        {"id": "2", "type": "function", "function": {"name": "b", "arguments": "[]"}},
    ]


def test_several_choices_report_the_first_ones_usage() -> None:
    usage = [{"choices": [], "usage": {"completion_tokens": n}} for n in (5, 7)]
    answer = assembled(
        ChatAssembler(),
        chunk(1, content="x"),
        chunk(0, content="y"),
        chunk(1, finish="stop"),
        usage[1],
        chunk(0, finish="stop"),
        usage[0],
    )
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["y", "x"]
    assert answer["usage"] == {"completion_tokens": 5}


def test_unknown_fields_survive() -> None:
    odd = {**chunk(content="x", novelty="a"), "extra": {"deep": 1}}
    odd["choices"][0]["hint"] = 5
    answer = assembled(ChatAssembler(), odd, chunk(novelty="b"), "[DONE]")
    assert answer["extra"] == {"deep": 1}
    assert answer["choices"][0]["hint"] == 5
    assert answer["choices"][0]["message"]["novelty"] == "ab"


@pytest.mark.parametrize("assembler", [ChatAssembler, MessageAssembler, NativeAssembler, ResponseAssembler])
def test_an_error_in_the_middle(assembler: type[Assembler]) -> None:
    with pytest.raises(StreamedError, match="out of luck"):
        assembled(assembler(), {"error": {"message": "out of luck", "code": 500}})


def test_anthropic_blocks() -> None:
    def delta(index: int, **fields: Any) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": fields}

    def begin(index: int, **fields: Any) -> dict[str, Any]:
        return {"type": "content_block_start", "index": index, "content_block": fields}

    answer = assembled(
        MessageAssembler(),
        {"type": "message_start", "message": {"id": "m", "content": [], "usage": {"input_tokens": 3}}},
        begin(0, type="thinking", thinking=""),
        delta(0, type="thinking_delta", thinking="hm"),
        delta(0, type="signature_delta", signature="s"),
        begin(1, type="text", text=""),
        {"type": "ping"},
        delta(1, type="text_delta", text="yes"),
        begin(2, type="tool_use", id="t", name="f"),
        delta(2, type="input_json_delta", partial_json='{"a":'),
        delta(2, type="input_json_delta", partial_json="1}"),
        begin(3, type="tool_use", id="u", name="g"),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    )
    assert answer["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "yes"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "u", "name": "g", "input": {}},
    ]
    assert answer["usage"] == {"input_tokens": 3, "output_tokens": 9}
    assert answer["stop_reason"] == "tool_use"


@given(st.lists(st.text(max_size=8) | st.just('"}}],"created":'), max_size=12), st.data())
def test_text_that_is_cut_out_is_what_decoding_gives(texts: list[str], data: st.DataObject) -> None:
    def stream(separators: tuple[str, str]) -> str:
        lines = []
        for number, text in enumerate(texts):
            delta: dict[str, Any] = {"content": text}
            if number in odd:
                delta["reasoning_content"] = text
            choice = {"finish_reason": None, "index": 0, "delta": delta}
            event = {"choices": [choice], "created": number // 3, "id": "x"}
            lines.append(json.dumps(event, separators=separators, ensure_ascii=ascii_only))
        return "".join(f"data: {line}\n\n" for line in lines)

    odd = data.draw(st.sets(st.integers(0, 11)))
    ascii_only = data.draw(st.booleans())
    answers = []
    for separators in ((",", ":"), (", ", ": ")):
        assembler = ChatAssembler()
        for event in EventSplitter().feed(stream(separators).encode("utf-8", "surrogatepass")):
            assembler.feed(event)
        if texts:
            assembler.feed(ServerSentEvent("", b"[DONE]"))
            answers.append(assembler.result())
    if texts:
        assert answers[0] == answers[1]
        assert answers[0]["choices"][0]["message"]["content"] == "".join(texts)


def test_lines_of_ollama_become_one_answer() -> None:
    assembler = LineAssembler()
    call = {"id": "c", "function": {"index": 0, "name": "f", "arguments": {}}}
    for line in (
        {"model": "m", "message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False},
        {"model": "m", "message": {"role": "assistant", "content": "a"}, "done": False, "logprobs": [1]},
        {"model": "m", "message": {"role": "assistant", "content": "b"}, "done": False, "logprobs": [2]},
        {
            "model": "m",
            "message": {"role": "assistant", "content": "", "tool_calls": [call]},
            "done": True,
            "done_reason": "stop",
            "eval_count": 2,
            "no_such_field": 7,
        },
    ):
        assembler.feed(ServerSentEvent("", msgspec.json.encode(line)))
    assert assembler.result() == {
        "model": "m",
        "message": {"role": "assistant", "content": "ab", "thinking": "hm", "tool_calls": [call]},
        "logprobs": [1, 2],
        "done": True,
        "done_reason": "stop",
        "eval_count": 2,
        "no_such_field": 7,
    }


def test_lines_of_generate_become_one_answer_and_an_error_is_raised() -> None:
    assembler = LineAssembler()
    assembler.feed(ServerSentEvent("", b'{"response":"a","done":false}'))
    assembler.feed(ServerSentEvent("", b'{"response":"b","done":true,"context":[1]}'))
    assert assembler.result() == {"response": "ab", "done": True, "context": [1]}
    with pytest.raises(StreamedError, match="no memory"):
        LineAssembler().feed(ServerSentEvent("", b'{"error":"no memory"}'))


def sent(event: Any) -> ServerSentEvent:
    """As it comes from a model server; a text is no JSON."""
    return ServerSentEvent("", event.encode() if isinstance(event, str) else json.dumps(event).encode())


NO_INDEXES = ["0", None, True, -1, 1.5, 2**31, 2**80, [0], {"a": 1}]


def events_with(index: Any) -> list[tuple[Assembler, dict[str, Any]]]:
    block = {"index": index, "content_block": {"type": "text", "text": ""}}
    return [
        (ChatAssembler(), chunk(index, content="x")),
        (CompletionAssembler(), {"choices": [{"index": index, "text": "x"}]}),
        (ChatAssembler(), chunk(tool_calls=[{"index": index, "function": {"name": "f"}}])),
        (MessageAssembler(), {"type": "content_block_start", **block}),
        (MessageAssembler(), {"type": "content_block_delta", "index": index, "delta": {"text": "x"}}),
    ]


@pytest.mark.parametrize("index", NO_INDEXES, ids=str)
def test_an_index_that_is_none_makes_no_sense(index: Any) -> None:
    for assembler, event in events_with(index):
        with pytest.raises(UnreadableError):
            take(assembler, [sent(event)])


def test_indexes_cost_no_more_than_what_has_them() -> None:
    """A list up to the largest would take all the memory there is."""
    calls = [{"index": index, "function": {"name": str(index)}} for index in (999_999_999, 5, 2**31 - 1)]
    answer = assembled(
        ChatAssembler(), chunk(7, "stop", content="b"), chunk(3, "stop", tool_calls=calls), "[DONE]"
    )
    assert [choice["index"] for choice in answer["choices"]] == [3, 7]
    names = [call["function"]["name"] for call in answer["choices"][0]["message"]["tool_calls"]]
    assert names == ["5", "999999999", str(2**31 - 1)]


SAY = "x" * 2000
MANY = 40_000
LOGPROBS = {"content": [{"token": "x"}], "refusal": None}


@pytest.mark.parametrize(
    ("assembler", "start", "event", "end"),
    [
        (ChatAssembler(), {}, chunk(content=SAY, index=0), "[DONE]"),
        (ChatAssembler(), {}, chunk(reasoning_content=SAY), "[DONE]"),
        (ChatAssembler(), {}, chunk(tool_calls=[{"index": 0, "function": {"arguments": SAY}}]), "[DONE]"),
        (
            CompletionAssembler(),
            {},
            {"choices": [{"index": 0, "text": SAY, "logprobs": LOGPROBS}]},
            "[DONE]",
        ),
        (NativeAssembler(), {}, {"content": SAY, "completion_probabilities": [1]}, {"stop": True}),
        (
            MessageAssembler(),
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": SAY}},
            {"type": "message_stop"},
        ),
        (
            MessageAssembler(),
            {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use"}},
            {"type": "content_block_delta", "index": 0, "delta": {"partial_json": SAY}},
            {"type": "message_stop"},
        ),
        (LineAssembler(), {}, {"message": {"content": SAY}, "done": False}, {"done": True, "message": {}}),
    ],
    ids=["text", "reasoning", "arguments", "completion", "native", "block", "input", "lines"],
)
def test_a_long_answer_costs_what_it_is_long(assembler: Assembler, start: Any, event: Any, end: Any) -> None:
    """To copy what there is for each piece would take minutes."""
    before = [{"type": "message_start", "message": {"id": "m"}}, start] if start else []
    take(assembler, map(sent, [*before, *[event] * MANY, end]))
    assert assemble(assembler)


@pytest.mark.parametrize(
    ("assembler", "events"),
    [
        (ChatAssembler(), [chunk(finish=None, content="x")]),
        (ChatAssembler(), [chunk(0, "stop"), chunk(1, content="x")]),
        (ChatAssembler(), [{"choices": []}, "[DONE]"]),
        (ChatAssembler(), ["[DONE]"]),
        (ChatAssembler(), []),
        (CompletionAssembler(), [{"choices": [{"index": 0, "text": "x"}]}]),
        (NativeAssembler(), [{"content": "x", "stop": False}]),
        (MessageAssembler(), [{"type": "message_start", "message": {"id": "m"}}]),
        (MessageAssembler(), [{"type": "message_stop"}]),
        (ResponseAssembler(), [{"type": "response.created", "response": {"id": "r"}}]),
        (LineAssembler(), [{"message": {"content": "x"}, "done": False}]),
    ],
)
def test_half_an_answer_is_none(assembler: Assembler, events: list[Any]) -> None:
    take(assembler, map(sent, events))
    with pytest.raises(UnfinishedError):
        assemble(assembler)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
KEYS = ["choices", "index", "delta", "content", "tool_calls", "function", "text", "logprobs", "type", "stop"]
KEYS += ["message", "content_block", "usage", "tokens", "response", "output", "done", "error"]
SHAPES = st.recursive(
    VALUES,
    lambda inner: st.dictionaries(st.sampled_from(KEYS), inner, max_size=4) | st.lists(inner, max_size=2),
    max_leaves=8,
)
TYPES = ["message_start", "content_block_start", "content_block_delta", "message_delta", "message_stop"]
ASSEMBLERS = [
    ChatAssembler,
    CompletionAssembler,
    MessageAssembler,
    NativeAssembler,
    ResponseAssembler,
    LineAssembler,
]


@pytest.mark.parametrize("kind", ASSEMBLERS)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(KEYS), SHAPES, max_size=5),
            st.sampled_from([*TYPES, "response.completed", None]),
        ),
        max_size=4,
    )
)
def test_nothing_that_a_server_sends_raises_anything_else(
    kind: type[Assembler], bodies: list[tuple[dict[str, Any], str | None]]
) -> None:
    assembler = kind()
    events = [{**body, "type": name} if name else body for body, name in bodies]
    with contextlib.suppress(UnreadableError, StreamedError, UnfinishedError):
        take(assembler, map(sent, events if kind is LineAssembler else [*events, "[DONE]"]))
        assemble(assembler)
