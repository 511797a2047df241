"""The official clients of OpenAI and Anthropic, as their users call them."""

import json
from typing import Any

import anthropic
import openai
import pytest

from tests.gateway import Gateway

HELLO: Any = [{"role": "user", "content": "hello"}]
WEATHER: Any = [{"role": "user", "content": "How is the weather?"}]
TOOL: Any = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture
def client(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def claude(gateway: Gateway) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0)


def test_openai_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=HELLO, temperature=0)
    assert str(answer.choices[0].message.content).startswith("Hello! I am the demo model")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 20


def test_openai_stream(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(
        model="demo", messages=HELLO, stream=True, stream_options=options, temperature=0
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.endswith("models or llamas.")
    assert chunks[-1].usage is not None


@pytest.mark.parametrize("stream", [True, False])
def test_openai_tool_call(client: openai.OpenAI, stream: bool) -> None:
    tools: Any = [{"type": "function", "function": TOOL}]
    if stream:
        with client.chat.completions.stream(model="demo", messages=WEATHER, tools=tools) as events:
            message: Any = events.get_final_completion().choices[0].message
    else:
        answer = client.chat.completions.create(model="demo", messages=WEATHER, tools=tools)
        message = answer.choices[0].message
    call = message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Paris"}')
    reply: Any = [*WEATHER, message, {"role": "tool", "tool_call_id": call.id, "content": "20 degrees"}]
    final = client.chat.completions.create(model="demo", messages=reply, tools=tools, temperature=0)
    assert "20 degrees" in str(final.choices[0].message.content)


@pytest.mark.parametrize("stream", [True, False])
def test_openai_tools_and_a_format(client: openai.OpenAI, stream: bool) -> None:
    """llama.cpp itself would follow the format and call nothing."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    fields: Any = {
        "tools": [{"type": "function", "function": TOOL}],
        "response_format": form,
        "temperature": 0,
    }

    def ask(messages: Any) -> Any:
        if stream:
            with client.chat.completions.stream(model="demo", messages=messages, **fields) as events:
                return events.get_final_completion().choices[0]
        return client.chat.completions.create(model="demo", messages=messages, **fields).choices[0]

    called = ask(WEATHER)
    (call,) = called.message.tool_calls
    assert (called.finish_reason, call.function.name) == ("tool_calls", "get_weather")
    answered = ask([*WEATHER, called.message, {"role": "tool", "tool_call_id": call.id, "content": "20"}])
    assert answered.finish_reason == "stop"
    assert isinstance(json.loads(answered.message.content)["n"], int)


def test_openai_completions_embeddings_models_responses(client: openai.OpenAI) -> None:
    text = client.completions.create(model="demo", prompt="A llama is a calm", max_tokens=5, temperature=0)
    assert text.choices[0].text == " animal from the mountains of"
    vectors = client.embeddings.create(
        model="demo-embed", input=["docker container", "a container", "eats grass"]
    )
    docker, container, grass = (vector.embedding for vector in vectors.data)
    assert _cosine(docker, container) > _cosine(docker, grass)
    assert [model.id for model in client.models.list()] == ["demo", "demo-embed"]
    assert client.models.retrieve("org/demo:latest").id == "demo"
    response = client.responses.create(model="demo", input="hello", temperature=0)
    assert response.output_text.startswith("Hello! I am the demo model")
    kinds = [event.type for event in client.responses.create(model="demo", input="hello", stream=True)]
    assert kinds[0] == "response.created"
    assert kinds.count("response.in_progress") == 1
    assert kinds[-1] == "response.completed"


def _cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def test_openai_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model 'gpt-9' not found"):
        client.chat.completions.create(model="gpt-9", messages=HELLO)
    wrong: Any = "hello"
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model="demo", messages=wrong)
    long: Any = [{"role": "user", "content": "llama " * 20_000}]
    with pytest.raises(openai.BadRequestError) as caught:
        list(client.chat.completions.create(model="demo", messages=long, stream=True))
    assert caught.value.code == "context_length_exceeded"


def test_anthropic_messages(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(model="demo", max_tokens=8, messages=HELLO)
    assert (answer.type, answer.role, answer.stop_reason) == ("message", "assistant", "max_tokens")
    assert answer.content[0].text == "Hello! I am the demo model of"  # type: ignore[union-attr]
    assert answer.usage.output_tokens == 8
    with claude.messages.stream(model="demo", max_tokens=8, messages=HELLO) as events:
        assert "".join(events.text_stream) == "Hello! I am the demo model of"
    assert claude.messages.count_tokens(model="demo", messages=HELLO).input_tokens == 10


def test_anthropic_tool_call(claude: anthropic.Anthropic) -> None:
    tools: Any = [{"name": "get_weather", "input_schema": TOOL["parameters"]}]
    answer = claude.messages.create(model="demo", max_tokens=60, messages=WEATHER, tools=tools)
    block: Any = answer.content[0]
    assert (answer.stop_reason, block.type, block.input) == ("tool_use", "tool_use", {"city": "Paris"})


def test_anthropic_errors(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="not found"):
        claude.messages.create(model="gpt-9", max_tokens=8, messages=HELLO)
    wrong: Any = 5
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        claude.messages.create(model="demo", max_tokens=8, messages=wrong)
