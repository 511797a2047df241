"""What is checked of a chat, and what llama.cpp gets instead of what it would mistake."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.apis.fields import FieldError, decode
from proxy.apis.openai.chat_body import ChatRequest
from proxy.apis.requests import fields_of, with_fields

HI = {"role": "user", "content": "hi"}


def tool(name: str) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": {"x": 1e300}}}


def called(arguments: Any) -> Any:
    return {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}


def sent(**fields: Any) -> Any:
    """The fields that a llama.cpp server gets in place of the client's."""
    body = json.dumps({"model": "m", "messages": [HI], **fields}).encode()
    request = decode(body, ChatRequest)
    request.check()
    return {name: json.loads(value) for name, value in request.corrections(body).items()}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": [HI, {"role": "assistant", "content": "yo", "refusal": None}]},
        {"messages": [HI, {"role": "assistant", "content": None, "tool_calls": [called("{}")]}]},
        {"messages": [HI, {"role": "assistant", "content": None, "tool_calls": [called({"a": 1})]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": '"refusal"'}]}]},
        {"tools": [tool("a")]},
        {"tools": [tool("a")], "tool_choice": "auto"},
        {"tools": [tool("a")], "tool_choice": "required", "parallel_tool_calls": False},
    ],
)
def test_what_is_right_keeps_its_bytes(fields: Any) -> None:
    assert sent(**fields) == {}


@pytest.mark.parametrize("arguments", ["", "  \n", None, ...])
def test_a_call_without_arguments_has_an_empty_object(arguments: Any) -> None:
    call = called(arguments if arguments is not ... else None)
    if arguments is ...:
        del call["function"]["arguments"]
    before = {"role": "assistant", "content": "x", "own": 1e5, "tool_calls": [called('{"a":1}'), call]}
    after = {**before, "tool_calls": [called('{"a":1}'), called("{}")]}
    assert sent(messages=[HI, before, HI]) == {"messages": [HI, after, HI]}


@pytest.mark.parametrize(
    ("before", "content"),
    [
        ({"content": None, "refusal": "no"}, "no"),
        ({"refusal": "no"}, "no"),
        (
            {"content": [{"type": "refusal", "refusal": "no"}, {"type": "text", "text": "x"}]},
            [{"type": "text", "text": "no"}, {"type": "text", "text": "x"}],
        ),
    ],
)
def test_a_refusal_is_a_text(before: Any, content: Any) -> None:
    found = sent(messages=[HI, {"role": "assistant", **before}])
    assert found["messages"][1]["content"] == content


def test_what_is_left_out_is_put_in() -> None:
    untyped = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
    messages = [HI, {"role": "assistant"}, {"role": "assistant", "tool_calls": [untyped]}]
    assert sent(messages=messages)["messages"] == [
        HI,
        {"role": "assistant", "content": ""},
        {"role": "assistant", "tool_calls": [called("{}")]},
    ]
    bare = {"function": {"name": "b", "description": None, "parameters": None}}
    typed = {"type": "function", "function": {"name": "b"}}
    assert sent(tools=[tool("a"), bare]) == {"tools": [tool("a"), typed]}
    assert sent(tools=[tool("a"), bare], tool_choice={"type": "function", "name": "b"})["tools"] == [typed]


A, B, C = tool("a"), tool("b"), tool("c")
FUNCTION_B = {"type": "function", "function": {"name": "b"}}


def allowed(mode: str, *tools: Any) -> Any:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


@pytest.mark.parametrize(
    ("choice", "tools", "said"),
    [
        (FUNCTION_B, [B], "required"),
        ({"type": "function", "name": "b"}, [B], "required"),
        (allowed("auto", FUNCTION_B), [B], "auto"),
        (allowed("required", FUNCTION_B, {"type": "function", "name": "c"}), [B, C], "required"),
        (allowed("auto"), [], "auto"),
        ("none", [], "auto"),
    ],
)
def test_only_the_tools_that_may_be_called_are_shown(choice: Any, tools: Any, said: str) -> None:
    found = sent(tools=[A, B, C], tool_choice=choice)
    assert (found["tools"], found["tool_choice"]) == (tools, said)
    is_named = choice in (FUNCTION_B, {"type": "function", "name": "b"})
    assert found.get("parallel_tool_calls", True) is not is_named


@pytest.mark.parametrize(
    ("stream", "logprobs", "tools", "whole"),
    [
        (False, True, [A], True),
        (True, True, [A], False),
        (False, False, [A], False),
        (False, True, None, False),
    ],
)
def test_what_llama_cpp_cannot_stream(stream: bool, logprobs: bool, tools: Any, whole: bool) -> None:
    fields = {"model": "m", "messages": [HI], "stream": stream, "logprobs": logprobs, "tools": tools}
    assert decode(json.dumps(fields).encode(), ChatRequest).is_never_streamed is whole


VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["", "{}", "[", "function", "text", "refusal", "auto", "required", "a", "allowed_tools"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "function", "name", "arguments", "text", "tools", "mode", "schema"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "wizard"]) | VALUES},
    optional={"content": VALUES, "tool_calls": VALUES, "refusal": VALUES},
)
FIELDS = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, max_size=3) | VALUES},
    optional=dict.fromkeys(
        (
            "tools",
            "tool_choice",
            "response_format",
            "stop",
            "n",
            "max_tokens",
            "modalities",
            "logprobs",
        ),
        VALUES,
    ),
)


def read(body: bytes) -> ChatRequest | FieldError:
    try:
        request = decode(body, ChatRequest)
        request.check()
    except FieldError as error:
        return error
    return request


@given(FIELDS)
def test_whatever_comes_is_taken_or_refused(fields: Any) -> None:
    body = json.dumps({"model": "m", **fields}).encode()
    request = read(body)
    if isinstance(request, FieldError):
        assert request.code
        assert re.match(r"[a-z_]+", request.field or "messages")[0] in (*fields, "messages")  # type: ignore[index]
        return
    changed = with_fields(fields_of(body), request.corrections(body))
    again = read(changed)
    assert isinstance(again, ChatRequest)
    assert again.corrections(changed) == {}
