"""The compositions: each combination is valid, and the one for a CPU machine serves."""

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
import yaml

from actors.config.file import load_config
from tests.deploy import DEPLOY, free_port
from tests.gateway import CHECKOUT, FOREVER, HELLO, until

OVERLAYS = ("nvidia", "ollama", "docker", "monitoring")
COMBINATIONS = [
    combination
    for count in range(len(OVERLAYS) + 1)
    for combination in itertools.combinations(OVERLAYS, count)
]
COMBINATIONS += [(*some, "ollama-nvidia") for some in COMBINATIONS if {"nvidia", "ollama"} <= set(some)]
MINIMUM = (2, 24)
"""The version of Compose that compose.yaml and the documentation name."""
PROJECT = f"lsp-test-{os.getpid()}"


@pytest.fixture(scope="session")
def compose() -> list[str]:
    """The command of Compose v2, as a plugin or by itself."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        told = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
        version = re.match(r"v?(\d+)\.(\d+)", told.stdout)
        if version and tuple(map(int, version.groups())) >= MINIMUM:
            return command
    pytest.skip(f"there is no Compose {MINIMUM[0]}.{MINIMUM[1]} or newer")


def arguments(overlays: tuple[str, ...]) -> list[str]:
    files = ["compose.yaml", *(f"compose.{overlay}.yaml" for overlay in overlays)]
    return ["--project-name", PROJECT, *(word for file in files for word in ("-f", str(DEPLOY / file)))]


def read(compose: list[str], overlays: tuple[str, ...]) -> dict[str, Any]:
    """The services of a combination, as Compose understands them."""
    command = [*compose, *arguments(overlays), "config", "--format", "json"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, ""), "valid, and without a warning"
    services: dict[str, Any] = json.loads(told.stdout)["services"]
    for service in services.values():
        # 2.24 tells those of merged files as a list.
        if isinstance(listed := service.get("environment"), list):
            service["environment"] = dict(pair.partition("=")[::2] for pair in listed)
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
        options = service["logging"]["options"]
        assert {"max-size", "max-file"} <= options.keys(), "its log must not fill the disk"
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_started", f"{name} must start although {other} is unwell"
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


def test_the_least_version_is_said() -> None:
    least = f"Compose {MINIMUM[0]}.{MINIMUM[1]} or newer"
    for path in (DEPLOY / "compose.yaml", CHECKOUT / "README.md", CHECKOUT / "docs" / "deployment.md"):
        assert least in path.read_text(), path.name


def test_that_settings_are_read_at_start_is_said() -> None:
    for path in (DEPLOY / "compose.yaml", DEPLOY / "config.yaml", CHECKOUT / "docs" / "deployment.md"):
        assert "docker compose restart gateway" in path.read_text(), path.name


def test_what_compose_itself_is_not_needed_to_see() -> None:
    bounded: dict[str, bool] = {}
    for path in DEPLOY.glob("compose*.yaml"):
        assert "service_healthy" not in path.read_text(), f"{path.name}: who waits for it does not start"
        for name, service in yaml.safe_load(path.read_text())["services"].items():
            options = service.get("logging", {}).get("options", {})
            bounded[name] = bounded.get(name, False) or {"max-size", "max-file"} <= options.keys()
    assert bounded == dict.fromkeys(bounded, True), "a log must not fill the disk"


def test_files_that_are_mounted_are_there() -> None:
    for path in DEPLOY.glob("compose*.yaml"):
        for service in yaml.safe_load(path.read_text())["services"].values():
            for volume in service.get("volumes", ()):
                source = volume.partition(":")[0]
                assert not source.startswith("./") or (DEPLOY / source).exists(), f"{path.name}: {source}"


def test_what_drains_is_not_killed() -> None:
    config = load_config(DEPLOY / "config.yaml")
    grace = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["gateway"]["stop_grace_period"]
    agents = 5
    needed = config.server.drain_timeout + config.server_pool.stop_timeout + agents
    assert int(grace.removesuffix("s")) > needed


def test_the_settings_in_the_image_load(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GATEWAY_RUNTIME", "GATEWAY_NETWORK", "GATEWAY_MODEL_IMAGE", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)
    config = load_config(DEPLOY / "config.yaml")
    assert (config.server.host, config.server.port, config.server_pool.runtime) == ("0.0.0.0", 8000, "auto")
    assert (config.server_pool.image, config.server_pool.docker.network) == (None, None)
    assert "demo" in config.llama_cpp.models


def docker(*arguments: str) -> list[str]:
    """The lines that a command of Docker's prints."""
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=True
    ).stdout.splitlines()


@contextmanager
def up(
    compose: list[str], overlays: tuple[str, ...], *, wait: bool = True, same: tuple[str, ...] = ()
) -> Iterator[httpx.Client]:
    """A composition of images that are there already. Afterwards nothing of it may be left.

    `wait`: until all of it is healthy. `same`: images for which the gateway's own is taken.
    """
    needed = ["GATEWAY_TEST_IMAGE"]
    if "docker" in overlays:
        needed += ["GATEWAY_MODEL_IMAGE", "HAPROXY_IMAGE"]
    if missing := [name for name in needed if name not in os.environ]:
        pytest.skip(
            f"{', '.join(missing)}: no image is named, of deploy/Dockerfile's, of models', of HAProxy"
        )
    port = free_port()
    settings = {"GATEWAY_IMAGE": os.environ["GATEWAY_TEST_IMAGE"], "GATEWAY_PORT": str(port)}
    command = [*compose, *arguments(overlays)]
    environment = {**os.environ, **settings, **dict.fromkeys(same, settings["GATEWAY_IMAGE"])}
    try:
        start = [*command, "up", "--wait" if wait else "--detach", "--no-build", "--pull", "never"]
        subprocess.run(start, env=environment, check=True)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        subprocess.run([*command, "logs", "--tail", "50"], env=environment, check=False)
        subprocess.run([*command, "down", "--volumes"], env=environment, check=True)
    for kind in ("container ls --all", "network ls", "volume ls"):
        assert PROJECT not in "".join(docker(*kind.split())), f"docker {kind}: nothing is left"


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


@pytest.mark.timeout(180)
def test_an_unhealthy_ollama_keeps_nobody_from_starting(compose: list[str]) -> None:
    # An image without an `ollama` that its health check could call.
    with up(compose, ("ollama",), wait=False, same=("OLLAMA_IMAGE",)) as client:

        def serves() -> bool:
            with suppress(httpx.TransportError):
                return client.get("/health/ready").status_code == 200
            return False

        until(serves, "the gateway serves", 60)
        (state,) = docker("ps", "--filter", f"name={PROJECT}-ollama", "--format", "{{.Status}}")
        assert "(healthy)" not in state
        assert (
            client.post("/v1/chat/completions", json={"model": "demo", "messages": HELLO}).status_code == 200
        )


def models() -> list[str]:
    """The containers on the models' network that are neither the gateway nor anything else of Compose's."""
    network = f"network={PROJECT}_models"
    return [
        name
        for name in docker("ps", "--all", "--filter", network, "--format", "{{.Names}}")
        if not name.startswith(PROJECT)
    ]


@pytest.mark.timeout(180)
def test_models_in_containers_of_their_own(compose: list[str]) -> None:
    made: set[str] = set()
    with up(compose, ("docker",)) as client:
        assert models() == []
        body = {"model": "demo", "messages": HELLO, "max_tokens": 8, "stream": True}
        assert client.post("/v1/chat/completions", json=body).text.rstrip().endswith("data: [DONE]")
        (first,) = models()
        endless = {**body, "messages": FOREVER, "max_tokens": 10**6, "ignore_eos": True}
        with client.stream("POST", "/v1/chat/completions", json=endless) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: {")
            docker("kill", first)
            last = [line for line in lines if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_error"
        assert client.post("/v1/chat/completions", json=body).status_code == 200, "it is started anew"
        (second,) = models()
        assert second != first
        made = {first, second}
        proxy = docker("ps", "--filter", f"name={PROJECT}-socket-proxy", "--format", "{{.Names}}")
        told = docker("logs", *proxy)
        assert any("POST" in line and line.endswith("/containers/create") for line in told)
        assert [line for line in told if line.startswith("403")] == []
        # Without the way to the engine it can serve nobody, and says so; with it again, it can.
        docker("stop", "--time", "0", *proxy)
        until(lambda: client.get("/health/ready").status_code == 503, "it is not ready", 30)
        assert client.get("/health/ready").json()["missing"][0]["name"] == "Docker Engine"
        docker("start", *proxy)
        until(lambda: client.get("/health/ready").status_code == 200, "it is ready", 30)
    left = docker("ps", "--all", "--format", "{{.Names}}")
    assert made.isdisjoint(left)
