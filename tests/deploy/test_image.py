"""The gateway in a container as deploy/Dockerfile starts it: its user, its first process, its health check.

The image itself needs a registry and a distribution to be built; here it is the tests' own, with the checkout
mounted.
"""

import json
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.certificates import write_pair
from tests.conftest import Start
from tests.deploy import DEPLOY, program
from tests.engines import EngineClient
from tests.gateway import CHECKOUT, until

DOCKERFILE = re.sub(r"\\\n", "", (DEPLOY / "Dockerfile").read_text())
PYTHON = "/usr/bin/python3"


def instruction(name: str) -> list[str]:
    """The words of an instruction that is written as a list, the last of its name."""
    found = re.findall(rf"^{name} .*?(\[.*\])$", DOCKERFILE, re.MULTILINE)
    return [PYTHON if word == "python" else word for word in json.loads(found[-1])]


def environment() -> list[str]:
    (found,) = re.findall(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE)
    return [word for word in found.split() if word.startswith(("HF_", "XDG_"))]


class Container:
    """One that runs; `log` is what it has written."""

    def __init__(self, engine: EngineClient, name: str) -> None:
        self._engine = engine
        self.name = name

    def log(self) -> list[dict[str, Any]]:
        raw: bytes = self._engine.ask("GET", f"/containers/{self.name}/logs?stdout=1&stderr=1")
        lines = re.findall(rb"\{.*\}", raw)
        return [json.loads(line) for line in lines]

    def logged(self, event: str) -> dict[str, Any]:
        """The first line of an event, which is waited for."""
        found: dict[str, Any] = until(
            lambda: next((line for line in self.log() if line["event"] == event), None), event, 30
        )
        return found

    def run(self, *command: str) -> tuple[int, str]:
        """Exit status and output of a command in it."""
        made = self._engine.ask(
            "POST",
            f"/containers/{self.name}/exec",
            json.dumps({"Cmd": command, "AttachStdout": True, "AttachStderr": True, "Tty": True}).encode(),
        )
        body = json.dumps({"Detach": False, "Tty": True}).encode()
        told = self._engine.ask("POST", f"/exec/{made['Id']}/start", body)
        status = self._engine.ask("GET", f"/exec/{made['Id']}/json")["ExitCode"]
        return status, told.decode() if isinstance(told, bytes) else json.dumps(told)

    def processes(self) -> list[list[str]]:
        """State, parent and program of each."""
        told = self._engine.ask("GET", f"/containers/{self.name}/top?ps_args=-o%20pid,ppid,stat,args")
        rows: list[list[str]] = told["Processes"]
        return rows


@contextmanager
def gateway(engine: EngineClient, image: str, owner: int) -> Iterator[Container]:
    """A gateway as it is deployed, whose /data belongs to `owner`."""
    name = f"gateway-{secrets.token_hex(6)}"
    tini = program("tini")
    site = sysconfig.get_path("purelib")
    mounts = {CHECKOUT: "/opt/llama-smart-proxy", site: "/site", tini: "/usr/bin/tini"}
    config = {
        "Image": image,
        "Entrypoint": instruction("ENTRYPOINT"),
        "Cmd": ["--config", "/opt/llama-smart-proxy/deploy/config.yaml"],
        "Env": [*environment(), "PYTHONPATH=/site:/opt/server", "PYTHONUNBUFFERED=1", "PATH=/usr/bin"],
        "User": "10001:10001",
        "WorkingDir": "/data",
        "HostConfig": {
            "Mounts": [
                *(
                    {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": True}
                    for source, target in mounts.items()
                ),
                # with a copy of what the image has there, which is nothing, it would be root's again
                {"Type": "volume", "Source": name, "Target": "/data", "VolumeOptions": {"NoCopy": True}},
            ],
            "ReadonlyRootfs": True,
            "Tmpfs": {"/tmp": ""},
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "NetworkMode": "none",
        },
    }
    engine.ask("POST", "/volumes/create", json.dumps({"Name": name}).encode())
    try:
        where = engine.ask("GET", f"/volumes/{name}")["Mountpoint"]
        shutil.chown(where, owner, owner)
        engine.ask("POST", f"/containers/create?name={name}", json.dumps(config).encode())
        engine.ask("POST", f"/containers/{name}/start")
        yield Container(engine, name)
    finally:
        engine.ask("DELETE", f"/containers/{name}?force=true")
        engine.ask("DELETE", f"/volumes/{name}?force=true")


def test_it_serves_as_its_user_and_its_health_says_so(engine: EngineClient, image: str) -> None:
    with gateway(engine, image, 10001) as container:
        container.logged("listening")
        status, told = container.run(*instruction("HEALTHCHECK"))
        assert (status, json.loads(told)) == (0, {"status": "ok"})
        assert not [line for line in container.log() if line["level"] in ("warning", "error", "critical")]


def test_a_volume_of_somebody_else_is_told_in_one_line(engine: EngineClient, image: str) -> None:
    with gateway(engine, image, 0) as container:
        container.logged("listening")
        told = container.logged("cannot write to a folder")
        assert told["folder"] == "/data"
        assert "uid 0" in told["reason"]
        assert "uid 10001" in told["reason"]
        assert told["cure"] == "as root: chown -R 10001:10001 /data"
        assert len([line for line in container.log() if line["event"] == told["event"]]) == 1
        assert "exc_info" not in json.dumps(container.log())


ORPHAN = """
import os, time
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(0.2)
    os._exit(0)
"""


def test_its_first_process_reaps_what_others_leave(engine: EngineClient, image: str) -> None:
    with gateway(engine, image, 10001) as container:
        container.logged("listening")
        first = min(container.processes(), key=lambda row: int(row[0]))
        assert "tini" in first[3]
        assert container.run(PYTHON, "-c", ORPHAN)[0] == 0
        began = time.monotonic()
        until(lambda: len(container.processes()) == 2, "its children have ended")
        assert time.monotonic() - began < 10
        assert not [row for row in container.processes() if row[2].startswith("Z")]


def test_a_health_check_that_fails_says_why_in_a_line(engine: EngineClient, image: str) -> None:
    with gateway(engine, image, 10001) as container:
        container.logged("listening")
        command = [word.replace("/health/ready", "/nowhere") for word in instruction("HEALTHCHECK")]
        status, told = container.run(*command)
        assert status == 1
        assert "Traceback" not in told
        assert "/nowhere" in told


@pytest.mark.parametrize("way", ["plain", "tls", "base path"])
def test_the_health_check_asks_as_the_gateway_is_configured(way: str, start: Start, tmp_path: Path) -> None:
    tls = write_pair(tmp_path)
    pair = {"certificate": tls.certificate, "key": tls.key}
    ways: dict[str, Any] = {"plain": {}, "tls": {"tls": pair}, "base path": {"base_path": "/llm"}}
    port = str(urlsplit(start({}, server=ways[way]).url).port)
    command = [word.replace("8000", port) for word in instruction("HEALTHCHECK")]
    ended = subprocess.run(
        [sys.executable, *command[1:]], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, '{"status": "ok"}\n'), ended.stderr


@pytest.mark.parametrize("name", ["USER 10001:10001", "VOLUME /data", "EXPOSE 8000"])
def test_what_the_rest_of_deploy_relies_on(name: str) -> None:
    assert name in DOCKERFILE.splitlines()
