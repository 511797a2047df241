"""/health/ready of a real gateway: what its configuration needs, and what of that is not there."""

import socket
import time
from pathlib import Path

from tests.conftest import DEMO, Start
from tests.deploy import free_port
from tests.engines import EngineClient, Wire
from tests.gateway import Gateway, Json, running, until

CONTAINER: Json = {**DEMO, "aliases": [], "runtime": "docker"}


def ready(gateway: Gateway) -> tuple[int, Json]:
    """Status and body."""
    answer = gateway.client.get("/health/ready")
    body: Json = answer.json()
    return answer.status_code, body


def pool(address: str) -> Json:
    return {"docker": {"host": address, "name": "ready-test"}}


def test_without_the_engine_that_all_models_need(start: Start, tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/docker.sock"
    gateway = start({"a": CONTAINER, "b": CONTAINER}, server_pool=pool(address))
    status, body = ready(gateway)
    assert (status, body["status"]) == (503, "not ready")
    (missing,) = body["missing"]
    assert (missing["name"], missing["models"]) == ("Docker Engine", ["a", "b"])
    assert address in missing["error"]
    assert gateway.client.get("/health/ready").headers["Retry-After"]
    assert gateway.client.get("/health/live").status_code == 200, "to start it anew would mend nothing"
    assert "llama_proxy_ready 0.0" in gateway.client.get("/metrics").text
    assert 'llama_proxy_dependency_up{dependency="Docker Engine"} 0.0' in gateway.client.get("/metrics").text


def test_without_the_engine_that_one_model_needs(start: Start, tmp_path: Path, real_server: None) -> None:
    gateway = start({"a": CONTAINER, "demo": DEMO}, server_pool=pool(f"unix://{tmp_path}/docker.sock"))
    status, body = ready(gateway)
    assert (status, body["status"]) == (200, "degraded")
    assert [one["models"] for one in body["missing"]] == [["a"]]
    assert gateway.chat().status_code == 200


def test_an_engine_that_hangs(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)  # takes connections, and never answers
        gateway = start({"a": CONTAINER}, server_pool=pool(f"unix://{path}"))
        began = time.monotonic()
        status, body = ready(gateway)
        assert time.monotonic() - began < 10
        assert (status, body["missing"][0]["name"]) == (503, "Docker Engine")
        assert "does not answer" in body["missing"][0]["error"]


def test_an_engine_that_goes_and_comes_back(start: Start, tmp_path: Path, engine: EngineClient) -> None:
    wire = Wire(engine.address, tmp_path / "docker.sock")
    gateway = start({"a": CONTAINER}, server_pool=pool(wire.address))
    try:
        assert ready(gateway) == (200, {"status": "ok"})
        wire.cut()
        until(lambda: ready(gateway)[0] == 503, "it is away")
        wire.mend()
        until(lambda: ready(gateway)[0] == 200, "it is back")
    finally:
        wire.cut()


def test_a_daemon_that_is_away_only_degrades(start: Start) -> None:
    daemon = {"host": "127.0.0.1", "port": free_port()}
    gateway = start({}, ollama={**daemon, "models": {"remote": {"model": "x"}}})
    until(lambda: ready(gateway)[1]["status"] == "degraded", "the daemon was looked for")
    status, body = ready(gateway)
    assert status == 200
    (missing,) = body["missing"]
    assert (missing["name"], missing["models"]) == ("Ollama daemon ollama", ["remote"])
    assert missing["error"]


def test_no_gpu_where_models_must_run_on_one(start: Start, real_server: None) -> None:
    gateway = start({"demo": DEMO}, gpu={"on_no_gpu": "fail"})
    if gateway.health()["gpus"]:
        return
    status, body = ready(gateway)
    assert (status, body["status"], body["missing"][0]["name"]) == (200, "degraded", "GPU")


def test_a_folder_that_cannot_be_written_to_is_told_at_the_start(tmp_path: Path) -> None:
    """Where deploy/'s user owns nothing, tests/deploy/test_image.py looks too."""
    (tmp_path / "cache").write_text("in the way")
    settings: Json = {"hub": {"allow": ["org/*"], "cache_dir": str(tmp_path / "cache" / "hub")}}
    with running(settings, tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache")) as gateway:
        told = gateway.wait_for("cannot write to a folder")
        assert (told["level"], told["folder"]) == ("error", str(tmp_path / "cache"))
        assert told["needed_for"] == [
            "built-in models and what loads took",
            "downloaded models",
            "saved prompts",
        ]
        assert gateway.client.get("/health/live").status_code == 200, "what needs no folder is served"
