"""A response, written from events: valid to the letter, streamed and whole."""

import json
from typing import Any

import pytest

from agents.events import (
    Answer,
    AnswerCollector,
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
from proxy.apis.interface import AnswerContext
from proxy.apis.responses.answer import Encoder, encode_answer
from proxy.apis.responses.request import decode_request
from proxy.apis.responses.response import unsealed
from tests.openai_types import check_response, check_stream, events_of

Json = dict[str, Any]
START, USAGE = AnswerStarted("chatcmpl-1", "file.gguf", 1700000000), Usage(30, 20, 10)
TOKENS = [
    {
        "id": 1,
        "token": "Hi",
        "logprob": -0.5,
        "bytes": [72, 105],
        "top_logprobs": [{"token": "é", "logprob": -1}],
    }
]


def asked(**fields: Any) -> AnswerContext:
    body = {"model": "demo", "input": "hello", **fields}
    chat = decode_request(json.dumps(body).encode())
    return AnswerContext(
        model="demo", request_id="r", started=1.0, load_seconds=0.0, token="abc", echo=chat.echo
    )


def streamed(context: AnswerContext, *events: Event) -> list[Json]:
    encoder = Encoder(context)
    return events_of(b"".join(encoder.encode(event, 1700000005.5) for event in events))


def whole(context: AnswerContext, *events: Event) -> Json:
    collector = AnswerCollector()
    for event in events:
        collector.feed(event)
    response = encode_answer(collector.answer(), context, 1700000005.5)
    check_response(response)
    return response


def both(context: AnswerContext, *events: Event) -> Json:
    """The response at the end of a stream, which is the whole one."""
    every = (START, *events, Done())
    response = check_stream(streamed(context, *every))
    assert response == whole(context, *every)
    return response


def test_text() -> None:
    response = both(asked(), Text("Hel"), Text("lo"), Finish("stop"), USAGE)
    (message,) = response["output"]
    assert message["content"][0]["text"] == "Hello"
    assert (message["status"], response["status"]) == ("completed", "completed")
    assert (response["id"], response["model"]) == ("resp_abc", "demo")
    assert (response["created_at"], response["completed_at"]) == (1700000000, 1700000005)
    assert response["usage"] == {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 0},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 50,
    }


def test_events_of_text_are_those_of_openai() -> None:
    events = streamed(asked(), START, Text("Hel"), Text("lo"), Finish("stop"), USAGE, Done())
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


@pytest.mark.parametrize("summary", [None, "auto"])
def test_reasoning_is_a_summary_where_one_is_asked_for(summary: str | None) -> None:
    context = asked(reasoning={"effort": "high", "summary": summary})
    response = both(context, Reasoning("Let "), Reasoning("me"), Text("Hello."), Finish("stop"), USAGE)
    thought, message = response["output"]
    assert (thought["type"], message["type"]) == ("reasoning", "message")
    shown, empty = ("summary", "content") if summary else ("content", "summary")
    assert thought[shown][0]["text"] == "Let me"
    assert not thought.get(empty)
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 10}
    assert response["reasoning"] == {"effort": "high", "summary": summary}


def test_encrypted_reasoning_is_there_if_asked_for() -> None:
    context = asked(include=["reasoning.encrypted_content"])
    (thought,) = both(context, Reasoning("Let me"), Finish("length"), USAGE)["output"]
    assert unsealed(thought["encrypted_content"]) == "Let me"


FUNCTION: Json = {"type": "function", "name": "f", "parameters": {"type": "object"}}


def calls(name: str, arguments: str, number: int = 0) -> list[Event]:
    return [
        ToolCallDelta(number, f"call_{number}", name),
        ToolCallDelta(number, arguments=arguments[:5]),
        ToolCallDelta(number, arguments=arguments[5:]),
    ]


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        (FUNCTION, '{"a": 1}', {"type": "function_call", "name": "f", "arguments": '{"a": 1}'}),
        (
            {"type": "custom", "name": "f"},
            '{"input": "a\\nb"}',
            {"type": "custom_tool_call", "name": "f", "input": "a\nb"},
        ),
        ({"type": "custom", "name": "f"}, "no JSON", {"type": "custom_tool_call", "input": "no JSON"}),
        ({"type": "custom", "name": "f"}, '{"patch": "x"}', {"type": "custom_tool_call", "input": "x"}),
        (
            {"type": "local_shell"},
            '{"command": ["ls", "-l"], "timeout_ms": 5}',
            {"type": "local_shell_call"},
        ),
        ({"type": "local_shell"}, '{"command": "ls -l"}', {"type": "local_shell_call"}),
        ({"type": "local_shell"}, '{"cmd": 1}', {"type": "function_call", "name": "local_shell"}),
        ({"type": "shell"}, '{"commands": ["ls"]}', {"type": "shell_call"}),
        (
            {"type": "apply_patch"},
            '{"type": "create_file", "path": "a", "diff": "+b"}',
            {
                "type": "apply_patch_call",
                "operation": {"type": "create_file", "path": "a", "diff": "+b"},
                "status": "completed",
            },
        ),
        ({"type": "apply_patch"}, '{"path": "a"}', {"type": "function_call"}),
        (
            {"type": "namespace", "name": "n", "description": "d", "tools": [FUNCTION]},
            "{}",
            {"type": "function_call", "name": "f", "namespace": "n"},
        ),
        (
            {"type": "tool_search", "execution": "client"},
            '{"query": "x"}',
            {"type": "tool_search_call", "execution": "client", "arguments": {"query": "x"}},
        ),
    ],
)
def test_calls_of_tools(tool: Json, arguments: str, expected: Json) -> None:
    name = "f" if tool["type"] in ("function", "custom", "namespace") else tool["type"]
    events = [Text("Wait."), *calls(name, arguments), Finish("tool_calls"), USAGE]
    _, call = both(asked(tools=[tool]), *events)["output"]
    assert {**call, **expected} == call
    assert call["call_id"] == "call_0"


def test_calls_whose_pieces_are_mixed() -> None:
    first, second = calls("f", '{"a": 1}'), calls("g", '{"b": 2}', 1)
    mixed = [event for pair in zip(first, second, strict=True) for event in pair]
    output = both(asked(), *mixed, Finish("tool_calls"), USAGE)["output"]
    assert [(call["name"], call["arguments"]) for call in output] == [("f", '{"a": 1}'), ("g", '{"b": 2}')]


def test_thinking_between_texts() -> None:
    events = streamed(asked(), START, Text("a"), Reasoning("b"), Text("c"), Finish("stop"), Done())
    response = check_stream(events)
    assert [item["type"] for item in response["output"]] == ["message", "reasoning", "message"]
    assert len({item["id"] for item in response["output"]}) == 3


def test_probabilities() -> None:
    context = asked(include=["message.output_text.logprobs"], top_logprobs=1)
    events = streamed(context, START, Logprobs(TOKENS), Text("Hi"), Finish("stop"), USAGE, Done())
    (delta,) = [event for event in events if event["type"] == "response.output_text.delta"]
    assert delta["logprobs"] == [
        {"token": "Hi", "logprob": -0.5, "top_logprobs": [{"token": "é", "logprob": -1}]}
    ]
    (message,) = check_stream(events)["output"]
    assert message["content"][0]["logprobs"][0]["top_logprobs"][0]["bytes"] == [195, 169]


@pytest.mark.parametrize(
    ("reason", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_incomplete_answer(reason: Any, why: str) -> None:
    response = both(asked(max_output_tokens=1), Text("Hel"), Finish(reason), USAGE)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": why})
    assert response["output"][0]["status"] == "incomplete"
    assert response["completed_at"] is None


@pytest.mark.parametrize("status", [400, 429, 502])
def test_an_answer_that_breaks_off(status: int) -> None:
    failure = AnswerFailed(status, "out of luck", code="upstream_error")
    events = streamed(asked(), START, Text("Hel"), failure)
    response = check_stream(events)
    codes = {400: "invalid_prompt", 429: "rate_limit_exceeded", 502: "server_error"}
    assert response["error"]["code"] == codes[status]
    assert (response["error"]["message"], response["error"]["type"]) == ("out of luck", "upstream_error")
    assert response["output"][0]["status"] == "incomplete"


def test_an_answer_that_never_begins() -> None:
    (event,) = streamed(asked(), AnswerFailed(503, "out of luck", code="queue_timeout"))
    assert (event["type"], event["code"], event["message"]) == ("error", "queue_timeout", "out of luck")


def test_nothing_follows_the_end() -> None:
    encoder = Encoder(asked())
    for event in (START, Text("x"), Finish("stop"), Done()):
        encoder.encode(event, 0)
    assert encoder.encode(AnswerFailed(502, "x"), 0) == encoder.encode(Text("x"), 0) == b""


def test_no_answer_at_all() -> None:
    assert both(asked(), Finish("stop"), USAGE)["output"] == []


def test_what_agents_add_replaces_nothing() -> None:
    events = (START, Text("x"), Extra({"citations": [1], "id": "x", "output": []}), Finish("stop"), Done())
    encoder = Encoder(asked())
    for event in events:
        encoder.encode(event, 0)
    assert encoder.response["citations"] == [1]
    assert encoder.response["id"] == "resp_abc"
    assert encoder.response["output"]


ECHOED: Json = {
    "instructions": "Be kind.",
    "max_output_tokens": 5,
    "max_tool_calls": 2,
    "metadata": {"a": "b"},
    "parallel_tool_calls": False,
    "previous_response_id": "resp_0",
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "temperature": 0.5,
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
    "tool_choice": {"type": "function", "name": "f"},
    "tools": [{**FUNCTION, "description": None, "strict": None}],
    "top_logprobs": 2,
    "top_p": 0.5,
    "truncation": "auto",
    "user": "u",
}


def test_a_response_repeats_its_request() -> None:
    response = both(asked(**ECHOED), Text("x"), Finish("stop"), USAGE)
    assert {name: response[name] for name in ECHOED} == ECHOED


@pytest.mark.parametrize("name", [*ECHOED, "reasoning", "service_tier", "background", "include", "store"])
def test_null_is_like_nothing(name: str) -> None:
    assert both(asked(**{name: None}), Text("x"), Finish("stop")) == both(asked(), Text("x"), Finish("stop"))


def test_what_is_left_out_is_not_repeated() -> None:
    response = both(asked(tools=[{"type": "web_search"}, FUNCTION], service_tier="auto"), Finish("stop"))
    assert [tool["type"] for tool in response["tools"]] == ["function"]
    assert response["service_tier"] == "default"


def test_an_answer_without_its_request() -> None:
    """An agent may have made a request of its own."""
    context = AnswerContext(model="demo", request_id="r", started=1.0, load_seconds=0.0)
    assert encode_answer(Answer(text="x"), context, 0)["output"][0]["content"][0]["text"] == "x"
