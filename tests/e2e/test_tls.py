"""A gateway with `server.tls` and `server.base_path`, as clients, proxies and `run.py` use it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx
import ollama
import openai
import pytest

from actors.config.certificate import client_context
from actors.config.schema import Tls
from tests.certificates import write_pair
from tests.conftest import DEMO
from tests.gateway import CHECKOUT, FOREVER, HELLO, Gateway, running, until

BASE = "/llm"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def tls(folder: Path) -> Tls:
    return write_pair(folder)


@pytest.fixture(scope="module")
def gateway(folder: Path, tls: Tls, cache: str, real_server: None) -> Iterator[Gateway]:
    pair = {"certificate": tls.certificate, "key": tls.key}
    config = {"server": {"tls": pair, "base_path": BASE}, "llama_cpp": {"models": {"demo": DEMO}}}
    with running(config, folder, XDG_CACHE_HOME=cache) as shared:
        yield shared


@pytest.fixture
def http(tls: Tls) -> Iterator[httpx.Client]:
    """What the official clients speak with."""
    with httpx.Client(verify=client_context(tls)) as client:
        yield client


HI: Any = HELLO


def test_openai_s_client(gateway: Gateway, tls: Tls) -> None:
    assert gateway.url.startswith("https://127.0.0.1:")
    assert gateway.url.endswith(BASE)
    http = openai.DefaultHttpxClient(verify=client_context(tls))
    with openai.OpenAI(
        base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, http_client=http
    ) as client:
        answer = client.chat.completions.create(model="demo", messages=HI, temperature=0)
        assert str(answer.choices[0].message.content).startswith("Hello! I am the demo model")
        stream = client.chat.completions.create(model="demo", messages=HI, temperature=0, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == answer.choices[0].message.content
        assert "demo" in [model.id for model in client.models.list()]


def test_anthropic_s_client(gateway: Gateway, tls: Tls) -> None:
    http = anthropic.DefaultHttpxClient(verify=client_context(tls))
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0, http_client=http) as client:
        with client.messages.stream(model="demo", messages=HI, max_tokens=16) as stream:
            assert stream.get_final_message().usage.output_tokens == 16
        with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
            client.messages.create(model="none", messages=HI, max_tokens=1)


def test_ollama_s_client(gateway: Gateway, tls: Tls) -> None:
    with ollama.Client(host=gateway.url, verify=client_context(tls)) as client:
        pieces = list(client.chat(model="demo", messages=HI, stream=True, options={"num_predict": 8}))
        assert pieces[-1].eval_count == 8
        assert [model.model for model in client.list().models] == ["demo:latest"]


def test_a_client_that_leaves_a_stream_frees_its_slot(gateway: Gateway, http: httpx.Client) -> None:
    body = {"model": "demo", "messages": FOREVER, "max_tokens": 100_000, "ignore_eos": True, "stream": True}
    with http.stream("POST", f"{gateway.url}/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()  # to drop it would close the connection
        assert next(lines).startswith("data: {")
        assert gateway.model("demo")["busy"] == 1
    until(lambda: gateway.model("demo")["busy"] == 0, "the slot is free")
    line = gateway.wait_for("request", outcome="client left")
    assert line["path"] == "/v1/chat/completions", "without the base path"


def test_a_stream_to_a_client_that_reads_late_is_whole(gateway: Gateway, http: httpx.Client) -> None:
    body = {"model": "demo", "messages": FOREVER, "max_tokens": 2000, "ignore_eos": True, "stream": True}
    with http.stream("POST", f"{gateway.url}/v1/chat/completions", json=body) as answer:
        until(lambda: gateway.model("demo")["busy"] == 0, "all of it is on its way", 60)
        lines = [line for line in answer.iter_lines() if line]
    assert len(lines) > 2000
    assert lines[-1] == "data: [DONE]"


def command(gateway: Gateway, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    port = str(urlsplit(gateway.url).port)
    return subprocess.run(
        [
            sys.executable,
            str(CHECKOUT / "run.py"),
            "--config",
            f"{folder}/config.yaml",
            "--port",
            port,
            *words,
        ],
        env={**os.environ, "XDG_DATA_HOME": str(folder / "data")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_run_py_speaks_to_its_gateway(gateway: Gateway, folder: Path) -> None:
    gateway.chat()
    ended = command(gateway, folder, "plan", "demo", "--json")
    assert "as the gateway on port" in json.loads(ended.stdout)["source"]
    ended = command(gateway, folder, "doctor", "--json")
    found = {one["name"]: one for one in reversed(json.loads(ended.stdout)["checks"])}
    assert found["TLS"]["status"] == "ok"
    assert found["ports"]["found"].endswith("a gateway listens there already")


def test_plain_http_is_no_answer(gateway: Gateway) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(gateway.url.replace("https", "http") + "/health/live")
    assert gateway.client.get("/health/live").json() == {"status": "ok"}


def test_probes_outside_the_base_path(gateway: Gateway, http: httpx.Client) -> None:
    root = gateway.url.removesuffix(BASE)
    assert http.get(f"{root}/health/ready").status_code == 200
    answer = http.get(f"{root}/v1/models")
    assert answer.status_code == 404
    assert "serves below /llm" in answer.json()["error"]["message"]


def test_a_renewed_certificate_is_taken_while_a_stream_runs(
    gateway: Gateway, folder: Path, tls: Tls, http: httpx.Client
) -> None:
    new = write_pair(folder, "new")
    body = {"model": "demo", "messages": FOREVER, "max_tokens": 100_000, "ignore_eos": True, "stream": True}
    with http.stream("POST", f"{gateway.url}/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: {")
        for target, source in ((tls.key, new.key), (tls.certificate, new.certificate)):
            Path(str(source)).replace(str(target))
        taken = gateway.wait_for("certificate taken")
        assert taken["certificate"] == tls.certificate
        assert any(line.startswith("data: {") for line in lines), "the stream goes on"
        with httpx.Client(verify=client_context(tls)) as later:
            assert later.get(f"{gateway.url}/health/live").status_code == 200


def test_a_pair_that_does_not_fit_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    one, other = (write_pair(tmp_path, name) for name in ("a", "b"))
    for pair, message in (
        ({"certificate": one.certificate, "key": other.key}, "is not the key of"),
        ({"certificate": one.certificate}, "expected both a certificate and a key"),
    ):
        (tmp_path / "config.yaml").write_text(json.dumps({"server": {"tls": pair}}))
        for name in ("check", "serve"):
            ended = subprocess.run(
                [sys.executable, str(CHECKOUT / "run.py"), name, "--config", f"{tmp_path}/config.yaml"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert ended.returncode == 2
            assert f"config.yaml:1: server.tls: {message}" in ended.stderr.replace(f"{other.key} ", "")
