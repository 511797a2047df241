"""The compositions: each combination is valid, and the one for a CPU machine serves."""

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import yaml

from actors.config import load_config
from tests.deploy import DEPLOY, free_port
from tests.gateway import HELLO

OVERLAYS = ("nvidia", "ollama", "docker", "monitoring")
COMBINATIONS = [
    combination
    for count in range(len(OVERLAYS) + 1)
    for combination in itertools.combinations(OVERLAYS, count)
]
PROJECT = f"lsp-test-{os.getpid()}"


@pytest.fixture(scope="session")
def compose() -> list[str]:
    """The command of Compose v2, as a plugin or by itself."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        told = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
        if told.returncode == 0 and told.stdout.strip().lstrip("v").startswith(("2.", "3.", "4.", "5.")):
            return command
    pytest.skip("there is no Compose v2")


def arguments(overlays: tuple[str, ...]) -> list[str]:
    files = ["compose.yaml", *(f"compose.{overlay}.yaml" for overlay in overlays)]
    return ["--project-name", PROJECT, *(word for file in files for word in ("-f", str(DEPLOY / file)))]


def read(compose: list[str], overlays: tuple[str, ...]) -> dict[str, Any]:
    """The services of a combination, as Compose understands them."""
    command = [*compose, *arguments(overlays), "config", "--format", "json"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, ""), "valid, and without a warning"
    services: dict[str, Any] = json.loads(told.stdout)["services"]
    return services


@pytest.mark.parametrize("overlays", COMBINATIONS, ids="+".join)
def test_every_combination_is_valid_and_gives_no_more_than_it_must(
    compose: list[str], overlays: tuple[str, ...]
) -> None:
    services = read(compose, overlays)
    for name, service in services.items():
        assert "privileged" not in service
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == "unless-stopped"
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ()))
        sources = [volume["source"] for volume in service["volumes"]]
        assert ("/var/run/docker.sock" in sources) == (name == "socket-proxy")
    gateway = services["gateway"]
    assert gateway["read_only"]
    assert ("deploy" in gateway) == ("nvidia" in overlays)
    assert (gateway["image"] == "llama-smart-proxy:cuda") == ("nvidia" in overlays)
    environment = gateway["environment"]
    assert ("OLLAMA_HOST" in environment) == ("ollama" in overlays)
    assert (environment.get("GATEWAY_RUNTIME") == "docker") == ("docker" in overlays)
    if "docker" in overlays:
        # Who can reach the filter can reach the engine: the gateway alone.
        assert [name for name, service in services.items() if "engine" in service["networks"]] == [
            "gateway",
            "socket-proxy",
        ]
        allowed = services["socket-proxy"]["environment"]
        assert allowed["NETWORK"] == environment["GATEWAY_NETWORK"] == f"{PROJECT}_models"
        assert allowed["MOUNTS"] == f"/var/lib/docker/volumes/{PROJECT}_data/"


def test_files_that_are_mounted_are_there() -> None:
    for path in DEPLOY.glob("compose*.yaml"):
        for service in yaml.safe_load(path.read_text())["services"].values():
            for volume in service.get("volumes", ()):
                source = volume.partition(":")[0]
                assert not source.startswith("./") or (DEPLOY / source).exists(), f"{path.name}: {source}"


def test_the_settings_in_the_image_load(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GATEWAY_RUNTIME", "GATEWAY_NETWORK", "GATEWAY_MODEL_IMAGE", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)
    config = load_config(DEPLOY / "config.yaml")
    assert (config.server.host, config.server.port, config.server_pool.runtime) == ("0.0.0.0", 8000, "auto")
    assert "demo" in config.llama_cpp.models


@contextmanager
def up(compose: list[str], overlays: tuple[str, ...]) -> Iterator[httpx.Client]:
    """A composition of an image that is there already. Afterwards nothing of it may be left."""
    if "GATEWAY_TEST_IMAGE" not in os.environ:
        pytest.skip("GATEWAY_TEST_IMAGE names no image that deploy/Dockerfile made")
    port = free_port()
    settings = {"GATEWAY_IMAGE": os.environ["GATEWAY_TEST_IMAGE"], "GATEWAY_PORT": str(port)}
    command = [*compose, *arguments(overlays)]
    environment = {**os.environ, **settings}
    try:
        start = [*command, "up", "--detach", "--wait", "--no-build", "--pull", "never"]
        subprocess.run(start, env=environment, check=True)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        subprocess.run([*command, "logs", "--tail", "50"], env=environment, check=False)
        subprocess.run([*command, "down", "--volumes"], env=environment, check=True)
    for kind in ("container ls --all", "network ls", "volume ls"):
        listed = subprocess.run(["docker", *kind.split()], capture_output=True, text=True, check=True).stdout
        assert PROJECT not in listed, f"docker {kind}: nothing is left"


@pytest.mark.timeout(180)
def test_the_composition_for_a_cpu_machine_serves(compose: list[str]) -> None:
    with up(compose, ()) as client:
        assert client.get("/health").json()["status"] == "ok"
        body = {"model": "demo", "messages": HELLO, "max_tokens": 8, "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = list(answer.iter_lines())
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert len([line for line in lines if line.startswith("data: {")]) > 4
        assert lines[-2] == "data: [DONE]"
        assert "llama_proxy_requests_total" in client.get("/metrics").text
