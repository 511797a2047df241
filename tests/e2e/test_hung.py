"""Model servers that hang instead of ending: found, replaced, and no harm to others."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import DEMO, Start
from tests.e2e.test_failures import stand_in
from tests.gateway import FOREVER, HELLO, Gateway, until

ENDLESS: dict[str, Any] = {"messages": FOREVER, "max_tokens": 10**6, "ignore_eos": True, "stream": True}
FOUND = 30.0
"""Seconds within which a hung server is replaced, on a slow machine too."""


def pid_of(gateway: Gateway, model: str) -> int:
    """The process of a model's server: its port is among the arguments."""
    (endpoint,) = [server["endpoint"] for server in gateway.health()["servers"] if server["model"] == model]
    port = endpoint.rpartition(":")[2]
    for pid in gateway.servers():
        if port in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
            return pid
    raise AssertionError(f"no process listens on {port}")


def in_background(call: Any) -> tuple[threading.Thread, list[httpx.Response]]:
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    return thread, answers


def test_a_stopped_server_is_replaced_and_bars_nobody(start: Start, real_server: None) -> None:
    small = {**DEMO, "aliases": [], "parallel": 2, "ctx_size": 2048}
    small["arguments"] = [*DEMO["arguments"], "--context-shift"]
    gateway = start({"hung": small, "other": stand_in()}, server_pool={"size": 1, "min_residency": 0})
    gateway.client.timeout = httpx.Timeout(60)
    with gateway.client.stream("POST", "/v1/chat/completions", json={"model": "hung", **ENDLESS}) as response:
        lines = response.iter_lines()
        next(lines)
        pid = pid_of(gateway, "hung")
        os.kill(pid, signal.SIGSTOP)
        unanswered, answers = in_background(lambda: gateway.chat("hung"))
        until(lambda: gateway.model("hung")["busy"] == 2, "both are with the server")
        waiting, others = in_background(lambda: gateway.chat("other", stream=True))
        events = [line for line in lines if line]
        assert '"error":{' in events[-1]
        assert "does not answer" in events[-1]
        assert "data: [DONE]" not in events
    waiting.join(FOUND)
    assert others[0].status_code == 200
    unanswered.join(FOUND)
    assert answers[0].status_code == 200, "asked again: nothing is left of the first try"
    failed = gateway.wait_for("model failed", model="hung")
    assert "health checks" in failed["reason"]
    assert pid not in gateway.servers()


def test_an_idle_one_is_replaced_before_anybody_needs_it_and_flapping_loses_nothing(start: Start) -> None:
    models = {"idle": stand_in(), "paced": stand_in("paced"), "loading": stand_in("slow-load")}
    gateway = start(models, server_pool={"health_timeout": 2.0, "stop_timeout": 0.5})
    assert gateway.chat("idle", stream=True).status_code == 200
    assert gateway.chat("paced", stream=True).status_code == 200
    os.kill(pid_of(gateway, "idle"), signal.SIGSTOP)
    loading, refused = in_background(lambda: gateway.chat("loading"))
    gateway.wait_for("server log", model="loading", line="loading part 1")
    (pid,) = set(gateway.servers()) - {pid_of(gateway, "idle"), pid_of(gateway, "paced")}
    os.kill(pid, signal.SIGSTOP)
    body = {"model": "paced", "messages": HELLO, "stream": True}
    with gateway.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        os.kill(pid_of(gateway, "paced"), signal.SIGSTOP)
        time.sleep(2)  # what is tested: a short stop does no harm
        os.kill(pid_of(gateway, "paced"), signal.SIGCONT)
        events = [line.removeprefix("data: ") for line in lines if line]
    assert events[-1] == "[DONE]"
    said = [json.loads(event)["choices"][0]["delta"]["content"] for event in events[:-1]]
    assert said == [f"{number} " for number in range(1, 10)]
    loading.join(FOUND)
    assert refused[0].status_code == 503
    gateway.wait_for("model failed", model="idle", timeout=FOUND)
    assert gateway.chat("idle", stream=True).status_code == 200
    assert gateway.model("idle")["epoch"] == 2
    assert gateway.model("paced")["epoch"] == 1
