"""`run.py ps | load | unload | logs | cancel`, as a user types them."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.test_failures import stand_in
from tests.gateway import CHECKOUT, HELLO, Gateway, running, until

SECRET = "the-secret-of-boss"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def gateway(folder: Path) -> Iterator[Gateway]:
    models = {
        "a": {**stand_in("slow-load"), "aliases": ["org/a:latest"]},
        "b": stand_in("silent-mid-stream"),
        "broken": {**stand_in(), "command": ["sh", "-c", "echo error: no such thing >&2; exit 3"]},
    }
    config = {"keys": {"boss": {"secret": SECRET, "admin": True}}, "llama_cpp": {"models": models}}
    with running(config, folder) as gateway:
        gateway.client.headers["Authorization"] = f"Bearer {SECRET}"
        yield gateway


def run(
    gateway: Gateway, folder: Path, *words: str, key: str | None = SECRET
) -> "subprocess.CompletedProcess[str]":
    port = str(urlsplit(gateway.url).port)
    command = [
        sys.executable,
        str(CHECKOUT / "run.py"),
        "--config",
        str(folder / "other.yaml"),
        "--port",
        port,
    ]
    (folder / "other.yaml").write_text("{}")
    environment = {**os.environ, **({} if key is None else {"LLAMA_SMART_PROXY_KEY": key})}
    return subprocess.run(
        [*command, *words], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def test_load_says_what_it_waits_for(gateway: Gateway, folder: Path) -> None:
    done = run(gateway, folder, "load", "org/a:latest")
    assert (done.returncode, done.stdout) == (0, "a is ready on host\n"), done
    assert "a: " in done.stderr
    assert run(gateway, folder, "load", "a", "--no-wait").stdout == "a is ready on host\n"


def test_load_and_its_failure(gateway: Gateway, folder: Path) -> None:
    done = run(gateway, folder, "load", "broken")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no such thing" in done.stderr
    failed = gateway.wait_for("model failed", model="broken")
    assert (failed["level"], failed["server_log"]) == ("warning", ["error: no such thing"])
    assert run(gateway, folder, "load", "nobody").stderr == "run.py: model 'nobody' not found\n"
    ps = run(gateway, folder, "ps").stdout
    assert "broken  failed" in ps


def test_ps_and_cancel(gateway: Gateway, folder: Path) -> None:
    body = {"model": "b", "messages": HELLO, "stream": True}
    headers = {"X-Request-Id": "stuck"}
    with gateway.client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        lines = (line for line in answer.iter_lines() if line)
        next(lines)
        shown = run(gateway, folder, "ps")
        assert shown.returncode == 0
        assert "MODEL" in shown.stdout
        rows = [line.split() for line in shown.stdout.splitlines()]
        assert ["stuck", "b", "boss", "answer"] in [row[:4] for row in rows]
        state = json.loads(run(gateway, folder, "ps", "--json", "--all").stdout)
        assert {model["name"] for model in state["models"]} == {"a", "b", "broken"}
        assert [one["id"] for one in state["requests"]] == ["stuck"]
        assert run(gateway, folder, "cancel", "stuck").stdout == "cancelled stuck\n"
        assert "cancelled this request" in list(lines)[-1]
    done = run(gateway, folder, "cancel", "stuck")
    assert (done.returncode, done.stderr) == (1, "run.py: no request 'stuck' is running; it may have ended\n")


def test_unload(gateway: Gateway, folder: Path) -> None:
    run(gateway, folder, "load", "a")
    assert run(gateway, folder, "unload", "a").stdout == "a is stopped\n"
    run(gateway, folder, "load", "a")
    assert "a is stopped" in run(gateway, folder, "unload", "--all", "--force").stdout
    assert "a " not in run(gateway, folder, "ps").stdout
    for words in ((), ("a", "--all")):
        done = run(gateway, folder, "unload", *words)
        assert (done.returncode, done.stderr) == (2, "run.py: name a model, or --all\n")


def test_logs(gateway: Gateway, folder: Path) -> None:
    run(gateway, folder, "load", "a")
    shown = run(gateway, folder, "logs", "a").stdout
    assert "loading part 1" in shown
    shown = run(gateway, folder, "logs", "--level", "warning", "-n", "1000").stdout
    assert "model failed" in shown
    assert "[info]" not in shown
    (line,) = run(gateway, folder, "logs", "-n", "1", "--json", "--level", "info").stdout.splitlines()
    assert "event" in json.loads(line)
    levels = [line["level"] for line in gateway.log if line["event"] == "server log" and line["model"] == "a"]
    assert set(levels) == {"debug"}


def test_logs_that_are_followed(gateway: Gateway, folder: Path) -> None:
    run(gateway, folder, "unload", "a")
    port = str(urlsplit(gateway.url).port)
    command = [
        sys.executable,
        str(CHECKOUT / "run.py"),
        "--port",
        port,
        "--config",
        str(folder / "other.yaml"),
    ]
    environment = {**os.environ, "LLAMA_SMART_PROXY_KEY": SECRET, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, "logs", "-f", "-n", "0", "a"], stdout=subprocess.PIPE, env=environment
    ) as following:
        got: list[bytes] = []
        assert following.stdout is not None
        reader = threading.Thread(target=lambda: got.extend(following.stdout or ()))
        reader.start()
        gateway.chat("a")
        until(lambda: any(b"loading part" in line for line in got), "the lines of the load")
        following.terminate()
        reader.join(10)


def test_without_a_key_and_without_a_gateway(gateway: Gateway, folder: Path) -> None:
    for words in (("ps",), ("load", "a"), ("unload", "a"), ("cancel", "x"), ("logs",)):
        done = run(gateway, folder, *words, key=None)
        assert done.returncode == 1
        assert "wants an admin key (LLAMA_SMART_PROXY_KEY)" in done.stderr
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = str(nobody.getsockname()[1])
        command = [sys.executable, str(CHECKOUT / "run.py"), "--config", str(folder / "other.yaml")]
        done = subprocess.run(
            [*command, "ps", "--port", port], capture_output=True, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no gateway answers at http://127.0.0.1:{port}" in done.stderr
    assert "--port names another port" in done.stderr
