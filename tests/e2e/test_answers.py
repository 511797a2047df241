"""Answers through the gateway against what the model server itself answers."""

import json
from typing import Any

import pytest
from openai.types.completion_choice import Logprobs

from tests.gateway import HELLO, Gateway

FUNCTION = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOOLS = [{"type": "function", "function": FUNCTION}]
WEATHER = [{"role": "user", "content": "How is the weather?"}]
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "schema": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    },
}
PLAIN = {"temperature": 0, "cache_prompt": False}
VOLATILE = {"id", "created", "created_at", "completed_at", "timings", "id_slot", "call_id"}


def stable(value: Any) -> Any:
    """Without what differs from one answer to the next."""
    if isinstance(value, dict):
        return {key: stable(item) for key, item in value.items() if key not in VOLATILE}
    return [stable(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 12}),
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 60, "stop": ["model"]}),
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 4, "logprobs": True, "top_logprobs": 2}),
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 4, "n": 2}),
        ("/v1/chat/completions", {"messages": WEATHER, "tools": TOOLS}),
        ("/v1/chat/completions", {"messages": WEATHER, "tools": TOOLS, "tool_choice": "required"}),
        ("/v1/chat/completions", {"messages": HELLO, "response_format": SCHEMA, "max_tokens": 40}),
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 0}),
        ("/v1/completions", {"prompt": "A llama is a calm", "max_tokens": 6}),
        ("/v1/completions", {"prompt": ["A llama", "Docker is"], "max_tokens": 4}),
        ("/completion", {"prompt": "A llama is", "n_predict": 5}),
        ("/completion", {"prompt": "A llama is", "n_predict": 5, "return_tokens": True, "n_probs": 2}),
        ("/completion", {"prompt": ["A llama", "Docker is"], "n_predict": 3}),
        ("/v1/messages/count_tokens", {"messages": HELLO}),
        ("/tokenize", {"content": "hello docker"}),
        ("/detokenize", {"tokens": [300, 301]}),
        ("/apply-template", {"messages": HELLO}),
    ],
)
def test_whole_answers_equal_the_model_servers_own(gateway: Gateway, path: str, body: dict[str, Any]) -> None:
    request = {"model": "demo", **body}
    if path not in ("/tokenize", "/detokenize", "/apply-template", "/v1/messages/count_tokens"):
        request |= PLAIN
    through = gateway.client.post(path, json=request)
    with gateway.direct("demo") as client:
        direct = client.post(path, json=request)
    assert through.status_code == direct.status_code == 200, (through.text, direct.text)
    # The n-th choice or prompt may find the others' common prefix in the cache, or come before it.
    assert _without_cache(stable(through.json())) == _without_cache(stable(direct.json()))


def _without_cache(value: Any) -> Any:
    text = json.dumps(value, sort_keys=True)
    for name in ("cached_tokens", "tokens_cached", "cache_read_input_tokens", "input_tokens"):
        head, *rest = text.split(f'"{name}": ')
        text = head + "".join(f'"{name}": _{part.lstrip("0123456789")}' for part in rest)
    # generation_settings tells the whole request back, and what the gateway added to it.
    return text.replace('"return_progress": true', '"return_progress": false')


def _events(response: Any) -> list[str]:
    return [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]


def test_streamed_chat_says_the_same_as_a_whole_one(gateway: Gateway) -> None:
    whole = gateway.chat(max_tokens=30).json()["choices"][0]["message"]["content"]
    response = gateway.chat(max_tokens=30, stream=True)
    *chunks, last = _events(response)
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert last == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in parsed) == whole
    assert parsed[-1]["choices"][0]["finish_reason"] == "length"
    assert not any("usage" in chunk or "prompt_progress" in chunk for chunk in parsed)


def test_usage_and_progress_come_when_asked_for(gateway: Gateway) -> None:
    options: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
    }
    chunks = [json.loads(event) for event in _events(gateway.chat(**options))[:-1]]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 8
    assert "prompt_progress" in chunks[0]


@pytest.mark.parametrize("path", ["/completion", "/v1/completions"])
def test_streams_equal_the_model_servers_own(gateway: Gateway, path: str) -> None:
    request = {"model": "demo", "messages": HELLO, "prompt": "A llama", "stream": True}
    request |= {"max_tokens": 6, "n_predict": 6, **PLAIN}
    through = gateway.client.post(path, json=request)
    with gateway.direct("demo") as client:
        direct = client.post(path, json=request)
    assert [_typed(event) for event in _events(through)] == [_typed(event) for event in _events(direct)]


def _typed(event: str) -> Any:
    """An event without its ids and times."""
    if event == "[DONE]":
        return event
    value = stable(json.loads(event))
    value.pop("item_id", None)
    return _without_cache(value)


def test_embeddings(gateway: Gateway) -> None:
    response = gateway.client.post("/v1/embeddings", json={"model": "demo-embed", "input": ["a", "docker"]})
    assert [len(item["embedding"]) for item in response.json()["data"]] == [320, 320]


def test_rerank_without_a_reranking_model_says_so(gateway: Gateway) -> None:
    body = {"model": "demo", "query": "a", "documents": ["b"]}
    response = gateway.client.post("/v1/rerank", json=body)
    assert response.status_code == 400
    assert "rerank" in response.json()["error"]["message"]


def test_infill_without_such_tokens_says_so(gateway: Gateway) -> None:
    body = {"model": "demo", "input_prefix": "a", "input_suffix": "b"}
    response = gateway.client.post("/infill", json=body)
    assert response.status_code == 400
    assert "Infill" in response.json()["error"]["message"]


def test_aliases_and_listing(gateway: Gateway) -> None:
    assert gateway.chat("org/demo:latest").json()["model"] == "demo"
    listed = gateway.client.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["demo", "demo-embed"]
    assert gateway.client.get("/v1/models/org/demo:latest").json()["id"] == "demo"
    missing = gateway.client.get("/v1/models/no/such:one")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_props_slots_and_the_escape_hatch(gateway: Gateway) -> None:
    assert gateway.client.get("/props", params={"model": "demo"}).json()["total_slots"] == 4
    assert len(gateway.client.get("/slots", params={"model": "demo"}).json()) == 4
    assert gateway.client.get("/props").status_code == 400
    hatch = gateway.client.get("/upstream/org/demo:latest/v1/models?x=%2F")
    assert hatch.json()["data"][0]["id"] == "demo"
    body = {"messages": HELLO, "max_tokens": 3, "stream": True}
    assert "[DONE]" in gateway.client.post("/upstream/demo/v1/chat/completions", json=body).text
    assert gateway.client.get("/upstream/demo/nothing").status_code == 404
    assert gateway.client.get("/upstream/nobody/x").status_code == 404


def test_unknown_fields_and_context_overflow(gateway: Gateway) -> None:
    long = [{"role": "user", "content": "llama " * 20000}]
    response = gateway.chat(messages=long, unknown_field={"a": [1, 2]})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["n_ctx"] == 16384


def test_the_log_line_of_a_request(gateway: Gateway) -> None:
    body = {"model": "demo", "messages": HELLO, "max_tokens": 5, "stream": True}
    response = gateway.client.post("/v1/chat/completions", json=body, headers={"X-Request-Id": "line-1"})
    assert response.headers["X-Request-Id"] == "line-1"
    line = gateway.wait_for("request", request_id="line-1")
    expected = {"status": 200, "outcome": "ok", "model": "demo", "completion_tokens": 5, "prompt_tokens": 10}
    assert {key: line[key] for key in expected} == expected
    assert line["total_ms"] >= line["first_token_ms"] >= 0
    assert line["queued_ms"] >= 0


@pytest.mark.parametrize("stream", [False, True])
def test_probabilities_of_completions_have_openais_form(gateway: Gateway, stream: bool) -> None:
    """llama.cpp writes them as a chat's, which OpenAI's clients do not read."""
    body = {"model": "demo", "prompt": "A llama", "max_tokens": 3, "logprobs": 2, "stream": stream, **PLAIN}
    response = gateway.client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    lines = response.text.splitlines() if stream else [f"data: {response.text}"]
    answers = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    choices = [choice for answer in answers for choice in answer["choices"] if choice["logprobs"]]
    text = "".join(choice["text"] for choice in choices)
    tokens = [token for choice in choices for token in choice["logprobs"]["tokens"]]
    offsets = [offset for choice in choices for offset in choice["logprobs"]["text_offset"]]
    assert "".join(tokens) == text
    assert [text[begin:].startswith(token) for begin, token in zip(offsets, tokens, strict=True)] == [
        True
    ] * 3
    for choice in choices:
        Logprobs.model_validate(choice["logprobs"], strict=True)
        assert all(len(top) == 2 for top in choice["logprobs"]["top_logprobs"])


def test_a_suffix_is_not_passed_over(gateway: Gateway) -> None:
    body = {"model": "demo", "prompt": "a", "suffix": "b"}
    response = gateway.client.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert "Infill is not supported" in response.json()["error"]["message"]


@pytest.mark.parametrize("several", [{"prompt": ["a", "b"]}, {"prompt": "a", "n": 2}])
def test_a_stream_of_several_completions(gateway: Gateway, several: Any) -> None:
    body = {"model": "demo", "max_tokens": 3, "stream": True, **several}
    answer = gateway.client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    ends = [choice for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert sorted(choice["index"] for choice in ends) == [0, 1]
    assert "null\n" not in answer.text.replace("data: ", "\n")


def test_a_stream_of_several_answers_holds_nothing_else(gateway: Gateway) -> None:
    answer = gateway.chat(n=2, stream=True)
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert {choice["index"] for chunk in chunks for choice in chunk["choices"]} == {0, 1}
    assert not any("prompt_progress" in chunk for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_what_llama_cpp_passes_over_is_named(gateway: Gateway, stream: bool) -> None:
    fields: Any = {
        "store": False,
        "user": "me",
        "metadata": {},
        "prediction": {"type": "content", "content": "x"},
    }
    answer = gateway.chat(stream=stream, **fields)
    assert answer.headers["X-Gateway-Ignored"] == "user, prediction"
    assert "X-Gateway-Ignored" not in gateway.chat(stream=stream, top_k=3, n=1).headers
