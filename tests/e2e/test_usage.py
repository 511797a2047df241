"""The ledger of a real gateway equals what clients counted, also after a kill; and whatever its file does."""

import json
import os
import resource
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import DEMO, Start
from tests.e2e.test_failures import stand_in
from tests.e2e.test_keys import bearer, command
from tests.e2e.test_metrics import value
from tests.gateway import HELLO, Gateway, Json, running, until
from tests.ollama_daemons import stand_in_daemon

KEYS = {"alice": "the-secret-of-alice", "bob": "the-secret-of-bob-1", "boss": "the-secret-of-boss"}
PATIENCE = 30.0


def keys() -> dict[str, Any]:
    return {name: {"secret": secret, "admin": name == "boss"} for name, secret in KEYS.items()}


def small(*orders: str) -> dict[str, Any]:
    return {"llama_cpp": {"models": {"small": stand_in(*orders)}}}


def ledger(folder: Path) -> Path:
    return folder / "data" / "llama-smart-proxy" / "usage.sqlite3"


def rows(gateway: Gateway, **query: str) -> list[Json]:
    answer = gateway.client.get("/admin/activity", params=query, headers=bearer(KEYS["boss"]))
    found: list[Json] = answer.raise_for_status().json()["requests"]
    return found


def usage(folder: Path, *options: str) -> list[Json]:
    """What `run.py usage` says."""
    told = command(folder, "usage", "--json", *options)
    assert told.returncode == 0, told.stderr
    found: list[Json] = json.loads(told.stdout)["rows"]
    return found


class CountingClient:
    """Asks, and counts the tokens of each answer by the id of its request."""

    def __init__(self, url: str, key: str) -> None:
        self.key = key
        self.counted: dict[str, tuple[int, int]] = {}
        self.sent = 0
        self._http = httpx.Client(base_url=url, headers=bearer(KEYS[key]), timeout=30)

    def ask(self, number: int) -> None:
        """Ask once: a whole answer, a stream, or a model that there is not."""
        self.sent += 1
        body = {"model": "tiny", "messages": HELLO, "max_tokens": 3 + number % 4}
        request_id = f"{self.key}-{number}"
        headers = {"X-Request-Id": request_id}
        if number % 5 == 4:
            answer = self._http.post("/v1/chat/completions", json={**body, "model": "no"}, headers=headers)
            assert answer.status_code == 404
            self.counted[request_id] = 0, 0
            return
        if number % 2:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        answer = self._http.post("/v1/chat/completions", json=body, headers=headers).raise_for_status()
        events = answer.text.removesuffix("data: [DONE]\n\n").split("data: ")
        told = json.loads(events[-1])["usage"] if number % 2 else answer.json()["usage"]
        self.counted[request_id] = told["prompt_tokens"], told["completion_tokens"]

    def ask_until_it_breaks(self) -> None:
        """Ask again and again, until the gateway is gone."""
        try:
            while True:
                self.ask(self.sent)
        except httpx.TransportError:
            pass
        finally:
            self._http.close()


def test_after_a_kill_the_ledger_has_what_the_clients_counted(tmp_path: Path) -> None:
    with stand_in_daemon() as url:
        config = {"keys": keys(), "ollama": {"host": url}}
        with running(config, tmp_path) as gateway:
            clients = [CountingClient(gateway.url, key) for key in ("alice", "bob")]
            for client in clients:
                for number in range(10):
                    client.ask(number)
            expected = {
                client.key: (len(client.counted), *map(sum, zip(*client.counted.values(), strict=True)))
                for client in clients
            }

            def is_saved() -> bool:
                return sum(int(row["requests"]) for row in usage(tmp_path)) == 20

            until(is_saved, "the ledger is written without being asked", PATIENCE)
            saved = {request_id for client in clients for request_id in client.counted}
            found = usage(tmp_path, "--by", "key")
            assert {
                row["key"]: (row["requests"], row["prompt_tokens"], row["completion_tokens"]) for row in found
            } == expected
            assert [row["errors"] for row in found] == [2, 2]
            threads = [threading.Thread(target=client.ask_until_it_breaks) for client in clients]
            for thread in threads:
                thread.start()
            until(lambda: sum(row["requests"] for row in usage(tmp_path)) > 30, "more of it", PATIENCE)
            os.kill(gateway.process.pid, signal.SIGKILL)
            gateway.process.wait()
            for thread in threads:
                thread.join()
        with running(config, tmp_path) as gateway:
            assert gateway.client.get("/v1/usage", headers=bearer(KEYS["alice"])).status_code == 200
            kept = rows(gateway, limit="1000")
    counted = {key: tokens for client in clients for key, tokens in client.counted.items()}
    again = Counter(row["id"] for row in kept)
    assert set(again.values()) == {1}, "no request is there twice"
    assert saved < set(again)
    for row in kept:
        if row["id"] in counted:  # a client may not have read the last answer before the end
            tokens = row["prompt_tokens"] or 0, row["completion_tokens"] or 0
            assert tokens == counted[row["id"]], row
            assert row["id"].startswith(row["key"])
    for client in clients:
        there = [number for number in range(client.sent) if f"{client.key}-{number}" in again]
        assert there == list(range(len(there))), "only the last ones may be missing"


def test_tokens_from_the_cache_are_counted(start: Start, real_server: None, tmp_path: Path) -> None:
    gateway = start({"demo": {**DEMO, "parallel": 1}})
    told = [gateway.chat(messages=[{"role": "user", "content": "hello " * 50}]).json() for _ in range(2)]
    gateway.client.post("/v1/embeddings", json={"model": "demo", "input": "x"})
    cached = told[1]["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached > 50
    refused, second, first = gateway.client.get("/admin/activity").json()["requests"]
    assert refused["endpoint"] == "/v1/embeddings"
    assert refused["outcome"] == "refused"
    for row, answer in ((first, told[0]), (second, told[1])):
        assert row["prompt_tokens"] == answer["usage"]["prompt_tokens"]
        assert row["completion_tokens"] == answer["usage"]["completion_tokens"]
        assert row["cached_tokens"] == answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert first["loaded_seconds"] > 0
    assert first["first_token_seconds"] < first["seconds"]
    assert first["place"] == "host"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "keys": keys(),
        "llama_cpp": {"models": {"small": stand_in(), "other": stand_in()}},
        "agents": ["parallel"],
    }
    with running(config, tmp_path_factory.mktemp("usage")) as gateway:
        yield gateway


def ask(gateway: Gateway, key: str, model: str = "small", **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": HELLO, "max_tokens": 4, **fields}
    return gateway.client.post("/v1/chat/completions", json=body, headers=bearer(KEYS[key]))


def test_a_key_sees_its_own(shared: Gateway) -> None:
    ask(shared, "alice")
    ask(shared, "bob", "other")

    def own(key: str, path: str = "/v1/usage?by=key,model") -> httpx.Response:
        return shared.client.get(path, headers=bearer(KEYS[key]))

    assert {(row["key"], row["model"]) for row in own("alice").json()["rows"]} == {("alice", "small")}
    assert {(row["key"], row["model"]) for row in own("bob").json()["rows"]} == {("bob", "other")}
    assert own("alice", "/v1/usage").json()["rows"][0].keys() >= {"model", "day", "requests"}
    everything = own("boss", "/admin/usage").json()["rows"]
    assert {row["key"] for row in everything} >= {"alice", "bob"}
    for path in ("/admin/usage", "/admin/activity"):
        assert own("alice", path).status_code == 403
    assert shared.client.get("/v1/usage").status_code == 401


def test_agents_calls_are_told_apart(shared: Gateway) -> None:
    before = len(rows(shared, kind="call", limit="1000"))
    assert ask(shared, "boss", agents=["parallel:vote:3"]).status_code == 200
    newest = rows(shared)[0]
    assert (newest["key"], newest["agents"], newest["agent"]) == ("boss", ["parallel"], None)
    calls = rows(shared, kind="call", limit="1000")
    assert len(calls) - before == 3
    assert {(row["agent"], row["key"], row["model"]) for row in calls} == {("parallel", "boss", "small")}
    found = shared.client.get("/admin/usage?by=agent&since=1h", headers=bearer(KEYS["boss"])).json()["rows"]
    assert {row["agent"] for row in found} == {None, "parallel"}


def test_what_reads_or_is_refused_at_the_door_has_no_row(shared: Gateway) -> None:
    before = rows(shared, limit="1000")
    boss = bearer(KEYS["boss"])
    for path in ("/health", "/metrics", "/v1/models", "/props?model=small", "/admin/plan?model=small"):
        shared.client.get(path, headers=boss)
    shared.client.post("/v1/nowhere", headers=boss)
    shared.client.post("/v1/chat/completions", headers=bearer("a-wrong-secret-01"))
    shared.client.post("/v1/chat/completions", headers={**boss, "Origin": "https://evil.example"})
    assert rows(shared, limit="1000") == before
    shared.client.post("/v1/chat/completions", content="{", headers=boss)
    assert rows(shared)[0]["status"] in (400, 415)


def test_pages_and_filters(shared: Gateway) -> None:
    for _ in range(3):
        ask(shared, "alice")
    ask(shared, "alice", "nowhere")
    boss = bearer(KEYS["boss"])
    page = shared.client.get("/admin/activity?limit=2&key=alice", headers=boss).json()
    rest = shared.client.get(f"/admin/activity?key=alice&before={page['next']}", headers=boss).json()
    assert len(page["requests"]) == 2
    assert rest["requests"][0]["number"] < page["requests"][1]["number"]
    assert rest["next"] is None
    assert {row["status"] for row in rows(shared, key="alice", outcome="refused")} == {404}
    assert {row["model"] for row in rows(shared, model="small")} == {"small"}
    assert rows(shared, until="1d") == []


@pytest.mark.parametrize(
    "query",
    [
        "by=moon",
        "since=yesterday",
        "until=2027-13-01",
        "limit=0",
        "limit=x",
        "before=x",
        f"before={2**63}",
        "outcome=bad",
    ],
)
def test_queries_that_make_no_sense(shared: Gateway, query: str) -> None:
    path = "/admin/usage" if query.startswith("by") else "/admin/activity"
    answer = shared.client.get(f"{path}?{query}", headers=bearer(KEYS["boss"]))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("DELETE", "/api/delete", "DELETE /api/delete nowhere"),
        ("POST", "/models/unload", "POST /models/unload nowhere"),
        ("DELETE", "/admin/requests/a%2Fb?token=secret", "DELETE /admin/requests/a%2Fb?token=***"),
    ],
)
def test_who_changes_something_is_in_the_ledger(shared: Gateway, method: str, path: str, action: str) -> None:
    for key, status in (("boss", 404), ("alice", 403)):
        answer = shared.client.request(method, path, json={"model": "nowhere"}, headers=bearer(KEYS[key]))
        assert answer.status_code == status
    refused, done = rows(shared, kind="action")[:2]
    assert (done["key"], done["action"], done["status"]) == ("boss", action, 404)
    assert action.startswith(refused["action"])
    assert (refused["key"], refused["status"], refused["outcome"]) == ("alice", 403, "refused")
    assert all(row["action"] is None for row in rows(shared, limit="1000"))


def test_the_ledger_says_which_key_was_made(shared: Gateway) -> None:
    boss = bearer(KEYS["boss"])
    secret = shared.client.post("/admin/keys", json={"name": "dora"}, headers=boss).json()["secret"]
    shared.client.delete("/admin/keys/dora", headers=boss)
    told = rows(shared, kind="action")[:2]
    assert [row["action"] for row in told] == ["DELETE /admin/keys/dora", "POST /admin/keys dora"]
    assert {row["key"] for row in told} == {"boss"}
    assert secret not in str(told)


def test_tools_of_other_routers_leave_a_row_too(shared: Gateway) -> None:
    assert shared.client.get("/unload", headers=bearer(KEYS["boss"])).status_code == 200
    assert rows(shared, kind="action")[0]["action"] == "GET /unload"
    answer = shared.client.post("/admin/hub/pull", json={"name": "org/repo"}, headers=bearer(KEYS["boss"]))
    assert answer.status_code == 403
    assert rows(shared, kind="action")[0]["action"] == "POST /admin/hub/pull org/repo"


def test_changed_keys_are_in_the_ledger(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("server: {port: 0}\n")
    assert command(tmp_path, "key", "add", "before").returncode == 0
    assert not ledger(tmp_path).exists(), "a ledger that is off is not made"
    secret = command(tmp_path, "key", "add", "boss", "--admin").stdout.strip()
    with running(small(), tmp_path) as gateway:
        for action in ("add", "rotate", "revoke"):
            assert command(tmp_path, "key", action, "carol").returncode == 0
        assert command(tmp_path, "key", "revoke", "nobody").returncode == 1
        told = gateway.client.get("/admin/activity?kind=action", headers=bearer(secret)).json()["requests"]
        assert [row["action"] for row in told] == ["key revoke carol", "key rotate carol", "key add carol"]
        assert {(row["key"], row["endpoint"], row["outcome"]) for row in told} == {(None, "command", "ok")}


# What may happen to the file


def waits(gateway: Gateway) -> Json:
    return gateway.wait_for("usage cannot be recorded; it waits in memory")


def test_on_a_full_disk_it_goes_on_and_says_so_once(tmp_path: Path) -> None:
    with running(small(), tmp_path) as gateway:
        gateway.chat("small")
        until(lambda: usage(tmp_path), "the first row", PATIENCE)
        pid = gateway.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, limits[1]))
        for _ in range(3):
            assert gateway.chat("small").status_code == 200
        assert waits(gateway)["level"] == "warning"
        assert gateway.client.get("/v1/usage").status_code == 200
        assert value(gateway, "usage_waiting") == 3
        assert value(gateway, "usage_dropped_total") == 0
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        gateway.wait_for("usage is recorded again")
        assert [row["requests"] for row in usage(tmp_path)] == [4]
        assert value(gateway, "usage_waiting") == 0
        assert sum("cannot be recorded" in line["event"] for line in gateway.log) == 1


def test_a_locked_file_is_waited_for(tmp_path: Path) -> None:
    with running(small(), tmp_path) as gateway:
        with closing(sqlite3.connect(ledger(tmp_path), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert gateway.chat("small").status_code == 200
            assert "locked" in waits(gateway)["reason"]
            assert gateway.chat("small").status_code == 200
        gateway.wait_for("usage is recorded again")
        until(lambda: [row["requests"] for row in usage(tmp_path)] == [2], "both", PATIENCE)


@pytest.mark.parametrize("harm", ["deleted", "damaged"])
def test_a_new_file_is_begun(tmp_path: Path, harm: str) -> None:
    with running(small(), tmp_path) as gateway:
        gateway.chat("small")
        until(lambda: usage(tmp_path), "the first row", PATIENCE)
        if harm == "deleted":
            ledger(tmp_path).unlink()
        else:
            ledger(tmp_path).write_bytes(b"garbage" * 10_000)
        assert gateway.chat("small").status_code == 200

        def again() -> bool:
            told = command(tmp_path, "usage", "--json")
            return told.returncode == 0 and len(json.loads(told.stdout)["rows"]) > 0

        until(again, "a new file", PATIENCE)
        assert gateway.chat("small").status_code == 200
        assert len(gateway.client.get("/admin/activity").json()["requests"]) >= 2


def test_a_folder_that_cannot_be_used_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    with running(small(), tmp_path) as gateway:
        assert gateway.chat("small").status_code == 200
        waits(gateway)
        assert gateway.client.get("/admin/usage").json() == {"rows": []}


def test_it_can_be_off(tmp_path: Path) -> None:
    with running({**small(), "usage": {"keep_days": 0}}, tmp_path) as gateway:
        assert gateway.chat("small").status_code == 200
        assert gateway.client.get("/admin/activity").json() == {"requests": [], "next": None}
        assert not ledger(tmp_path).exists()


def test_a_stop_keeps_the_last_requests(tmp_path: Path) -> None:
    with running(small(), tmp_path) as gateway:
        gateway.chat("small")
        gateway.chat('=cmd|"x"!A0')
        assert gateway.stop() == 0
    assert command(tmp_path, "usage", "--by", "model", "--csv").stdout.splitlines()[1].startswith("\"'=cmd|")
    told = command(tmp_path, "usage", "--by", "model,endpoint")
    assert told.stdout.splitlines()[2].split()[:3] == ["small", "/v1/chat/completions", "1"]
    assert command(tmp_path, "usage", "--by", "model", "--csv").stdout.splitlines()[2].startswith("small,1,")
    assert command(tmp_path, "usage", "--until", "1d").stdout.startswith("There are no requests in ")
    assert command(tmp_path, "usage", "--by", "moon").returncode == 2
