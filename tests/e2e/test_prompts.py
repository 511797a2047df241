"""Prompts on real servers: they survive a swap, an idle time-out, a restart and a crash of the gateway."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from actors.demo.model import write_demo
from tests.conftest import Start
from tests.gateway import CHECKOUT, Gateway, Json, until

LONG = " ".join(f"This is sentence {number} about docker containers." for number in range(250))


@pytest.fixture
def cache(tmp_path: Path) -> str:
    """A cache folder of the test's own, because a gateway of another test may have its prompts locked."""
    return str(tmp_path / "cache")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, real_server: None) -> Json:
    path = tmp_path_factory.mktemp("model") / "demo.gguf"
    write_demo(path)
    return {"path": str(path), "ctx_size": 65536, "parallel": 2, "arguments": ["--threads", "1"]}


def saved(cache: str, kind: str = "json") -> list[Path]:
    return sorted(Path(cache, "llama-smart-proxy", "prompts").glob(f"*/*.{kind}"))


class Talk:
    """A conversation that goes on with each turn."""

    def __init__(self, model: str, about: str = "") -> None:
        self.model = model
        self.messages: list[Json] = [{"role": "user", "content": f"{about} {LONG}"}]

    def turn(self, gateway: Gateway, more: str = "and llamas?", **fields: Any) -> httpx.Response:
        response = gateway.chat(self.model, messages=self.messages, max_tokens=16, **fields)
        assert response.status_code == 200, response.text
        answer = response.json()["choices"][0]["message"]
        self.messages += [answer, {"role": "user", "content": more}]
        return response


def cached(response: httpx.Response) -> int:
    count: int = response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return count


def prompt(response: httpx.Response) -> int:
    count: int = response.json()["usage"]["prompt_tokens"]
    return count


def test_two_models_that_do_not_fit_together(start: Start, cache: str, model: Json) -> None:
    gateway = start({"a": model, "b": model}, server_pool={"size": 1})
    talks = [Talk("a", "One."), Talk("b", "Two.")]
    for talk in talks:
        first = talk.turn(gateway)
        assert cached(first) == 0
        assert "X-Prompt" not in first.headers
    for talk in talks * 2:
        again = talk.turn(gateway)
        assert cached(again) > 0.9 * prompt(again)
        assert again.headers["X-Prompt"].startswith("restored ")
        line = gateway.wait_for("request", request_id=again.headers["X-Request-Id"])
        assert line["prompt"] == again.headers["X-Prompt"]
    restored = gateway.wait_for("prompt restored", model="a")
    assert restored["spared_seconds"] > 0
    figures = gateway.health()["prompts"]
    assert figures["restored"] == 4
    assert figures["missed"] == 0
    assert 0 < figures["bytes"] <= figures["budget"]
    metrics = gateway.client.get("/metrics").text
    assert "llama_proxy_prompt_restores_total 4.0" in metrics
    assert f"llama_proxy_prompts_saved {figures['kept']}.0" in metrics
    for path in Path(cache, "llama-smart-proxy", "prompts").glob("*/*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_several_conversations_of_one_model(start: Start, cache: str, model: Json) -> None:
    talks = [Talk("a", f"Number {number}.") for number in range(3)]
    first = start({"a": model})
    for talk in talks:
        talk.turn(first)
    first.stop()
    assert len(saved(cache)) == 3
    second = start({"a": model})
    for talk in talks:
        again = talk.turn(second)
        # From a checkpoint in the file: with a sliding window the end of the answer is no use.
        assert cached(again) > 0.7 * prompt(again)


def test_a_restart_of_the_gateway(start: Start, cache: str, model: Json) -> None:
    talk = Talk("a")
    first = start({"a": model})
    talk.turn(first)
    first.stop()
    assert len(saved(cache)) == 1
    second = start({"a": model})
    again = talk.turn(second)
    assert cached(again) > 0.9 * prompt(again)


def test_a_crash_of_the_gateway(start: Start, cache: str, model: Json) -> None:
    talk = Talk("a")
    first = start({"a": model}, server_pool={"idle_timeout": 0.2})
    talk.turn(first)
    until(lambda: saved(cache), "a prompt saved when its model was idle")
    talk.turn(first)
    first.stop(signal.SIGKILL)
    second = start({"a": model})
    again = talk.turn(second)
    assert cached(again) > 0.8 * prompt(again), "all but the last turn"


def test_a_kill_in_the_middle_of_a_save(start: Start, cache: str, model: Json) -> None:
    talk = Talk("a")
    first = start({"a": model})
    talk.turn(first)
    (server,) = first.servers()
    os.kill(server, signal.SIGSTOP)
    first.process.send_signal(signal.SIGTERM)
    first.wait_for("model stops")
    first.stop(signal.SIGKILL)
    folder = next(Path(cache, "llama-smart-proxy", "prompts").iterdir())
    (folder / f"{'0' * 32}.part").write_bytes(b"what the server had written by then")
    second = start({"a": model})
    assert {path.name for path in folder.iterdir()} == {"lock"}
    assert cached(talk.turn(second)) == 0


def test_a_save_that_does_not_end_does_not_keep_the_next_model_waiting(
    start: Start, cache: str, model: Json
) -> None:
    gateway = start({"a": model, "b": model}, server_pool={"size": 1, "stop_timeout": 0.2})
    Talk("a").turn(gateway)
    (server,) = gateway.servers()
    os.kill(server, signal.SIGSTOP)
    assert gateway.chat("b").status_code == 200
    assert not saved(cache)
    assert not saved(cache, "part")


def test_slots_of_the_server_itself(start: Start, cache: str, model: Json) -> None:
    gateway = start({"a": model})
    talk = Talk("a")
    talk.turn(gateway)
    for path in ("/slots/0", "/%73lots/1"):
        refused = gateway.client.post(f"/upstream/a{path}?action=save", json={"filename": "mine"})
        assert refused.status_code == 403
        assert "prompts: false" in refused.json()["error"]["message"]
    assert gateway.client.get("/upstream/a/slots").status_code == 200
    assert gateway.client.post("/upstream/a/lora-adapters", json=[]).status_code == 200
    gateway.stop()
    assert not saved(cache), "what was read with other adapters is not saved"


def test_a_damaged_file(start: Start, cache: str, model: Json) -> None:
    talk = Talk("a")
    first = start({"a": model})
    talk.turn(first)
    first.stop()
    (path,) = saved(cache, "prompt")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    second = start({"a": model})
    again = talk.turn(second)
    assert cached(again) == 0
    assert again.json()["choices"][0]["message"]["content"]
    second.wait_for("saved prompt is damaged or gone")


def test_keys_do_not_share_what_is_saved(start: Start, cache: str, model: Json) -> None:
    keys = {name: {"secret": f"{name}-0123456789abcdef"} for name in ("alice", "bob")}

    def turn(talk: Talk, gateway: Gateway, name: str) -> httpx.Response:
        gateway.client.headers["Authorization"] = f"Bearer {keys[name]['secret']}"
        return talk.turn(gateway)

    talk = Talk("a")
    first = start({"a": model}, keys=keys)
    turn(talk, first, "alice")
    first.stop()
    second = start({"a": model}, keys=keys)
    before = list(talk.messages)
    assert cached(turn(talk, second, "bob")) == 0
    second.stop()
    third = start({"a": model}, keys=keys)
    talk.messages = before
    assert cached(turn(talk, third, "alice")) > 0


def test_other_settings_of_the_cache(start: Start, cache: str, model: Json) -> None:
    talk = Talk("a")
    first = start({"a": model})
    talk.turn(first)
    first.stop()
    other = {**model, "arguments": ["--threads", "1", "--cache-type-k", "q8_0"]}
    second = start({"a": other})
    assert cached(talk.turn(second)) == 0


@pytest.mark.parametrize("where", ["pool", "model"])
def test_it_is_off(start: Start, cache: str, model: Json, where: str) -> None:
    pool = {"prompts": {"disk": 0}} if where == "pool" else {}
    settings = model if where == "pool" else {**model, "prompts": False}
    gateway = start({"a": settings}, server_pool=pool)
    Talk("a").turn(gateway)
    gateway.stop()
    assert not saved(cache)
    told = [line for line in gateway.log if line["event"] == "prompts are kept when a model stops"]
    assert bool(told) == (where == "model")


@pytest.mark.parametrize("path", ["/v1/messages", "/api/chat", "/v1/responses"])
def test_clients_of_every_api(start: Start, cache: str, model: Json, path: str) -> None:
    gateway = start({"a": model})
    field = "input" if path == "/v1/responses" else "messages"
    body: Json = {"model": "a", field: [{"role": "user", "content": LONG}], "stream": False}
    limit = {"/v1/messages": {"max_tokens": 8}, "/v1/responses": {"max_output_tokens": 8}}
    body |= limit.get(path, {"options": {"num_predict": 8}})
    assert gateway.client.post(path, json=body).status_code == 200
    gateway.stop()
    second = start({"a": model})
    body[field] += [{"role": "assistant", "content": "Docker."}, {"role": "user", "content": "and llamas?"}]
    again = second.client.post(path, json=body)
    assert again.status_code == 200
    assert "X-Prompt" in again.headers


def test_the_command(start: Start, cache: str, model: Json, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("{}")

    def command(*words: str) -> str:
        argv = [sys.executable, str(CHECKOUT / "run.py"), "--config", str(config), "prompts", *words]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env={**os.environ, "XDG_CACHE_HOME": cache}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert command() == "no prompts are saved\n"
    gateway = start({"a": model})
    talk = Talk("a")
    talk.turn(gateway)
    gateway.stop()
    head, row = command().splitlines()
    assert head.split() == ["MODEL", "KEY", "TOKENS", "SIZE", "UNUSED", "HITS", "SPARED"]
    assert row.split()[:2] == ["a", "-"]
    assert command("clear", "other").startswith("0 prompts deleted")
    second = start({"a": model})
    assert command("clear").startswith("1 prompts deleted")
    assert not saved(cache) + saved(cache, "prompt")
    assert cached(talk.turn(second)) == 0, "and the gateway goes on"


def test_keys_that_are_kept_apart(start: Start, cache: str, model: Json) -> None:
    keys = {name: {"secret": f"{name}-0123456789abcdef"} for name in ("alice", "bob")}
    gateway = start({"a": {**model, "isolate": True}}, keys=keys)
    clients = {}
    for name, key in keys.items():
        headers = {"Authorization": f"Bearer {key['secret']}"}
        clients[name] = httpx.Client(base_url=gateway.url, headers=headers, timeout=60)

    def ask(name: str, **fields: Any) -> httpx.Response:
        messages = [{"role": "user", "content": LONG}]
        body = {"model": "a", "messages": messages, "max_tokens": 4, "temperature": 0, **fields}
        return clients[name].post("/v1/chat/completions", json=body)

    assert cached(ask("alice")) == 0
    assert cached(ask("alice")) > 0, "her own"
    assert cached(ask("bob")) == 0, "not hers"
    assert cached(ask("bob")) > 0
    for slot in range(2):
        assert cached(ask("bob", id_slot=slot, cache_prompt=True)) > 0, "his own again, wherever he points"
    assert cached(ask("alice")) > 0, "two conversations do not push each other out"
    assert ask("alice", n=2).status_code == 400
    raw = clients["alice"].post("/upstream/a/v1/chat/completions", json={"messages": []})
    assert raw.status_code == 403
    assert "isolate" in raw.json()["error"]["message"]
    gateway.stop()
    again = start({"a": {**model, "isolate": True}}, keys=keys)
    for name, client in clients.items():
        client.base_url = httpx.URL(again.url)
        answer = ask(name)
        assert cached(answer) > 0
        assert "X-Prompt" in answer.headers
        client.close()
