"""Presets: a model under other names, with other parameters, on the same server."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest

from tests.conftest import DEMO
from tests.gateway import HELLO, Gateway, running

BOSS, BASE, SHORT = "the-secret-of-the-boss", "the-secret-of-base", "the-secret-of-short"
DEMO_WITH_PRESETS: dict[str, Any] = {
    **DEMO,
    "description": "writes",
    "request": {"default": {"temperature": 0}},
    "presets": {
        "short": {"request": {"set": {"max_tokens": 2}}, "description": "writes little"},
        "secret": {"request": {"set": {"max_tokens": 3}}, "hidden": True},
    },
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, cache: str, real_server: None) -> Iterator[Gateway]:
    config = {
        "keys": {
            "boss": {"secret": BOSS, "admin": True},
            "base": {"secret": BASE, "models": ["demo"]},
            "short": {"secret": SHORT, "models": ["demo:short"]},
        },
        "llama_cpp": {
            "models": {"demo": DEMO_WITH_PRESETS, "ghost": {"path": "builtin:demo", "hidden": True}}
        },
    }
    with running(config, tmp_path_factory.mktemp("presets"), XDG_CACHE_HOME=cache) as started:
        yield started


def ask(gateway: Gateway, secret: str, method: str, path: str, **fields: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {secret}"}
    return gateway.client.request(method, path, json=fields or None, headers=headers)


def chat(gateway: Gateway, secret: str, model: str) -> httpx.Response:
    return ask(gateway, secret, "POST", "/v1/chat/completions", model=model, messages=HELLO)


def test_it_answers_under_its_own_name_with_its_parameters(gateway: Gateway) -> None:
    messages: Any = HELLO
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=BOSS, max_retries=0) as client:
        answer = client.chat.completions.create(model="demo:short", messages=messages, max_tokens=50)
        assert answer.usage is not None
        assert (answer.model, answer.usage.completion_tokens) == ("demo:short", 2)
        chunks = list(client.chat.completions.create(model="demo:short", messages=messages, stream=True))
        assert {chunk.model for chunk in chunks} == {"demo:short"}
        assert [one.choices[0].finish_reason for one in chunks if one.choices][-1] == "length"
        response = client.responses.create(model="demo:short", input="hello")
        assert response.usage is not None
        assert (response.model, response.usage.output_tokens) == ("demo:short", 2)
    with anthropic.Anthropic(base_url=gateway.url, api_key=BOSS, max_retries=0) as claude:
        message = claude.messages.create(model="demo:short", messages=messages, max_tokens=50)
        assert (message.model, message.usage.output_tokens) == ("demo:short", 2)
    with ollama.Client(gateway.url, headers={"Authorization": f"Bearer {BOSS}"}) as llama:
        told = llama.chat("demo:short", messages=messages)
        assert (told.model, told.eval_count) == ("demo:short", 2)
    assert chat(gateway, BOSS, "demo:secret").json()["usage"]["completion_tokens"] == 3


def test_the_log_and_the_metrics_name_it_and_there_is_one_server(gateway: Gateway) -> None:
    assert chat(gateway, SHORT, "demo:short").status_code == 200
    assert gateway.wait_for("request", key="short", status=200)["model"] == "demo:short"
    metrics = ask(gateway, BOSS, "GET", "/metrics").text
    assert 'model="demo:short"' in metrics
    health = ask(gateway, BOSS, "GET", "/health").json()
    assert [server["model"] for server in health["servers"]] == ["demo"]


def test_lists_have_what_is_not_hidden_and_allowed(gateway: Gateway) -> None:
    entries = ask(gateway, BOSS, "GET", "/v1/models").json()["data"]
    listed = {entry["id"]: (entry.get("parent"), entry.get("description")) for entry in entries}
    assert listed == {"demo": (None, "writes"), "demo:short": ("demo", "writes little")}
    tags = ask(gateway, BOSS, "GET", "/api/tags").json()["models"]
    assert [tag["name"] for tag in tags] == ["demo:latest", "demo:short"]
    for secret, names in ((BASE, ["demo", "demo:short"]), (SHORT, ["demo:short"])):
        entries = ask(gateway, secret, "GET", "/v1/models").json()["data"]
        assert [entry["id"] for entry in entries] == names
    assert ask(gateway, BOSS, "GET", "/v1/models/demo:secret").json()["parent"] == "demo"
    assert ask(gateway, BOSS, "GET", "/v1/models/ghost").status_code == 200
    unknown = chat(gateway, BOSS, "nobody").json()["error"]["message"]
    assert unknown == "model 'nobody' not found; there are: 'demo'"


def test_a_key_for_the_model_may_use_it_and_a_key_for_it_not_the_model(gateway: Gateway) -> None:
    assert chat(gateway, BASE, "demo:short").status_code == 200
    assert chat(gateway, SHORT, "demo").status_code == 403
    around = ask(gateway, SHORT, "POST", "/upstream/demo:short/v1/chat/completions", messages=HELLO)
    assert around.status_code == 400
    assert around.json()["error"]["message"].endswith("use /upstream/demo")
    around = ask(gateway, SHORT, "POST", "/upstream/demo/v1/chat/completions", messages=HELLO)
    assert around.status_code == 403


def test_it_has_no_files_to_delete(gateway: Gateway) -> None:
    answer = ask(gateway, BOSS, "DELETE", "/api/delete", model="demo:short")
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "'demo:short' is a preset of 'demo', and has no files of its own",
    )


def test_the_operator_sees_what_is_hidden(gateway: Gateway) -> None:
    models = ask(gateway, BOSS, "GET", "/admin/models").json()["models"]
    shown = {model["name"]: (model["hidden"], model["description"]) for model in models}
    assert shown == {"demo": (False, "writes"), "ghost": (True, None)}
