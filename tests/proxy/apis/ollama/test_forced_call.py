"""A model of Ollama that must call a tool: the form of its answer, and the call in it."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from agents.chat import Chat, Message, NamedTool, Tool, ToolCall
from agents.events import Done, Event, Finish, Text, ToolCallDelta
from proxy.apis.ollama import forced_call
from proxy.apis.ollama.server import Decoder, encode_request

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
REFERS = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "integer"}}}
OTHER = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "string"}}}
TOOLS = [Tool("weather", parameters=CITY), Tool("time"), Tool("refers", parameters=REFERS)]


def chat(**fields: Any) -> Chat:
    return Chat(model="m", messages=[Message("user", "hi")], tools=TOOLS, **fields)


def fits(tools: list[Tool], answer: Any) -> bool:
    schema = forced_call.format_of(tools)
    return bool(Draft202012Validator(schema).is_valid(answer))


@pytest.mark.parametrize(
    ("answer", "fitting"),
    [
        ({"name": "weather", "arguments": {"city": "Rome"}}, True),
        ({"name": "weather", "arguments": {}}, False),
        ({"name": "time", "arguments": {}}, True),
        ({"name": "refers", "arguments": {"a": 5}}, True),
        ({"name": "refers", "arguments": {"a": "x"}}, False),
        ({"name": "nobody", "arguments": {}}, False),
        ({"city": "Rome"}, False),
        ("Hello", False),
    ],
)
def test_the_form_of_a_call(answer: Any, fitting: bool) -> None:
    assert fits(TOOLS, answer) is fitting


def test_definitions_of_one_name_that_differ() -> None:
    tools = [Tool("one", parameters=REFERS), Tool("two", parameters=OTHER)]
    assert fits(tools, {"name": "one", "arguments": {"a": 5}})
    assert fits(tools, {"name": "two", "arguments": {"a": "x"}})
    assert REFERS["$defs"], "the request is not changed"


@pytest.mark.parametrize(
    ("choice", "offered", "forced"),
    [
        (None, ["weather", "time", "refers"], False),
        ("auto", ["weather", "time", "refers"], False),
        ("none", [], False),
        ("required", ["weather", "time", "refers"], True),
        (NamedTool("time"), ["time"], True),
    ],
)
def test_what_is_sent(choice: Any, offered: list[str], forced: bool) -> None:
    sent = json.loads(encode_request(chat(tool_choice=choice)))
    assert [tool["function"]["name"] for tool in sent.get("tools", [])] == offered
    assert ("format" in sent) is forced


def read(request: Chat, *lines: Any) -> list[Event]:
    decoder = Decoder("x", request)
    return [event for line in lines for event in decoder.feed(json.dumps(line).encode() + b"\n")]


def line(text: str = "", *calls: str, done: str = "") -> Any:
    message: Any = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [{"function": {"name": name, "arguments": {}}} for name in calls]
    return {"model": "m", "message": message, "done": bool(done), "done_reason": done}


@pytest.mark.parametrize(
    ("pieces", "reason", "expected"),
    [
        (['{"name": "wea', 'ther", "arguments": {"city": "Rome"}}'], "stop", ("weather", '{"city":"Rome"}')),
        (['{"name": "weather", "arguments": {"city": "Ro'], "length", ("weather", '{"city": "Ro')),
    ],
)
def test_a_text_in_that_form_is_a_call(pieces: list[str], reason: str, expected: tuple[str, str]) -> None:
    events = read(chat(tool_choice="required"), *map(line, pieces), line(done=reason))
    assert events[1:3] == [
        ToolCallDelta(0, "call_x_0", *expected),
        Finish("tool_calls" if reason == "stop" else "length"),
    ]
    assert events[-1] == Done()


def test_a_call_of_the_models_own_form_counts() -> None:
    events = read(chat(tool_choice="required"), line("", "time"), line(done="stop"))
    assert [event.name for event in events if isinstance(event, ToolCallDelta)] == ["time"]
    assert not any(isinstance(event, Text) for event in events)


def test_a_model_that_does_not_obey_is_quoted() -> None:
    assert Text("I will not.") in read(chat(tool_choice="required"), line("I will not."), line(done="stop"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        '{"name": "nobody", "arguments": {}}',
        '{"name": "\\x", "arguments": {"a',
        '{"name": "nobody", "arguments": {"a',
        '{"name": "time", "arguments": [1]}'.replace("arguments", "parameters"),
        "\ud800",
    ],
)
def test_what_is_no_call(text: str) -> None:
    assert forced_call.call_in(text, TOOLS) is None


def test_a_call() -> None:
    assert forced_call.call_in('{"name": "time", "arguments": {}}', TOOLS) == ToolCall("", "time", "{}")


@pytest.mark.parametrize(("parallel", "expected"), [(None, 2), (True, 2), (False, 1)])
def test_one_call_at_most(parallel: bool | None, expected: int) -> None:
    extra = {} if parallel is None else {"parallel_tool_calls": parallel}
    events = read(chat(extra=extra), line("", "time", "weather"), line(done="stop"))
    assert sum(isinstance(event, ToolCallDelta) for event in events) == expected
