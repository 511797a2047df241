"""Models named by repository, from a hub to tokens, with everything that goes wrong between."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from actors.demo.model import write_demo
from tests.conftest import Start
from tests.gateway import CHECKOUT, HELLO, Gateway, until
from tests.stand_in_hub import StandInHub

NAME = "Org/Demo-GGUF:Q8_0"
SLOW = (64 * 1024, 0.05)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    (folder / "Org/Demo-GGUF").mkdir(parents=True)
    write_demo(folder / "Org/Demo-GGUF/demo-Q8_0.gguf", embedding=False)
    return folder


@pytest.fixture
def site(content: Path) -> Iterator[StandInHub]:
    with StandInHub(content) as hub:
        yield hub


@pytest.fixture
def hub_section(site: StandInHub, tmp_path: Path) -> dict[str, Any]:
    return {"endpoint": site.url, "cache_dir": str(tmp_path / "cache"), "allow": ["org/*"]}


def stream(gateway: Gateway, model: str = NAME) -> Any:
    body = {"model": model, "messages": HELLO, "max_tokens": 8, "stream": True}
    return gateway.client.stream("POST", "/v1/chat/completions", json=body)


def test_a_name_downloads_loads_and_streams(
    start: Start, site: StandInHub, hub_section: dict[str, Any], real_server: None
) -> None:
    gateway = start({}, hub=hub_section)
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0)
    answer = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "hello"}])
    assert answer.choices[0].message.content
    line = gateway.wait_for("request", status=200)
    assert line["fetched_ms"] > 0
    # The same file for another letter case and for no variant; no further download.
    for name in (NAME.lower(), "org/demo-gguf"):
        assert gateway.chat(name).status_code == 200
    assert gateway.wait_for("request", model="org/demo-gguf")["variant"] == "Q8_0"
    assert len(site.downloads) == 1
    listed = {model["id"] for model in gateway.client.get("/v1/models").json()["data"]}
    assert listed == {NAME, "org/demo-gguf"}
    assert gateway.client.get(f"/v1/models/{NAME}").json()["status"]["value"] == "loaded"
    assert gateway.client.get(f"/upstream/{NAME}/health").status_code == 200


@pytest.mark.parametrize("name", [NAME, "org/demo-gguf"])
def test_a_deleted_model_leaves_no_trace(
    start: Start, hub_section: dict[str, Any], real_server: None, name: str
) -> None:
    gateway = start({}, hub=hub_section)
    for wanted in (NAME, "org/demo-gguf"):
        assert gateway.chat(wanted).status_code == 200
    assert gateway.client.request("DELETE", "/api/delete", json={"model": name}).status_code == 200
    assert gateway.client.get("/api/tags").json()["models"] == []
    assert gateway.client.get("/api/ps").json()["models"] == []
    assert gateway.client.get("/v1/models").json()["data"] == []
    assert gateway.health()["models"] == {}
    for wanted in (NAME, "org/demo-gguf"):
        assert gateway.client.post("/api/show", json={"model": wanted}).status_code == 404
        assert gateway.client.get(f"/v1/models/{wanted}").status_code == 404
    again = gateway.client.request("DELETE", "/api/delete", json={"model": name})
    assert again.status_code == 404
    assert gateway.chat(name).status_code == 200  # by another download


def test_a_configured_repository(
    start: Start, hub_section: dict[str, Any], site: StandInHub, real_server: None
) -> None:
    gateway = start({"d": {"repo": "org/demo-gguf", "variant": "*q8*"}}, hub={**hub_section, "allow": []})
    assert gateway.chat("d").status_code == 200
    assert gateway.chat("org/demo-gguf:*q8*").status_code == 200
    refused = gateway.chat(NAME)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("Org/Demo-GGUF:Q2_K", 404, "it has no 'Q2_K'; there are: Q8_0"),
        ("org/none:Q8_0", 404, "there is no such repository on the hub"),
        ("other/model:Q8_0", 404, "not found"),
        ("org/../../etc:passwd", 404, "not found"),
        ("org/gated", 403, "access is restricted"),
    ],
)
def test_what_cannot_be_had(
    name: str, status: int, message: str, start: Start, site: StandInHub, hub_section: dict[str, Any]
) -> None:
    gated = site.folder / "org/gated"
    gated.mkdir(parents=True, exist_ok=True)
    (gated / "m.gguf").write_bytes(b"GGUF")
    site.gated.add("org/gated")
    gateway = start({}, hub=hub_section)
    for streams in (False, True):
        response = gateway.chat(name, stream=streams)
        assert (response.status_code, message in response.json()["error"]["message"]) == (status, True)
    assert not gateway.servers()


def test_progress_is_told_and_a_kill_loses_nothing(
    start: Start, site: StandInHub, hub_section: dict[str, Any], tmp_path: Path, real_server: None
) -> None:
    site.pace = SLOW
    first = start({}, hub=hub_section, server={"keepalive_interval": 0.1})

    def ask() -> None:
        with suppress(httpx.HTTPError):
            first.chat(NAME)

    asking = threading.Thread(target=ask)
    asking.start()
    with stream(first) as response:
        comment = next(line for line in response.iter_lines() if "downloading" in line)
        assert comment.startswith(f": waiting for {NAME}: downloading, ")
        download = until(
            lambda: (told := first.model(NAME)["download"])["bytes"] and told, "some of it is here"
        )
        assert 0 < download["bytes"] < download["total_bytes"]
        assert first.model(NAME)["state"] == "fetching"
        first.stop(signal.SIGKILL)
    asking.join()
    (partial,) = (tmp_path / "cache").rglob("*.incomplete")
    kept = partial.stat().st_size
    assert kept
    assert len(site.downloads) == 1
    site.pace = None
    second = start({}, hub=hub_section)
    assert second.chat(NAME).status_code == 200
    assert site.downloads[-1].range == f"bytes={kept}-"
    assert second.wait_for("download resumes")["at"] == kept


def test_an_error_after_the_first_comment_is_an_event(
    start: Start, site: StandInHub, hub_section: dict[str, Any]
) -> None:
    site.pace = SLOW
    site.extra = b"x"
    gateway = start({}, hub=hub_section, server={"keepalive_interval": 0.1})
    with stream(gateway) as response:
        assert response.status_code == 200
        lines = [line for line in response.iter_lines() if line]
    assert lines[0].startswith(": waiting for")
    assert "that the hub announced came" in json.loads(lines[-1].removeprefix("data: "))["error"]["message"]
    assert gateway.wait_for("request", status=503)["outcome"] == "error"
    # The connection is whole: the next request goes over it.
    assert gateway.client.get("/health").status_code == 200


def test_a_download_goes_on_for_the_grace(
    start: Start, site: StandInHub, hub_section: dict[str, Any], tmp_path: Path
) -> None:
    site.pace = SLOW
    gateway = start({}, hub={**hub_section, "grace": 0.3})
    body = json.dumps({"model": NAME, "messages": HELLO}).encode()
    url = httpx.URL(gateway.url)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\n"

    def begun() -> list[Path]:
        return [part for part in (tmp_path / "cache").rglob("*.incomplete") if part.stat().st_size]

    with socket.create_connection((url.host, url.port)) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(begun, "something has arrived")
    assert gateway.wait_for("model stops", model=NAME)["why"] == "nobody waits for its files any more"
    until(lambda: gateway.model(NAME)["state"] == "stopped", "stopped")
    assert len(begun()) == 1


def run(config: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(CHECKOUT / "run.py"), "--config", str(config), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_commands(site: StandInHub, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    cache = tmp_path / "cache"
    hub = {"endpoint": site.url, "cache_dir": str(cache)}
    models = {
        "d": {"repo": "org/demo-gguf"},
        "x": {"repo": "org/none", "variant": "Q4_0"},
        "demo": {"path": "builtin:demo"},
    }
    config.write_text(json.dumps({"hub": hub, "llama_cpp": {"models": models}}))
    pulled = run(config, "pull", "d")
    assert pulled.returncode == 0
    assert Path(pulled.stdout.strip()).name == "demo-Q8_0.gguf"
    assert pulled.stderr == "", "a bar is for terminals"
    assert run(config, "pull", NAME).stdout == pulled.stdout
    size = f"{Path(pulled.stdout.strip()).stat().st_size / 1e6:.1f}"
    table = run(config, "models").stdout.splitlines()
    assert [line.split() for line in table[:4]] == [
        ["NAME", "SIZE", "QUANT", "CONTEXT", "ARCHITECTURE"],
        ["d", size, "MB", "F16", "131072", "gemma3"],
        ["x", "-", "-", "-", "-", "not", "downloaded"],
        ["demo", "-", "-", "-", "-", "built", "in"],
    ]
    assert table[-1] == f"{size} MB in {cache}"
    for words, message in (
        (("pull", "org/none:Q4_0"), "there is no such repository"),
        (("pull", "demo"), "is no model of a hub"),
        (("rm", "org/other:Q8_0"), "is not in"),
        (("rm", "../../etc"), "is no model of a hub"),
    ):
        failed = run(config, *words)
        assert failed.returncode == 1
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr
    assert run(config, "rm", "ORG/demo-gguf:q8_0").stdout == f"{size} MB freed\n"
    assert run(config, "pull").returncode == 2
    assert run(config, "models", "x").returncode == 2
