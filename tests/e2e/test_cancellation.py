"""A client that leaves frees what it held, in every phase, within 500 ms."""

import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import DEMO, Start
from tests.gateway import FOREVER, HELLO, Gateway, Json, running, until

LIMIT = 0.5
ENDLESS: Json = {"messages": FOREVER, "max_tokens": 100_000, "ignore_eos": True}
LONG_PROMPT: Json = {"messages": [{"role": "user", "content": "llama docker " * 1900}], "max_tokens": 5}


def ask(gateway: Gateway, model: str, path: str = "/v1/chat/completions", **fields: Any) -> socket.socket:
    """Send a request on a socket of its own, to be closed at will."""
    address = urlsplit(gateway.url)
    client = socket.create_connection((address.hostname, address.port or 80))
    body = json.dumps({"model": model, "temperature": 0, **fields}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return client


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, cache: str, real_server: None) -> Iterator[Gateway]:

    # Batches of 32 tokens make the prompt of the tiny model last long enough to leave in its midst.
    slow = {**DEMO, "ctx_size": 4096, "parallel": 1, "aliases": []}
    slow["arguments"] = ["--batch-size", "32", "--ubatch-size", "32", "--threads", "1", "--context-shift"]
    config = {"llama_cpp": {"models": {"demo": slow}}}
    with running(config, tmp_path_factory.mktemp("small"), XDG_CACHE_HOME=cache) as gateway:
        gateway.chat()
        yield gateway


def processing(gateway: Gateway, model: str = "demo") -> bool:
    with gateway.direct(model) as client:
        return any(slot["is_processing"] for slot in client.get("/slots").json())


def look(gateway: Gateway) -> float:
    """The seconds that it takes to see what a server does: on a busy machine, more."""
    began = time.monotonic()
    processing(gateway)
    return time.monotonic() - began


def leave_and_check(gateway: Gateway, client: socket.socket, phase: str) -> None:
    seen = len(gateway.log)
    limit = LIMIT + 10 * look(gateway)
    left = time.monotonic()
    client.close()
    until(lambda: not processing(gateway), "the slot is free", 5)
    seconds = time.monotonic() - left
    until(lambda: gateway.model("demo")["busy"] == 0 and not gateway.health()["queue"]["waiting"], "no lease")
    find = [("event", "request"), ("status", 499)]
    line = until(lambda: [x for x in gateway.log[seen:] if all(x.get(k) == v for k, v in find)], "log line")
    assert phase in line[0]["error"]
    assert seconds < limit, f"{phase}: {seconds:.3f} s"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/completion"])
def test_while_it_answers(small: Gateway, path: str, stream: bool) -> None:
    request: Json = {
        **ENDLESS,
        "input": "forever",
        **({"prompt": "Around"} if path == "/completion" else {}),
        "n_predict": 100_000,
        "stream": stream,
    }
    client = ask(small, "demo", path, **request)
    until(lambda: processing(small), "it answers")
    if stream:
        assert client.recv(1)
    else:
        with small.direct("demo") as direct:
            until(lambda: direct.get("/slots").json()[0]["next_token"][0]["n_decoded"] > 3, "tokens")
    leave_and_check(small, client, "answer")


@pytest.mark.parametrize("stream", [True, False])
def test_while_the_prompt_is_read(small: Gateway, stream: bool) -> None:
    client = ask(small, "demo", **LONG_PROMPT, cache_prompt=False, stream=stream)
    until(lambda: processing(small), "the prompt is being read")
    leave_and_check(small, client, "prompt")


@pytest.mark.parametrize("stream", [True, False])
def test_while_it_waits(small: Gateway, stream: bool) -> None:
    with contextlib.closing(ask(small, "demo", **ENDLESS, stream=True)) as holder:
        assert holder.recv(1)
        client = ask(small, "demo", messages=HELLO, stream=stream)
        until(lambda: small.model("demo")["waiting"] == 1, "it waits")
        left = time.monotonic()
        client.close()
        until(lambda: small.model("demo")["waiting"] == 0, "it left the queue")
        assert time.monotonic() - left < LIMIT
    until(lambda: not processing(small), "the holder's slot is free")


def test_while_the_model_loads(start: Start) -> None:
    command = [sys.executable, "-m", "tests.stand_in", "--do", "slow-load"]

    gateway = start({"demo": {"path": "builtin:demo", "command": command}})
    client = ask(gateway, "demo", messages=HELLO, stream=True)
    gateway.wait_for("server starts")
    until(lambda: gateway.model("demo")["waiting"] == 1, "it waits for the load")
    client.close()
    until(lambda: gateway.model("demo")["waiting"] == 0, "it left", LIMIT)
    # The load goes on: whoever asks next finds the model ready.
    gateway.wait_for("model is ready")
    assert gateway.chat(stream=True).status_code == 200
    assert gateway.model("demo")["epoch"] == 1
