"""/metrics of a real gateway, read as Prometheus reads it."""

import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from actors.errors import Rejection
from proxy.metrics import FAILURES, OUTCOMES, PROMPT_SECONDS
from tests import fake_nvml, gpu_server
from tests.conftest import DEMO, Start
from tests.gateway import FOREVER, Gateway, Json, until

MIB = 1 << 20
ONE_AT_A_TIME: Json = {"path": "builtin:demo", "ctx_size": 2048, "arguments": ["--threads", "1"]}


def scrape(gateway: Gateway) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The samples by name and labels."""
    text = gateway.client.get("/metrics").raise_for_status().text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def value(gateway: Gateway, name: str, /, **labels: str) -> float | None:
    return scrape(gateway).get((f"llama_proxy_{name}", frozenset(labels.items())))


def test_what_requests_leave_behind(start: Start, real_server: None) -> None:
    gateway = start({"demo": DEMO})
    assert gateway.chat("org/demo:latest", stream=True, max_tokens=8).status_code == 200
    assert gateway.chat().status_code == 200
    assert gateway.client.post("/tokenize", json={"model": "demo", "content": "x"}).status_code == 200
    chat = {"endpoint": "/v1/chat/completions", "model": "demo"}
    assert value(gateway, "requests_total", **chat, status="200") == 2, "an alias counts as its model"
    assert value(gateway, "requests_total", endpoint="/tokenize", model="demo", status="200") == 1
    assert value(gateway, "request_duration_seconds_count", **chat) == 2
    assert value(gateway, "time_to_first_token_seconds_count", model="demo") == 2
    assert value(gateway, "time_per_output_token_seconds_count", model="demo") == 1, "of the stream"
    assert value(gateway, "queue_wait_seconds_count", model="demo") == 3
    assert value(gateway, "tokens_total", model="demo", kind="completion") == 16
    assert (value(gateway, "tokens_total", model="demo", kind="prompt") or 0) > 2
    assert value(gateway, "model_load_seconds_count", model="demo") == 1
    assert value(gateway, "models", state="ready") == 1
    assert value(gateway, "models", state="failed") == 0
    assert value(gateway, "model_slots", model="demo") == 4
    assert value(gateway, "queue_length") == 0
    (build,) = [labels for name, labels in scrape(gateway) if name == "llama_proxy_build_info"]
    version = httpx.get(f"{gateway.url}/health").json()["version"]
    assert dict(build)["version"] == version
    asked = gateway.client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert asked.headers["Content-Type"].startswith("application/openmetrics-text")
    assert list(parse_openmetrics(asked.text))  # type: ignore[no-untyped-call]
    assert not [line for line in gateway.log if line.get("path") == "/metrics" and line["level"] != "debug"]


def test_what_may_be_counted_is_there_before_it_happens(gateway: Gateway) -> None:
    """`increase()` never sees the first event of a series that begins with 1."""
    for model in ("demo", "demo-embed", "unknown"):
        for outcome in OUTCOMES:
            assert value(gateway, "outcomes_total", model=model, outcome=outcome) is not None
        for kind in FAILURES:
            assert value(gateway, "model_failures_total", model=model, kind=kind) == 0
        assert value(gateway, "model_evictions_total", model=model) == 0
    for model in ("demo", "demo-embed"):
        assert value(gateway, "tokens_total", model=model, kind="prompt") is not None
        assert value(gateway, "model_load_seconds_count", model=model) is not None
        assert value(gateway, "time_to_first_token_seconds_count", model=model) is not None
    for reason in Rejection.__subclasses__():
        assert value(gateway, "rejections_total", reason=reason.__name__) is not None


def test_what_became_of_requests(gateway: Gateway) -> None:
    def outcomes() -> dict[str, float]:
        return {
            outcome: sum(
                value(gateway, "outcomes_total", model=model, outcome=outcome) or 0
                for model in ("demo", "unknown")  # a request that is refused has no model yet
            )
            for outcome in OUTCOMES
        }

    before = outcomes()
    assert gateway.chat().status_code == 200
    assert gateway.chat(temperature="hot").status_code == 400
    endless = {"model": "demo", "messages": FOREVER, "stream": True, "max_tokens": 10**6, "ignore_eos": True}
    with gateway.client.stream("POST", "/v1/chat/completions", json=endless) as answer:
        lines = answer.iter_lines()
        assert next(lines)
    until(lambda: outcomes()["client_left"] > before["client_left"], "it is counted")
    after = outcomes()
    assert {outcome: after[outcome] - before[outcome] for outcome in OUTCOMES} == {
        "ok": 1,
        "refused": 1,
        "client_left": 1,
        "failed": 0,
    }


def test_no_client_makes_series(start: Start, real_server: None) -> None:
    gateway = start({"demo": DEMO}, hub={"allow": ["*"], "offline": True})
    before = len(scrape(gateway))
    for number in range(40):
        assert gateway.chat(f"nobody{number}").status_code == 404
        assert gateway.chat(f"org{number}/may-be-had").status_code in (404, 503)
        assert gateway.client.get(f"/nowhere/{number}").status_code == 404
        assert gateway.client.get(f"/upstream/none{number}/x").status_code == 404
    samples = scrape(gateway)
    assert {dict(labels).get("model") for _, labels in samples} == {None, "demo", "unknown"}
    unmatched = {"endpoint": "unknown", "model": "unknown", "status": "404"}
    assert value(gateway, "requests_total", **unmatched) == 40
    histograms = len(PROMPT_SECONDS) * 6  # of three endpoints' duration, and of three for the model
    assert len(samples) - before < histograms + 60


def test_evictions_failures_and_rejections(start: Start, tmp_path: Path, real_server: None) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    models = {"a": ONE_AT_A_TIME, "b": ONE_AT_A_TIME, "broken": {"path": str(broken)}}
    gateway = start(models, server_pool={"size": 1, "min_residency": 0})
    for name in ("a", "b"):
        assert gateway.chat(name).status_code == 200
    assert value(gateway, "model_evictions_total", model="a") == 1
    assert value(gateway, "model_evictions_total", model="b") == 0
    assert gateway.chat("broken").status_code >= 400
    failures = {
        dict(labels)["model"]
        for (name, labels), count in scrape(gateway).items()
        if name == "llama_proxy_model_failures_total" and count
    }
    assert failures == {"broken"}
    assert gateway.chat("nobody").status_code == 404
    assert value(gateway, "rejections_total", reason="UnknownModel") == 1
    assert value(gateway, "rejections_total", reason="QueueFull") == 0


def test_gpus(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_server: None) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    card = {"uuid": "GPU-a", "name": "Pretended", "total": 4000 * MIB}
    environment = fake_nvml.write(tmp_path / "nvml.json", gpus=[card], driver="1", context=400 * MIB)
    for name, setting in environment.items():
        monkeypatch.setenv(name, setting)
    gateway = start({"demo": {**DEMO, "command": gpu_server.COMMAND}}, gpu={"monitoring_interval": 0.1})
    gpu = {"gpu": "0", "uuid": "GPU-a"}
    assert gateway.chat().headers["X-Model-Place"] == "GPU 0"
    assert value(gateway, "gpu_memory_total_bytes", **gpu) == 4000 * MIB
    assert value(gateway, "gpu_info", **gpu, name="Pretended", driver="1") == 1
    assert value(gateway, "nvml_up") == 1
    (told,) = gateway.health()["gpus"]
    assert value(gateway, "gpu_memory_reserved_bytes", **gpu) == told["reserved_memory"]["demo"] > 0
    fake_nvml.write(tmp_path / "nvml.json", gpus=[card], driver="1", lost=[0])
    until(lambda: value(gateway, "gpus_lost") == 1, "it is lost")
    assert value(gateway, "gpu_memory_total_bytes", **gpu) is None


def test_every_name_is_well_formed(gateway: Gateway) -> None:
    text = gateway.client.get("/metrics").text
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert {name for name in names if not name.startswith(("llama_proxy_", "process_"))} == set()
    assert len(names) > 30
