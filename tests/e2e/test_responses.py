"""OpenAI's Responses on models of llama.cpp and of Ollama: its own client, and every event to the letter."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pydantic
import pytest

from tests.conftest import DEMO
from tests.gateway import Gateway, running
from tests.ollama_daemons import stand_in_daemon
from tests.openai_types import check_response, check_stream, events_of

Json = dict[str, Any]
MODELS = {"llama.cpp": "demo", "Ollama": "tiny"}
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
QUESTION = "How is the weather in Paris?"
IMAGE: Any = {
    "type": "input_image",
    "image_url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwAD"
    "hgGAWjR9awAAAABJRU5ErkJggg==",
}
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, cache: str, real_server: None) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("responses")
    with stand_in_daemon("--model", "tiny", "--thinking-model", "thinker") as url:
        config = {"llama_cpp": {"models": {"demo": DEMO}}, "ollama": {"host": url}}
        with running(config, folder, XDG_CACHE_HOME=cache) as started:
            started.wait_for("Ollama daemon answers")
            yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    """A chat model of each backend."""
    return MODELS[request.param]


def ask(gateway: Gateway, model: str, *, stream: bool, **fields: Any) -> tuple[Json, httpx.Response]:
    """The valid response to a request that fails nowhere, and its HTTP."""
    body = {"model": model, "input": "hello", "temperature": 0, "stream": stream, **fields}
    answer = gateway.client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    if stream:
        return check_stream(events_of(answer.content)), answer
    check_response(answer.json())
    return answer.json(), answer


@STREAMED
def test_text(gateway: Gateway, model: str, stream: bool) -> None:
    response, answer = ask(gateway, model, stream=stream, metadata={"a": "b"}, instructions="Be kind.")
    (message,) = response["output"]
    assert message["content"][0]["text"]
    assert response["status"] == "completed"
    assert response["usage"]["output_tokens"]
    assert (response["model"], response["metadata"], response["instructions"]) == (
        model,
        {"a": "b"},
        "Be kind.",
    )
    assert "X-Gateway-Ignored" not in answer.headers


@STREAMED
def test_a_limit(gateway: Gateway, model: str, stream: bool) -> None:
    response, _ = ask(gateway, model, stream=stream, max_output_tokens=3)
    assert (response["status"], response["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )


@STREAMED
def test_calls(gateway: Gateway, model: str, stream: bool) -> None:
    tools = [{"type": "web_search"}, WEATHER]
    response, answer = ask(gateway, model, stream=stream, input=QUESTION, tools=tools)
    (call,) = [item for item in response["output"] if item["type"] == "function_call"]
    assert (call["name"], json.loads(call["arguments"])) == ("get_weather", {"city": "Paris"})
    assert answer.headers["X-Gateway-Ignored"] == "tools web_search"
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "20 degrees"}
    history = [{"role": "user", "content": QUESTION}, *response["output"], result]
    final, _ = ask(gateway, model, stream=stream, input=history, tools=[WEATHER])
    assert final["output"][-1]["type"] == "message"


def test_what_the_client_streams_is_what_it_gets_whole(client: openai.OpenAI, model: str) -> None:
    whole = client.responses.create(model=model, input="hello", temperature=0)
    assert whole.output_text
    with client.responses.stream(model=model, input="hello", temperature=0) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert "".join(texts) == stream.get_final_response().output_text == whole.output_text


def test_the_clients_stream_of_a_call(client: openai.OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input=QUESTION, tools=[WEATHER]) as stream:
        kinds = [event.type for event in stream]
        (call,) = [item for item in stream.get_final_response().output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Paris"}
    assert kinds.count("response.function_call_arguments.done") == 1


class Count(pydantic.BaseModel):
    """What the schema's answer is read as."""

    n: int


def test_structured_output(client: openai.OpenAI, model: str) -> None:
    parsed = client.responses.parse(model=model, input="hello", text_format=Count, temperature=0)
    assert isinstance(parsed.output_parsed, Count)
    with client.responses.stream(model=model, input="hello", text_format=Count, temperature=0) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Count)
    any_object = client.responses.create(
        model=model, input="hello", text={"format": {"type": "json_object"}}, max_output_tokens=200
    )
    assert any_object.output_text.lstrip().startswith("{")


@STREAMED
@pytest.mark.parametrize("summary", [None, "auto"])
def test_reasoning(gateway: Gateway, stream: bool, summary: str | None) -> None:
    wish = {"effort": "high", "summary": summary}
    include = ["reasoning.encrypted_content"]
    response, answer = ask(gateway, "thinker", stream=stream, reasoning=wish, include=include)
    thought, message = response["output"]
    assert thought["summary" if summary else "content"][0]["text"] == "Let me think."
    assert (thought["type"], message["type"]) == ("reasoning", "message")
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    assert "X-Gateway-Ignored" not in answer.headers
    back = {"type": "reasoning", "summary": [], "encrypted_content": thought["encrypted_content"]}
    history = [{"role": "user", "content": "hello"}, back, message, {"role": "user", "content": "go on"}]
    again, _ = ask(gateway, "thinker", stream=stream, input=history)
    assert again["output"][-1]["content"][0]["text"].endswith("go on")
    quiet, _ = ask(gateway, "thinker", stream=stream, reasoning={"effort": "none"})
    assert [item["type"] for item in quiet["output"]] == ["message"]


def test_a_call_that_is_required_comes_before_a_format(gateway: Gateway, model: str) -> None:
    form = {"type": "json_schema", "name": "n", "strict": True, "schema": Count.model_json_schema()}
    fields: Any = {"tools": [WEATHER], "tool_choice": "required", "text": {"format": form}}
    response, _ = ask(gateway, model, stream=False, input=QUESTION, **fields)
    assert [item["type"] for item in response["output"]] == ["function_call"]


@STREAMED
def test_tools_and_a_format(gateway: Gateway, model: str, stream: bool) -> None:
    """The model calls while a tool fits, and then answers in the format."""
    form = {"type": "json_schema", "name": "n", "strict": True, "schema": Count.model_json_schema()}
    fields: Any = {"tools": [WEATHER], "text": {"format": form}, "max_output_tokens": 200}
    called, _ = ask(gateway, model, stream=stream, input=QUESTION, **fields)
    (call,) = called["output"]
    assert (call["type"], call["name"]) == ("function_call", "get_weather")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "20 degrees"}
    history = [{"role": "user", "content": QUESTION}, call, result]
    answered, _ = ask(gateway, model, stream=stream, input=history, **fields)
    (message,) = answered["output"]
    assert answered["status"] == "completed"
    if model == MODELS["Ollama"]:
        return  # the stand-in takes the first of several forms
    assert isinstance(json.loads(message["content"][0]["text"])["n"], int)


def test_a_history_of_another_models(client: openai.OpenAI, model: str) -> None:
    history: Any = [
        {"role": "user", "content": "hello"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
        {"role": "assistant", "content": "hello"},
        {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** Begin Patch"},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"},
        {"type": "item_reference", "id": "msg_unknown"},
        {"role": "user", "content": "go on"},
    ]
    raw = client.responses.with_raw_response.create(model=model, input=history, max_output_tokens=20)
    assert raw.parse().output_text
    assert raw.headers["X-Gateway-Ignored"] == "input[6] item_reference"


def test_tokens_of_an_input(client: openai.OpenAI, model: str) -> None:
    fields: Any = {"model": model, "input": "hello", "instructions": "Be kind."}
    counted = client.responses.input_tokens.count(**fields)
    used = client.responses.create(**fields, max_output_tokens=1).usage
    assert used is not None
    assert counted.to_dict() == {"object": "response.input_tokens", "input_tokens": used.input_tokens}


def test_a_custom_tool(gateway: Gateway) -> None:
    """The demo calls it like any function; what it writes is the tool's one text."""
    tool = {"type": "custom", "name": "get_weather", "description": "The weather"}
    for stream in (False, True):
        fields = {"input": QUESTION, "tools": [tool], "tool_choice": "required", "max_output_tokens": 40}
        response, _ = ask(gateway, "demo", stream=stream, **fields)
        (call,) = response["output"]
        assert (call["type"], call["name"]) == ("custom_tool_call", "get_weather")
        assert call["input"]


def test_what_is_refused(client: openai.OpenAI, model: str) -> None:
    body: Any = {"model": model, "input": "hello"}
    for fields, param in (
        ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "input"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "x"}}}}, "text.format"),
        ({"max_output_tokens": -5}, "max_output_tokens"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(**{**body, **fields})
        assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


def test_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="nope", input="hello")
    assert caught.value.code == "model_not_found"


def test_fields_of_llama_cpp_reach_it(gateway: Gateway) -> None:
    """A grammar that allows one word only."""
    response, _ = ask(gateway, "demo", stream=False, grammar='root ::= "llama"', top_k=1)
    assert response["output"][0]["content"][0]["text"] == "llama"


def test_llama_cpps_own_stays_reachable(gateway: Gateway) -> None:
    answer = gateway.client.post("/upstream/demo/v1/responses", json={"model": "demo", "input": "hello"})
    assert answer.status_code == 200
    assert answer.json()["object"] == "response"
