"""Tools and a format in one request: the formatted answer is the call of one more tool."""

from typing import Any

import msgspec
import pytest

from agents.answer_tool import NAME, AnswerToolReader, with_answer_tool
from agents.chat import Chat, Completion, Message, NamedTool, Tool
from agents.events import AnswerStarted, Done, Event, Finish, Reasoning, Text, ToolCallDelta, Usage

SCHEMA: Any = {"type": "object", "properties": {"n": {"type": "integer"}}}
CHAT = Chat(model="m", messages=[Message("user", "x")], tools=[Tool("f")], format=SCHEMA)
START = AnswerStarted("i", "m", 1)
END: list[Event] = [Usage(1, 2), Done()]


@pytest.mark.parametrize("choice", [None, "auto"])
@pytest.mark.parametrize(("form", "schema"), [(SCHEMA, SCHEMA), ("json", {"type": "object"})])
def test_the_answer_is_one_more_tool(choice: Any, form: Any, schema: Any) -> None:
    made = with_answer_tool(msgspec.structs.replace(CHAT, tool_choice=choice, format=form))
    assert isinstance(made, Chat)
    assert [(tool.name, tool.parameters) for tool in made.tools] == [("f", None), (NAME, schema)]
    assert (made.tool_choice, made.format) == ("required", None)


@pytest.mark.parametrize(
    "fields",
    [
        {"format": None},
        {"format": {"type": "array"}},
        {"format": {"anyOf": []}},
        {"tools": []},
        {"tool_choice": "none"},
        {"tool_choice": "required"},
        {"tool_choice": NamedTool("f")},
    ],
)
def test_other_requests_stay(fields: Any) -> None:
    chat = msgspec.structs.replace(CHAT, **fields)
    assert with_answer_tool(chat) is chat


def test_completions_stay() -> None:
    completion = Completion(model="m", prompt="x", format="json")
    assert with_answer_tool(completion) is completion


def read(*events: Event, pieces: int = 3) -> list[Event]:
    reader = AnswerToolReader()
    return [*reader.read(events[:pieces]), *reader.read(events[pieces:])]


def test_its_call_is_the_text() -> None:
    call = [
        ToolCallDelta(0, "c", NAME),
        ToolCallDelta(0, arguments='{"n":'),
        ToolCallDelta(0, arguments="1}"),
    ]
    for pieces in range(8):
        come = read(START, Reasoning("hm"), *call, Finish("tool_calls"), *END, pieces=pieces)
        assert come == [START, Reasoning("hm"), Text('{"n":'), Text("1}"), Finish("stop"), *END]


def test_other_calls_stay_calls() -> None:
    call, answer = ToolCallDelta(0, "c", "f", "{}"), ToolCallDelta(1, "d", NAME, "{}")
    assert read(START, call, Finish("tool_calls"), *END) == [START, call, Finish("tool_calls"), *END]
    both = read(START, call, answer, Finish("tool_calls"), *END)
    assert both == [START, call, Text("{}"), Finish("tool_calls"), *END]


def test_an_answer_that_is_cut_off_stays_so() -> None:
    come = read(START, ToolCallDelta(0, "c", NAME, '{"n'), Finish("length"), *END)
    assert come == [START, Text('{"n'), Finish("length"), *END]
