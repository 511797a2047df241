"""The filter before Docker's socket: what the gateway needs passes, and nothing by which one gets out."""

import copy
import http.client
import json
import os
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from actors.servers.docker.spec import ContainerSpec, Gpus, Mount
from tests.deploy import DEPLOY, free_port, program, serving

MODELS = "/var/lib/docker/volumes/gateway_data/"
CREATE = {
    "Image": "ghcr.io/ggml-org/llama.cpp:server",
    "Cmd": ["--model", "/models/a.gguf", "--chat-template-kwargs", '{"thinking": false}', "C:\\", ""],
    "Env": ["HOME=/tmp"],
    "User": "10001:10001",
    "Labels": {"llama-smart-proxy.model": 'a "quoted": one, and ünicode', "llama-smart-proxy.devices": ""},
    "Healthcheck": {"Test": ["NONE"]},
    "HostConfig": {
        "Init": True,
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Tmpfs": {"/tmp": "rw,nosuid,nodev,size=256m"},
        "Mounts": [
            {"Type": "bind", "Source": f"{MODELS}_data/a.gguf", "Target": "/models/a.gguf", "ReadOnly": True},
            {"Type": "bind", "Source": f"{MODELS}_data/b.gguf", "Target": "/models/b.gguf", "ReadOnly": True},
        ],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
        "Memory": 1 << 30,
        "MemorySwap": 1 << 30,
        "DeviceRequests": [{"Driver": "nvidia", "DeviceIDs": ["GPU-a"], "Capabilities": [["gpu"]]}],
        "GroupAdd": ["44"],
        "NetworkMode": "gateway_models",
    },
}


class _Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """HAProxy leaves when its client does."""


class _Handler(BaseHTTPRequestHandler):
    """Takes anything: what is refused is refused before it comes here."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}" if self.command != "HEAD" else b"")

    def log_message(self, *arguments: object) -> None:
        """Silence."""


for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
    setattr(_Handler, f"do_{method}", _Handler.answer)


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of HAProxy with our rules, before an engine that takes anything."""
    folder = tmp_path_factory.mktemp("engine")
    haproxy = program("haproxy")
    port = free_port()
    environment = {
        **os.environ,
        "LISTEN": f"127.0.0.1:{port}",
        "ENGINE": f"unix@{folder / 'docker.sock'}",
        "MOUNTS": MODELS,
        "NETWORK": "gateway_models",
    }
    engine = _Engine(str(folder / "docker.sock"), _Handler)
    serves = threading.Thread(target=engine.serve_forever)
    serves.start()
    command = [haproxy, "-db", "-f", str(DEPLOY / "socket-proxy" / "haproxy.cfg")]
    try:
        with serving(command, port, folder / "log", **environment):
            yield port
    finally:
        engine.shutdown()
        engine.server_close()
        serves.join()


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    "request_line",
    [
        "GET /_ping",
        "HEAD /_ping",
        "GET /version",
        "GET /v1.41/info",
        "GET /v1.41/events?filters=%7B%7D",
        "GET /v1.41/containers/json?all=true",
        "GET /v1.41/containers/llama-demo-a1b2c3/json",
        "GET /v1.41/containers/0123abcd/logs?follow=true",
        "GET /v1.41/containers/0123abcd/top",
        "POST /v1.41/containers/0123abcd/start",
        "POST /v1.41/containers/0123abcd/stop?t=10",
        "POST /v1.41/containers/0123abcd/kill?signal=SIGKILL",
        "POST /v1.41/containers/0123abcd/wait",
        "DELETE /v1.41/containers/0123abcd?force=true",
        "GET /v1.41/images/ghcr.io/ggml-org/llama.cpp:server-cuda/json",
        "POST /v1.41/images/create?fromImage=ghcr.io/ggml-org/llama.cpp&tag=server",
        "GET /v1.41/networks",
        "GET /v1.41/networks/gateway_models",
        "POST /v1.41/networks/gateway_models/connect",
    ],
)
def test_what_the_gateway_needs(filtered: int, request_line: str) -> None:
    method, path = request_line.split()
    assert ask(filtered, method, path) == 200


@pytest.mark.parametrize(
    "request_line",
    [
        "POST /v1.41/containers/0123abcd/exec",
        "POST /v1.41/exec/0123abcd/start",
        "POST /v1.41/containers/0123abcd/attach",
        "POST /v1.41/containers/0123abcd/update",
        "POST /v1.41/containers/0123abcd/rename?name=x",
        "GET /v1.41/containers/0123abcd/archive?path=/etc",
        "PUT /v1.41/containers/0123abcd/archive?path=/etc",
        "GET /v1.41/containers/0123abcd/export",
        "POST /v1.41/commit?container=x",
        "POST /v1.41/build",
        "POST /v1.41/images/load",
        "POST /v1.41/images/create?fromSrc=-",
        "POST /v1.41/images/create?fromImage=x&from%53rc=-",
        "POST /v1.41/images/create",
        "DELETE /v1.41/images/x",
        "POST /v1.41/volumes/create",
        "GET /v1.41/volumes",
        "GET /v1.41/secrets",
        "POST /v1.41/swarm/init",
        "POST /v1.41/plugins/pull",
        "POST /v1.41/networks/create",
        "POST /v1.41/networks/other/connect",
        "DELETE /v1.41/networks/gateway_models",
        "POST /v1.41/containers/prune",
        "POST /v1.41/auth",
        "POST /v1.41/_ping",
        "GET /v1.41/containers/../secrets",
        "GET //v1.41/secrets",
        "PUT /v1.41/containers/create",
        "GET /v1.41/containers/x%2fexec",
    ],
)
def test_what_it_does_not(filtered: int, request_line: str) -> None:
    method, path = request_line.split()
    assert ask(filtered, method, path) == 403


def create(port: int, config: Any, **headers: str) -> int:
    body = config if isinstance(config, bytes) else json.dumps(config).encode()
    return ask(port, "POST", "/v1.41/containers/create?name=llama-demo-a1b2c3", body, **headers)


def test_a_container_as_the_gateway_makes_it(filtered: int) -> None:
    assert create(filtered, CREATE) == 200
    assert create(filtered, json.dumps(CREATE, separators=(",", ":")).encode()) == 200
    assert create(filtered, json.dumps(CREATE, indent=2, ensure_ascii=False).encode()) == 200
    assert create(filtered, json.dumps(CREATE).replace("privileges:true", "privileges").encode()) == 200


def test_a_container_that_the_runtime_describes(filtered: int) -> None:
    spec = ContainerSpec(
        model="demo",
        image="x",
        image_id="sha256:0",
        command=("--model", "/models/a.gguf"),
        entrypoint=("/app/llama-server",),
        environment={"HOME": "/tmp"},
        mounts=(Mount(f"{MODELS}_data/a.gguf", "/models/a.gguf"),),
        devices=("GPU-a",),
        gpus=Gpus(driver="nvidia", names=("GPU-a",)),
        network="gateway_models",
        user="10001:10001",
        groups=("44",),
        memory=1 << 30,
    )
    assert create(filtered, spec.config("0.0.0.0:8000", None)) == 200


def test_a_refusal_says_what_is_refused(filtered: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", filtered, timeout=10)
    connection.request("POST", "/v1.41/containers/create", json.dumps({"Image": "x"}))
    told = json.load(connection.getresponse())["message"]  # as the engine words its own
    connection.close()
    assert told.endswith(
        "(deploy/socket-proxy/haproxy.cfg) does not allow another network than that of the models"
    )


@pytest.mark.parametrize(
    "setting",
    [
        {"Privileged": True},
        {"privileged": True},
        {"Binds": ["/:/host"]},
        {"binds": ["/:/host"]},
        {"Bind\u017f": ["/:/host"]},  # which Go folds to an s
        {"CapAdd": ["SYS_ADMIN"]},
        {"PidMode": "host"},
        {"IpcMode": "host"},
        {"UsernsMode": "host"},
        {"Devices": [{"PathOnHost": "/dev/sda"}]},
        {"VolumesFrom": ["other"]},
        {"CgroupParent": "/"},
        {"Runtime": "other"},
        {"Sysctls": {}},
        {"NetworkMode": "host"},
        {"NetworkMode": "container:other"},
        {"networkmode": "host"},
        {"NetworkMode": None},
        {"SecurityOpt": ["seccomp=unconfined"]},
        {"SecurityOpt": ["no-new-privileges:false"]},
        {"SecurityOpt": []},
        {"SecurityOpt": ["no-new-privileges:true", "apparmor=unconfined"]},
        {"Mounts": [{"Type": "bind", "Source": "/", "Target": "/host"}]},
        {"Mounts": [{"Type": "bind", "Source": "/var/run/docker.sock", "Target": "/x"}]},
        {"Mounts": [{"Type": "bind", "Source": f"{MODELS}../../../../..", "Target": "/x"}]},
        {"Mounts": [{"Type": "volume", "Source": "somebody-elses", "Target": "/x"}]},
        {"Mounts": [{"Type": "volume", "VolumeOptions": {"DriverConfig": {}}, "Target": "/x"}]},
        {"PortBindings": {"8080/tcp": [{"HostPort": "80"}]}},
    ],
    ids=str,
)
def test_ways_out_of_a_container(filtered: int, setting: dict[str, Any]) -> None:
    config = copy.deepcopy(CREATE)
    config["HostConfig"] = {**CREATE["HostConfig"], **setting}  # type: ignore[dict-item]
    assert create(filtered, config) == 403


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"Init": true', rb'"\u0050rivileged": true'),
        (b'"Init": true', rb'"Privilege\u0064": true'),
        (b'"Init": true', b'"Privileged"\n\t: true'),
        (b'"Init": true', b'"Init": true,"Binds":["/:/x"]'),
        (b'"Source": "/var', rb'"Source": "\u002fetc", "Source": "/var'),
        (b'"Source": "/var', b'"Source": "/etc", "Source": "/var'),
        (b"_data/a.gguf", rb"_data/\u002e\u002e/\u002e\u002e/\u002e\u002e/x"),
        (b'"gateway_models"', b'"gateway_models", "NetworkMode": "host"'),
        (b'"gateway_models"', rb'"ho\u0073t"'),
        (b'"C:\\\\"', b'"C:\\\\", "x\\\\"], "Privileged": true, "Entrypoint": ["y"'),
    ],
)
def test_ways_to_hide_one(filtered: int, before: bytes, after: bytes) -> None:
    whole = json.dumps(CREATE).encode()
    assert before in whole
    changed = whole.replace(before, after, 1)
    assert create(filtered, changed) == 403
    json.loads(changed)


@pytest.mark.parametrize("filling", ["a", " ", "\\", ".", '"', ":", '": '])
def test_what_could_exhaust_the_search_does_not_hide_one(filtered: int, filling: str) -> None:
    config = copy.deepcopy(CREATE)
    long = filling * (40_000 // len(filling))
    config["Labels"] = {"Source": f"{MODELS}{long}", "NetworkMode": "gateway_models", "User": long}
    config["HostConfig"] = {**CREATE["HostConfig"], "Mounts": [{"Type": "bind", "Source": "/"}]}  # type: ignore[dict-item]
    assert create(filtered, config) == 403


def test_bodies_that_cannot_be_looked_at_as_a_whole(filtered: int) -> None:
    large = {**CREATE, "Env": ["X=" + "x" * 200_000], "Volumes": {}}
    assert create(filtered, large) in (403, 413)
    connection = http.client.HTTPConnection("127.0.0.1", filtered, timeout=10)
    pieces = iter([json.dumps(CREATE).encode()])
    connection.request("POST", "/v1.41/containers/create", pieces, encode_chunked=True)
    assert connection.getresponse().status == 403
    connection.close()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    pull = "/v1.41/images/create?fromImage=x"
    assert ask(filtered, "POST", pull, b"fromSrc=-", **form) == 403
