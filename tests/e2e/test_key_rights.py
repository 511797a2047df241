"""A key's rights and limits hold whatever way a request takes to a model: agents, names, limits, sockets."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from tests.e2e.test_failures import stand_in
from tests.gateway import HELLO, Gateway, running, until
from tests.ollama_daemons import stand_in_daemon

BOSS = "the-secret-of-the-boss"
GLOB = "the-secret-of-glob"
ALICE, TWO, LIGHT, HEAVY = "the-secret-of-alice", "the-secret-of-two", "the-secret-light", "the-secret-heavy"

AGENT = """
from agents.api import Agent, operation
from agents.chat import Chat, Message
from msgspec.structs import replace

class Switch(Agent):
    description = "takes another model"

    async def before(self, ctx, request):
        return replace(request, model=ctx.argument)

    @operation("POST", "ask")
    async def ask(self, call):
        chat = Chat(model=call.parameters["model"], messages=[Message("user", "hello")])
        return {"text": (await self.services.llm.chat(chat)).text}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("rights")
    (folder / "agents" / "switch").mkdir(parents=True)
    (folder / "agents" / "switch" / "agent.py").write_text(AGENT)
    config = {
        "keys": {
            "alice": {"secret": ALICE, "models": ["small", "big"]},
            "glob": {"secret": GLOB, "models": ["small*"]},
            "two": {"secret": TWO, "concurrent": 2},
            "light": {"secret": LIGHT, "weight": 1},
            "heavy": {"secret": HEAVY, "weight": 3},
        },
        "llama_cpp": {
            "models": {
                "small": stand_in(),
                "large": {**stand_in(), "aliases": ["big"]},
                "other": stand_in(),
                "one": {**stand_in(), "parallel": 1},
                "endless": {**stand_in("silent-mid-stream"), "parallel": 4},
            }
        },
        "agents": ["switch"],
        "agent_folders": [str(folder / "agents")],
        "agent_data": str(folder / "agent_data"),
    }
    with running(config, folder) as gateway:
        yield gateway


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def ask(gateway: Gateway, secret: str, model: str, text: str = "hello") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 8}
    return gateway.client.post("/v1/chat/completions", json=body, headers=bearer(secret))


def test_an_error_names_no_models_that_the_key_may_not_use(gateway: Gateway) -> None:
    body = {"model": "smaller", "messages": HELLO}
    headers = {"Authorization": f"Bearer {GLOB}"}
    answer = gateway.client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "model 'smaller' not found; there are: 'small'"


def test_an_agent_reaches_no_model_that_the_key_may_not_use(gateway: Gateway) -> None:
    assert ask(gateway, TWO, "small", "/switch:other hello").status_code == 200
    assert ask(gateway, ALICE, "small", "/switch:big hello").status_code == 200
    refused = ask(gateway, ALICE, "small", "/switch:other hello")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")


def test_an_agents_operation_uses_the_models_of_the_key(gateway: Gateway) -> None:
    def operate(secret: str, model: str) -> int:
        path = f"/v1/agents/switch/ask?model={model}"
        return gateway.client.post(path, headers=bearer(secret)).status_code

    assert operate(ALICE, "small") == 200
    assert gateway.wait_for("request", path="agents", key="alice")
    assert operate(TWO, "other") == 200
    assert operate(ALICE, "other") == 403


@pytest.mark.parametrize("name", ["large", "big", "big:latest", "large:latest"])
def test_a_model_is_allowed_by_any_of_its_names(gateway: Gateway, name: str) -> None:
    listed = gateway.client.get("/v1/models", headers=bearer(ALICE)).json()["data"]
    assert "large" in [model["id"] for model in listed]
    assert ask(gateway, ALICE, name).status_code == 200
    assert gateway.client.post("/api/show", json={"model": name}, headers=bearer(ALICE)).status_code != 403


async def keep_open(gateway: Gateway, path: str, count: int) -> list[int]:
    """Begin so many streams at once; leave all of them when each is answered. Return the statuses."""
    body = {"model": "endless", "messages": HELLO, "stream": True}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30, limits=limits) as client:
        async with AsyncExitStack() as stack:

            async def begin() -> int:
                stream = client.stream("POST", path, json=body, headers=bearer(TWO))
                return (await stack.enter_async_context(stream)).status_code

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(begin()) for _ in range(count)]
        return [task.result() for task in tasks]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/upstream/endless/v1/chat/completions"])
def test_no_more_requests_than_allowed_run_and_every_place_comes_back(gateway: Gateway, path: str) -> None:
    for _ in range(3):
        counts = Counter(asyncio.run(keep_open(gateway, path, 50)))
        assert counts == {200: 2, 429: 48}
        until(lambda: asyncio.run(keep_open(gateway, path, 2)) == [200, 200], "both places are back")
        until(lambda: ask(gateway, TWO, "small").status_code == 200, "a place is free")


def test_keys_share_turns_by_weight(gateway: Gateway) -> None:
    served: Counter[str] = Counter()

    def load(secret: str) -> None:
        with httpx.Client(base_url=gateway.url, timeout=30) as client:
            while served.total() < 80:
                body = {"model": "one", "messages": HELLO, "max_tokens": 8}
                assert client.post("/v1/chat/completions", json=body, headers=bearer(secret)).is_success
                served[secret] += 1

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(load, [LIGHT, HEAVY] * 6))
    assert 2.2 < served[HEAVY] / served[LIGHT] < 4, served


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/chat", {"model": "other", "messages": HELLO}),
        ("POST", "/api/copy", {"source": "tiny", "destination": "other"}),
        ("DELETE", "/api/delete", {"model": "nothing"}),
        ("GET", "/api/tags", None),
    ],
)
def test_a_daemon_is_no_way_to_its_other_models(
    beside_daemon: Gateway, method: str, path: str, body: Any
) -> None:
    def pass_on(secret: str) -> int:
        url = f"/upstream/tiny{path}"
        return beside_daemon.client.request(method, url, json=body, headers=bearer(secret)).status_code

    assert ask(beside_daemon, ALICE, "tiny").status_code == 200
    assert pass_on(ALICE) == 403
    assert pass_on(BOSS) not in (401, 403)


@pytest.fixture(scope="module")
def beside_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    keys = {"alice": {"secret": ALICE, "models": ["tiny"]}, "boss": {"secret": BOSS, "admin": True}}
    with (
        stand_in_daemon() as url,
        running({"keys": keys, "ollama": {"host": url}}, tmp_path_factory.mktemp("daemon")) as gateway,
    ):
        yield gateway


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (b"Bearer \xfc", 401),
        ("Bearer ü".encode(), 401),
        (b"Bearer " + b"x" * 7000, 401),
        (b"Bearer x, Bearer " + ALICE.encode(), 401),
        (b"BEARER   " + ALICE.encode(), 200),
        (b"Bearer x\r\nx-api-key: " + ALICE.encode(), 401),
        (b"Bearer x\r\nAuthorization: Bearer " + ALICE.encode(), 401),
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_odd_headers(gateway: Gateway, authorization: bytes, status: int, version: bytes) -> None:
    body = json.dumps({"model": "small", "messages": HELLO, "max_tokens": 8}).encode()
    url = httpx.URL(gateway.url)
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/%b\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\nAuthorization: %b\r\n\r\n%b"
            % (version, len(body), authorization, body)
        )
        assert connection.recv(1000).split()[1] == str(status).encode()
