"""Whole requests and answers that a real gateway captures: which, how much, and never a secret."""

import json
import resource
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import DEMO, Start
from tests.e2e.test_failures import stand_in
from tests.e2e.test_keys import bearer, command
from tests.e2e.test_metrics import value
from tests.gateway import FOREVER, HELLO, Gateway, Json, running, until

KEYS = {"alice": "the-secret-of-alice-1", "boss": "the-secret-of-boss-1"}
MODELS = {"small": stand_in(), "other": stand_in()}


def config(**captures: Any) -> dict[str, Any]:
    keys = {name: {"secret": secret, "admin": name == "boss"} for name, secret in KEYS.items()}
    return {"keys": keys, "llama_cpp": {"models": MODELS}, "usage": {"captures": captures}}


def files(folder: Path) -> list[Path]:
    return sorted((folder / "data" / "llama-smart-proxy" / "captures").glob("*.json"))


def ask(
    gateway: Gateway, request_id: str, key: str = "alice", model: str = "small", **fields: Any
) -> httpx.Response:
    headers = {**bearer(KEYS[key]), "X-Request-Id": request_id}
    body = {"model": model, "messages": HELLO, "max_tokens": 4, **fields}
    return gateway.client.post("/v1/chat/completions", json=body, headers=headers)


def capture(gateway: Gateway, request_id: str) -> Json:
    """The capture of a request, as soon as it is written."""

    def look() -> Json | None:
        path = f"/admin/activity/{request_id}/capture"
        answer = gateway.client.get(path, headers=bearer(KEYS["boss"]))
        return answer.json() if answer.status_code == 200 else None

    found: Json = until(look, f"the capture of {request_id}")
    return found


def rows(gateway: Gateway) -> dict[str, bool]:
    """Whether there is a capture of each request."""
    answer = gateway.client.get("/admin/activity?limit=1000", headers=bearer(KEYS["boss"]))
    return {row["id"]: row["capture"] for row in answer.json()["requests"]}


def test_requests_and_answers_are_as_the_client_saw_them(tmp_path: Path) -> None:
    with running(config(models=["sm*"]), tmp_path) as gateway:
        whole, streamed = ask(gateway, "whole"), ask(gateway, "streamed", stream=True)
        wrong = ask(gateway, "wrong", messages=[])
        denied = ask(gateway, "other", model="other")
        assert (whole.status_code, streamed.status_code, denied.status_code) == (200, 200, 200)
        found = capture(gateway, "whole")
        assert json.loads(found["request"]["body"])["messages"] == HELLO
        assert (found["request"]["method"], found["request"]["path"]) == ("POST", "/v1/chat/completions")
        assert found["answer"]["body"] == whole.text
        assert found["answer"]["status"] == 200
        assert (found["key"], found["model"], found["outcome"]) == ("alice", "small", "ok")
        found = capture(gateway, "streamed")
        assert found["answer"]["body"] == streamed.text
        assert found["answer"]["headers"]["content-type"] == "text/event-stream"
        assert not found["answer"]["truncated"]
        assert wrong.status_code == 400
        assert capture(gateway, "wrong")["answer"]["body"] == wrong.text
        assert rows(gateway) == {"whole": True, "streamed": True, "wrong": True, "other": False}
        folder = files(tmp_path)[0].parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(one.stat().st_mode) for one in files(tmp_path)} == {0o600}
        for path in ("other", "nothing", "..%2F..%2Fkeys"):
            answer = gateway.client.get(f"/admin/activity/{path}/capture", headers=bearer(KEYS["boss"]))
            assert answer.status_code == 404
        refused = gateway.client.get("/admin/activity/whole/capture", headers=bearer(KEYS["alice"]))
        assert refused.status_code == 403


def test_no_capture_has_a_secret(tmp_path: Path) -> None:
    hub = "hf_" + "a1B2" * 8
    with running(config(keys=["al*"]), tmp_path) as gateway:
        said = [{"role": "user", "content": f"my key is {KEYS['alice']}, that of the hub {hub}"}]
        for number, stream in enumerate([False, True]):
            assert (
                ask(gateway, f"said-{number}", messages=said, stream=stream, password="hidden-1").status_code
                == 200
            )
        headers = {"x-api-key": KEYS["alice"], "Cookie": "session=hidden-2", "X-Request-Id": "headers"}
        body = {"model": "other", "messages": HELLO, "max_tokens": 2}
        path = f"/v1/messages?key={KEYS['alice']}"
        assert gateway.client.post(path, json=body, headers=headers).status_code == 200
        for request_id in ("said-0", "said-1", "headers"):
            assert capture(gateway, request_id)["request"]["body"]
        text = "".join(one.read_text() for one in files(tmp_path))
        assert len(files(tmp_path)) == 3
        for secret in (KEYS["alice"], hub, "hidden-1", "hidden-2"):
            assert secret not in text
        assert "[redacted]" in text


def test_failures_only(tmp_path: Path) -> None:
    with running(config(models=["*"], failures_only=True), tmp_path) as gateway:
        ask(gateway, "fine")
        ask(gateway, "fine-stream", stream=True)
        ask(gateway, "wrong", messages=[])
        capture(gateway, "wrong")
        assert rows(gateway) == {"fine": False, "fine-stream": False, "wrong": True}


def test_what_is_too_large_is_cut_off(tmp_path: Path) -> None:
    with running(config(models=["*"], max_mb=0.001), tmp_path) as gateway:
        long = [{"role": "user", "content": "x" * 5000}]
        assert ask(gateway, "long", messages=long, stream=True, max_tokens=200).status_code == 200
        found = capture(gateway, "long")
        assert found["request"]["truncated"]
        assert len(found["request"]["body"]) == 1048
        assert found["answer"]["truncated"]
        assert found["answer"]["body"].startswith("data: ")
        assert len(found["answer"]["body"]) < 1048


def test_a_client_that_leaves(start: Start, real_server: None) -> None:
    gateway = start({"demo": DEMO}, usage={"captures": {"models": ["demo"], "failures_only": True}})
    body = {"model": "demo", "messages": FOREVER, "stream": True}
    headers = {"X-Request-Id": "left"}
    with gateway.client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        next(answer.iter_lines())
        answer.close()
    found = capture(gateway, "left")
    assert found["outcome"] == "client_left"
    assert found["answer"]["body"].startswith("data: ")
    assert gateway.chat().status_code == 200


def test_one_connection_serves_captured_and_other_requests(tmp_path: Path) -> None:
    with running(config(models=["small"]), tmp_path) as gateway:
        for number in range(4):
            model = "small" if number % 2 else "other"
            assert ask(gateway, str(number), model=model, stream=number > 1).status_code == 200
        assert gateway.client.get("/health").status_code == 200
        assert [capture(gateway, one)["answer"]["status"] for one in ("1", "3")] == [200, 200]
        assert rows(gateway) == {"0": False, "1": True, "2": False, "3": True}


def test_a_translated_stream_and_the_model_servers_own_paths(start: Start, real_server: None) -> None:
    gateway = start({"demo": DEMO}, usage={"captures": {"models": ["demo"]}})
    headers = {"X-Request-Id": "translated"}
    body = {"model": "demo", "messages": HELLO, "max_tokens": 8, "stream": True}
    translated = gateway.client.post("/v1/messages", json=body, headers=headers)
    headers = {"X-Request-Id": "upstream"}
    passed = gateway.client.post("/upstream/demo/tokenize", json={"content": "a"}, headers=headers)
    assert capture(gateway, "translated")["answer"]["body"] == translated.text
    assert capture(gateway, "upstream")["answer"]["body"] == passed.text


def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    with running(config(models=["*"]), tmp_path) as gateway:
        ask(gateway, "first")
        capture(gateway, "first")
        limits = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
        assert ask(gateway, "lost").status_code == 200
        gateway.wait_for("captures cannot be kept")
        assert ask(gateway, "lost too").status_code == 200
        boss = bearer(KEYS["boss"])
        gateway.client.headers.update(boss)
        until(lambda: value(gateway, "captures_dropped_total") == 2, "both are counted")
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, limits)
        ask(gateway, "kept")
        assert capture(gateway, "kept")
        assert sum("captures cannot be kept" in line["event"] for line in gateway.log) == 1
        gateway.wait_for("captures are kept again")
        assert not list(files(tmp_path)[0].parent.glob("*.part"))


def test_a_reload_turns_it_on_and_off(tmp_path: Path) -> None:
    def reload(**usage: Any) -> None:
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "usage": usage}))
        answer = gateway.client.post("/admin/reload", headers=bearer(KEYS["boss"])).json()
        assert answer["applied"]
        assert {change["effect"] for change in answer["changes"]} == {"at once"}

    with running(config(), tmp_path) as gateway:
        ask(gateway, "before")
        reload(captures={"keys": ["alice"]})
        ask(gateway, "during")
        capture(gateway, "during")
        reload(keep_days=0)
        ask(gateway, "after")
        assert rows(gateway) == {"before": False, "during": True}


@pytest.mark.parametrize("harm", ["max_mb: 0", "keep_days: 0", "models: small", "max_total_mb: 0"])
def test_settings_that_make_no_sense(tmp_path: Path, harm: str) -> None:
    (tmp_path / "config.yaml").write_text(f"usage: {{captures: {{{harm}}}}}\n")
    checked = command(tmp_path, "check")
    assert checked.returncode == 2
    assert "usage.captures." in checked.stderr
