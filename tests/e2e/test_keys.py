"""API keys on a running gateway: who may do what, and how much."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest

from tests.e2e.test_failures import stand_in
from tests.gateway import CHECKOUT, HELLO, Gateway, running, until

ADMIN, ALICE, FEW = "the-secret-of-admin", "the-secret-of-alice", "the-secret-of-few"


def keys() -> dict[str, Any]:
    return {
        "boss": {"secret": ADMIN, "admin": True},
        "alice": {"secret": ALICE, "models": ["small*"], "agents": []},
        "few": {"secret": FEW, "per_minute": 2},
    }


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    models = {"small": stand_in(), "large": {**stand_in(), "aliases": ["big"]}}
    config = {"keys": keys(), "llama_cpp": {"models": models}, "agents": ["parallel"]}
    with running(config, tmp_path_factory.mktemp("keys")) as gateway:
        yield gateway


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def ask(gateway: Gateway, secret: str, model: str = "small", **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": HELLO, "max_tokens": 8, **fields}
    return gateway.client.post("/v1/chat/completions", json=body, headers=bearer(secret))


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/chat/completions", lambda body: body["error"]["type"] == "authentication_error"),
        (
            "/v1/messages",
            lambda body: body["error"]["type"] == "authentication_error" and body["type"] == "error",
        ),
        ("/api/chat", lambda body: isinstance(body["error"], str)),
        ("/v1/responses", lambda body: body["error"]["code"] in ("missing_api_key", "invalid_api_key")),
        ("/nowhere", lambda body: "error" in body),
    ],
)
@pytest.mark.parametrize("headers", [{}, bearer("a-wrong-secret-01"), {"Authorization": "Basic YTpi"}])
def test_without_a_good_key_nothing_is_answered(
    gateway: Gateway, path: str, shape: Any, headers: dict[str, str]
) -> None:
    answer = gateway.client.post(path, json={"model": "small", "messages": HELLO}, headers=headers)
    assert answer.status_code == 401, answer.text
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert shape(answer.json())
    assert ADMIN not in answer.text


@pytest.mark.parametrize(
    "headers", [bearer(ALICE), {"x-api-key": ALICE}, {"authorization": f"bearer  {ALICE}"}]
)
def test_a_key_comes_in_the_usual_headers(gateway: Gateway, headers: dict[str, str]) -> None:
    assert gateway.client.get("/v1/models", headers=headers).status_code == 200


def test_the_official_clients_send_theirs(gateway: Gateway) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=ALICE, max_retries=0) as told:
        assert [model.id for model in told.models.list()] == ["small"]
    with anthropic.Anthropic(base_url=gateway.url, api_key=ALICE, max_retries=0) as claude:
        assert [model.id for model in claude.models.list()] == ["small"]
    with ollama.Client(host=gateway.url, headers=bearer(ALICE)) as llamas:
        assert [model.model for model in llamas.list().models] == ["small:latest"]
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-none", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_probes_need_none_and_tell_little(gateway: Gateway) -> None:
    for path in ("/", "/health/live", "/health/ready", "/api/version"):
        assert gateway.client.get(path).status_code == 200, path
    assert gateway.client.get("/health").json() == {"status": "ok"}
    assert gateway.client.get("/health", headers=bearer(ALICE)).json() == {"status": "ok"}
    assert "models" in gateway.client.get("/health", headers=bearer(ADMIN)).json()


@pytest.mark.parametrize("name", ["large", "big", "LARGE"])
def test_a_model_that_the_key_may_not_use(gateway: Gateway, name: str) -> None:
    refused = ask(gateway, ALICE, name)
    assert refused.status_code == 403, refused.text
    assert refused.json()["error"]["code"] == "model_not_allowed"
    for path in ("/api/generate", "/v1/embeddings", "/v1/messages", f"/upstream/{name}/v1/models"):
        body = {"model": name, "prompt": "x", "input": "x", "messages": HELLO, "max_tokens": 5}
        answer = gateway.client.post(path, json=body, headers=bearer(ALICE))
        assert answer.status_code == 403, (path, answer.text)
    shown = gateway.client.post("/api/show", json={"model": name}, headers=bearer(ALICE))
    assert shown.status_code == 403
    assert gateway.client.get(f"/props?model={name}", headers=bearer(ALICE)).status_code == 403
    assert gateway.client.get(f"/v1/models/{name}", headers=bearer(ALICE)).status_code == 404
    assert ask(gateway, ALICE).status_code == 200


def test_an_agent_that_the_key_may_not_name(gateway: Gateway) -> None:
    refused = ask(gateway, ALICE, messages=[{"role": "user", "content": "/parallel hello"}])
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "agent_not_allowed")
    by_header = gateway.client.post(
        "/v1/chat/completions",
        json={"model": "small", "messages": HELLO},
        headers={**bearer(ALICE), "X-Agents": "parallel"},
    )
    assert by_header.status_code == 403
    operated = gateway.client.get("/v1/agents/parallel/anything", headers=bearer(ALICE))
    assert (operated.status_code, operated.json()["error"]["code"]) == (403, "agent_not_allowed")
    assert gateway.client.get("/v1/agents", headers=bearer(ALICE)).json()["data"] == []
    assert gateway.client.get("/v1/agents/parallel", headers=bearer(ALICE)).status_code == 404
    assert gateway.client.get("/v1/agents", headers=bearer(ADMIN)).json()["data"] != []


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "TRACE", "PROPFIND"])
@pytest.mark.parametrize(
    "path", ["/upstream/small/v1/models", "//upstream/small/props", "/%75pstream/small/x"]
)
def test_no_method_and_no_spelling_gets_around_the_key(gateway: Gateway, method: str, path: str) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Origin": gateway.url}
    for headers in ({}, asked):
        assert gateway.client.request(method, path, headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/plan?model=small"),
        ("POST", "/api/pull"),
        ("DELETE", "/api/delete"),
        ("GET", "/metrics"),
    ],
)
def test_what_needs_more(gateway: Gateway, method: str, path: str) -> None:
    body = {"model": "nothing"} if method != "GET" else None
    refused = gateway.client.request(method, path, json=body, headers=bearer(ALICE))
    assert refused.status_code == 403, refused.text
    assert gateway.client.request(method, path, json=body, headers=bearer(ADMIN)).status_code not in (
        401,
        403,
    )


def test_a_limit_says_its_name_and_when_to_come_back(gateway: Gateway) -> None:
    assert [ask(gateway, FEW).status_code for _ in range(3)] == [200, 200, 429]
    refused = ask(gateway, FEW)
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert "per_minute" in refused.json()["error"]["message"]
    claude = gateway.client.post(
        "/v1/messages",
        json={"model": "small", "messages": HELLO, "max_tokens": 8},
        headers={"x-api-key": FEW},
    )
    assert (claude.status_code, claude.json()["error"]["type"]) == (429, "rate_limit_error")


def test_the_log_names_the_key_and_never_its_secret(gateway: Gateway) -> None:
    assert ask(gateway, ALICE).status_code == 200
    assert gateway.wait_for("request", key="alice", path="/v1/chat/completions", status=200)
    assert not any(secret in line for line in gateway.raw for secret in (ADMIN, ALICE, FEW))


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHECKOUT / "run.py"), "--config", str(folder / "config.yaml"), *arguments],
        env={**os.environ, "XDG_DATA_HOME": str(folder / "data"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_keys_come_and_go_while_it_runs(tmp_path: Path) -> None:
    with running({"llama_cpp": {"models": {"small": stand_in()}}}, tmp_path) as gateway:
        assert gateway.client.get("/admin/plan?model=small").status_code != 403, (
            "without keys, from this machine"
        )
        assert (
            gateway.client.get("/admin/plan?model=small", headers={"X-Forwarded-For": "x"}).status_code == 403
        )
        assert ask(gateway, "anything").status_code == 200, "without keys any key will do"
        added = command(tmp_path, "key", "add", "ci", "--concurrent", "2", "--expires", "2099-01-31")
        assert added.returncode == 0, added.stderr
        secret = added.stdout.strip()
        until(lambda: ask(gateway, "anything").status_code == 401, "the key has been read")
        assert ask(gateway, secret).status_code == 200
        listed = command(tmp_path, "key", "list").stdout
        assert "ci" in listed
        assert "2 at a time" in listed
        assert secret not in listed
        assert command(tmp_path, "key", "add", "ci").returncode == 1
        rotated = command(tmp_path, "key", "rotate", "ci").stdout.strip()
        until(lambda: ask(gateway, rotated).status_code == 200, "the new secret counts")
        assert ask(gateway, secret).status_code == 401
        assert command(tmp_path, "key", "revoke", "ci").returncode == 0
        until(lambda: ask(gateway, "anything").status_code == 200, "there are no keys any more")


def test_an_address_that_others_reach_needs_a_key(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("server: {host: 0.0.0.0, port: 0}\nllama_cpp: {models: {}}\n")
    refused = command(tmp_path)
    assert refused.returncode == 2
    assert "key add NAME" in refused.stdout
    with running(
        {"server": {"host": "0.0.0.0", "open": True}, "llama_cpp": {"models": {}}}, tmp_path
    ) as gateway:
        assert gateway.client.get("/v1/models").status_code == 200
        assert gateway.client.get("/admin/plan?model=x").status_code == 403


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ({"secret": "short"}, "16 to 512 characters"),
        ({}, "expected either a secret or a secret_file"),
        ({"secret_file": "none"}, "none cannot be read: No such file"),
        ({"secret": ALICE, "expires": "soon"}, "expected a date such as"),
        ({"secret": ALICE, "per_minute": 0}, "per_minute"),
    ],
)
def test_a_key_that_cannot_be(tmp_path: Path, key: dict[str, Any], said: str) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps({"keys": {"a": key}}))
    checked = command(tmp_path, "check")
    assert checked.returncode == 2
    assert said in checked.stderr
    assert ALICE not in checked.stderr


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{ALICE}\n")
    config = {"keys": {"alice": {"secret_file": "secret"}}, "llama_cpp": {"models": {"small": stand_in()}}}
    with running(config, tmp_path) as gateway:
        assert ask(gateway, ALICE).status_code == 200
        assert ask(gateway, "nothing").status_code == 401
