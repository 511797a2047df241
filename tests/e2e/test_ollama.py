"""Clients of Ollama, OpenAI and Anthropic, on models of llama.cpp and of Ollama, all through one gateway.

Every test runs before the stand-in for Ollama, and before a real one where there is one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest

from actors.demo.model import write_demo
from tests.conftest import DEMO, EMBED
from tests.gateway import Gateway, running, until
from tests.ollama_daemons import real_daemon, stand_in_daemon

HELLO: Any = [{"role": "user", "content": "hello"}]
WEATHER: Any = [{"role": "user", "content": "How is the weather in Paris?"}]
FUNCTION: Any = {
    "name": "get_weather",
    "description": "The weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOL: Any = {"type": "function", "function": FUNCTION}
SCHEMA: Any = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
STEADY: Any = {"temperature": 0, "seed": 1, "num_predict": 40}
NOT_FOUND = 'model "nope" not found, try pulling it first'
BACKENDS = ["llama.cpp", "Ollama"]
CHATS = {"llama.cpp": "demo", "Ollama": "tiny"}
EMBEDS = {"llama.cpp": "demo-embed", "Ollama": "tiny-embed"}


@pytest.fixture(scope="module", params=["stand-in", "real"])
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: str, real_server: None
) -> Iterator[Gateway]:
    """With a model of each kind behind it."""
    folder = tmp_path_factory.mktemp("ollama")
    if request.param == "real":
        daemon = real_daemon(folder, {"tiny": False, "tiny-embed": True})
    else:
        daemon = stand_in_daemon("--model", "tiny", "--model", "tiny-embed", "--remote", "far")
    with daemon as url:
        config = {"llama_cpp": {"models": {"demo": DEMO, "demo-embed": EMBED}}, "ollama": {"host": url}}
        with running(config, folder, XDG_CACHE_HOME=cache) as started:
            started.wait_for("Ollama daemon answers")
            yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[ollama.Client]:
    with ollama.Client(host=gateway.url) as opened:
        yield opened


@pytest.fixture
def gpt(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture(params=BACKENDS)
def model(request: pytest.FixtureRequest) -> str:
    """A chat model of each backend."""
    return CHATS[request.param]


@pytest.fixture(params=BACKENDS)
def embedder(request: pytest.FixtureRequest) -> str:
    """A model for embeddings of each backend."""
    return EMBEDS[request.param]


# Ollama's client


def test_chat(client: ollama.Client, model: str) -> None:
    whole = client.chat(model, HELLO, options=STEADY)
    assert whole.message.content
    assert whole.model == model
    assert whole.done_reason in ("stop", "length")
    assert whole.eval_count
    assert whole.total_duration
    parts = list(client.chat(model, HELLO, options=STEADY, stream=True))
    assert len(parts) > 3
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


def test_generate(client: ollama.Client, model: str) -> None:
    whole = client.generate(model, "hello", options=STEADY)
    assert whole.response
    parts = list(client.generate(model, "hello", options=STEADY, stream=True))
    assert "".join(part.response or "" for part in parts) == whole.response
    assert parts[-1].context is not None
    assert client.generate(model, "A llama is", raw=True, options={"num_predict": 4}).response


@pytest.mark.parametrize("stream", [False, True])
def test_a_context_that_is_sent_again(gateway: Gateway, stream: bool) -> None:
    """The model reads what was said before."""

    def last_of(**fields: Any) -> Any:
        body = {"model": "demo", "prompt": "hello", "options": STEADY, "stream": stream, **fields}
        return json.loads(gateway.client.post("/api/generate", json=body).text.splitlines()[-1])

    first = last_of()
    second = last_of(context=first["context"])
    assert second["prompt_eval_count"] > first["prompt_eval_count"] + first["eval_count"] / 2
    assert len(second["context"]) > len(first["context"])


def test_length(client: ollama.Client, model: str) -> None:
    assert client.chat(model, HELLO, options={"num_predict": 3}).done_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_tools(client: ollama.Client, model: str, stream: bool) -> None:
    if stream:
        parts = list(client.chat(model, WEATHER, tools=[TOOL], stream=True))
        calls = [call for part in parts for call in part.message.tool_calls or []]
    else:
        calls = list(client.chat(model, WEATHER, tools=[TOOL]).message.tool_calls or [])
    (call,) = calls
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Paris"})
    turn = {"role": "assistant", "content": "", "tool_calls": [call.model_dump()]}
    reply = [*WEATHER, turn, {"role": "tool", "tool_name": "get_weather", "content": "20 degrees"}]
    assert client.chat(model, reply).message.content


@pytest.mark.parametrize("stream", [False, True])
def test_ignored_fields_are_named(gateway: Gateway, stream: bool) -> None:
    fields = {"logit_bias": {"1": 1}, "n": 1, "top_k": 3, "x\ny": 1, "stream": stream}
    answer = gateway.chat("tiny", **fields)
    assert answer.status_code == 200
    assert answer.headers["X-Gateway-Ignored"] == "logit_bias, x?y"
    request_id = answer.headers["X-Request-Id"]
    assert gateway.wait_for("request", request_id=request_id)["ignored"] == "logit_bias, x\ny"
    assert "X-Gateway-Ignored" not in gateway.chat("demo", **fields).headers  # llama.cpp may know them


def test_schema(client: ollama.Client, model: str) -> None:
    answer = client.chat(model, HELLO, format=SCHEMA, options={"temperature": 0, "num_predict": 200})
    assert isinstance(json.loads(answer.message.content or "")["n"], int)


def test_embed(client: ollama.Client, embedder: str) -> None:
    answer = client.embed(embedder, ["a llama", "a container"])
    first, second = answer.embeddings
    assert first != second
    assert sum(value * value for value in first) == pytest.approx(1, abs=1e-3)
    assert list(client.embeddings(embedder, "a llama").embedding) == pytest.approx(list(first), abs=1e-3)


TOO_LONG = "llama " * 20_000


def test_a_text_that_is_too_long(client: ollama.Client, gpt: openai.OpenAI, embedder: str) -> None:
    cut = client.embed(embedder, ["a llama", TOO_LONG])
    assert len(cut.embeddings) == 2
    assert cut.prompt_eval_count is not None
    assert 4000 < cut.prompt_eval_count < 4200  # of the context of both
    assert client.embeddings(embedder, TOO_LONG).embedding
    with pytest.raises(ollama.ResponseError, match="the input length exceeds the context length") as told:
        client.embed(embedder, TOO_LONG, truncate=False)
    assert told.value.status_code == 400
    with pytest.raises(openai.BadRequestError) as caught:
        gpt.embeddings.create(model=embedder, input=["a llama", TOO_LONG])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
    answer = gpt.embeddings.create(model=embedder, input=TOO_LONG, extra_body={"truncate": True})
    assert answer.data[0].embedding


def test_fewer_dimensions(client: ollama.Client, gpt: openai.OpenAI, embedder: str) -> None:
    whole = gpt.embeddings.create(model=embedder, input="a llama").data[0].embedding
    for short in (
        gpt.embeddings.create(model=embedder, input="a llama", dimensions=4).data[0].embedding,
        gpt.embeddings.create(model=embedder, input="a llama", dimensions=4, encoding_format="float")
        .data[0]
        .embedding,
        client.embed(embedder, "a llama", dimensions=4).embeddings[0],
    ):
        assert len(short) == 4
        assert sum(value * value for value in short) == pytest.approx(1, abs=1e-3)
        assert short[0] * whole[1] == pytest.approx(short[1] * whole[0], abs=1e-3)
    with pytest.raises(openai.BadRequestError, match="99999 are more than the") as caught:
        gpt.embeddings.create(model=embedder, input="a llama", dimensions=99_999)
    assert caught.value.param == "dimensions"


def test_tokens_are_a_models_own(gpt: openai.OpenAI) -> None:
    one, two = ([5, 6], [[5, 6], [7]])
    assert len(gpt.embeddings.create(model="demo-embed", input=one).data) == 1
    assert len(gpt.embeddings.create(model="demo-embed", input=two).data) == 2
    with pytest.raises(openai.BadRequestError, match="takes no tokens; send text") as caught:
        gpt.embeddings.create(model="tiny-embed", input=one)
    assert caught.value.param == "input"


def test_listing(client: ollama.Client, gateway: Gateway, gpt: openai.OpenAI) -> None:
    names = ["demo:latest", "demo-embed:latest", "tiny:latest", "tiny-embed:latest"]
    assert sorted(entry.model or "" for entry in client.list().models) == sorted(names)
    known = {entry.id: entry.owned_by for entry in gpt.models.list()}
    assert known["demo"] == "llama-smart-proxy"
    assert known["tiny:latest"] == "ollama"
    assert gpt.models.retrieve("tiny").id == "tiny:latest"
    (state,) = gateway.health()["ollama"]
    assert state["reachable"]


def test_show(client: ollama.Client, model: str) -> None:
    shown = client.show(model)
    assert shown.details is not None
    family = shown.details.family
    assert family in ("llama", "gemma3")
    assert {"completion", "tools"} <= set(shown.capabilities or [])
    info = shown.modelinfo or {}
    assert info["general.architecture"] == family
    assert info[f"{family}.context_length"]


@pytest.mark.parametrize("stream", [False, True])
def test_all_counters_are_there_though_nothing_was_loaded(
    gateway: Gateway, model: str, embedder: str, stream: bool
) -> None:
    body = {"model": model, "messages": HELLO, "options": STEADY, "stream": stream}
    gateway.client.post("/api/chat", json=body)
    last = json.loads(gateway.client.post("/api/chat", json=body).text.splitlines()[-1])
    counters = {"total_duration", "load_duration", "prompt_eval_count", "eval_count", "eval_duration"}
    assert counters <= set(last)
    embedded = gateway.client.post("/api/embed", json={"model": embedder, "input": "x"}).json()
    assert {"total_duration", "load_duration", "prompt_eval_count"} <= set(embedded)


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_model_cannot_do_is_refused_in_ollamas_words(
    gateway: Gateway, model: str, stream: bool
) -> None:
    for path, fields, word in (
        ("/api/chat", {"messages": HELLO, "think": "high"}, "thinking"),
        ("/api/generate", {"prompt": "hello", "think": True}, "thinking"),
        ("/api/generate", {"prompt": "def f(", "suffix": "return 1"}, "insert"),
    ):
        answer = gateway.client.post(path, json={"model": model, "stream": stream, **fields})
        assert answer.status_code == 400
        assert f"does not support {word}" in answer.json()["error"]


def test_nobody_is_signed_in(gateway: Gateway) -> None:
    answer = gateway.client.post("/api/me")
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")


def test_show_with_all_arrays_and_tensors(gateway: Gateway) -> None:
    """Of a llama.cpp model; a daemon shows its own."""
    short, whole = (
        gateway.client.post("/api/show", json={"model": "demo", "verbose": verbose}).json()
        for verbose in (False, True)
    )
    assert short["model_info"]["tokenizer.ggml.tokens"] is None
    assert "tensors" not in short
    tokens = whole["model_info"]["tokenizer.ggml.tokens"]
    assert "<|im_start|>" in tokens
    assert len(whole["model_info"]["tokenizer.ggml.token_type"]) == len(tokens)
    sizes = {tensor["name"]: tensor["shape"] for tensor in whole["tensors"]}
    assert len(tokens) in sizes["token_embd.weight"]
    assert short["details"] == whole["details"]


def test_load_and_unload(client: ollama.Client, gateway: Gateway, model: str) -> None:
    def running_names() -> list[str | None]:
        return [entry.model for entry in client.ps().models]

    assert client.generate(model, "", keep_alive="5m").done_reason == "load"
    (entry,) = [entry for entry in client.ps().models if entry.model == f"{model}:latest"]
    assert entry.expires_at is not None
    assert entry.context_length
    assert client.chat(model, [], keep_alive=0).done_reason == "unload"
    until(lambda: f"{model}:latest" not in running_names(), "unloaded")
    assert client.generate(model, "", keep_alive=0).done_reason == "unload"
    assert f"{model}:latest" not in running_names()


def test_keep_alive_zero_lets_it_go_after_the_answer(client: ollama.Client, model: str) -> None:
    assert client.chat(model, HELLO, options=STEADY, keep_alive=0).message.content
    until(lambda: f"{model}:latest" not in [m.model for m in client.ps().models], "unloaded")


def test_thinking_and_unknown_fields(gateway: Gateway, model: str) -> None:
    body = {"model": model, "messages": HELLO, "think": False, "stream": False, "no_such_field": 1}
    assert gateway.client.post("/api/chat", json=body).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (
            "/api/chat",
            {"model": "nope", "messages": HELLO},
            404,
            'model "nope" not found, try pulling it first',
        ),
        ("/api/embed", {"model": "nope", "input": "x"}, 404, NOT_FOUND),
        ("/api/show", {"model": "nope"}, 404, "model 'nope' not found"),
        ("/api/chat", {"model": "demo", "messages": "x"}, 400, "messages"),
        ("/api/chat", {"model": "tiny", "messages": HELLO, "keep_alive": "300"}, 400, "missing unit"),
        ("/api/chat", {"model": "demo", "messages": HELLO, "format": "yaml"}, 400, "format"),
        ("/api/chat", {"messages": HELLO}, 400, "model"),
        ("/api/copy", {"source": "demo", "destination": "x"}, 400, "aliases"),
        ("/api/pull", {}, 400, "model is required"),
        ("/api/show", {"model": "demo", "name": None, "x": "\udcff"}, 400, "UTF-8"),
        ("/api/blobs/..%2F..%2Fv1%2Fchat%2Fcompletions", {"model": "tiny"}, 400, "invalid digest"),
    ],
)
def test_bad_input_on_ollamas_api(gateway: Gateway, path: str, body: Any, status: int, message: str) -> None:
    text = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogateescape")
    answer = gateway.client.post(path, content=text)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert answer.headers["X-Request-Id"]


def test_curl_says_that_json_is_a_form(gateway: Gateway) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for path in ("/api/show", "/api/generate"):
        answer = gateway.client.post(path, content='{"model": "demo"}', headers=headers)
        assert answer.status_code == 200


def test_root_and_version(gateway: Gateway) -> None:
    assert gateway.client.get("/").text == "Ollama is running"
    assert gateway.client.head("/").status_code == 200
    assert gateway.client.get("/api/version").json()["version"].count(".") == 2


def test_create_copy_and_delete(client: ollama.Client, gpt: openai.OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "demo.gguf"
    write_demo(path, embedding=False)
    digest = client.create_blob(path)
    assert [part.status for part in client.create("made", files={"demo.gguf": digest}, stream=True)][-1] == (
        "success"
    )
    assert gpt.chat.completions.create(model="made", messages=HELLO).choices[0].message.content
    assert client.copy("made", "copied").status == "success"
    assert "copied:latest" in [entry.model for entry in client.list().models]
    assert client.generate("made", "", keep_alive=0).done_reason == "unload"
    for name in ("copied", "made"):
        assert client.delete(name).status == "success"
    assert "copied:latest" not in [entry.model for entry in client.list().models]


# Other clients


def test_openai_on_any_backend(gpt: openai.OpenAI, model: str) -> None:
    whole = gpt.chat.completions.create(model=model, messages=HELLO, temperature=0, seed=1, max_tokens=40)
    assert whole.object == "chat.completion"
    assert whole.usage is not None
    assert whole.usage.completion_tokens
    options: Any = {"include_usage": True}
    chunks = list(
        gpt.chat.completions.create(
            model=model,
            messages=HELLO,
            temperature=0,
            seed=1,
            max_tokens=40,
            stream=True,
            stream_options=options,
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert len({chunk.id for chunk in chunks}) == 1
    assert gpt.completions.create(model=model, prompt="A llama is", max_tokens=4).choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_openai_tools_on_any_backend(gpt: openai.OpenAI, model: str, stream: bool) -> None:
    if stream:
        with gpt.chat.completions.stream(model=model, messages=WEATHER, tools=[TOOL]) as events:
            choice: Any = events.get_final_completion().choices[0]
    else:
        choice = gpt.chat.completions.create(model=model, messages=WEATHER, tools=[TOOL]).choices[0]
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    reply: Any = [
        *WEATHER,
        choice.message,
        {"role": "tool", "tool_call_id": call.id, "content": "20 degrees"},
    ]
    assert gpt.chat.completions.create(model=model, messages=reply).choices[0].message.content


def test_openai_embeddings_on_any_backend(gpt: openai.OpenAI, embedder: str) -> None:
    answer = gpt.embeddings.create(model=embedder, input=["a llama", "a container"])
    assert len(answer.data) == 2
    assert answer.data[0].embedding != answer.data[1].embedding


def test_anthropic_on_any_backend(gateway: Gateway, model: str) -> None:
    exactly = {"temperature": 0}
    tool: Any = {"name": "get_weather", "input_schema": FUNCTION["parameters"]}
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0) as claude:
        whole: Any = claude.messages.create(model=model, max_tokens=40, messages=HELLO, extra_body=exactly)
        assert whole.content[0].text
        with claude.messages.stream(model=model, max_tokens=40, messages=HELLO, extra_body=exactly) as stream:
            final: Any = stream.get_final_message()
        assert final.content[0].text == whole.content[0].text
        assert final.usage.output_tokens
        called: Any = claude.messages.create(model=model, max_tokens=200, messages=WEATHER, tools=[tool])
        assert called.stop_reason == "tool_use"
        assert called.content[-1].input == {"city": "Paris"}


def test_what_ollama_cannot_do(gateway: Gateway) -> None:
    answer = gateway.client.post("/v1/rerank", json={"model": "tiny", "query": "x", "documents": ["y"]})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "not_supported"
    answer = gateway.chat("tiny", n=2)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "n"


def test_thinking_that_a_model_cannot_is_no_error_where_it_is_none_elsewhere(gateway: Gateway) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    body = {"model": "tiny", "max_tokens": 8, "messages": HELLO, "thinking": thinking}
    assert gateway.client.post("/v1/messages", json=body).status_code == 200
    assert gateway.chat("tiny", reasoning_effort="high").status_code == 200
    assert gateway.chat("tiny", messages=[]).status_code == 400


def test_same_dialect_passes_unknown_fields(gateway: Gateway) -> None:
    with gateway.client.stream("POST", "/api/chat", json={"model": "tiny", "messages": HELLO}) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert lines[-1]["done"] is True
    assert {line["model"] for line in lines} == {"tiny"}


# When the daemon fails


def misbehaving(start: Any, *orders: str, **settings: Any) -> Any:
    """A gateway before a stand-in that does as it is told."""
    arguments = [argument for order in orders for argument in ("--do", order)]
    daemon = stand_in_daemon("--model", "tiny", *arguments)
    return daemon, lambda url: start({}, ollama={"host": url, "timeout": 2}, **settings)


def test_a_model_that_repeats_itself_is_stopped(start: Any) -> None:
    """The daemon ends its stream without a last line then."""
    daemon, begin = misbehaving(start, "repeat")
    with daemon as url:
        gateway = begin(url)
        chat = {"model": "tiny", "messages": HELLO, "max_tokens": 99}
        for stream in (True, False):
            for path in ("/api/chat", "/api/generate"):
                body = {**chat, "prompt": "hello", "stream": stream}
                last = json.loads(gateway.client.post(path, json=body).text.splitlines()[-1])
                assert (last["done"], last["done_reason"], last["model"]) == (True, "stop", "tiny")
                assert "load_duration" in last
            assert '"finish_reason":"stop"' in gateway.client.post(
                "/v1/chat/completions", json={**chat, "stream": stream}
            ).text.replace(" ", "")
            assert '"end_turn"' in gateway.client.post("/v1/messages", json={**chat, "stream": stream}).text
        gateway.wait_for("request", path="/api/chat", outcome="ok")


@pytest.mark.parametrize("order", ["error-mid-stream", "die-mid-stream", "no-done", "endless-line"])
def test_broken_in_the_middle(start: Any, order: str) -> None:
    daemon, begin = misbehaving(start, order)
    with daemon as url:
        gateway = begin(url)
        chat = {"model": "tiny", "messages": HELLO, "stream": True}
        told = gateway.client.post("/v1/chat/completions", json=chat).text
        assert '"content":"I"' in told
        assert '"error":{' in told
        assert "[DONE]" not in told
        lines = gateway.client.post("/api/chat", json=chat).text.splitlines()
        assert '"done":true' not in lines[-1]
        if order != "no-done":  # Ollama's own stream, which is not read here, just ends
            assert "error" in json.loads(lines[-1])
        assert gateway.client.post("/api/chat", json={**chat, "stream": False}).status_code in (500, 502)
        answer = gateway.client.post("/v1/chat/completions", json={**chat, "stream": False})
        assert answer.status_code in (500, 502)
        assert answer.json()["error"]["message"]


def test_an_early_error_has_its_status(start: Any) -> None:
    daemon, begin = misbehaving(start, "error-early")
    with daemon as url:
        gateway = begin(url)
        for path in ("/v1/chat/completions", "/api/chat"):
            answer = gateway.client.post(path, json={"model": "tiny", "messages": HELLO, "stream": True})
            assert answer.status_code == 500
            assert "unexpected EOF" in answer.text


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 400), ("secret", 415)])
def test_a_file_that_cannot_be_decoded_is_its_clients_mistake(start: Any, encoding: str, status: int) -> None:
    daemon, begin = misbehaving(start)
    with daemon as url:
        gateway = begin(url)
        path = "/api/blobs/sha256:" + "0" * 64
        answer = gateway.client.post(path, content=b"\x1f\x8bno", headers={"Content-Encoding": encoding})
        assert answer.status_code == status
        assert encoding in answer.json()["error"]
        (state,) = gateway.health()["ollama"]
        assert state["reachable"] is True


def test_a_daemon_that_is_away(start: Any) -> None:
    gateway = start({}, ollama={"host": "127.0.0.1:9", "models": {"tiny": {}}})
    answer = gateway.chat("tiny")
    assert answer.status_code == 503
    assert "is away" in answer.json()["error"]["message"]
    (state,) = gateway.health()["ollama"]
    assert state["reachable"] is False
    assert "refused" in state["error"]
    assert gateway.client.post("/api/create", json={"model": "x"}).status_code == 502


def test_an_ollama_model_makes_room_for_llama_cpp_and_back(start: Any) -> None:
    with stand_in_daemon("--model", "tiny") as url:
        gateway = start({"demo": DEMO}, ollama={"host": url}, server_pool={"size": 1})
        assert gateway.chat("tiny").status_code == 200
        assert httpx.get(f"{url}/api/ps").json()["models"]
        assert gateway.chat("demo").status_code == 200
        assert httpx.get(f"{url}/api/ps").json()["models"] == []
        assert gateway.chat("tiny").status_code == 200
        assert gateway.model("demo")["state"] == "stopped"


def test_a_model_is_pulled_when_it_is_asked_for(start: Any) -> None:
    with stand_in_daemon("--remote", "far") as url:
        gateway = start({}, ollama={"host": url, "pull": True, "models": {"distant": {"model": "far"}}})
        assert gateway.chat("distant").status_code == 200
        with ollama.Client(host=gateway.url) as client:
            assert client.chat("distant", HELLO).message.content
            assert "distant:latest" in [entry.model for entry in client.list().models]


def test_pull_through_the_gateway(start: Any) -> None:
    with stand_in_daemon("--remote", "far") as url:
        gateway = start({}, ollama={"host": url})
        assert gateway.chat("far").status_code == 404
        with ollama.Client(host=gateway.url) as client:
            assert [part.status for part in client.pull("far", stream=True)][-1] == "success"
            assert client.chat("far", HELLO).message.content


def test_names_and_daemons(start: Any, tmp_path: Path) -> None:
    """A model of another name, of another daemon, and what they are asked by."""
    with stand_in_daemon("--model", "one", "--model", "demo") as a, stand_in_daemon("--model", "two") as b:
        gateway = start(
            {"demo": DEMO},
            ollama={"daemons": {"a": a, "b": b}, "models": {"renamed": {"model": "two", "daemon": "b"}}},
        )
        with ollama.Client(host=gateway.url) as client:
            listed = {entry.model or "": entry.digest or "" for entry in client.list().models}
            assert sorted(listed) == ["demo:latest", "one:latest", "renamed:latest"]
            assert all(len(digest) == 64 for digest in listed.values())
            for name in ("renamed", "two", "TWO:latest"):
                assert {part.model for part in client.chat(name, HELLO, stream=True)} == {name}
            assert client.show("renamed").modelinfo
            assert client.copy("renamed", "copied").status == "success"
            assert [tag["name"] for tag in httpx.get(f"{b}/api/tags").json()["models"]] == [
                "two:latest",
                "copied:latest",
            ]
            assert [m.model for m in client.ps().models] == ["renamed:latest"]


def test_a_model_that_is_deleted_while_it_is_loaded_is_unloaded_first(start: Any) -> None:
    with stand_in_daemon("--model", "tiny") as url:
        gateway = start({}, ollama={"host": url})
        assert gateway.chat("tiny").status_code == 200
        assert gateway.client.request("DELETE", "/api/delete", json={"model": "tiny"}).status_code == 200
        assert httpx.get(f"{url}/api/ps").json()["models"] == []
        assert gateway.client.get("/api/tags").json()["models"] == []
        assert "tiny:latest" not in gateway.health()["models"]
        assert gateway.client.post("/api/show", json={"model": "tiny"}).status_code == 404
        assert gateway.chat("tiny").status_code == 404


def test_a_discovered_model_whose_daemon_went_away(start: Any) -> None:
    with stand_in_daemon("--model", "tiny", "--model", "never-asked") as url:
        gateway = start({}, ollama={"host": url})
        assert gateway.chat("tiny").status_code == 200
    gateway.wait_for("Ollama daemon is away")
    for name in ("tiny", "never-asked", "unheard-of"):
        answer = gateway.chat(name)
        assert answer.status_code == 503
        assert "is away" in answer.json()["error"]["message"]
    assert gateway.client.post("/api/show", json={"model": "tiny"}).status_code == 502
    assert gateway.client.request("DELETE", "/api/delete", json={"model": "tiny"}).status_code == 502
