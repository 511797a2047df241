"""The ports of model servers: whose they are, and who may ask there."""

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import httpx
import psutil
import pytest

from tests.conftest import DEMO, EMBED, Start
from tests.e2e.test_failures import stand_in
from tests.gateway import Gateway, until


class Foreign(BaseHTTPRequestHandler):
    """Another program's server, which answers everything."""

    protocol_version = "HTTP/1.1"
    got: ClassVar[list[str]]

    def do_GET(self) -> None:
        """All is well."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.got.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET  # noqa: N815 (the library's name)

    def log_message(self, *arguments: object) -> None:
        """Silence."""


@contextmanager
def foreign(port: int, *, reuse: bool) -> Iterator[list[str]]:
    """It listens there; what it got."""

    class Server(ThreadingHTTPServer):
        allow_reuse_port = reuse
        allow_reuse_address = True

    class Handler(Foreign):
        got: ClassVar[list[str]] = []

    server = Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Handler.got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    """One below which the system gives out none, with some free ones after it."""
    for port in range(20000 + os.getpid() % 5000, 32000, 20):
        try:
            for offset in range(20):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
        except OSError:
            continue
        return port
    raise AssertionError("no free ports")


def port_of(gateway: Gateway, model: str) -> int:
    (port,) = [
        int(server["endpoint"].rpartition(":")[2])
        for server in gateway.health()["servers"]
        if server["model"] == model
    ]
    return port


def said_by(gateway: Gateway, model: str) -> str:
    """The server that answers a request, by its own word."""
    response = gateway.chat(model, stream=True)
    assert response.status_code == 200, response.text
    names = {
        json.loads(line.removeprefix("data: "))["model"]
        for line in response.text.splitlines()
        if line.startswith("data: {")
    }
    (name,) = names
    return str(name)


def test_gateways_with_the_same_ports_answer_as_themselves(start: Start, real_server: None) -> None:
    port = free_port()
    gateways = []
    for number in range(3):
        sizes = {f"real-{number}-{nth}": 512 * (3 * number + nth + 1) for nth in range(2)}
        models: dict[str, Any] = {
            name: {"path": "builtin:demo", "ctx_size": size, "parallel": 1} for name, size in sizes.items()
        }
        models |= {f"old-{number}-{nth}": stand_in("reuse-port") for nth in range(2)}
        gateways.append((start(models, server_pool={"size": 4, "port_start": port}), sizes))

    def check(gateway: Gateway, sizes: dict[str, int], number: int, nth: int) -> None:
        for _ in range(4):
            assert said_by(gateway, f"old-{number}-{nth}") == f"old-{number}-{nth}"
            name = f"real-{number}-{nth}"
            props = gateway.client.get(f"/upstream/{name}/props")
            assert props.status_code == 200, props.text
            assert props.json()["default_generation_settings"]["n_ctx"] == sizes[name]

    with ThreadPoolExecutor(6) as pool:
        checks = [
            pool.submit(check, gateway, sizes, number, nth)
            for number, (gateway, sizes) in enumerate(gateways)
            for nth in range(2)
        ]
        for one in checks:
            one.result()
    ports = [port_of(gateway, model) for gateway, _ in gateways for model in gateway.health()["models"]]
    assert len(set(ports)) == 12


@pytest.mark.parametrize("reuse", [False, True])
def test_a_program_that_listens_already_gets_nothing(start: Start, reuse: bool) -> None:
    port = free_port()
    with foreign(port, reuse=reuse) as got:
        gateway = start({"m": stand_in("reuse-port")}, server_pool={"port_start": port})
        assert said_by(gateway, "m") == "m"
        assert port_of(gateway, "m") > port
    assert got == []


@pytest.mark.parametrize("reuse", [False, True])
def test_a_program_that_listens_before_the_server_does_gets_no_prompt(start: Start, reuse: bool) -> None:
    port = free_port()
    order = ("slow-load", "reuse-port") if reuse else ("slow-load",)
    gateway = start({"m": stand_in(*order)}, server_pool={"port_start": port})
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(said_by(gateway, "m")))
    asking.start()
    gateway.wait_for("server log", line="loading part 0")
    with foreign(port, reuse=reuse) as got:
        asking.join()
        assert answers == ["m"]
        assert port_of(gateway, "m") > port
    assert got, "it was asked for its health"
    assert not [line for line in got if line.startswith("POST")]
    assert gateway.wait_for("port was taken")["port"] == port


def test_a_program_that_listens_beside_an_old_server_gets_no_prompt(start: Start) -> None:
    port = free_port()
    gateway = start({"m": stand_in("reuse-port")}, server_pool={"port_start": port})
    assert said_by(gateway, "m") == "m"
    with foreign(port, reuse=True) as got:
        with ThreadPoolExecutor(4) as pool:  # side by side, so that new connections are made
            responses = list(pool.map(lambda _: gateway.chat("m", stream=True), range(20)))
        for response in responses:
            assert (response.status_code == 200) == ('"model": "m"' in response.text), response.text
        assert "another program" in gateway.wait_for("model failed", timeout=30)["reason"]
        assert said_by(gateway, "m") == "m"
        assert port_of(gateway, "m") > port
    assert not [line for line in got if line.startswith("POST")]


def test_nobody_else_may_ask_a_model_server(start: Start, real_server: None) -> None:
    gateway = start({"demo": DEMO, "embed": EMBED})
    assert gateway.chat().status_code == 200
    assert gateway.client.post("/v1/embeddings", json={"model": "embed", "input": "x"}).status_code == 200
    keys = set()
    for process in map(psutil.Process, gateway.servers()):
        key = process.environ()["LLAMA_API_KEY"]
        keys.add(key)
        assert key not in " ".join(process.cmdline())
    assert len(keys) == 2, "one for each start"
    for model in ("demo", "embed"):
        url = f"http://127.0.0.1:{port_of(gateway, model)}"
        page = {"Origin": "https://evil.example"}
        for path in ("/props", "/slots", "/v1/models", "/metrics", "/lora-adapters"):
            assert httpx.get(url + path, headers=page).status_code == 401, path
        for path in ("/v1/chat/completions", "/completion", "/v1/embeddings", "/tokenize", "/v1/messages"):
            assert httpx.post(url + path, headers=page, json={}).status_code == 401, path
        assert httpx.get(f"{url}/").status_code in (401, 404, 415), "no page of its own"
    assert gateway.client.get("/upstream/demo/props", headers={"Authorization": "Bearer x"}).is_success
    told = "".join(gateway.raw) + gateway.client.get("/health").text + gateway.client.get("/metrics").text
    assert not any(key in told for key in keys)


def test_a_key_of_the_users_own_is_used(start: Start, real_server: None) -> None:
    gateway = start({"demo": {**DEMO, "arguments": ["--threads", "1", "--api-key", "my own"]}})
    assert gateway.chat().status_code == 200
    url = f"http://127.0.0.1:{port_of(gateway, 'demo')}/props"
    assert httpx.get(url, headers={"Authorization": "Bearer my own"}).status_code == 200
    (pid,) = gateway.servers()
    assert "LLAMA_API_KEY" not in psutil.Process(pid).environ()


def test_a_server_that_asks_for_its_key_only_where_it_works(start: Start) -> None:
    gateway = start({"m": stand_in("guarded")})
    assert said_by(gateway, "m") == "m"


def test_a_server_with_another_key_says_so(start: Start, real_server: None) -> None:
    wrapper = ["env", "LLAMA_API_KEY=other", sys.executable, "-m", "actors.servers.llama.embedded"]
    gateway = start({"demo": {**DEMO, "command": wrapper}})
    response = gateway.chat()
    assert response.status_code == 503
    assert "--api-key" in response.json()["error"]["message"]


def gone(gateway: Gateway, pid: int) -> bool:
    return pid not in gateway.servers()


def test_the_port_comes_back_when_its_server_is_gone(start: Start) -> None:
    port = free_port()
    gateway = start({"m": stand_in()}, server_pool={"port_start": port, "retry_delay": 0.1})
    for _ in range(2):
        assert said_by(gateway, "m") == "m"
        assert port_of(gateway, "m") == port
        (pid,) = gateway.servers()
        os.kill(pid, signal.SIGKILL)
        until(partial(gone, gateway, pid), "it is gone")
