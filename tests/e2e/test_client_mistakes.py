"""Requests that cannot be meant, to a real llama.cpp server and to Ollama: 4xx, in the client's words.

SDKs try a 500 three times, so no mistake of a client may be one.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import DEMO
from tests.gateway import Gateway, Json, running
from tests.ollama_daemons import stand_in_daemon

HI: Any = {"role": "user", "content": "hello"}
LONG: Any = {"role": "user", "content": "llama " * 20_000}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ALTERNATING = (
    "{%- for m in messages -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{%- endif -%}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endfor -%}<|im_start|>assistant\n"
)

MISSING, TYPE, VALUE = "missing_required_parameter", "invalid_type", "invalid_value"
SCHEMA, UNSUPPORTED, LENGTH = "invalid_json_schema", "unsupported_value", "context_length_exceeded"
BACKENDS = ["demo", "tiny"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, cache: str, real_server: None) -> Iterator[Gateway]:
    strict = {**DEMO, "aliases": [], "arguments": ["--threads", "1", "--chat-template", ALTERNATING]}
    with stand_in_daemon("--model", "tiny") as url:
        config = {"llama_cpp": {"models": {"demo": DEMO, "strict": strict}}, "ollama": {"host": url}}
        folder = tmp_path_factory.mktemp("mistakes")
        with running(config, folder, XDG_CACHE_HOME=cache) as started:
            started.wait_for("Ollama daemon answers")
            yield started


def tool(name: str = "f", **fields: Any) -> Json:
    return {"type": "function", "function": {"name": name, **fields}}


def says(*content: Any) -> Json:
    return {"messages": [{"role": "user", "content": list(content)}]}


def history(arguments: Any) -> Json:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": "a", "content": "x"}
    return {"messages": [HI, {"role": "assistant", "content": None, "tool_calls": [call]}, result]}


def schema(value: Any) -> Json:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}
    return {"messages": [HI], "response_format": form}


def hi(**fields: Any) -> Json:
    return {"messages": [HI], **fields}


IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
FIRST = "messages[0].content"
ARGUMENTS = "messages[1].tool_calls[0].function.arguments"

CHAT: dict[str, tuple[Json, str | None, str]] = {
    "no messages at all": ({}, "messages", MISSING),
    "messages null": ({"messages": None}, "messages", TYPE),
    "messages a text": ({"messages": "hello"}, "messages", TYPE),
    "messages empty": ({"messages": []}, "messages", "empty_array"),
    "no role": ({"messages": [{"content": "hello"}]}, "messages[0].role", MISSING),
    "role a number": ({"messages": [{"role": 5, "content": "x"}]}, "messages[0].role", TYPE),
    "role unknown": ({"messages": [HI, {"role": "wizard", "content": "x"}]}, "messages[1].role", VALUE),
    "no content": ({"messages": [{"role": "user"}]}, FIRST, MISSING),
    "content null": ({"messages": [{"role": "user", "content": None}]}, FIRST, TYPE),
    "content a number": ({"messages": [{"role": "user", "content": 5}]}, FIRST, TYPE),
    "content an object": ({"messages": [{"role": "user", "content": {}}]}, FIRST, TYPE),
    "a part that is a text": (says("x"), f"{FIRST}[0]", TYPE),
    "a part without a type": (says({"text": "x"}), f"{FIRST}[0].type", MISSING),
    "a part of an unknown type": (says({"type": "hologram"}), f"{FIRST}[0].type", VALUE),
    "a text part without a text": (says({"type": "text"}), f"{FIRST}[0].text", MISSING),
    "a text part with a number": (says({"type": "text", "text": 5}), f"{FIRST}[0].text", TYPE),
    "an image part without an image": (says({"type": "image_url"}), f"{FIRST}[0].image_url", MISSING),
    "an image for a model without eyes": (says(IMAGE), "messages", UNSUPPORTED),
    "a tool without a name": (
        hi(tools=[{"type": "function", "function": {}}]),
        "tools[0].function.name",
        MISSING,
    ),
    "a tool without a function": (hi(tools=[{"type": "function"}]), "tools[0].function", MISSING),
    "a tool with an empty name": (hi(tools=[tool("")]), "tools[0].function.name", "empty_string"),
    "a tool that nobody can run": (hi(tools=[{"type": "web_search"}]), "tools[0].type", UNSUPPORTED),
    "a tool with a text as its schema": (
        hi(tools=[tool(parameters="x")]),
        "tools[0].function.parameters",
        TYPE,
    ),
    "a tool with a bad schema": (hi(tools=[tool(parameters={"type": "thing"})]), "tools", SCHEMA),
    "a choice of no tool": (
        hi(tools=[tool()], tool_choice={"type": "function", "function": {"name": "g"}}),
        "tool_choice",
        VALUE,
    ),
    "a choice without tools": (hi(tool_choice="required"), "tool_choice", VALUE),
    "a choice that is none": (hi(tools=[tool()], tool_choice="perhaps"), "tool_choice", VALUE),
    "a choice that is a number": (hi(tools=[tool()], tool_choice=5), "tool_choice", TYPE),
    "an allowed tool that is none": (
        hi(
            tools=[tool()],
            tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("g")]}},
        ),
        "tool_choice.allowed_tools.tools[0]",
        VALUE,
    ),
    "a result of no call": (
        {"messages": [HI, {"role": "tool", "tool_call_id": "a", "content": "x"}]},
        "messages[1].role",
        VALUE,
    ),
    "parallel calls in words": (hi(parallel_tool_calls="no"), "parallel_tool_calls", TYPE),
    "arguments that are no JSON": (history("{a"), ARGUMENTS, VALUE),
    "arguments that are a list": (history("[1]"), ARGUMENTS, VALUE),
    "arguments that are a number": (history(5), ARGUMENTS, TYPE),
    "too long a prompt": ({"messages": [LONG]}, "messages", LENGTH),
    "a negative limit": (hi(max_tokens=-5), "max_tokens", "integer_below_min_value"),
    "a negative limit by the newer name": (
        hi(max_completion_tokens=-5),
        "max_completion_tokens",
        "integer_below_min_value",
    ),
    "a limit beyond all numbers": (hi(max_tokens=10**30), "max_tokens", "integer_above_max_value"),
    "a limit in words": (hi(max_tokens="5"), "max_tokens", TYPE),
    "an unknown format": (hi(response_format={"type": "xml"}), "response_format.type", VALUE),
    "a format without a type": (hi(response_format={}), "response_format.type", MISSING),
    "a format in words": (hi(response_format="json"), "response_format", TYPE),
    "a format without its schema": (
        hi(response_format={"type": "json_schema"}),
        "response_format.json_schema",
        MISSING,
    ),
    "a schema that is a number": (schema(7), "response_format.json_schema.schema", TYPE),
    "a schema that is none": (schema({"type": "thing"}), "response_format", SCHEMA),
    "a stop that is a number": (hi(stop=5), "stop", TYPE),
    "a stop at nothing": (hi(stop=["x", ""]), "stop", "empty_string"),
    "no answer": (hi(n=0), "n", "integer_below_min_value"),
    "answers in words": (hi(n="2"), "n", TYPE),
    "half an answer": (hi(n=1.5), "n", TYPE),
    "more answers than slots": (hi(n=1000), "n", ""),
    "probabilities by number": (hi(logprobs=5), "logprobs", TYPE),
    "negative alternatives": (hi(logprobs=True, top_logprobs=-1), "top_logprobs", "integer_below_min_value"),
    "usage in words": (hi(stream_options={"include_usage": "x"}), "stream_options.include_usage", TYPE),
    "sound as an answer": (hi(modalities=["audio"]), "modalities", UNSUPPORTED),
    "an effort by number": (hi(reasoning_effort=5), "reasoning_effort", TYPE),
    "heat in words": (hi(temperature="hot"), "temperature", TYPE),
}
"""The body of a chat, OpenAI's `param`, and its `code`; an empty one is not looked at."""

COMPLETION: dict[str, tuple[Json, str | None, str]] = {
    "no prompt": ({}, "prompt", MISSING),
    "prompt null": ({"prompt": None}, "prompt", TYPE),
    "prompt a number": ({"prompt": 5}, "prompt", TYPE),
    "prompt empty": ({"prompt": []}, "prompt", "empty_array"),
    "too long a prompt": ({"prompt": LONG["content"]}, "prompt", LENGTH),
    "a negative limit": ({"prompt": "x", "max_tokens": -9}, "max_tokens", "integer_below_min_value"),
    "no answer": ({"prompt": "x", "n": 0}, "n", "integer_below_min_value"),
    "a stop at nothing": ({"prompt": "x", "stop": ""}, "stop", "empty_string"),
    "a stop that is a number": ({"prompt": "x", "stop": 5}, "stop", TYPE),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", BACKENDS)
@pytest.mark.parametrize("mistake", CHAT)
def test_chat(gateway: Gateway, mistake: str, model: str, stream: bool) -> None:
    body, param, code = CHAT[mistake]
    check(gateway, "/v1/chat/completions", {"model": model, "stream": stream, **body}, (param, code))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", BACKENDS)
@pytest.mark.parametrize("mistake", COMPLETION)
def test_completions(gateway: Gateway, mistake: str, model: str, stream: bool) -> None:
    body, param, code = COMPLETION[mistake]
    check(gateway, "/v1/completions", {"model": model, "stream": stream, **body}, (param, code))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_roles_that_the_template_refuses(gateway: Gateway, stream: bool) -> None:
    body = {"model": "strict", "stream": stream, "messages": [HI, HI]}
    error = check(gateway, "/v1/chat/completions", body, ("messages", VALUE))
    assert error["message"] == "Conversation roles must alternate user/assistant"


def check(gateway: Gateway, path: str, body: Json, expected: tuple[str | None, str]) -> Json:
    param, code = expected
    response = gateway.client.post(path, json=body)
    assert response.status_code == 400, response.text
    error: Json = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (param, code or error["code"])
    assert error["message"]
    assert "{" not in error["message"]
    if code == LENGTH:
        assert error["n_prompt_tokens"] >= 20_000 > error["n_ctx"]
    return error


@pytest.mark.parametrize("model", BACKENDS)
@pytest.mark.parametrize("arguments", ["", " ", None, "{}", {}])
def test_calls_without_arguments(gateway: Gateway, model: str, arguments: Any) -> None:
    answer = gateway.chat(model, **history(arguments))
    assert answer.status_code == 200, answer.text


MESSAGES: dict[str, Json] = {
    "no messages": {},
    "messages empty": {"messages": []},
    "no role": {"messages": [{"content": "x"}]},
    "content a number": {"messages": [{"role": "user", "content": 5}]},
    "a text block without a text": says({"type": "text", "text": 5}),
    "an image for a model without eyes": says(
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    ),
    "too long a prompt": {"messages": [LONG]},
    "system a number": hi(system=5),
    "a stop that is a number": hi(stop_sequences=[5]),
    "a stop at nothing": hi(stop_sequences=[""]),
    "heat in words": hi(temperature="hot"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", BACKENDS)
@pytest.mark.parametrize("mistake", MESSAGES)
def test_anthropics_messages(gateway: Gateway, mistake: str, model: str, stream: bool) -> None:
    body = {"model": model, "max_tokens": 8, "stream": stream, **MESSAGES[mistake]}
    response = gateway.client.post("/v1/messages", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    if mistake == "too long a prompt":
        assert "prompt is too long: 20" in response.json()["error"]["message"]


OLLAMA: dict[str, Json] = {
    "messages a text": {"messages": "x"},
    "tools an object": hi(tools={}),
    "options a number": hi(options=5),
    "an unknown level": hi(think="zz"),
    "a stop that is a number": hi(options={"stop": 5}),
    "a limit in words": hi(options={"num_predict": "many"}),
    "an image for a model without eyes": {"messages": [{**HI, "images": [PIXEL]}]},
    "a schema that is none": hi(format={"type": "thing"}),
    "a tool with a bad schema": hi(tools=[tool(parameters={"type": "thing"})]),
    "a wrong time to stay": hi(keep_alive="soon"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", BACKENDS)
@pytest.mark.parametrize("mistake", OLLAMA)
def test_ollamas_chat(gateway: Gateway, mistake: str, model: str, stream: bool) -> None:
    body = {"model": model, "stream": stream, **OLLAMA[mistake]}
    response = gateway.client.post("/api/chat", json=body)
    assert response.status_code == 400, response.text
    assert isinstance(response.json()["error"], str)


def test_a_long_conversation_of_ollamas_own_client(gateway: Gateway) -> None:
    """Ollama leaves out its beginning; a llama.cpp server cannot."""
    told = gateway.client.post("/api/chat", json={"model": "tiny", "messages": [LONG], "stream": False})
    assert told.status_code == 200
    told = gateway.client.post("/api/chat", json={"model": "demo", "messages": [LONG], "stream": False})
    assert told.status_code == 400
    assert "exceeds the available context size" in told.json()["error"]


FITTING: Any = [{"role": "user", "content": "How is the weather?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [tool(f"{name}_weather", parameters=CITY) for name in ("first", "second", "third")]
SECOND = {"type": "function", "function": {"name": "second_weather"}}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", BACKENDS)
@pytest.mark.parametrize(
    "choice",
    [
        SECOND,
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [SECOND]}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [SECOND]}},
    ],
    ids=["named", "allowed and required", "allowed"],
)
def test_the_tool_that_is_named_is_called(gateway: Gateway, model: str, choice: Any, stream: bool) -> None:
    fields = {"messages": FITTING, "tools": TOOLS, "tool_choice": choice, "max_tokens": 60}
    assert called(gateway, {"model": model, **fields}, stream) == ["second_weather"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_ollamas_models_are_forced_whatever_they_would_say(gateway: Gateway, stream: bool) -> None:
    fields = {"model": "tiny", "messages": [HI], "tools": TOOLS}
    assert called(gateway, {**fields, "tool_choice": "auto"}, stream) == []
    assert called(gateway, {**fields, "tool_choice": SECOND}, stream) == ["second_weather"]
    assert called(gateway, {**fields, "tool_choice": "required"}, stream) == ["first_weather"]


@pytest.mark.parametrize("model", BACKENDS)
def test_no_tool_is_called_if_none_may_be(gateway: Gateway, model: str) -> None:
    fields = {"messages": FITTING, "tools": TOOLS, "tool_choice": "none"}
    assert called(gateway, {"model": model, **fields}, stream=False) == []


def called(gateway: Gateway, body: Json, stream: bool) -> list[str]:
    """The names of the tools that are called."""
    answer = gateway.chat(**body, stream=stream)
    assert answer.status_code == 200, answer.text
    if not stream:
        calls = answer.json()["choices"][0]["message"].get("tool_calls") or []
        return [call["function"]["name"] for call in calls]
    return [
        call["function"]["name"]
        for chunk in events(answer.text)
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls") or []
        if call["function"].get("name")
    ]


@pytest.mark.parametrize("model", BACKENDS)
@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"function": {"name": "f"}}]},
        {"tools": [tool(description=None, parameters=None, strict=None)]},
        {"messages": [HI, {"role": "assistant"}, HI]},
        {
            "tools": None,
            "tool_choice": None,
            "stop": None,
            "n": None,
            "logprobs": None,
            "response_format": None,
        },
        {"response_format": {"type": "text"}, "tool_choice": "auto", "n": 1.0, "max_tokens": 3.0},
    ],
)
def test_what_clients_leave_out_or_say_is_null(gateway: Gateway, model: str, fields: Any) -> None:
    answer = gateway.chat(model, **fields)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("model", BACKENDS)
def test_calls_of_the_older_form(gateway: Gateway, model: str) -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "f_weather", "arguments": ""}}
    messages = [*FITTING, call, {"role": "function", "name": "f_weather", "content": "mild in Rome"}]
    answer = gateway.chat(model, messages=messages, max_tokens=60)
    assert answer.status_code == 200, answer.text
    assert "mild in Rome" in answer.json()["choices"][0]["message"]["content"]


def test_reasoning_of_a_model_that_does_not_reason(gateway: Gateway) -> None:
    assert gateway.chat("tiny", reasoning_effort="high").headers["X-Gateway-Ignored"] == "reasoning"
    assert "X-Gateway-Ignored" not in gateway.chat("tiny", reasoning_effort="none").headers


@pytest.mark.parametrize("model", BACKENDS)
def test_probabilities_beside_tools(gateway: Gateway, model: str) -> None:
    answer = gateway.chat(model, tools=TOOLS, logprobs=True, top_logprobs=2)
    assert answer.status_code == 200, answer.text


def events(text: str) -> list[Json]:
    """The chunks of a stream."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]
