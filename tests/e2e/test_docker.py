"""A gateway whose model servers are containers of a real Docker Engine."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from actors.servers.docker.spec import GATEWAY, MODEL
from tests import fake_nvml
from tests.conftest import DEMO, Start, missing
from tests.docker_image import ensure
from tests.engines import EngineClient, PrivateEngine, Wire, private_engine
from tests.gateway import CHECKOUT, FOREVER, HELLO, Gateway, running, until

SMALL: dict[str, Any] = {**DEMO, "ctx_size": 2048, "aliases": []}
ENDLESS = {"model": "demo", "messages": FOREVER, "max_tokens": 10**6, "ignore_eos": True, "stream": True}

Pool = Callable[..., dict[str, Any]]


@pytest.fixture
def name(engine: EngineClient) -> Iterator[str]:
    """Of a gateway. When its test is over it must have no containers."""
    own = f"test-{secrets.token_hex(6)}"
    yield own
    left = engine.containers(f"{GATEWAY}={own}")
    for container in left:
        engine.remove(container["Id"])
    assert not left


@pytest.fixture
def start(name: str, start: Start) -> Start:
    """Its gateways end before their containers are looked for."""
    return start


@pytest.fixture
def pool(engine: EngineClient, name: str, image: str) -> Pool:
    """The section `server_pool`."""

    def make(**settings: Any) -> dict[str, Any]:
        docker = {"host": engine.address, "name": name, **settings.pop("docker", {})}
        return {"runtime": "docker", "image": image, "docker": docker, **settings}

    return make


def error_of(gateway: Gateway, model: str = "demo") -> str:
    """The message of a refusal."""
    response = gateway.chat(model)
    assert response.status_code == 503, response.text
    message: str = response.json()["error"]["message"]
    return message


def test_it_answers_from_a_container(start: Start, pool: Pool, engine: EngineClient, name: str) -> None:
    gateway = start({"demo": SMALL, "embedded": {**SMALL, "runtime": "embedded"}}, server_pool=pool())
    assert "demo model" in gateway.chat(max_tokens=40).json()["choices"][0]["message"]["content"]
    assert gateway.chat("embedded").status_code == 200
    (container,) = engine.containers(f"{GATEWAY}={name}")
    assert container["Labels"][MODEL] == "demo"
    told = engine.inspect(container["Id"])
    assert told["Config"]["User"] == f"{os.getuid()}:{os.getgid()}"
    (mount,) = told["Mounts"]
    assert (Path(mount["Destination"]).parent, mount["RW"]) == (Path("/models"), False)
    (server,) = [server for server in gateway.health()["servers"] if server["model"] == "demo"]
    assert httpx.get(f"http://{server['endpoint']}/props").status_code == 401, "it asks for the gateway's key"
    assert gateway.client.get("/upstream/demo/props").status_code == 200
    assert len(gateway.servers()) == 1, "the other one is a process"
    line = gateway.wait_for("memory of a load", model="demo")
    assert line["host_buffers"] == pytest.approx(line["host_predicted"], rel=0.01), "its log is read"
    assert gateway.stop() == 0
    assert not engine.containers(f"{GATEWAY}={name}")


def test_one_that_is_killed_in_mid_stream(start: Start, pool: Pool, engine: EngineClient, name: str) -> None:
    gateway = start({"demo": SMALL}, server_pool=pool())
    gateway.chat()
    (container,) = engine.containers(f"{GATEWAY}={name}")
    with gateway.client.stream("POST", "/v1/chat/completions", json=ENDLESS) as response:
        lines = response.iter_lines()
        next(lines)
        engine.kill(container["Id"])
        events = [line for line in lines if line]
    assert '"error":{' in events[-1]
    assert "data: [DONE]" not in events
    assert gateway.chat().status_code == 200, "the next request gets a healthy one"
    assert "was killed by signal 9 while it was serving" in gateway.wait_for("model failed")["reason"]
    assert container["Names"][0].lstrip("/") in gateway.wait_for("model failed")["reason"]


def test_one_that_is_paused_is_replaced(start: Start, pool: Pool, engine: EngineClient, name: str) -> None:
    gateway = start({"demo": SMALL}, server_pool=pool(size=1))
    gateway.chat()
    (container,) = engine.containers(f"{GATEWAY}={name}")
    engine.ask("POST", f"/containers/{container['Id']}/pause")
    assert gateway.client.post(
        "/v1/chat/completions", json={"model": "demo", "messages": HELLO, "max_tokens": 8}, timeout=50
    ).is_success, "asked again of the next one"
    assert "health checks" in gateway.wait_for("model failed")["reason"]
    (other,) = engine.containers(f"{GATEWAY}={name}")
    assert other["Id"] != container["Id"]


def test_one_that_needs_more_memory_than_it_may_have(start: Start, pool: Pool) -> None:
    # The server itself takes more.
    model = {**SMALL, "ctx_size": 200_000, "longer_context": True}
    gateway = start({"demo": model}, server_pool=pool(docker={"memory_limit": 0.03}))
    message = error_of(gateway)
    assert "OOM killed" in message
    assert "server_pool.docker.memory_limit" in message


def test_killed_it_comes_back_to_its_containers(
    start: Start, pool: Pool, engine: EngineClient, name: str
) -> None:
    models = {"demo": SMALL, "other": {**SMALL, "ctx_size": 1024}}
    first = start(models, server_pool=pool())
    for model in models:
        assert first.chat(model).status_code == 200
    before = {one["Labels"][MODEL]: one["Id"] for one in engine.containers(f"{GATEWAY}={name}")}
    first.stop(signal.SIGKILL)
    second = start({**models, "other": {**SMALL, "ctx_size": 512}}, server_pool=pool())
    second.wait_for("a container of a dead gateway still runs", model="demo")
    assert len(engine.containers(f"{GATEWAY}={name}")) == 2
    for model in models:
        assert second.chat(model).status_code == 200
    after = {one["Labels"][MODEL]: one["Id"] for one in engine.containers(f"{GATEWAY}={name}")}
    assert after["demo"] == before["demo"], "it is just what would be started now"
    assert after["other"] != before["other"], "its settings have changed"
    assert second.wait_for("took over a running server")["model"] == "demo"
    assert second.model("demo")["epoch"] == 1
    engine.kill(after["demo"])
    second.wait_for("model failed", model="demo")
    assert second.stop() == 0


def test_what_nobody_wants_any_more_goes_with_the_gateway(
    start: Start, pool: Pool, engine: EngineClient, name: str
) -> None:
    first = start({"demo": SMALL}, server_pool=pool())
    first.chat()
    first.stop(signal.SIGKILL)
    assert len(engine.containers(f"{GATEWAY}={name}")) == 1
    second = start({}, server_pool=pool())
    second.wait_for("a container of a dead gateway still runs")
    assert second.stop() == 0


def test_two_gateways_on_one_engine(start: Start, pool: Pool, engine: EngineClient, name: str) -> None:
    """Without a name the identity is the address or, where any port will do, the process."""
    unnamed = [start({"demo": SMALL}, server_pool=pool(docker={"name": None})) for _ in range(2)]
    for gateway in unnamed:
        assert gateway.chat().status_code == 200
    third = start({"demo": SMALL}, server_pool=pool())
    assert third.chat().status_code == 200
    for gateway in unnamed:
        assert gateway.chat().status_code == 200
        assert gateway.model("demo")["epoch"] == 1
    unnamed[0].stop(signal.SIGKILL)
    identity = f"{GATEWAY}=process of {socket.gethostname()} {unnamed[0].process.pid}:"
    orphan = [
        one
        for one in engine.containers(GATEWAY)
        if f"{GATEWAY}={one['Labels'][GATEWAY]}".startswith(identity)
    ]
    assert len(orphan) == 1
    fourth = start({}, server_pool=pool(docker={"name": f"{name}-4"}))
    swept = fourth.wait_for("removing a container that a dead gateway left behind")
    assert swept["container"] == orphan[0]["Names"][0].lstrip("/")
    assert unnamed[1].chat().status_code == 200


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"image": "localhost:1/no/image:1"},
            "the image localhost:1/no/image:1 is not there, and the engine could",
        ),
        ({"docker": {"network": "no-such-network"}}, "network no-such-network not found"),
        ({"docker": {"mounts": ["/no/such/folder"]}}, "bind source path does not exist: /no/such/folder"),
        (
            {"docker": {"host": "unix:///no/engine.sock"}},
            "/no/engine.sock is not there: start it, or say where",
        ),
        ({"docker": {"host": "tcp://127.0.0.1:9"}}, "cannot be reached"),
        ({"command": "/no/such/server"}, "/no/such/server"),
    ],
)
def test_what_cannot_be_started_is_told(
    start: Start, pool: Pool, settings: dict[str, Any], message: str
) -> None:
    gateway = start({"demo": SMALL, "fine": {**SMALL, "runtime": "embedded"}}, server_pool=pool(**settings))
    assert message in error_of(gateway)
    assert gateway.chat("fine").status_code == 200


def test_gpus_that_the_engine_cannot_give(
    start: Start, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: EngineClient
) -> None:
    if "nvidia" in engine.ask("GET", "/info").get("Runtimes", {}):
        pytest.skip("this engine can give GPUs")
    pretended = [{"uuid": "GPU-left", "name": "Pretended", "total": 1 << 30}]
    for name, value in fake_nvml.write(tmp_path / "nvml.json", gpus=pretended, driver="1").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gateway = start({"demo": SMALL}, server_pool=pool())
    message = error_of(gateway)
    assert "could not select device driver" in message
    assert "NVIDIA Container Toolkit" in message or "nvidia-ctk" in message
    assert not engine.containers(f"{GATEWAY}={pool()['docker']['name']}")


def test_a_user_who_may_not_use_the_engine(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> None:
    if os.getuid():
        pytest.skip("only root can become somebody else")
    code = (
        "import asyncio; from actors.servers.docker.engine import *\n"
        "async def ask():\n"
        "    engine = Engine()\n"
        "    try: await engine.info()\n"
        "    except EngineError as error: print(error)\n"
        "    await engine.close()\n"
        "asyncio.run(ask())"
    )
    become = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    # The imports first: the checkout may be readable to root only.
    told = subprocess.run(
        [sys.executable, "-c", code.replace("async def", become + "async def", 1)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "may not be used by this user: add it to the group docker" in told.stdout, told.stderr


def test_the_engine_goes_away_in_mid_stream(
    start: Start, pool: Pool, engine: EngineClient, name: str, tmp_path: Path
) -> None:
    wire = Wire(engine.address, tmp_path / "engine.sock")
    gateway = start({"demo": SMALL, "other": SMALL}, server_pool=pool(docker={"host": wire.address}))
    gateway.chat()
    with gateway.client.stream("POST", "/v1/chat/completions", json=ENDLESS) as response:
        lines = response.iter_lines()
        next(lines)
        wire.cut()
        gateway.wait_for("the Docker Engine cannot be used")
        for _ in range(200):
            assert "error" not in next(lines), "a server does not need the engine while it serves"
    assert "start it, or say where it is" in error_of(gateway, "other")
    wire.mend()
    until(lambda: gateway.chat("other").status_code == 200, "it works again")
    assert gateway.model("demo")["epoch"] == 1


@pytest.fixture
def network(engine: EngineClient, name: str) -> Iterator[str]:
    """A network of the engine."""
    engine.ask("POST", "/networks/create", json.dumps({"Name": name}).encode())
    yield name
    engine.ask("DELETE", f"/networks/{name}")


@pytest.mark.parametrize("named", [True, False])
def test_the_gateway_is_a_container_too(
    engine: EngineClient, image: str, network: str, tmp_path: Path, cache: str, named: bool
) -> None:
    """On its network, with the models' folder from the host; as root, since the socket is root's."""
    docker = {"network": network} if named else {}
    config = {
        "server": {"host": "0.0.0.0", "open": True, "log": {"format": "json"}},
        "server_pool": {"runtime": "docker", "image": image, "docker": docker},
        "llama_cpp": {"models": {"demo": SMALL}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    binds = {
        CHECKOUT: "/src",
        Path(yaml.__file__).parents[1]: "/site",
        tmp_path: "/etc/gateway",
        Path(engine.address.removeprefix("unix://")): "/var/run/docker.sock",
    }
    mounts: list[dict[str, Any]] = [
        {"Type": "bind", "Source": str(path), "Target": to, "ReadOnly": True} for path, to in binds.items()
    ]
    mounts.append({"Type": "bind", "Source": cache, "Target": "/cache"})
    body = {
        "Image": image,
        "Entrypoint": ["/usr/bin/python3", "/src/run.py"],
        "Cmd": ["--config", "/etc/gateway/config.yaml"],
        "Env": ["PYTHONPATH=/site", "XDG_CACHE_HOME=/cache"],
        "ExposedPorts": {"8000/tcp": {}},
        "HostConfig": {
            "Mounts": mounts,
            "NetworkMode": network,
            "PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
            "Init": True,
        },
    }
    gateway = f"{network}-gateway"
    engine.ask("POST", f"/containers/create?name={gateway}", json.dumps(body).encode())
    try:
        engine.ask("POST", f"/containers/{gateway}/start")
        port = engine.inspect(gateway)["NetworkSettings"]["Ports"]["8000/tcp"][0]["HostPort"]
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            with suppress(httpx.HTTPError):
                return httpx.get(f"{url}/health/live").status_code == 200
            return False

        until(answers, "the gateway answers", 20)
        told = httpx.post(f"{url}/v1/chat/completions", json={"model": "demo", "messages": HELLO}, timeout=30)
        assert told.status_code == 200, told.text
        (server,) = engine.containers(f"{GATEWAY}=container {gateway}")
        assert list(server["NetworkSettings"]["Networks"]) == [network]
        (mount,) = engine.inspect(server["Id"])["Mounts"]
        assert mount["Source"].startswith(cache), "the file's place on the host"
        engine.ask("POST", f"/containers/{gateway}/stop?t=20")
        assert engine.inspect(gateway)["State"]["ExitCode"] == 0
        assert not engine.containers(f"{GATEWAY}=container {gateway}")
    finally:
        engine.remove(gateway)
        for left in engine.containers(f"{GATEWAY}=container {gateway}"):
            engine.remove(left["Id"])


@pytest.fixture
def own_engine() -> Iterator[PrivateEngine]:
    """A dockerd that may be restarted."""
    reason = None
    if os.getuid():
        reason = "a dockerd of its own needs root"
    elif not all(map(shutil.which, ("dockerd", "unshare", "nsenter", "ip"))):
        reason = "dockerd, unshare, nsenter and ip are needed"
    if reason is None:
        with private_engine() as started:
            yield started
    else:
        missing(reason)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_daemon_is_restarted(
    own_engine: PrivateEngine, number: signal.Signals, tmp_path: Path, cache: str, real_server: None
) -> None:
    image = ensure(own_engine.client)
    pool = {"runtime": "docker", "image": image, "docker": {"host": own_engine.address, "name": "restart"}}
    config = {"llama_cpp": {"models": {"demo": SMALL}}, "server_pool": pool}

    def restart() -> None:
        with running(config, tmp_path, XDG_CACHE_HOME=cache) as gateway:
            assert gateway.chat().status_code == 200
            with gateway.client.stream("POST", "/v1/chat/completions", json=ENDLESS) as response:
                lines = response.iter_lines()
                next(lines)
                own_engine.stop(number)
                own_engine.start()
                assert '"error":{' in [line for line in lines if line][-1]
            gateway.wait_for("model failed")
            until(lambda: gateway.chat().status_code == 200, "it is started anew", 20)
            assert len(own_engine.client.containers(GATEWAY)) == 1
        assert own_engine.client.containers(GATEWAY) == []

    own_engine.inside(restart)
