"""Whole answers out of literal streams; the equality with llama.cpp's own is tested end to end."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.apis.answer_json import UnreadableError
from proxy.apis.assemble import Assembler, StreamedError, UnfinishedError, assemble, take
from proxy.apis.llama_cpp.stream import NativeAssembler
from proxy.apis.ollama.stream import LineAssembler
from proxy.apis.openai.stream import ChatAssembler, CompletionAssembler
from proxy.wire.sse import ServerSentEvent
from tests.proxy.apis.assembled import assembled, chunk


@pytest.mark.parametrize("assembler", [ChatAssembler, NativeAssembler])
def test_an_error_in_the_middle(assembler: type[Assembler]) -> None:
    with pytest.raises(StreamedError, match="out of luck"):
        assembled(assembler(), {"error": {"message": "out of luck", "code": 500}})


def sent(event: Any) -> ServerSentEvent:
    """As it comes from a model server; a text is no JSON."""
    return ServerSentEvent("", event.encode() if isinstance(event, str) else json.dumps(event).encode())


NO_INDEXES = ["0", None, True, -1, 1.5, 2**31, 2**80, [0], {"a": 1}]


def events_with(index: Any) -> list[tuple[Assembler, dict[str, Any]]]:
    return [
        (ChatAssembler(), chunk(index, content="x")),
        (CompletionAssembler(), {"choices": [{"index": index, "text": "x"}]}),
        (ChatAssembler(), chunk(tool_calls=[{"index": index, "function": {"name": "f"}}])),
    ]


@pytest.mark.parametrize("index", NO_INDEXES, ids=str)
def test_an_index_that_is_none_makes_no_sense(index: Any) -> None:
    for assembler, event in events_with(index):
        with pytest.raises(UnreadableError):
            take(assembler, [sent(event)])


SAY = "x" * 2000
MANY = 40_000
LOGPROBS = {"content": [{"token": "x"}], "refusal": None}


@pytest.mark.parametrize(
    ("assembler", "event", "end"),
    [
        (ChatAssembler(), chunk(content=SAY, index=0), "[DONE]"),
        (ChatAssembler(), chunk(reasoning_content=SAY), "[DONE]"),
        (ChatAssembler(), chunk(tool_calls=[{"index": 0, "function": {"arguments": SAY}}]), "[DONE]"),
        (
            CompletionAssembler(),
            {"choices": [{"index": 0, "text": SAY, "logprobs": LOGPROBS}]},
            "[DONE]",
        ),
        (NativeAssembler(), {"content": SAY, "completion_probabilities": [1]}, {"stop": True}),
        (LineAssembler(), {"message": {"content": SAY}, "done": False}, {"done": True, "message": {}}),
    ],
    ids=["text", "reasoning", "arguments", "completion", "native", "lines"],
)
def test_a_long_answer_costs_what_it_is_long(assembler: Assembler, event: Any, end: Any) -> None:
    """To copy what there is for each piece would take minutes."""
    take(assembler, map(sent, [*[event] * MANY, end]))
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
KEYS += ["message", "usage", "tokens", "response", "output", "done", "error"]
SHAPES = st.recursive(
    VALUES,
    lambda inner: st.dictionaries(st.sampled_from(KEYS), inner, max_size=4) | st.lists(inner, max_size=2),
    max_leaves=8,
)
ASSEMBLERS = [
    ChatAssembler,
    CompletionAssembler,
    NativeAssembler,
    LineAssembler,
]


@pytest.mark.parametrize("kind", ASSEMBLERS)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(KEYS), SHAPES, max_size=5),
            st.none(),
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
