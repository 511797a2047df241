"""A running gateway that is watched and controlled by `/admin`."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.test_failures import stand_in
from tests.gateway import HELLO, Gateway, Json, running, until


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    models = {"a": {**stand_in("paced"), "aliases": ["org/a:latest"]}, "b": stand_in("silent-mid-stream")}
    config = {"server_pool": {"size": 1}, "llama_cpp": {"models": models}}
    with running(config, tmp_path_factory.mktemp("control")) as gateway:
        yield gateway


def get(gateway: Gateway, path: str) -> Json:
    answer = gateway.client.get(path)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


@contextmanager
def streaming(gateway: Gateway, model: str, request_id: str) -> Iterator[Iterator[str]]:
    """The lines of a streamed chat."""
    body = {"model": model, "messages": HELLO, "stream": True}
    headers = {"X-Request-Id": request_id}
    with gateway.client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        yield (line for line in answer.iter_lines() if line)


class Watcher:
    """Reads `/admin/events` in a thread."""

    def __init__(self, gateway: Gateway) -> None:
        self.events: list[tuple[str, Any]] = []
        self._client = httpx.Client(base_url=gateway.url, timeout=30)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        until(lambda: self.events, "a snapshot")

    def _read(self) -> None:
        kind = ""
        with self._client.stream("GET", "/admin/events") as answer:
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    self.events.append((kind, json.loads(value)))
                    if kind == "request_ended" and self.events[-1][1]["id"] == "last":
                        return

    def of(self, kind: str) -> list[Any]:
        return [told for known, told in self.events if known == kind]

    def close(self) -> None:
        self._thread.join(20)
        self._client.close()
        assert not self._thread.is_alive()


def test_models_are_listed_with_what_their_files_say(gateway: Gateway) -> None:
    gateway.chat("a")
    models = {model["name"]: model for model in get(gateway, "/admin/models")["models"]}
    assert models["a"]["state"] == "ready"
    assert models["a"]["aliases"] == ["org/a:latest"]
    assert models["a"]["context"] == 131_072
    assert models["a"]["size"] > 0
    assert "completion" in models["a"]["capabilities"]
    assert models["a"]["placement"]["how"]
    assert models["a"]["pinned"] is False


def test_a_cancelled_stream_and_what_a_watcher_sees(gateway: Gateway) -> None:
    watcher = Watcher(gateway)
    assert {model["name"] for model in watcher.of("snapshot")[0]["models"]} == {"a", "b"}
    with streaming(gateway, "b", "stuck") as lines:
        assert "0 " in next(lines)
        waits = threading.Thread(target=lambda: gateway.chat("a"))
        waits.start()
        until(lambda: get(gateway, "/admin/queue")["waiting"], "a request that waits for the other model")
        (waiting,) = get(gateway, "/admin/queue")["waiting"]
        assert (waiting["model"], waiting["place"]) == ("a", 1)
        assert waiting["id"] in {one["id"] for one in get(gateway, "/admin/requests")["requests"]}
        (stuck,) = [one for one in get(gateway, "/admin/requests")["requests"] if one["id"] == "stuck"]
        assert (stuck["model"], stuck["phase"], stuck["stream"]) == ("b", "answer", True)
        assert gateway.client.delete("/admin/requests/stuck").status_code == 204
        last = json.loads(list(lines)[-1].removeprefix("data: "))
        assert last["error"]["message"] == "the operator cancelled this request"
    waits.join(20)
    assert gateway.client.delete("/admin/requests/stuck").status_code == 404
    with streaming(gateway, "a", "last") as lines:
        assert list(lines)[-1] == "data: [DONE]"
    watcher.close()
    ended = {one["id"]: one for one in watcher.of("request_ended")}
    assert (ended["stuck"]["status"], ended["stuck"]["outcome"]) == (403, "refused")
    assert (ended["last"]["status"], ended["last"]["outcome"]) == (200, "ok")
    assert any(told and told[0]["id"] == waiting["id"] for told in watcher.of("waiting"))
    states = [(model["name"], model["state"]) for model in watcher.of("model")]
    assert ("b", "ready") in states
    assert states[-1] == ("a", "ready")
    line = gateway.wait_for("request", request_id="stuck")
    assert (line["status"], line["error"]) == (403, "the operator cancelled this request")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/models"),
        ("GET", "/admin/queue"),
        ("GET", "/admin/requests"),
        ("DELETE", "/admin/requests/x"),
        ("GET", "/admin/events"),
    ],
)
@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"X-Forwarded-For": "192.0.2.1"}],
)
def test_other_pages_and_other_machines_can_do_nothing(
    gateway: Gateway, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = gateway.client.request(method, path, headers=headers)
    assert answer.status_code == 403, answer.text


def test_with_keys_only_an_admin_may(tmp_path: Path) -> None:
    keys = {"boss": {"secret": "the-secret-of-boss", "admin": True}, "ann": {"secret": "the-secret-of-ann-1"}}
    with running({"keys": keys, "llama_cpp": {"models": {"a": stand_in()}}}, tmp_path) as gateway:
        for path in ("/admin/models", "/admin/requests", "/admin/events"):
            for secret, status in (("", 401), ("the-secret-of-ann-1", 403)):
                headers = {"Authorization": f"Bearer {secret}"} if secret else {}
                assert gateway.client.get(path, headers=headers).status_code == status
        headers = {"Authorization": "Bearer the-secret-of-boss"}
        assert gateway.client.get("/admin/models", headers=headers).status_code == 200
