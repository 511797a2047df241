"""Requests: each client's into each server's, and what is wrong with one."""

import base64
import json
import math
from typing import Any

import pytest

from agents.chat import Chat, Completion, Message, ToolCall, linked
from proxy.apis.anthropic import request as anthropic_request
from proxy.apis.fields import FieldError
from proxy.apis.llama_cpp import server as llama_server
from proxy.apis.ollama import request as ollama_request
from proxy.apis.ollama import server as ollama_server
from proxy.apis.openai import request as openai_request

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(8)).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff" + bytes(12)).decode()
WEBP = base64.b64encode(b"RIFF\0\0\0\0WEBPVP8 ").decode()
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
WEATHER = {"name": "weather", "description": "Tells it", "parameters": SCHEMA}
TOOL = {"type": "function", "function": WEATHER}
HI = {"role": "user", "content": "hi"}
CALL = {
    "type": "object",
    "properties": {"name": {"type": "string", "enum": ["weather"]}, "arguments": SCHEMA},
    "required": ["name", "arguments"],
}
"""What a model must answer in that has to call the tool."""
TO_OLLAMA = {"model": "m", "stream": True, "truncate": False}
ASKED = {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}


def body(value: Any) -> bytes:
    return json.dumps({"model": "m", **value}, ensure_ascii=False).encode()


def call(arguments: Any, identifier: str = "a") -> dict[str, Any]:
    return {"id": identifier, "type": "function", "function": {"name": "weather", "arguments": arguments}}


OLLAMA_TO_LLAMA = {
    "text": ({"messages": [HI], "stream": False}, {"messages": [HI]}),
    "roles in any case": ({"messages": [{**HI, "role": "User"}]}, {"messages": [HI]}),
    "options": (
        {
            "messages": [HI],
            "options": {
                "num_predict": 5,
                "temperature": 0,
                "top_k": 40.0,
                "stop": ["x"],
                "seed": 1,
                "min_p": None,
            },
        },
        {
            "messages": [HI],
            "max_tokens": 5,
            "temperature": 0,
            "top_k": 40,
            "stop": ["x"],
            "seed": 1,
            "verbose": True,
            "response_fields": ["stopping_word"],
        },
    ),
    "no limit, and options of the server's start": (
        {"messages": [HI], "options": {"num_predict": -1, "num_ctx": 4096}},
        {"messages": [HI]},
    ),
    "unknown options and fields have their place": (
        {"messages": [HI], "options": {"mirostat": 2, "n": 3}, "grammar": "root ::= x", "stream_options": 1},
        {"messages": [HI], "mirostat": 2, "grammar": "root ::= x"},
    ),
    "json": (
        {"messages": [HI], "format": "json"},
        {"messages": [HI], "response_format": {"type": "json_object"}},
    ),
    "a schema": (
        {"messages": [HI], "format": SCHEMA},
        {
            "messages": [HI],
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
        },
    ),
    "no format": ({"messages": [HI], "format": ""}, {"messages": [HI]}),
    "thinking off": (
        {"messages": [HI], "think": False},
        {"messages": [HI], "chat_template_kwargs": {"enable_thinking": False}},
    ),
    "thinking at a level": (
        {"messages": [HI], "think": "low"},
        {"messages": [HI], "chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "low"}},
    ),
    "probabilities": (
        {"messages": [HI], "logprobs": True},
        {"messages": [HI], "logprobs": True, "top_logprobs": 1},
    ),
    "images": (
        {"messages": [{**HI, "images": [PNG, JPEG, WEBP]}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{JPEG}"}},
                        {"type": "image_url", "image_url": {"url": f"data:image/webp;base64,{WEBP}"}},
                        {"type": "text", "text": "hi"},
                    ],
                }
            ]
        },
    ),
    "tools, their calls without ids, and results by name": (
        {
            "messages": [
                HI,
                {
                    "role": "assistant",
                    "thinking": "Hm",
                    "tool_calls": [
                        {"function": {"name": "weather", "arguments": {"city": "Köln"}}},
                        {"function": {"name": "time", "arguments": {}}},
                        {"function": {"name": "weather", "arguments": {"city": "Bonn"}}},
                    ],
                },
                {"role": "tool", "tool_name": "time", "content": "9"},
                {"role": "tool", "tool_name": "weather", "content": "rain"},
                {"role": "tool", "content": "sun"},
            ],
            "tools": [TOOL],
        },
        {
            "messages": [
                HI,
                {
                    "role": "assistant",
                    "content": "",
                    "reasoning_content": "Hm",
                    "tool_calls": [
                        call('{"city":"Köln"}', "call00001"),
                        {
                            "id": "call00002",
                            "type": "function",
                            "function": {"name": "time", "arguments": "{}"},
                        },
                        call('{"city":"Bonn"}', "call00003"),
                    ],
                },
                {"role": "tool", "content": "9", "tool_call_id": "call00002", "name": "time"},
                {"role": "tool", "content": "rain", "tool_call_id": "call00001", "name": "weather"},
                {"role": "tool", "content": "sun", "tool_call_id": "call00003", "name": "weather"},
            ],
            "tools": [TOOL],
        },
    ),
}


@pytest.mark.parametrize(("given", "expected"), OLLAMA_TO_LLAMA.values(), ids=OLLAMA_TO_LLAMA)
def test_ollama_to_llama(given: Any, expected: Any) -> None:
    request = ollama_request.decode_chat(body(given))
    assert llama_server.path_of(request) == "/v1/chat/completions"
    assert json.loads(llama_server.encode_request(request)) == {"model": "m", **ASKED, **expected}


GENERATE_TO_LLAMA = {
    "a prompt is a chat": (
        {"prompt": "hi", "system": "be", "context": [1, 2], "images": [PNG]},
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "system", "content": "be"},
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                        {"type": "text", "text": "hi"},
                    ],
                },
            ]
        },
    ),
    "raw": (
        {"prompt": "hi", "raw": True, "format": "json", "options": {"num_predict": 3}, "logprobs": True},
        "/v1/completions",
        {"prompt": "hi", "json_schema": {"type": "object"}, "max_tokens": 3, "n_probs": 1},
    ),
    "to fill in": (
        {"prompt": "def f(", "suffix": "return 1", "options": {"num_predict": -2}},
        "/infill",
        {"input_prefix": "def f(", "input_suffix": "return 1"},
    ),
}


@pytest.mark.parametrize(("given", "path", "expected"), GENERATE_TO_LLAMA.values(), ids=GENERATE_TO_LLAMA)
def test_generate_to_llama(given: Any, path: str, expected: Any) -> None:
    request = ollama_request.decode_generate(body(given))
    assert llama_server.path_of(request) == path
    assert json.loads(llama_server.encode_request(request)) == {"model": "m", **ASKED, **expected}


def test_ollama_streams_by_default() -> None:
    assert ollama_request.decode_chat(body({})).stream
    assert not ollama_request.decode_chat(body({"stream": False})).stream
    assert not openai_request.decode_request(body({"messages": []})).stream


OPENAI_TO_OLLAMA = {
    "text in parts": (
        {
            "messages": [
                {
                    "role": "developer",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                }
            ]
        },
        {"messages": [{"role": "system", "content": "a\nb"}]},
    ),
    "options": (
        {
            "messages": [HI],
            "max_tokens": 1,
            "max_completion_tokens": 2,
            "stop": "x",
            "temperature": 0,
            "num_keep": 4,
            "truncate": False,
            "user": "u",
        },
        {
            "messages": [HI],
            "options": {"num_predict": 2, "stop": ["x"], "temperature": 0, "num_keep": 4},
            "truncate": False,
        },
    ),
    "json": (
        {"messages": [HI], "response_format": {"type": "json_object"}},
        {"messages": [HI], "format": "json"},
    ),
    "text format": ({"messages": [HI], "response_format": {"type": "text"}}, {"messages": [HI]}),
    "a schema": (
        {"messages": [HI], "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"messages": [HI], "format": SCHEMA},
    ),
    "thinking": ({"messages": [HI], "reasoning_effort": "minimal"}, {"messages": [HI], "think": "low"}),
    "no thinking": ({"messages": [HI], "reasoning": {"effort": "none"}}, {"messages": [HI], "think": False}),
    "thinking as llama.cpp says it": (
        {"messages": [HI], "chat_template_kwargs": {"enable_thinking": True}},
        {"messages": [HI], "think": True},
    ),
    "probabilities": (
        {"messages": [HI], "logprobs": True, "top_logprobs": 3},
        {"messages": [HI], "logprobs": True, "top_logprobs": 3},
    ),
    "keep_alive": ({"messages": [HI], "keep_alive": "1.5s"}, {"messages": [HI], "keep_alive": 1.5}),
    "keep_alive for ever": ({"messages": [HI], "keep_alive": -1}, {"messages": [HI], "keep_alive": -1}),
    "images": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what"},
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                        {"type": "image_url", "image_url": f"data:;base64,{JPEG}"},
                    ],
                }
            ]
        },
        {"messages": [{"role": "user", "content": "what", "images": [PNG, JPEG]}]},
    ),
    "tools": (
        {
            "messages": [
                HI,
                {
                    "role": "assistant",
                    "content": None,
                    "reasoning": "Hm",
                    "tool_calls": [call('{"city": "Köln", "n": 1.50}'), call("", "b")],
                },
                {"role": "tool", "tool_call_id": "b", "content": "sun"},
                {"role": "tool", "tool_call_id": "a", "content": "rain"},
            ],
            "tools": [{**TOOL, "function": {**WEATHER, "strict": True}}],
        },
        {
            "messages": [
                HI,
                {
                    "role": "assistant",
                    "content": "",
                    "thinking": "Hm",
                    "tool_calls": [
                        {
                            "id": "a",
                            "function": {
                                "index": 0,
                                "name": "weather",
                                "arguments": {"city": "Köln", "n": 1.5},
                            },
                        },
                        {"id": "b", "function": {"index": 1, "name": "weather", "arguments": {}}},
                    ],
                },
                {"role": "tool", "content": "sun", "tool_name": "weather", "tool_call_id": "b"},
                {"role": "tool", "content": "rain", "tool_name": "weather", "tool_call_id": "a"},
            ],
            "tools": [TOOL],
        },
    ),
    "no tool may be called": ({"messages": [HI], "tools": [TOOL], "tool_choice": "none"}, {"messages": [HI]}),
    "one tool must be called": (
        {
            "messages": [HI],
            "tools": [TOOL, {"type": "function", "function": {"name": "other"}}],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        },
        {"messages": [HI], "tools": [TOOL], "format": CALL},
    ),
    "some tools may be called": (
        {
            "messages": [HI],
            "tools": [TOOL, {"type": "function", "function": {"name": "other"}}],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "weather"}}],
                },
            },
        },
        {"messages": [HI], "tools": [TOOL]},
    ),
}


@pytest.mark.parametrize(("given", "expected"), OPENAI_TO_OLLAMA.values(), ids=OPENAI_TO_OLLAMA)
def test_openai_to_ollama(given: Any, expected: Any) -> None:
    request = openai_request.decode_request(body(given))
    assert json.loads(ollama_server.encode_request(request)) == {**TO_OLLAMA, **expected}


ANTHROPIC_TO_OLLAMA = {
    "text": (
        {"messages": [HI], "system": "be", "max_tokens": 9, "metadata": {"user_id": "u"}},
        {"messages": [{"role": "system", "content": "be"}, HI], "options": {"num_predict": 9}},
    ),
    "blocks": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": PNG},
                        },
                        {"type": "text", "text": "b"},
                    ],
                }
            ],
            "system": [{"type": "text", "text": "be"}, {"type": "text", "text": "good"}],
        },
        {
            "messages": [
                {"role": "system", "content": "be\ngood"},
                {"role": "user", "content": "a\nb", "images": [PNG]},
            ]
        },
    ),
    "options": (
        {"messages": [HI], "temperature": 0.5, "top_k": 3, "top_p": 0.25, "stop_sequences": ["x"]},
        {"messages": [HI], "options": {"temperature": 0.5, "top_k": 3, "top_p": 0.25, "stop": ["x"]}},
    ),
    "thinking": (
        {"messages": [HI], "thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"messages": [HI], "think": True},
    ),
    "no thinking": ({"messages": [HI], "thinking": {"type": "disabled"}}, {"messages": [HI], "think": False}),
    "effort": (
        {"messages": [HI], "thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}},
        {"messages": [HI], "think": "max"},
    ),
    "tools": (
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm", "signature": "s"},
                        {"type": "redacted_thinking", "data": "x"},
                        {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Köln"}},
                        {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "a", "content": "rain"},
                        {
                            "type": "tool_result",
                            "tool_use_id": "b",
                            "is_error": True,
                            "content": [
                                {"type": "text", "text": "none"},
                                {"type": "image", "source": {"type": "base64", "data": PNG}},
                            ],
                        },
                        {"type": "text", "text": "So?"},
                    ],
                },
            ],
            "tools": [{"name": "weather", "description": "Tells it", "input_schema": SCHEMA}],
            "tool_choice": {"type": "tool", "name": "weather"},
        },
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": "",
                    "thinking": "Hm",
                    "tool_calls": [
                        {
                            "id": "a",
                            "function": {"index": 0, "name": "weather", "arguments": {"city": "Köln"}},
                        },
                        {"id": "b", "function": {"index": 1, "name": "weather", "arguments": {}}},
                    ],
                },
                {"role": "tool", "content": "rain", "tool_name": "weather", "tool_call_id": "a"},
                {
                    "role": "tool",
                    "content": "Error: none",
                    "images": [PNG],
                    "tool_name": "weather",
                    "tool_call_id": "b",
                },
                {"role": "user", "content": "So?"},
            ],
            "tools": [TOOL],
            "format": CALL,
        },
    ),
}


@pytest.mark.parametrize(("given", "expected"), ANTHROPIC_TO_OLLAMA.values(), ids=ANTHROPIC_TO_OLLAMA)
def test_anthropic_to_ollama(given: Any, expected: Any) -> None:
    request = anthropic_request.decode_prompt(body(given))
    assert json.loads(ollama_server.encode_request(request)) == {**TO_OLLAMA, **expected}


def test_what_only_llama_can_be_told_of_anthropics() -> None:
    given = {
        "messages": [HI],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [{"name": "weather", "input_schema": SCHEMA}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    sent = json.loads(llama_server.encode_request(anthropic_request.decode_prompt(body(given))))
    assert sent["thinking_budget_tokens"] == 1024
    assert sent["tool_choice"] == "required"
    assert sent["parallel_tool_calls"] is False


def test_results_without_calls_stay_as_they_are() -> None:
    messages = [
        Message("tool", "x"),
        Message("tool", "y", tool_call_id="gone", tool_name="f"),
        Message("assistant", tool_calls=[ToolCall("a", "f")]),
        Message("tool", "z", tool_name="g"),
    ]
    assert linked(messages) == messages


def test_linking_many_calls_takes_no_square_of_them() -> None:
    calls = Message("assistant", tool_calls=[ToolCall("", "f")] * 50_000)
    results = [Message("tool", "x", tool_name="f" if i % 2 else "") for i in range(50_000)]
    given = linked([calls, *results])[1:]
    assert len({message.tool_call_id for message in given}) == 50_000


OLLAMA, GENERATE, OPENAI, ANTHROPIC = (
    ollama_request.decode_chat,
    ollama_request.decode_generate,
    openai_request.decode_request,
    anthropic_request.decode_request,
)
WRONG = [
    (OLLAMA, {"model": 5}, "model"),
    (OLLAMA, {"messages": {}}, "messages"),
    (OLLAMA, {"messages": [5]}, "messages[0]"),
    (OLLAMA, {"messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
    (OLLAMA, {"messages": [{"content": "x"}]}, "messages[0]"),
    (OLLAMA, {"messages": [{**HI, "images": ["!"]}]}, "messages[0].images[0]"),
    (OLLAMA, {"messages": [{**HI, "images": ["aGVsbG8="]}]}, "messages[0].images[0]"),
    (
        OLLAMA,
        {"messages": [{**HI, "tool_calls": [call("{}")]}]},
        "messages[0].tool_calls[0].function.arguments",
    ),
    (OLLAMA, {"options": []}, "options"),
    (OLLAMA, {"options": {"temperature": "hot"}}, "options.temperature"),
    (OLLAMA, {"options": {"seed": 2**200}}, "options.seed"),
    (OLLAMA, {"options": {"stop": [1]}}, "options.stop[0]"),
    (OLLAMA, {"think": "very"}, "think"),
    (OLLAMA, {"format": "xml"}, "format"),
    (OLLAMA, {"format": 5}, "format"),
    (OLLAMA, {"keep_alive": "300"}, "keep_alive"),
    (OLLAMA, {"keep_alive": []}, "keep_alive"),
    (OLLAMA, {"top_logprobs": 21}, "top_logprobs"),
    (OLLAMA, {"tools": [{"type": "function"}]}, "tools[0]"),
    (GENERATE, {"prompt": 5}, "prompt"),
    (GENERATE, {"prompt": "x", "template": "{{ .Prompt }}"}, "template"),
    (GENERATE, {"prompt": "x", "raw": True, "images": [PNG]}, "images"),
    (GENERATE, {"prompt": "x", "raw": True, "system": "be"}, None),
    (OPENAI, {}, "messages"),
    (
        OPENAI,
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        "messages[0].content[0].type",
    ),
    (OPENAI, {"messages": [HI], "n": 2}, "n"),
    (OPENAI, {"messages": [HI], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
    (OPENAI, {"messages": [HI], "tool_choice": "sometimes"}, "tool_choice"),
    (OPENAI, {"messages": [HI], "response_format": {"type": "xml"}}, "response_format.type"),
    (OPENAI, {"messages": [HI], "response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (OPENAI, {"messages": [HI], "tools": [{"type": "custom", "function": {"name": "x"}}]}, "tools[0].type"),
    (OPENAI, {"messages": [HI], "max_completion_tokens": 1e300}, "max_completion_tokens"),
    (
        ANTHROPIC,
        {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
        "messages[0].content[0].source",
    ),
    (
        ANTHROPIC,
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        "messages[0].content[0].source",
    ),
    (ANTHROPIC, {"messages": [HI], "tool_choice": {"type": "some"}}, "tool_choice.type"),
]


@pytest.mark.parametrize(("decode", "given", "field"), WRONG)
def test_what_is_wrong_is_named(decode: Any, given: Any, field: str | None) -> None:
    with pytest.raises(ValueError) as caught:
        decode(body(given))
    assert isinstance(caught.value, FieldError)
    assert caught.value.field is not None or field is None
    assert (caught.value.field or "").startswith(field or "")


@pytest.mark.parametrize("decode", [OLLAMA, GENERATE, OPENAI, ANTHROPIC])
@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"[]",
        b"5",
        b"{",
        b'{"model":"m","x":' + b"[" * 100_000,
        b'{"model":"\xff"}',
        b'{"model":"\\ud800"}',
    ],
)
def test_no_json_object_at_all(decode: Any, given: bytes) -> None:
    with pytest.raises(FieldError):
        decode(given)


def test_what_ollama_cannot_be_told() -> None:
    def sent(message: Any) -> bytes:
        return ollama_server.encode_request(openai_request.decode_request(body({"messages": [message]})))

    picture = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
    with pytest.raises(FieldError, match=r"^messages\[0\].images\[0\]: image URLs"):
        sent({"role": "user", "content": [picture]})
    with pytest.raises(FieldError, match=r"^messages\[0\].tool_calls\[0\].function.arguments: is not"):
        sent({"role": "assistant", "tool_calls": [call("[]")]})


def test_an_image_that_nobody_fetches_breaks_no_later_turn() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
    history = [{"role": "user", "content": [picture]}, {"role": "assistant", "content": "I cannot."}, HI]
    request = openai_request.decode_request(body({"messages": history}))
    sent = json.loads(ollama_server.encode_request(request))["messages"]
    assert sent[0] == {
        "role": "user",
        "content": "[an image by URL was left out: this model cannot fetch it]",
    }
    assert "content.image" in ollama_server.ignored(request)


def test_kinds_of_request() -> None:
    assert isinstance(GENERATE(body({"prompt": "x"})), Chat)
    assert isinstance(GENERATE(body({"prompt": "x", "raw": True})), Completion)
    assert GENERATE(body({"prompt": "x", "keep_alive": -5})).keep_alive == math.inf
