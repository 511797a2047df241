"""Reloads of a running gateway: by signal, by route, by command, by a change of the file."""

import copy
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.gateway import CHECKOUT, FOREVER, Gateway, Json, running, until
from tests.ollama_daemons import stand_in_daemon

DEMO = {"path": "builtin:demo", "arguments": ["--threads", "1"], "ctx_size": 8192}
LONG = {"messages": FOREVER, "max_tokens": 10**6, "ignore_eos": True, "stream": True}
"""A stream that outlasts each test that reads it."""
ADMIN = "the-secret-of-the-operator"


class Configured:
    """A running gateway and its file."""

    def __init__(self, gateway: Gateway, config: Json, folder: Path) -> None:
        self.gateway = gateway
        self.config = copy.deepcopy(config)
        self.folder = folder
        self.file = folder / "config.yaml"

    def write(self, change: Any = None) -> None:
        """Change the file."""
        self.config = merged(self.config, change or {})
        written = self.file.with_suffix(".new")
        written.write_text(yaml.safe_dump(self.config))
        written.replace(self.file)

    def reload(self, **query: int) -> Json:
        """POST /admin/reload."""
        answer: Json = self.gateway.client.post("/admin/reload", params=query).json()
        return answer

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """`run.py`, for this gateway."""
        port = self.gateway.url.rpartition(":")[2]
        command = [sys.executable, str(CHECKOUT / "run.py"), "--config", str(self.file), "--port", port]
        environment = {**os.environ, "XDG_DATA_HOME": str(self.folder / "data")}
        return subprocess.run(
            [*command, *words], capture_output=True, text=True, timeout=60, check=False, env=environment
        )


def merged(data: Any, change: Any) -> Any:
    """Return data with a change; None takes a key out."""
    if not (isinstance(data, dict) and isinstance(change, dict)):
        return change
    both = {**data, **{key: merged(data.get(key), value) for key, value in change.items()}}
    return {key: value for key, value in both.items() if value is not None}


def effects(answer: Json) -> dict[str, str]:
    return {change["path"]: change["effect"] for change in answer["changes"]}


@contextmanager
def configured(folder: Path, **config: Any) -> Iterator[Configured]:
    with running(config, folder) as gateway:
        yield Configured(gateway, config, folder)


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Configured]:
    models = {
        "a": {**DEMO, "ctx_size": 524288},
        "b": {**DEMO, "aliases": ["bee"]},
        "c": {**DEMO, "ctx_size": 4096},
    }
    with configured(tmp_path, llama_cpp={"models": models}) as made:
        yield made


def test_one_of_three_models_restarts_while_another_streams(it: Configured) -> None:
    gateway = it.gateway
    for name in "abc":
        assert gateway.chat(name).status_code == 200
    before = {name: gateway.model(name)["epoch"] for name in "abc"}
    body = {"model": "a", **LONG}
    with gateway.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        it.write({"llama_cpp": {"models": {"b": {"ctx_size": 2048, "aliases": ["bumble"]}}}})
        gateway.process.send_signal(signal.SIGHUP)
        told = gateway.wait_for("configuration reloaded")
        assert told["changes"] == {
            "llama_cpp.models.b.ctx_size": "restarts model b",
            "llama_cpp.models.b.aliases": "at once",
        }
        with httpx.Client(base_url=gateway.url, timeout=30) as other:
            answer = other.post(
                "/v1/chat/completions", json={**body, "model": "bumble", "max_tokens": 4, "stream": False}
            )
            assert answer.status_code == 200
            gone = other.post("/v1/chat/completions", json={**body, "model": "bee", "stream": False})
            assert gone.status_code == 404
        assert gateway.model("a")["busy"] == 1, "it still streams"
        assert all("error" not in next(lines) for _ in range(100))
    after = {name: gateway.model(name)["epoch"] for name in "abc"}
    assert after == {**before, "b": before["b"] + 1}
    assert gateway.model("b")["placement"]["context"] == 2048


def test_a_changed_model_restarts_when_its_stream_is_over(it: Configured) -> None:
    gateway = it.gateway
    body = {"model": "a", **LONG}
    with gateway.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        it.write({"llama_cpp": {"models": {"a": {"ctx_size": 4096}, "c": None}}})
        with httpx.Client(base_url=gateway.url, timeout=30) as other:
            done = other.post("/admin/reload").json()
        assert done["applied"]
        assert effects(done) == {
            "llama_cpp.models.a.ctx_size": "restarts model a",
            "llama_cpp.models.c": "stops model c",
        }
        assert gateway.model("a")["state"] == "draining"
        assert all("error" not in next(lines) for _ in range(100))
    until(lambda: gateway.model("a")["epoch"] == 2, "it was loaded again")
    assert gateway.chat("a").status_code == 200
    assert set(gateway.health()["models"]) == {"a", "b"}


def test_an_invalid_file_changes_nothing_and_is_told_like_check_does(it: Configured) -> None:
    it.write({"server_pool": {"size": "many"}, "llama_cpp": {"models": {"a": {"ctx_sise": 5}}}})
    answer = it.gateway.client.post("/admin/reload")
    assert answer.status_code == 422
    lines = [line.removeprefix("run.py: ") for line in it.run("check").stderr.splitlines()]
    assert answer.json()["faults"] == lines
    assert answer.json()["error"]["code"] == "invalid_config"
    assert it.gateway.wait_for("configuration not reloaded")["faults"] == lines
    assert it.gateway.health()["pool"]["size"] == 4
    it.file.write_text("server: [")
    (fault,) = it.reload()["faults"]
    assert "is not YAML" in fault
    assert it.run("reload").returncode == 2


def test_a_file_that_is_being_written_takes_nothing_away(it: Configured) -> None:
    it.file.write_text("")
    assert it.reload()["faults"] == [f"{it.file}: is empty now; is it being written?"]
    assert set(it.gateway.health()["models"]) == {"a", "b", "c"}
    it.file.write_text("# nothing any more\n")
    assert not it.gateway.client.post("/admin/reload?plan=true").json()["applied"]
    assert it.reload()["applied"]
    assert it.gateway.health()["models"] == {}


def test_the_command_plans_and_reloads(it: Configured) -> None:
    it.write({"server_pool": {"size": 2}, "agent_data": "/elsewhere", "llama_cpp": {"models": {"d": DEMO}}})
    planned = it.run("reload", "--plan")
    assert planned.returncode == 0
    assert planned.stdout.splitlines() == [
        "a reload would change:",
        "  server_pool.size: 4 -> 2 (at once)",
        "  llama_cpp.models.d: new (at once)",
        '  agent_data: null -> "/elsewhere" (needs a restart of the gateway)',
    ]
    assert it.gateway.chat("d").status_code == 404
    assert it.run("reload").stdout.startswith("reloaded:\n")
    assert it.gateway.chat("d").status_code == 200
    assert it.gateway.health()["pool"]["size"] == 2
    again = it.run("reload").stdout.splitlines()
    assert again == ["reloaded:", '  agent_data: null -> "/elsewhere" (needs a restart of the gateway)']


def test_what_waits_for_a_restart_is_pending(it: Configured) -> None:
    it.write({"server": {"host": "::1"}, "hub": {"cache_dir": "/elsewhere", "grace": 5}})
    assert it.reload()["applied"]
    shown = it.gateway.client.get("/admin/config").json()
    assert [change["path"] for change in shown["pending"]] == ["server.host", "hub.cache_dir"]
    assert shown["config"]["server"]["host"] == "127.0.0.1"
    assert shown["config"]["hub"]["grace"] == 5
    assert shown["files"] == [str(it.file)]


def test_without_a_gateway_the_command_says_so(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("server: {port: 1}")
    command = [sys.executable, str(CHECKOUT / "run.py"), "--config", str(file), "reload"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 1
    assert "no gateway answers at http://127.0.0.1:1" in told.stderr


def test_keys_origins_limits_and_agents_change_at_once(tmp_path: Path) -> None:
    (tmp_path / "greeter").mkdir()
    (tmp_path / "greeter" / "agent.py").write_text(GREETER)
    with configured(tmp_path, llama_cpp={"models": {"a": DEMO}}) as it:
        client = it.gateway.client
        page = {"Origin": "https://chat.example.org"}
        assert client.get("/v1/models", headers=page).status_code == 403
        it.write(
            {
                "keys": {"boss": {"secret": ADMIN, "admin": True}},
                "server": {"allowed_origins": ["https://chat.example.org"], "max_body_mb": 1},
                "agents": [{"greeter": {"word": "good"}}],
                "agent_folders": [str(tmp_path / "greeter")],
                "llama_cpp": {"models": {"a": {"agents": ["greeter"]}}},
            }
        )
        assert it.reload()["applied"]
        assert client.get("/v1/models").status_code == 401
        client.headers["Authorization"] = f"Bearer {ADMIN}"
        answer = client.get("/v1/models", headers=page)
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, page["Origin"])
        assert it.gateway.chat("a").json()["choices"][0]["message"]["content"].endswith(" good")
        assert it.gateway.chat("a", messages=[{"role": "user", "content": "x" * 2**20}]).status_code == 413
        it.write({"agents": [{"greeter": {"word": "better"}}]})
        assert effects(it.reload()) == {"agents.greeter.word": "at once"}
        assert it.gateway.chat("a").json()["choices"][0]["message"]["content"].endswith(" better")
        it.write({"agents": [{"greeter": {"word": "broken"}}]})
        assert "agent 'greeter' cannot be started" in it.reload()["faults"][0]
        assert it.gateway.chat("a").json()["choices"][0]["message"]["content"].endswith(" better")
        assert ADMIN not in client.get("/admin/config").text
        assert ADMIN not in "".join(it.gateway.raw)


def test_a_reload_goes_on_when_its_client_leaves(tmp_path: Path) -> None:
    (tmp_path / "greeter").mkdir()
    (tmp_path / "greeter" / "agent.py").write_text(GREETER)
    with configured(tmp_path) as it:
        it.write({"agents": [{"greeter": {"word": "slow"}}], "agent_folders": [str(tmp_path / "greeter")]})
        with pytest.raises(httpx.ReadTimeout):
            it.gateway.client.post("/admin/reload", timeout=0.5)
        (tmp_path / "greeter" / "go").touch()
        it.gateway.wait_for("configuration reloaded")
        assert it.gateway.client.get("/v1/agents").json()["data"][0]["name"] == "greeter"


def test_what_an_agent_says_is_secret_is_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "greeter").mkdir()
    (tmp_path / "greeter" / "agent.py").write_text(GREETER)
    folders = [str(tmp_path / "greeter")]
    greeter = {"word": "good", "phrase": "by-the-moon"}
    with configured(tmp_path, agents=[{"greeter": greeter}], agent_folders=folders) as it:
        it.write({"agents": [{"greeter": {**greeter, "phrase": "by-the-sun"}}]})
        planned = it.reload(plan=1)
        assert planned["changes"] == [
            {"path": "agents.greeter.phrase", "from": "***", "to": "***", "effect": "at once"}
        ]
        assert it.reload()["applied"]
        shown = it.gateway.client.get("/admin/config").json()["config"]["agents"]
        assert shown == [{"greeter": {"word": "good", "phrase": "***"}}]
        told = it.run("check")
        assert "phrase: '***'" in told.stdout
        assert "by-the" not in told.stdout + "".join(it.gateway.raw)


def test_the_log_says_more_or_less_at_once(it: Configured) -> None:
    it.write({"server": {"log": {"level": "warning", "format": "json"}}})
    assert it.reload()["applied"]
    assert it.gateway.chat("a").status_code == 200
    it.write({"server": {"log": {"level": "debug"}}})
    assert effects(it.reload()) == {"server.log.level": "at once"}
    assert it.gateway.chat("b").status_code == 200
    it.gateway.wait_for("server log", model="b")
    it.gateway.wait_for("request", model="b")
    asked = [line for line in it.gateway.log if line["event"] == "request" and line.get("model") == "a"]
    assert asked == [], "it was not logged"


def test_a_gateway_that_others_can_reach_keeps_its_last_key(tmp_path: Path) -> None:
    keys = {"boss": {"secret": ADMIN, "admin": True}}
    with configured(tmp_path, server={"host": "0.0.0.0"}, keys=keys) as it:
        it.gateway.client.headers["Authorization"] = f"Bearer {ADMIN}"
        it.write({"keys": {"boss": None}})
        (fault,) = it.reload()["faults"]
        assert "can be reached from other machines, so requests need a key" in fault
        assert it.gateway.client.get("/v1/models").status_code == 200


def test_a_changed_file_is_taken_by_itself_if_that_is_set(it: Configured) -> None:
    it.write({"server": {"reload_on_change": True}})
    it.reload()
    it.write({"server_pool": {"size": 3}})
    until(lambda: it.gateway.health()["pool"]["size"] == 3, "the file was read again")


def test_files_beside_the_main_one_count(it: Configured) -> None:
    it.write({"server": {"reload_on_change": True}})
    it.reload()
    (it.folder / "config.d").mkdir()
    added = it.folder / "config.d" / "d.yaml"
    added.write_text(yaml.safe_dump({"llama_cpp": {"models": {"d": DEMO}}}))
    until(lambda: "d" in it.gateway.health()["models"], "the file was added")
    assert it.gateway.client.get("/admin/config").json()["files"] == [str(it.file), str(added)]
    added.write_text("llama_cpp:\n  models:\n    a: {ctx_size: 5}\n")
    told = it.gateway.wait_for("configuration not reloaded")["faults"]
    assert told == [f"{added}:3: llama_cpp.models.a.ctx_size: is set to another value in {it.file}:7"]
    assert "d" in it.gateway.health()["models"]


def test_another_ollama_daemon_takes_the_place_of_one(it: Configured) -> None:
    gateway = it.gateway
    assert gateway.chat("tiny").status_code == 404
    with stand_in_daemon("--model", "tiny") as first, stand_in_daemon("--model", "tiny") as second:
        it.write({"ollama": {"host": first, "models": {"small": {"model": "tiny"}}}})
        assert effects(it.reload()) == {"ollama.host": "at once", "ollama.models.small": "at once"}
        gateway.wait_for("Ollama daemon answers", url=first)
        assert gateway.chat("small").status_code == 200
        it.write({"ollama": {"host": second}})
        assert effects(it.reload()) == {"ollama.host": "restarts model small"}
        until(lambda: gateway.model("small")["epoch"] == 2, "it is loaded again")
        until(lambda: gateway.model("small")["state"] == "ready", "by the other daemon")
        assert [daemon["url"] for daemon in gateway.health()["ollama"]] == [second]
        assert [model["name"] for model in httpx.get(f"{second}/api/ps").json()["models"]] == ["tiny:latest"]
        assert httpx.get(f"{first}/api/ps").json()["models"] == []
        it.write({"ollama": None})
        assert it.reload()["applied"]
        until(lambda: "small" not in gateway.health()["models"], "its server is gone")
        assert gateway.chat("small").status_code == 404
        assert gateway.health()["ollama"] == []


def test_an_operator_drains_the_gateway(it: Configured) -> None:
    body = {"model": "a", "messages": FOREVER, "max_tokens": 500, "ignore_eos": True, "stream": True}
    with it.gateway.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        with httpx.Client(base_url=it.gateway.url) as other:
            answer = other.post("/admin/drain", params={"timeout": 60})
            assert (answer.status_code, answer.json()) == (202, {"timeout": 60})
        assert it.gateway.wait_for("shutting down")["drain_timeout"] == 60
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert it.gateway.process.wait(20) == 0


def test_a_terminal_that_closes_stops_it_and_other_hangups_reload_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("server: {log: {format: json}}")
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(CHECKOUT / "run.py"), "--config", str(tmp_path / "config.yaml"), "--port", "0"],
        stdin=end,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (no other threads run)
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path / "data")},
    )
    os.close(end)
    try:
        gateway = Gateway(process)
        process.send_signal(signal.SIGHUP)
        gateway.wait_for("configuration reloaded")
        os.close(terminal)
        gateway.wait_for("shutting down")
        assert gateway.stop() == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


GREETER = """
import asyncio
from pathlib import Path

from agents.api import Agent, AgentConfig, Secret, TextFilter


class Config(AgentConfig, frozen=True, kw_only=True):
    word: str
    phrase: Secret = ""


class Word(TextFilter):
    def __init__(self, word):
        self.left = f" {word}"

    def text(self, piece):
        return piece

    def rest(self):
        rest, self.left = self.left, ""
        return rest


class Greeter(Agent):
    Config = Config

    async def start(self):
        if self.config.word == "broken":
            raise RuntimeError("no such word")
        while self.config.word == "slow" and not Path(__file__).with_name("go").exists():
            await asyncio.sleep(0.01)

    def stream(self, ctx):
        return Word(self.config.word)
"""


def test_presets_and_parameters_change_while_the_server_stays(it: Configured) -> None:
    gateway = it.gateway
    assert gateway.chat("c", max_tokens=4).json()["usage"]["completion_tokens"] == 4
    assert gateway.chat("c:short").status_code == 404
    presets = {"short": {"request": {"set": {"max_tokens": 2}}}}
    own = {"presets": presets, "request": {"set": {"max_tokens": 3}}, "hidden": True}
    it.write({"llama_cpp": {"models": {"c": own}}, "server": {"loading_state": "reasoning"}})
    done = it.reload()
    assert done["applied"]
    assert set(effects(done).values()) == {"at once"}
    assert gateway.chat("c", max_tokens=4).json()["usage"]["completion_tokens"] == 3
    assert gateway.chat("c:short").json()["usage"]["completion_tokens"] == 2
    listed = [entry["id"] for entry in gateway.client.get("/v1/models").json()["data"]]
    assert listed == ["a", "b", "c:short"]
    it.write({"llama_cpp": {"models": {"c": {"presets": None}}}})
    assert it.reload()["applied"]
    assert gateway.chat("c:short").status_code == 404
    assert gateway.model("c")["epoch"] == 1
