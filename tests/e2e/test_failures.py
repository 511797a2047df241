"""Model servers that fail in every way: a clear error, no harm to others, nothing left behind."""

import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from actors.processes import OWNER, is_running
from actors.servers.output_lines import LINE_LIMIT
from tests.conftest import DEMO, Start
from tests.gateway import FOREVER, HELLO, Gateway, marked_processes, running, until


def stand_in(*orders: str) -> dict[str, Any]:
    """The configuration of a model whose server is the stand-in."""
    command = [sys.executable, "-m", "tests.stand_in"]
    return {
        "path": "builtin:demo",
        "command": [*command, *(word for order in orders for word in ("--do", order))],
    }


def error_of(response: httpx.Response) -> str:
    message: str = response.json()["error"]["message"]
    return message


def test_a_server_killed_in_mid_stream(start: Start, real_server: None) -> None:
    gateway = start({"demo": DEMO})
    gateway.chat()
    (pid,) = gateway.servers()
    body = {"model": "demo", "messages": FOREVER, "max_tokens": 100_000, "ignore_eos": True, "stream": True}
    with gateway.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        os.kill(pid, signal.SIGKILL)
        events = [line for line in lines if line]
    assert '"error":{' in events[-1]
    assert "closed the connection" in events[-1]
    assert "data: [DONE]" not in events
    # The next request gets a healthy model, at once.
    assert gateway.chat().status_code == 200
    assert gateway.model("demo")["epoch"] == 2
    assert "signal 9" in gateway.wait_for("model failed")["reason"]


def test_files_that_are_no_models(start: Start, tmp_path: Path, cache: str, real_server: None) -> None:
    good = next(iter(Path(cache).rglob("demo-v*.gguf")), None)
    files = {name: tmp_path / f"{name}.gguf" for name in ("missing", "empty", "text", "truncated", "folder")}
    files["empty"].touch()
    files["text"].write_text("this is not a model at all, but long enough to be one")
    files["folder"].mkdir()
    gateway = start({"demo": DEMO, **{name: {"path": str(path)} for name, path in files.items()}})
    assert gateway.chat().status_code == 200
    good = good or next(Path(cache).rglob("demo-v*.gguf"))
    files["truncated"].write_bytes(good.read_bytes()[:500_000])
    reasons = {
        "missing": "no such file",
        "empty": "not a GGUF",
        "text": "not a GGUF",
        "truncated": "is a truncated GGUF file: 500,000 bytes of",
        "folder": "cannot be read",
    }
    for name, reason in reasons.items():
        response = gateway.chat(name)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "model_load_failed")
        assert reason in error_of(response), name
        assert gateway.chat().status_code == 200
    # What the operator mends works with the next request.
    shutil.copy(good, files["missing"])
    assert gateway.chat("missing").status_code == 200


def test_a_model_that_cannot_load_is_told_at_the_start(
    start: Start, tmp_path: Path, cache: str, real_server: None
) -> None:
    made = tmp_path / "made.gguf"
    gateway = start({"demo": DEMO, "lost": {"path": str(made)}})
    told = gateway.wait_for("model cannot be used", model="lost")
    assert told["level"] == "warning"
    assert f"llama_cpp.models.lost: {made}: no such file" in told["reason"]
    until(lambda: gateway.model("lost")["state"] == "failed", "it is known as failed")
    assert gateway.model("lost")["error"] == f"{made}: no such file"
    refused = gateway.chat("lost")
    assert refused.status_code == 503
    assert f"{made}: no such file" in error_of(refused)
    assert gateway.chat().status_code == 200
    shutil.copy(next(Path(cache).rglob("demo-v*.gguf")), made)
    assert gateway.chat("lost").status_code == 200, "it is there now"


def test_a_server_that_exits_at_start_backs_off(start: Start) -> None:
    gateway = start({"broken": stand_in("exit-at-start")}, server_pool={"retry_delay": 6})
    first = gateway.chat("broken")
    assert (first.status_code, first.headers["Retry-After"]) == (503, "6")
    assert "status 1" in error_of(first)
    assert "no such layer: blk.99" in error_of(first)
    again = gateway.chat("broken")
    assert again.status_code == 503
    assert gateway.model("broken")["epoch"] == 1


def test_a_server_that_hangs_at_start(start: Start, real_server: None) -> None:
    models = {"hung": stand_in("hang-at-start", "ignore-term", "grandchild"), "demo": DEMO}
    gateway = start(models, server_pool={"health_timeout": 1.5, "stop_timeout": 0.5})
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(gateway.chat("hung")))
    waiting.start()
    gateway.wait_for("server starts", model="hung")
    assert gateway.chat().status_code == 200, "another model is not blocked"
    waiting.join()
    assert answers[0].status_code == 503
    assert "no progress" in error_of(answers[0])
    until(lambda: len(gateway.servers()) == 1, "the hung server and its grandchild are gone", 5)


def test_a_port_that_is_taken(start: Start) -> None:
    gateway = start({"unlucky": stand_in("port-taken")})
    response = gateway.chat("unlucky")
    assert response.status_code == 503
    assert "couldn't bind" in error_of(response)
    tried = [line["port"] for line in gateway.log if line["event"] == "port was taken"]
    assert len(tried) == 2, "two more ports are tried"


def test_slow_loading_is_no_stall(start: Start) -> None:
    gateway = start({"slow": stand_in("slow-load", "endless-line")}, server_pool={"health_timeout": 1.0})
    assert gateway.chat("slow").status_code == 200
    assert gateway.wait_for("request")["loaded_ms"] > 1500


def test_a_server_behind_a_wrapper_ends_with_its_model(start: Start, tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper.sh"
    wrapper.write_text(f'#!/bin/sh\n(env -i setsid {sys.executable} -m tests.stand_in "$@" &)\nsleep 600\n')
    wrapper.chmod(0o700)
    model = {**stand_in(), "command": str(wrapper)}
    gateway = start({"wrapped": model, "other": stand_in()}, server_pool={"size": 1, "min_residency": 0})
    assert gateway.chat("wrapped", stream=True).status_code == 200
    servers = [
        process
        for process in psutil.Process(gateway.process.pid).children(recursive=True)
        if "tests.stand_in" in process.cmdline()
    ]
    assert len(servers) == 1
    assert gateway.chat("other", stream=True).status_code == 200
    assert not is_running(servers[0])


def test_what_is_the_gateways_own_does_not_reach_its_servers(
    start: Start, cache: str, tmp_path: Path
) -> None:
    secrets = {
        "HF_TOKEN": "hf_x",
        "LLAMA_API_KEY": "theirs",
        "LLAMA_ARG_CTX_SIZE": "1",
        "MY_DB_PASSWORD": "x",
    }
    config = {"llama_cpp": {"models": {"m": stand_in()}}}
    with running(config, tmp_path, XDG_CACHE_HOME=cache, CUDA_CACHE_PATH="/x", **secrets) as gateway:
        assert gateway.chat("m", stream=True).status_code == 200
        (pid,) = gateway.servers()
        environment = psutil.Process(pid).environ()
        assert environment["CUDA_CACHE_PATH"] == "/x"
        assert not secrets.items() & environment.items()


def test_a_flood_of_log_blinds_nobody(start: Start) -> None:
    gateway = start({"flood": stand_in("flood"), "calm": stand_in()})
    assert gateway.chat("calm", stream=True).status_code == 200
    waiting, longest = threading.Thread(target=lambda: gateway.chat("flood", stream=True)), 0.0
    waiting.start()
    while waiting.is_alive():
        began = time.monotonic()
        gateway.health()
        longest = max(longest, time.monotonic() - began)
    assert longest < 2, "of 18 MB in one line each piece took seconds"
    lines = [
        line["line"] for line in gateway.log if line["event"] == "server log" and line["model"] == "flood"
    ]
    assert max(map(len, lines)) == LINE_LIMIT
    left_out = gateway.wait_for("server log lines left out", model="flood")["lines"]
    assert left_out > 100_000
    assert len(lines) < left_out / 10, "so many a second, however long it takes"
    assert gateway.chat("flood", stream=True).status_code == 200


@pytest.mark.parametrize(
    ("order", "stream", "status", "words"),
    [
        ("die-before-head", True, 502, "closed the connection"),
        ("die-before-head", False, 502, "closed the connection"),
        ("die-mid-stream", False, 502, "closed the connection"),
        ("garbage", True, 502, "not HTTP"),
        ("silent", True, 504, "silent for 1 s"),
        ("silent", False, 504, "silent for 1 s"),
        ("error-400", True, 400, "bad grammar"),
        ("error-early", True, 400, "too odd"),
        ("error-early", False, 400, "too odd"),
    ],
)
def test_before_the_first_byte_an_error_has_its_status(
    start: Start, order: str, stream: bool, status: int, words: str
) -> None:
    gateway = start({"m": stand_in(order)}, server_pool={"request_timeout": 1})
    response = gateway.chat("m", stream=stream)
    assert response.status_code == status, response.text
    assert words in error_of(response)
    assert gateway.model("m")["busy"] == 0


@pytest.mark.parametrize("order", ["die-mid-stream", "silent-mid-stream"])
@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/v1/chat/completions", 'data: {"error":{"message":"model '),
        ("/v1/messages", 'data: {"type":"error","error":{"type":"api_error"'),
        ("/v1/responses", 'data: {"type":"response.failed","sequence_number":'),
    ],
)
def test_after_it_the_stream_ends_in_an_error_frame(start: Start, order: str, path: str, last: str) -> None:
    gateway = start({"m": stand_in(order)}, server_pool={"request_timeout": 1})
    body = {"model": "m", "messages": HELLO, "input": "x", "max_tokens": 50, "stream": True}
    response = gateway.client.post(path, json=body)
    assert response.status_code == 200
    *whole, error, end, end2 = response.text.split("\n")
    assert (end, end2) == ("", "")
    assert error.startswith(last), error
    assert "half" not in response.text, "half an event is never passed on"
    assert [line for line in whole if line.startswith("data: ") and "delta" in line][-1].count("2 ") == 1
    assert gateway.wait_for("request")["outcome"] == "error"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_told_to_stop_it_drains_and_exits_0(start: Start, real_server: None, number: signal.Signals) -> None:
    gateway = start({"demo": DEMO})
    body = {"model": "demo", "messages": FOREVER, "max_tokens": 3000, "ignore_eos": True, "stream": True}
    with gateway.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        gateway.process.send_signal(number)
        gateway.wait_for("shutting down")
        gateway.process.send_signal(signal.SIGHUP)  # by a terminal that closes, beside its shell's
        with httpx.Client() as other:
            refused = other.post(f"{gateway.url}/v1/chat/completions", json={**body, "stream": False})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert gateway.stop() == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_what_does_not_drain_is_cut_and_told_why(start: Start, real_server: None, path: str) -> None:
    gateway = start({"demo": DEMO}, server={"drain_timeout": 0.3, "log": {"format": "json"}})
    endless = {
        "messages": FOREVER,
        "max_tokens": 10**6,
        "options": {"num_predict": 10**6},
        "ignore_eos": True,
    }
    body = {"model": "demo", **endless, "stream": True}

    def whole() -> httpx.Response:
        with httpx.Client(base_url=gateway.url, timeout=30) as client:
            return client.post(path, json={**body, "stream": False})

    with (
        ThreadPoolExecutor(1) as pool,
        gateway.client.stream("POST", path, json=body) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        waiting = pool.submit(whole)
        until(lambda: gateway.model("demo")["busy"] == 2, "both are answered")
        gateway.process.send_signal(signal.SIGTERM)
        last = [line for line in lines if line][-1]
        assert "error" in last
        assert "the gateway is shutting down" in last
        answer = waiting.result()
        assert answer.status_code == 503
        assert "the gateway is shutting down" in answer.text
    assert gateway.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_drain(start: Start, real_server: None, number: signal.Signals) -> None:
    gateway = start({"demo": DEMO}, server={"drain_timeout": 600, "log": {"format": "json"}})
    body = {"model": "demo", "messages": FOREVER, "max_tokens": 10**6, "ignore_eos": True, "stream": True}
    with gateway.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        gateway.process.send_signal(number)
        gateway.wait_for("shutting down")
        gateway.process.send_signal(number)
        assert '"error":{' in [line for line in lines if line][-1]
    assert gateway.process.wait(20) == 0


def test_under_nohup_a_terminal_may_close(start: Start) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what a child of nohup finds
    try:
        gateway = start({})
    finally:
        signal.signal(signal.SIGHUP, before)
    gateway.process.send_signal(signal.SIGHUP)
    assert gateway.health()["status"] == "ok"
    assert not any(line["event"] == "shutting down" for line in gateway.log)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_rotated_log_ends_nothing(start: Start, number: signal.Signals) -> None:
    gateway = start({})
    gateway.process.send_signal(number)
    assert gateway.health()["status"] == "ok"
    assert gateway.stop() == 0


def _at_most_one(gateway: Gateway) -> list[list[int]]:
    """What is left of its servers, once that is one or none."""
    left = gateway.servers()
    return [left] if len(left) <= 1 else []


def test_killed_it_leaves_no_orphans(start: Start, real_server: None) -> None:
    """Any gateway that starts on this machine may sweep first; then it is tried again."""
    for _ in range(8):
        gateway = start({"demo": DEMO, "m": stand_in("grandchild")})
        assert gateway.chat().status_code == 200
        assert gateway.chat("m").status_code == 200
        assert len(gateway.servers()) == 3
        gateway.stop(signal.SIGKILL)
        # The servers die with their parent; a grandchild has none to die with: the next gateway sweeps it.
        (left,) = until(partial(_at_most_one, gateway), "servers gone", 10)
        other = start({})
        assert str(gateway.process.pid) not in marked_processes()
        swept = [
            line["pids"]
            for line in other.log
            if line["event"] == "killed model servers that a dead gateway left behind"
        ]
        if len(left) == 1 and swept and left[0] in swept[0]:
            return
    pytest.fail("the next gateway has never swept what was left")


def test_marks_of_living_gateways_are_respected(start: Start) -> None:
    first = start({"m": stand_in()})
    assert first.chat("m", stream=True).status_code == 200
    start({})
    (pid,) = first.servers()
    assert psutil.Process(pid).environ()[OWNER].startswith(f"{first.process.pid}:")
    assert first.chat("m", stream=True).status_code == 200
    assert first.model("m")["epoch"] == 1


def test_a_gateway_stops_while_a_model_loads(start: Start) -> None:
    gateway = start({"m": stand_in("hang-at-start")})
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(gateway.chat("m")))
    waiting.start()
    gateway.wait_for("server starts")
    status = _stop(gateway)
    waiting.join()
    assert (status, answers[0].status_code) == (0, 503)


def _stop(gateway: Gateway) -> int:
    gateway.process.send_signal(signal.SIGTERM)
    return gateway.process.wait(10)


def test_an_impatient_operator_does_not_spoil_the_exit(start: Start) -> None:
    gateway = start({})
    while gateway.process.poll() is None:
        gateway.process.send_signal(signal.SIGTERM)
        threading.Event().wait(0.001)
    assert gateway.stop() == 0
