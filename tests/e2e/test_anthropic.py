"""Anthropic's official client on models of llama.cpp and of Ollama: its types are held strictly."""

import json
import re
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pydantic
import pytest
from anthropic import beta_tool
from anthropic.types import ModelInfo

from tests.conftest import DEMO
from tests.gateway import Gateway, Json, running
from tests.ollama_daemons import stand_in_daemon
from tests.proxy.apis.anthropic.official import message_of, whole_message

HELLO: Any = [{"role": "user", "content": "hello"}]
WEATHER: Any = [{"role": "user", "content": "How is the weather in Paris?"}]
CITY: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"name": "get_weather", "description": "The weather", "input_schema": CITY}
SCHEMA: Any = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
PDF: Any = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, cache: str, real_server: None) -> Iterator[Gateway]:
    """With a model of each kind behind it; Ollama's thinks before it answers."""
    with stand_in_daemon("--thinking-model", "tiny") as url:
        config = {"llama_cpp": {"models": {"demo": DEMO}}, "ollama": {"host": url}}
        with running(config, tmp_path_factory.mktemp("anthropic"), XDG_CACHE_HOME=cache) as started:
            started.wait_for("Ollama daemon answers")
            yield started


@pytest.fixture(params=["demo", "tiny"], ids=["llama.cpp", "Ollama"])
def model(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def claude(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0) as opened:
        yield opened


def ask(gateway: Gateway, model: str, messages: Any, **fields: Any) -> httpx.Response:
    body = {"model": model, "max_tokens": 60, "temperature": 0, "messages": messages, **fields}
    headers = {"anthropic-version": "2023-06-01", "x-api-key": "none"}
    return gateway.client.post("/v1/messages", json=body, headers=headers)


@pytest.mark.parametrize("stream", [False, True])
def test_answers_have_the_official_types(gateway: Gateway, model: str, stream: bool) -> None:
    response = ask(gateway, model, HELLO, stream=stream)
    assert response.headers["request-id"] == response.headers["x-request-id"]
    message = (message_of if stream else whole_message)(response.content)
    assert message.id.startswith("msg_")
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 0
    assert message.usage.output_tokens > 3
    kinds = [block.type for block in message.content]
    assert kinds == (["text"] if model == "demo" else ["thinking", "text"])


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_have_the_official_types(gateway: Gateway, model: str, stream: bool) -> None:
    response = ask(gateway, model, WEATHER, stream=stream, tools=[TOOL])
    message = (message_of if stream else whole_message)(response.content)
    assert message.stop_reason == "tool_use"
    block = message.content[-1]
    assert block.type == "tool_use"
    assert (block.name, block.input) == ("get_weather", {"city": "Paris"})
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "20 degrees"}
    turn = {"role": "assistant", "content": [one.to_dict() for one in message.content]}
    reply = ask(gateway, model, [*WEATHER, turn, {"role": "user", "content": [result]}], tools=[TOOL])
    assert whole_message(reply.content).content[-1].type == "text"


def test_the_first_event_counts_the_prompt(gateway: Gateway) -> None:
    events = ask(gateway, "demo", HELLO, stream=True).text.split("\n\n")
    start = json.loads(events[0].partition("data: ")[2])["message"]["usage"]
    delta = json.loads(events[-3].partition("data: ")[2])["usage"]
    assert start["input_tokens"] + start["cache_read_input_tokens"] > 0
    assert {**start, "output_tokens": 0} == {**delta, "output_tokens": 0}


def test_a_stop_sequence_is_named(claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(
        model="demo", max_tokens=60, messages=HELLO, stop_sequences=["never", "model of"]
    )
    assert (whole.stop_reason, whole.stop_sequence) == ("stop_sequence", "model of")
    with claude.messages.stream(
        model="demo", max_tokens=60, messages=HELLO, stop_sequences=["model of"]
    ) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", "model of")
    assert [block.to_dict()["text"] for block in final.content] == ["Hello! I am the demo "]


def test_stream_helper(claude: anthropic.Anthropic, model: str) -> None:
    with claude.messages.stream(model=model, max_tokens=60, messages=HELLO) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
        assert stream.request_id
    assert text
    assert final.content[-1].type == "text"
    assert final.content[-1].text == text


class Number(pydantic.BaseModel):
    n: int


@pytest.mark.parametrize("stream", [False, True])
def test_structured_output(claude: anthropic.Anthropic, model: str, stream: bool) -> None:
    if stream:
        with claude.messages.stream(
            model=model, max_tokens=200, messages=HELLO, output_format=Number
        ) as events:
            parsed = events.get_final_message().parsed_output
    else:
        message = claude.messages.parse(model=model, max_tokens=200, messages=HELLO, output_format=Number)
        parsed = message.parsed_output
    assert isinstance(parsed, Number)


def test_the_older_name_of_structured_output(gateway: Gateway, model: str) -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    answer = ask(gateway, model, HELLO, output_format=form, max_tokens=200)
    assert set(json.loads(answer.json()["content"][-1]["text"])) == {"n"}


def test_tool_runner(claude: anthropic.Anthropic, model: str) -> None:
    asked: list[str] = []

    @beta_tool
    def get_weather(city: str) -> str:
        """The weather.

        Args:
            city: Where
        """
        asked.append(city)
        return "20 degrees"

    runner = claude.beta.messages.tool_runner(
        model=model, max_tokens=60, messages=WEATHER, tools=[get_weather], max_iterations=2
    )
    messages = list(runner)
    assert asked[0] == "Paris"
    assert len(messages) == 2


def test_tokens_are_counted(claude: anthropic.Anthropic, gateway: Gateway, model: str) -> None:
    asked: Any = {"model": model, "messages": WEATHER, "tools": [TOOL], "system": "Be brief."}
    counted = claude.messages.count_tokens(**asked).input_tokens
    usage = claude.messages.create(max_tokens=5, **asked).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    response = gateway.client.post("/v1/messages/count_tokens", json={"model": model, "messages": []})
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


def test_tokens_of_a_prompt_that_is_too_long_are_counted(claude: anthropic.Anthropic) -> None:
    long: Any = [{"role": "user", "content": "llama " * 20_000}]
    assert claude.messages.count_tokens(model="demo", messages=long).input_tokens > 20_000


STRANGE: list[Json] = [
    {"role": "user", "content": "hello"},
    {
        "role": "assistant",
        "content": [
            {"type": "redacted_thinking", "data": "AAAA"},
            {"type": "thinking", "thinking": "Hm.", "signature": "from elsewhere"},
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
            {
                "type": "web_search_tool_result",
                "tool_use_id": "srvtoolu_1",
                "content": [
                    {"type": "web_search_result", "title": "A", "url": "https://a", "page_age": None}
                ],
            },
            {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "f", "server_name": "s", "input": {}},
            {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "is_error": True, "content": "no"},
            {"type": "hologram", "text": 5, "frames": [[1], {"x": None}], "id": {}},
            {"type": "text", "text": "Well.", "citations": []},
        ],
    },
    {"role": "user", "content": [{"type": "document", "source": PDF}, {"type": "text", "text": "And?"}]},
    {"role": "assistant", "content": []},
    {
        "role": "user",
        "content": [
            {"type": "document", "title": "T", "source": {"type": "text", "data": "About docker."}},
            {
                "type": "search_result",
                "source": "s",
                "title": "t",
                "content": [{"type": "text", "text": "u"}],
            },
            {"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}},
        ],
    },
]


@pytest.mark.parametrize("stream", [False, True])
def test_a_strange_history_breaks_nothing(gateway: Gateway, model: str, stream: bool) -> None:
    response = ask(gateway, model, STRANGE, stream=stream)
    assert response.status_code == 200, response.text
    assert response.headers["x-gateway-ignored"] == "content.redacted_thinking, content.document"
    line = gateway.wait_for("request", request_id=response.headers["request-id"])
    assert line["ignored"] == response.headers["x-gateway-ignored"]


def test_what_has_just_been_added_and_cannot_be_read_is_refused(
    claude: anthropic.Anthropic, model: str
) -> None:
    messages: Any = [{"role": "user", "content": [{"type": "document", "title": "Bill", "source": PDF}]}]
    with pytest.raises(
        anthropic.BadRequestError, match=r"content\[0\]: a document 'Bill' by application/pdf"
    ):
        claude.messages.create(model=model, max_tokens=8, messages=messages)


CODE: Json = {
    "max_tokens": 32000,
    "stream": True,
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=a5145;"},
        {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}},
    ],
    "metadata": {"user_id": "user_1_account__session_2"},
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "tools": [
        {**TOOL, "eager_input_streaming": True, "defer_loading": True},
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 5},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    ],
}


def test_a_coding_agent_is_served(gateway: Gateway, model: str) -> None:
    body = {"model": model, "messages": WEATHER, **CODE}
    headers = {"anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14"}
    response = gateway.client.post("/v1/messages?beta=true", json=body, headers=headers)
    assert response.status_code == 200, response.text
    assert message_of(response.content).stop_reason in ("tool_use", "end_turn")
    assert response.headers["x-gateway-ignored"] == "context_management, tools.web_search"


def test_a_tool_that_nobody_runs_is_refused_if_it_is_forced(claude: anthropic.Anthropic, model: str) -> None:
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    asked: Any = {"model": model, "max_tokens": 8, "messages": HELLO, "tools": [search]}
    with pytest.raises(anthropic.BadRequestError, match=r"tool_choice\.name: .*'web_search'"):
        claude.messages.create(**asked, tool_choice={"type": "tool", "name": "web_search"})
    with pytest.raises(anthropic.BadRequestError, match=r"tool_choice\.type: is any"):
        claude.messages.create(**asked, tool_choice={"type": "any"})
    assert claude.messages.create(**asked).content


def test_models(claude: anthropic.Anthropic, gateway: Gateway) -> None:
    page = claude.models.list()
    assert [model.id for model in page] == ["demo", "tiny:latest"]
    assert [model.id for model in claude.models.list(limit=1)] == ["demo", "tiny:latest"]  # by two pages
    assert [model.id for model in claude.models.list(before_id="tiny:latest").data] == ["demo"]
    assert claude.models.retrieve("demo").id == "demo"
    headers = {"anthropic-version": "2023-06-01"}
    one = gateway.client.get("/v1/models/demo", headers=headers)
    assert pydantic.TypeAdapter(ModelInfo).validate_json(one.content, strict=True).id == "demo"
    assert gateway.client.get("/v1/models/demo").json()["object"] == "model"
    with pytest.raises(anthropic.NotFoundError, match="'nope' not found"):
        claude.models.retrieve("nope")
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        claude.models.list(limit=0)


@pytest.mark.parametrize("stream", [False, True])
def test_too_long_a_prompt_is_told_in_anthropics_words(gateway: Gateway, model: str, stream: bool) -> None:
    error = ask(gateway, model, [{"role": "user", "content": "llama " * 20_000}], stream=stream).json()[
        "error"
    ]
    assert error["type"] == "invalid_request_error"
    assert re.fullmatch(r"prompt is too long: \d+ tokens > \d+ maximum", error["message"])


def test_an_empty_stop_sequence_is_named(claude: anthropic.Anthropic, model: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match="stop_sequences: an empty text"):
        claude.messages.create(model=model, max_tokens=8, messages=HELLO, stop_sequences=[""])


def test_errors(claude: anthropic.Anthropic, model: str) -> None:
    wrong: Any = [{"role": "tool", "content": "x"}]
    with pytest.raises(anthropic.BadRequestError, match="role") as caught:
        claude.messages.create(model=model, max_tokens=8, messages=wrong)
    body: Any = caught.value.body
    assert caught.value.request_id == body["request_id"]
