"""What both the stand-in and a real Ollama do, so that the one can stand in for the other.

The real one is `OLLAMA_HOST`, in which models `lsp-test*` are made and deleted, or an `ollama` on the PATH.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx
import pytest

from actors.servers.ollama.backend import OllamaBackend
from actors.servers.ollama.daemon import Daemon
from tests.actors.servers.ollama.test_backend import appraised
from tests.ollama_daemons import real_daemon, stand_in_daemon

NAME = "lsp-test"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
STEADY = {"seed": 1, "temperature": 0, "num_predict": 60}


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def stand_in() -> Iterator[str]:
    """As a process of its own."""
    with stand_in_daemon("--model", NAME) as url:
        yield url


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With the demo model in it."""
    with real_daemon(tmp_path_factory.mktemp("ollama"), {NAME: False}) as url:
        yield url


@pytest.fixture(params=["stand_in", "real"])
def http(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of either, with nothing loaded."""
    with httpx.Client(base_url=request.getfixturevalue(request.param), timeout=60) as client:
        yield client
        client.post("/api/generate", json={"model": NAME, "keep_alive": 0})
        _wait_until_unloaded(client)


def _ps(http: httpx.Client) -> list[dict[str, Any]]:
    models = http.get("/api/ps").json()["models"]
    return [model for model in models if model["name"].startswith(NAME)]


def _wait_until_unloaded(http: httpx.Client) -> None:
    deadline = time.monotonic() + 20
    while _ps(http):
        assert time.monotonic() < deadline


def _lines(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with http.stream("POST", path, json={"model": NAME, "options": STEADY, **body}) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "application/x-ndjson"
        return [json.loads(line) for line in response.iter_lines()]


def test_it_is_there(http: httpx.Client) -> None:
    for answer in (http.get("/"), http.head("/")):
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert http.get("/").text == "Ollama is running"
    assert set(http.get("/api/version").json()) == {"version"}
    assert http.head("/api/version").status_code == 200
    assert http.get("/nope").status_code == 404
    assert http.get("/api/chat").status_code == 405


def test_what_it_has(http: httpx.Client) -> None:
    models = http.get("/api/tags").json()["models"]
    tag = next(model for model in models if model["name"] == f"{NAME}:latest")
    assert tag["model"] == tag["name"]
    assert tag["size"] > 0
    assert len(tag["digest"]) == 64
    assert "completion" in tag["capabilities"]
    assert {"parent_model", "format", "family", "families", "parameter_size"} <= tag["details"].keys()
    shown = http.post("/api/show", json={"name": NAME}).json()
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.block_count"] > 0
    assert "tools" in shown["capabilities"]


def test_keep_alive(http: httpx.Client) -> None:
    loaded = http.post("/api/chat", json={"model": NAME, "messages": [], "keep_alive": -1})
    assert loaded.headers["Content-Type"] == "application/json; charset=utf-8"
    answer = loaded.json()
    assert answer.pop("created_at").endswith("Z")
    message = {"role": "assistant", "content": ""}
    assert answer == {"model": NAME, "message": message, "done": True, "done_reason": "load"}
    (running,) = _ps(http)
    assert running["name"] == running["model"] == f"{NAME}:latest"
    assert running["expires_at"] > "2200"
    assert {"size", "size_vram", "digest", "details", "context_length"} <= running.keys()
    assert http.post("/api/generate", json={"model": NAME, "keep_alive": "5m"}).json()["response"] == ""
    assert _ps(http)[0]["expires_at"] < "2200"
    http.post("/api/generate", json={"model": NAME, "keep_alive": "-1m"})
    assert _ps(http)[0]["expires_at"] > "2200"
    for _ in range(2):
        answer = http.post("/api/chat", json={"model": NAME, "keep_alive": "0"}).json()
        assert answer["done_reason"] == "unload"
        _wait_until_unloaded(http)


def test_other_options_load_it_anew(http: httpx.Client) -> None:
    for context in (1024, 2048):
        http.post("/api/generate", json={"model": NAME, "options": {"num_ctx": context}, "keep_alive": -1})
        assert [running["context_length"] for running in _ps(http)] == [context]


@pytest.mark.parametrize("chat", [True, False])
def test_answers(http: httpx.Client, chat: bool) -> None:
    path = "/api/chat" if chat else "/api/generate"
    body: dict[str, Any] = {"messages": _user("Hello")} if chat else {"prompt": "Hello"}
    *before, last = _lines(http, path, body)
    assert before
    assert all(line["done"] is False for line in before)
    assert (last["done"], last["done_reason"]) == (True, "stop")
    counters = ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count")
    assert all(isinstance(last[key], int) and last[key] > 0 for key in (*counters, "eval_duration"))
    assert ("context" in last) is not chat
    whole = http.post(path, json={"model": NAME, "options": STEADY, "stream": False, **body})
    assert whole.headers["Content-Type"] == "application/json; charset=utf-8"
    texts = [line["message"]["content"] if chat else line["response"] for line in (*before, last)]
    answer = whole.json()
    assert (answer["message"]["content"] if chat else answer["response"]) == "".join(texts)
    cut = _lines(http, path, {**body, "options": {**STEADY, "num_predict": 2}})
    assert (len(cut), cut[-1]["done_reason"]) == (3, "length")


def test_tools(http: httpx.Client) -> None:
    lines = _lines(http, "/api/chat", {"messages": _user("What is the weather in Paris?"), "tools": [TOOL]})
    calls = [call for line in lines for call in line["message"].get("tool_calls", [])]
    assert [call["function"] for call in calls] == [
        {"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}}
    ]
    assert calls[0]["id"]
    assert lines[-1]["done_reason"] == "stop"
    assert lines[-1]["message"]["content"] == ""


def test_a_schema(http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "enum": ["b"]}}, "required": ["a"]}
    body = {"model": NAME, "messages": _user("x"), "format": schema, "stream": False, "options": STEADY}
    answer = http.post("/api/chat", json=body).json()
    assert json.loads(answer["message"]["content"]) == {"a": "b"}


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("chat", {"model": "nope", "messages": []}, 404, "model 'nope' not found"),
        ("generate", {"model": "nope"}, 404, "model 'nope' not found"),
        ("generate", {}, 404, "model '' not found"),
        ("show", {"model": "nope"}, 404, "model 'nope:latest' not found"),
        ("embed", {"model": "nope", "input": "x"}, 404, 'model "nope" not found, try pulling it first'),
        ("embeddings", {"model": "nope"}, 404, 'model "nope" not found, try pulling it first'),
        ("embed", {"model": NAME, "input": [1]}, 400, "invalid input type"),
        ("copy", {"source": "nope", "destination": "x"}, 404, 'model "nope" not found'),
        ("chat", {"messages": []}, 400, "model is required"),
        ("show", {}, 400, "model is required"),
        ("pull", {}, 400, "invalid model name"),
        ("create", {"model": "x"}, 400, "neither 'from' or 'files' was specified"),
        ("chat", {"model": NAME, "keep_alive": "-1"}, 400, 'time: missing unit in duration "-1"'),
        ("chat", {"model": NAME, "keep_alive": "300"}, 400, 'time: missing unit in duration "300"'),
        ("chat", {"model": NAME, "keep_alive": "1x"}, 400, 'time: unknown unit "x" in duration "1x"'),
        ("chat", {"model": NAME, "keep_alive": "soon"}, 400, 'time: invalid duration "soon"'),
        ("chat", {"model": NAME, "keep_alive": True}, 400, "Unsupported type: 'bool'"),
        (
            "chat",
            {"model": NAME, "messages": [{"role": "user", "content": "x"}], "think": True},
            400,
            f'"{NAME}" does not support thinking',
        ),
        (
            "chat",
            {"model": 5},
            400,
            "json: cannot unmarshal number into Go struct field ChatRequest.model of type string",
        ),
    ],
)
def test_errors(http: httpx.Client, path: str, body: dict[str, Any], status: int, error: str) -> None:
    answer = http.post(f"/api/{path}", json=body)
    assert (answer.status_code, answer.json()) == (status, {"error": error})


@pytest.mark.parametrize(("data", "error"), [(b"", "missing request body"), (b'{"model":', "unexpected EOF")])
def test_no_json(http: httpx.Client, data: bytes, error: str) -> None:
    answer = http.post("/api/chat", content=data)
    assert (answer.status_code, answer.json()) == (400, {"error": error})


def test_copies_share_what_is_loaded(http: httpx.Client) -> None:
    assert http.post("/api/copy", json={"source": NAME, "destination": f"{NAME}-copy"}).status_code == 200
    http.post("/api/generate", json={"model": NAME, "keep_alive": -1})
    http.post("/api/generate", json={"model": f"{NAME}-copy", "keep_alive": -1})
    assert [running["name"] for running in _ps(http)] == [f"{NAME}:latest"]
    http.post("/api/generate", json={"model": f"{NAME}-copy", "keep_alive": 0})
    _wait_until_unloaded(http)
    deleted = [http.request("DELETE", "/api/delete", json={"model": f"{NAME}-copy"}) for _ in range(2)]
    assert [answer.status_code for answer in deleted] == [200, 404]
    assert deleted[1].json() == {"error": f"model '{NAME}-copy' not found"}


def test_pulling_what_is_nowhere(http: httpx.Client) -> None:
    first, last = _lines(http, "/api/pull", {"model": "lsp-test-nowhere"})
    assert first == {"status": "pulling manifest"}
    assert last["error"].startswith("pull model manifest: ")


async def test_as_a_backend(http: httpx.Client) -> None:
    async with aiohttp.ClientSession() as session:
        daemon = Daemon("d", str(http.base_url), session, poll=0.05)
        daemon.start()
        backend = OllamaBackend(NAME, daemon, context=2048)
        files = await backend.fetch(lambda _: None)
        before = await appraised(backend, files)
        for placement in (None, None):
            server = await backend.start(1, files, placement)
            while not await server.is_healthy():
                assert not server.exited, server.explain_exit("before it was ready")
                await server.wait_exited(0.02)
            server.became_ready()
            await server.wait_exited(0.2)
            assert not server.exited
            assert daemon.state.models == (f"{NAME}:latest",)
            after = await appraised(backend, files)
            assert before.options != after.options
            assert after.options[0].context == 2048
            assert sum(size or 0 for size in (*server.figures().buffers, server.figures().host_buffers)) >= 0
            await server.stop()
            assert not await asyncio.to_thread(_ps, http)
        # Called off at any moment of the load.
        for wait in (0.0, 0.01, 0.1, 0.25):
            server = await backend.start(1, files, None)
            await server.wait_exited(wait)
            await server.stop()
            assert not await asyncio.to_thread(_ps, http)
        await daemon.stop()
