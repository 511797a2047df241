"""Whole answers out of OpenAI's streams."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.apis.openai.stream import ChatAssembler
from proxy.wire.sse import EventSplitter, ServerSentEvent
from tests.proxy.apis.assembled import assembled, chunk


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


def test_indexes_cost_no_more_than_what_has_them() -> None:
    """A list up to the largest would take all the memory there is."""
    calls = [{"index": index, "function": {"name": str(index)}} for index in (999_999_999, 5, 2**31 - 1)]
    answer = assembled(
        ChatAssembler(), chunk(7, "stop", content="b"), chunk(3, "stop", tool_calls=calls), "[DONE]"
    )
    assert [choice["index"] for choice in answer["choices"]] == [3, 7]
    names = [call["function"]["name"] for call in answer["choices"][0]["message"]["tool_calls"]]
    assert names == ["5", "999999999", str(2**31 - 1)]


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
