"""Anthropic's answers, as its official client reads them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.events import AnswerStarted, Done, Event, Finish, Reasoning, Text, ToolCallDelta, Usage
from proxy.apis.anthropic.answer import SIGNATURE, Encoder
from tests.proxy.apis.anthropic.official import events_of, message_of


def encoded(*said: Event) -> bytes:
    encoder = Encoder()
    events = [AnswerStarted("chatcmpl-1", "m", 5, 9, 4), *said, Usage(9, 3, 4), Done()]
    return b"".join(encoder.encode(event, 0.0) for event in events)


def blocks(*said: Event) -> list[object]:
    kinds = {"text": "text", "thinking": "thinking", "tool_use": "input"}
    content = message_of(encoded(*said, Finish("stop"))).content
    return [getattr(block, kinds[block.type]) for block in content]


def test_a_message_of_all_kinds() -> None:
    data = encoded(
        Reasoning("Hm"), Text("So"), Text("!"), ToolCallDelta(0, "a", "f", '{"x": 1}'), Finish("tool_calls")
    )
    message = message_of(data)
    assert message.id == "msg_1"
    thinking, text, call = message.content
    assert (thinking.type, text.type, call.type) == ("thinking", "text", "tool_use")
    assert thinking.type == "thinking"
    assert thinking.signature == SIGNATURE
    assert message.stop_reason == "tool_use"
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (5, 4, 3)
    assert events_of(data)[0].message.usage.input_tokens == 5


@pytest.mark.parametrize(
    ("finish", "reason", "sequence"),
    [
        (Finish("stop"), "end_turn", None),
        (Finish("stop", "END"), "stop_sequence", "END"),
        (Finish("tool_calls", "END"), "tool_use", None),
        (Finish("length"), "max_tokens", None),
        (Finish("content_filter"), "refusal", None),
    ],
)
def test_why_it_ended(finish: Finish, reason: str, sequence: str | None) -> None:
    message = message_of(encoded(Text("x"), finish))
    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)


def test_calls_whose_pieces_alternate_are_whole_blocks() -> None:
    assert blocks(
        ToolCallDelta(0, "a", "f", '{"x":'),
        ToolCallDelta(1, "b", "g", '{"y"'),
        Text("meanwhile"),
        ToolCallDelta(0, arguments="1}"),
        ToolCallDelta(1, arguments=":2}"),
    ) == [{"x": 1}, {"y": 2}, "meanwhile"]
    assert blocks(
        ToolCallDelta(0, "a", "f"), ToolCallDelta(1, "b", "g"), ToolCallDelta(0, arguments="{}")
    ) == [{}, {}]


def test_a_call_that_is_whole_holds_nothing_back() -> None:
    encoder = Encoder()
    for event in (AnswerStarted("1", "m", 0), ToolCallDelta(0, "a", "f", "{}")):
        encoder.encode(event, 0.0)
    assert b"content_block_start" in encoder.encode(ToolCallDelta(1, "b", "g"), 0.0)
    assert b"text_delta" not in encoder.encode(Text("x"), 0.0)


def test_a_call_that_is_cut_off_loses_nothing() -> None:
    data = encoded(ToolCallDelta(0, "a", "f", '{"x": "y'), Text("z"), Finish("length"))
    (call, text) = message_of(data).content
    assert (call.type, text.type) == ("tool_use", "text")
    assert b'{\\"x\\": \\"y' in data


CALLS = st.lists(st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), min_size=1, max_size=3)


@given(CALLS, st.data())
def test_any_order_of_pieces_makes_whole_blocks(calls: list[dict[str, int]], data: st.DataObject) -> None:
    texts = [json.dumps(call) for call in calls]
    left = [[text[at : at + 3] for at in range(0, len(text), 3)] for text in texts]
    said: list[Event] = []
    while any(left):
        index = data.draw(st.sampled_from([i for i, pieces in enumerate(left) if pieces]))
        begun = any(isinstance(one, ToolCallDelta) and one.index == index for one in said)
        head = ("", "") if begun else (f"call{index}", "f")
        said.append(ToolCallDelta(index, *head, left[index].pop(0)))
        if data.draw(st.booleans()):
            said.append(Text("x"))
    found = [block for block in blocks(*said) if not isinstance(block, str)]
    assert sorted(map(json.dumps, found)) == sorted(texts)
