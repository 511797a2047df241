"""A running gateway that is watched and controlled by `/admin`."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.test_failures import stand_in
from tests.gateway import HELLO, Gateway, Json, running, until


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    models = {
        "a": {**stand_in("paced"), "aliases": ["org/a:latest"], "hidden": True, "description": "the first"},
        "b": stand_in("silent-mid-stream"),
    }
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
    """Reads `/admin/events` in a thread, up to the last event by kind and data."""

    def __init__(self, gateway: Gateway, is_last: Callable[[str, Any], bool]) -> None:
        self.events: list[tuple[str, Any]] = []
        self._is_last = is_last
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
                    if self._is_last(*self.events[-1]):
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
    assert (models["a"]["hidden"], models["a"]["description"]) == (True, "the first")
    assert (models["b"]["hidden"], models["b"]["description"]) == (False, None)


def test_a_cancelled_stream_and_what_a_watcher_sees(gateway: Gateway) -> None:
    watcher = Watcher(gateway, lambda kind, told: kind == "request_ended" and told["id"] == "last")
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


def post(gateway: Gateway, path: str, **query: Any) -> httpx.Response:
    return gateway.client.post(path, params=query)


def state(gateway: Gateway, model: str) -> str:
    found: str = gateway.model(model)["state"]
    return found


def test_a_model_is_loaded_and_unloaded(gateway: Gateway) -> None:
    post(gateway, "/admin/models/a/unload", wait=20)
    assert state(gateway, "a") == "stopped"
    answer = post(gateway, "/admin/models/org/a:latest/load")
    assert (answer.status_code, answer.json()["name"]) == (202, "a")
    until(lambda: state(gateway, "a") == "ready", "the model is loaded")
    answer = post(gateway, "/admin/models/a/load", wait=20)
    assert (answer.status_code, answer.json()["state"]) == (200, "ready")
    answer = post(gateway, "/admin/models/a/unload", wait=20)
    assert (answer.status_code, answer.json()["state"]) == (200, "stopped")
    answer = post(gateway, "/admin/models/b/load", wait=20)
    assert (answer.status_code, answer.json()["state"]) == (200, "ready")
    assert state(gateway, "a") == "stopped", "there is room for one"


def test_unload_lets_running_requests_end_and_force_does_not(gateway: Gateway) -> None:
    with streaming(gateway, "a", "drained") as lines:
        next(lines)
        assert post(gateway, "/admin/models/a/unload").status_code == 202
        assert state(gateway, "a") == "draining"
        assert list(lines)[-1] == "data: [DONE]"
    until(lambda: state(gateway, "a") == "stopped", "the model is unloaded")
    with streaming(gateway, "b", "forced") as lines:
        next(lines)
        assert post(gateway, "/admin/models/b/unload", force=1, wait=20).status_code == 200
        last = json.loads(list(lines)[-1].removeprefix("data: "))
        assert last["error"]["message"] == "the operator has unloaded model 'b'"
    assert state(gateway, "b") == "stopped"


def test_a_load_waits_for_its_turn_as_a_request_does_and_an_unload_ends_it(gateway: Gateway) -> None:
    with streaming(gateway, "b", "holder") as lines:
        next(lines)
        with ThreadPoolExecutor(1) as another:
            load = another.submit(post, gateway, "/admin/models/a/load", wait=20)
            (waiting,) = until(lambda: get(gateway, "/admin/queue")["waiting"], "it waits")
            assert (waiting["model"], waiting["id"]) == ("a", None)
            assert post(gateway, "/admin/models/a/unload", wait=20).status_code == 200
            assert get(gateway, "/admin/queue")["waiting"] == []
            answer = load.result(20)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "load_cancelled")
        gateway.client.delete("/admin/requests/holder")


def test_a_pinned_model_keeps_its_place(gateway: Gateway) -> None:
    post(gateway, "/admin/models/a/load", wait=20)
    answer = post(gateway, "/admin/models/a/pin")
    assert (answer.status_code, answer.json()["pinned"]) == (200, True)
    assert post(gateway, "/admin/models/b/load", wait=0.5).status_code == 202
    assert state(gateway, "a") == "ready"
    assert post(gateway, "/admin/models/a/unpin").json()["pinned"] is False
    until(lambda: state(gateway, "b") == "ready", "the other model has the room now")


def test_a_reset_forgets_failures(tmp_path: Path) -> None:
    broken = {**stand_in(), "command": ["false"]}
    with running({"llama_cpp": {"models": {"broken": broken}}}, tmp_path) as gateway:
        answer = post(gateway, "/admin/models/broken/load", wait=20)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_load_failed")
        until(
            lambda: gateway.chat("broken").status_code == 503 and gateway.model("broken")["failures"],
            "failed",
        )
        answer = post(gateway, "/admin/models/broken/reset")
        assert answer.json()["failures"] == 0
        assert answer.json()["state"] == "stopped"


def test_a_plan_with_other_settings_changes_nothing(gateway: Gateway) -> None:
    post(gateway, "/admin/models/a/load", wait=20)
    own = get(gateway, "/admin/plan?model=a")
    tried = get(gateway, "/admin/plan?model=a&ctx=8192&parallel=2")
    assert (own["action"], tried["action"]) == ("runs", "start"), "its own memory counts as free"
    assert tried["context"] == 8192
    smaller = get(gateway, "/admin/plan?model=org/a:latest&ctx=8192&kv=q8_0")
    assert 0 < smaller["host"]["kv"] < tried["host"]["kv"] < own["host"]["kv"]
    other = get(gateway, "/admin/plan?model=b&ctx=512")
    assert [victim["model"] for victim in other["evicts"]] == ["a"]
    assert get(gateway, "/admin/plan?model=a") == own
    for query, status in (
        ("ctx=0", 400),
        ("parallel=many", 400),
        ("kv=a b", 400),
        ("kv=q9_9", 422),
        ("ctx=2000000000", 422),
    ):
        assert gateway.client.get(f"/admin/plan?model=a&{query}").status_code == status, query


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/admin/models/nobody/load", 404, "not_found"),
        ("/admin/models/nobody/unload", 404, "not_found"),
        ("/admin/models/nobody/pin", 404, "not_found"),
        ("/admin/models/a/load?wait=soon", 400, None),
        ("/admin/models/a/load?wait=-1", 400, None),
        ("/admin/models/a/load?wait=nan", 400, None),
        ("/admin/models/a/unload?force=perhaps", 400, None),
        ("/admin/models/a/jump", 405, "method_not_allowed"),
    ],
)
def test_mistakes(gateway: Gateway, path: str, status: int, code: str | None) -> None:
    answer = gateway.client.post(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


def test_files_of_the_configuration_are_not_deleted(gateway: Gateway) -> None:
    answer = gateway.client.delete("/admin/models/a")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_deletable")
    assert gateway.client.delete("/admin/models/nobody").status_code == 404


def test_tools_for_llama_swap(gateway: Gateway) -> None:
    post(gateway, "/admin/models/a/load", wait=20)
    (running_model,) = get(gateway, "/running")["running"]
    address = running_model.pop("proxy")
    assert address.startswith("http://127.0.0.1:")
    assert running_model.pop("cmd").startswith("llama-server")
    assert running_model == {"model": "a", "state": "ready", "ttl": 0, "name": "", "description": ""}
    for method, path, body in (
        ("GET", "/unload", b"OK"),
        ("POST", "/unload", b"OK"),
        ("POST", "/api/models/unload", b'{"msg":"ok"}'),
        ("POST", "/api/models/unload/org/a:latest", b"OK"),
    ):
        post(gateway, "/admin/models/a/load", wait=20)
        answer = gateway.client.request(method, path)
        assert (answer.status_code, answer.content) == (200, body)
        assert get(gateway, "/running") == {"running": []}
    assert gateway.client.post("/api/models/unload/nobody").status_code == 404
    assert gateway.client.head("/unload").status_code == 405


def test_tools_for_the_router_of_llama_cpp(gateway: Gateway) -> None:
    post(gateway, "/admin/models/a/unload", wait=20)
    answer = gateway.client.post("/models/load", json={"model": "a"})
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    until(lambda: state(gateway, "a") == "ready", "the model is loaded")
    answer = gateway.client.post("/models/load", json={"model": "a"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "model is already running")
    assert gateway.client.post("/models/unload", json={"model": "a"}).json() == {"success": True}
    until(lambda: state(gateway, "a") == "stopped", "the model is unloaded")
    answer = gateway.client.post("/models/unload", json={"model": "a"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "model is not running")
    assert gateway.client.post("/models/load", json={"model": "nobody"}).status_code == 404
    assert gateway.client.post("/models/load", json={}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/models"),
        ("GET", "/admin/queue"),
        ("GET", "/admin/requests"),
        ("DELETE", "/admin/requests/x"),
        ("GET", "/admin/events"),
        ("POST", "/admin/models/a/load"),
        ("POST", "/admin/models/a/unload"),
        ("POST", "/admin/models/a/pin"),
        ("DELETE", "/admin/models/a"),
        ("GET", "/admin/logs"),
        ("GET", "/admin/logs/a"),
        ("GET", "/admin/keys"),
        ("POST", "/admin/keys"),
        ("DELETE", "/admin/keys/x"),
        ("GET", "/admin/hub/search"),
        ("GET", "/admin/hub/files"),
        ("POST", "/admin/hub/pull"),
        ("GET", "/unload"),
        ("POST", "/unload"),
        ("POST", "/api/models/unload"),
        ("POST", "/api/models/unload/a"),
        ("POST", "/models/load"),
        ("POST", "/models/unload"),
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
        ann = {"Authorization": "Bearer the-secret-of-ann-1"}
        assert gateway.client.get("/running", headers=ann).json() == {"running": []}
        for method, path in (
            ("POST", "/admin/models/a/load"),
            ("GET", "/unload"),
            ("POST", "/models/load"),
            ("POST", "/api/models/unload/a"),
        ):
            assert gateway.client.request(method, path, headers=ann).status_code == 403
        boss = {"Authorization": "Bearer the-secret-of-boss"}
        assert gateway.client.get("/admin/models", headers=boss).status_code == 200
        assert gateway.client.get("/unload", headers=boss).text == "OK"
        gateway.client.post("/admin/models/a/load", headers=boss)
        rows = gateway.client.get("/admin/activity?kind=action", headers=boss).json()["requests"]
        assert [(row["key"], row["action"], row["status"]) for row in rows][:3] == [
            ("boss", "POST /admin/models/a/load", 202),
            ("boss", "GET /unload", 200),
            ("ann", "POST /api/models/unload/a", 403),
        ]
