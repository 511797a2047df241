"""Whole answers out of literal streams; the equality with llama.cpp's own is tested end to end."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.assemble import (
    Assembler,
    ChatAssembler,
    LineAssembler,
    MessageAssembler,
    NativeAssembler,
    ResponseAssembler,
    StreamedError,
)
from proxy.sse import EventSplitter, ServerSentEvent


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
    answer = assembled(ChatAssembler(), odd, chunk(novelty="b"))
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


@settings(deadline=None)
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
        answers.append(assembler.result())
    assert answers[0] == answers[1]
    if texts:
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
