"""Several models: side by side, in turn, and how requests wait for them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import DEMO, Start
from tests.gateway import FOREVER, Gateway, until

# What is endless ends with the context: after a minute on a fast machine.
SMALL: dict[str, Any] = {"path": "builtin:demo", "ctx_size": 131_072, "parallel": 1}


def test_six_models_side_by_side(start: Start, real_server: None) -> None:
    names = [f"model-{number}" for number in range(6)]
    gateway = start(dict.fromkeys(names, SMALL), server_pool={"size": 6})
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda name: gateway.chat(name, stream=True), names * 2))
    assert all(answer.status_code == 200 and "[DONE]" in answer.text for answer in answers)
    assert len(gateway.servers()) == 6
    assert gateway.health()["pool"] == {"size": 6, "running": 6, "ready": 6, "busy_slots": 0}
    assert {gateway.model(name)["epoch"] for name in names} == {1}, "each was started once"


def hold(gateway: Gateway, model: str) -> Any:
    """A stream that does not end by itself."""
    body = {"model": model, "messages": FOREVER, "max_tokens": 10**6, "ignore_eos": True, "stream": True}
    return gateway.client.stream("POST", "/v1/chat/completions", json=body)


def test_two_models_take_turns_in_a_pool_of_one(start: Start, real_server: None) -> None:
    gateway = start({"a": SMALL, "b": SMALL}, server_pool={"size": 1, "min_residency": 0})
    for name in ("a", "b", "a"):
        assert gateway.chat(name).status_code == 200
        assert len(gateway.servers()) == 1
    assert gateway.model("a")["epoch"] == 2
    assert gateway.model("b")["state"] == "stopped"


def test_a_busy_model_is_not_evicted_until_it_has_drained(start: Start, real_server: None) -> None:
    pool = {"size": 1, "min_residency": 0, "patience": 0.3}
    gateway = start({"a": SMALL, "b": SMALL}, server_pool=pool)
    answers: list[httpx.Response] = []
    with hold(gateway, "a") as response:
        pieces = response.iter_raw()  # kept: httpx closes the response with its iterator
        assert next(pieces)
        other = threading.Thread(target=lambda: answers.append(gateway.chat("b")))
        other.start()
        until(lambda: gateway.model("a")["state"] == "draining", "the fence")
        assert next(pieces), "the one that runs goes on"
        assert gateway.model("b")["waiting"] == 1
    other.join()
    assert answers[0].status_code == 200


def test_a_full_queue_says_when_to_come_back(start: Start, real_server: None) -> None:
    gateway = start({"a": SMALL}, server_pool={"queue_size": 1})
    waiting: list[httpx.Response] = []
    with hold(gateway, "a") as response:
        pieces = response.iter_raw()
        assert next(pieces)
        other = threading.Thread(target=lambda: waiting.append(gateway.chat("a")))
        other.start()
        until(lambda: gateway.model("a")["waiting"] == 1, "one waits")
        client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="a", messages=[{"role": "user", "content": "x"}])
        assert int(refused.value.response.headers["Retry-After"]) >= 1
        # What occupies no slot does not wait for one.
        assert gateway.client.post("/tokenize", json={"model": "a", "content": "x"}).status_code == 200
    other.join()
    assert waiting[0].status_code == 200


def test_a_request_that_waits_too_long(start: Start, real_server: None) -> None:
    gateway = start({"a": SMALL}, server_pool={"queue_timeout": 2})
    gateway.chat("a")
    with hold(gateway, "a") as response:
        pieces = response.iter_raw()
        assert next(pieces)
        late = gateway.chat("a")
    assert (late.status_code, late.json()["error"]["code"]) == (503, "queue_timeout")
    assert int(late.headers["Retry-After"]) >= 1


def test_looking_neither_loads_a_model_nor_keeps_it(start: Start, real_server: None) -> None:
    gateway = start({"demo": DEMO}, server_pool={"idle_timeout": 0.5})
    for path in ("/health", "/health/live", "/health/ready", "/v1/models", "/v1/models/demo"):
        assert gateway.client.get(path).status_code == 200
    absent = gateway.client.get("/props", params={"model": "demo", "autoload": "false"})
    assert (absent.status_code, absent.json()["error"]["code"]) == (503, "model_not_loaded")
    assert gateway.model("demo")["epoch"] == 0
    gateway.chat()
    until(
        lambda: gateway.client.get("/v1/models").json()["data"][0]["status"]["value"] == "unloaded", "idle", 5
    )
    assert gateway.wait_for("model stops")["why"] == "idle for 0.5 s"
    until(lambda: not gateway.servers(), "its server is gone", 5)
