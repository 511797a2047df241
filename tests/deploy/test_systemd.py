"""The unit, by systemd's own checks and under its filter of system calls."""

import ctypes
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import DEMO
from tests.deploy import DEPLOY, program, seccomp
from tests.gateway import CHECKOUT, Gateway, Json, running

UNIT = DEPLOY / "systemd" / "llama-smart-proxy.service"
SETTINGS = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with the paths of this checkout."""
    here = UNIT.read_text().replace("/opt/llama-smart-proxy/.venv/bin/python", sys.executable)
    path = tmp_path / UNIT.name
    path.write_text(here.replace("/opt/llama-smart-proxy/", f"{CHECKOUT}/"))
    return path


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [program("systemd-analyze"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    checked = analyze("verify", str(unit))
    told = "\n".join(line for line in checked.stderr.splitlines() if unit.name in line)
    assert (checked.returncode, told) == (0, "")
    unit.write_text(unit.read_text().replace("KillMode=mixed", "KillMode=mixt"))
    assert "kill mode" in analyze("verify", str(unit)).stderr, "it would have found it"


def test_it_is_as_hardened_as_it_can_be(unit: Path) -> None:
    # In tenths. What is left of 10 is the network, GPUs, and that the host's files can be read.
    rated = analyze("security", "--offline=yes", "--threshold=20", "--no-pager", str(unit))
    if "unrecognized option" in rated.stderr:
        pytest.skip("systemd is older than 250")
    assert rated.returncode == 0, rated.stdout + rated.stderr
    unit.write_text(unit.read_text().replace("SystemCallFilter=", "#").replace("DevicePolicy=", "#"))
    loose = analyze("security", "--offline=yes", "--threshold=20", "--no-pager", str(unit))
    assert loose.returncode != 0, "it would have found it"


def test_the_time_to_stop_is_enough() -> None:
    agents = 5
    assert int(SETTINGS["TimeoutStopSec"]) > 30 + 10 + agents, (
        "server.drain_timeout, server_pool.stop_timeout"
    )


def test_it_tells_systemd_how_it_goes() -> None:
    assert (SETTINGS["Type"], SETTINGS["NotifyAccess"]) == ("notify", "main")
    assert int(SETTINGS["WatchdogSec"]) > 20, "a busy loop is not a dead one"
    assert SETTINGS["Restart"] == "on-failure"
    assert int(SETTINGS["StartLimitBurst"]) * int(SETTINGS["RestartSec"]) < int(
        SETTINGS["StartLimitIntervalSec"]
    )
    assert SETTINGS["ExecReload"] == "/bin/kill -HUP $MAINPID"


@pytest.mark.parametrize(
    ("settings", "status", "told"),
    [
        ("server: {port: 8000}", 0, ""),
        ("server: {prot: 8000}", 2, "prot"),
        ("llama_cpp: {models: {m: {path: none.gguf}}}", 0, "none.gguf: no such file"),
    ],
)
def test_what_can_be_checked_is_checked_before_the_start(
    unit: Path, tmp_path: Path, settings: str, status: int, told: str
) -> None:
    (line,) = re.findall(r"^ExecStartPre=/bin/sh -c '(.*)'$", unit.read_text(), re.MULTILINE)
    config = tmp_path / "config.yaml"
    config.write_text(f"{settings}\n")
    command = ["/bin/sh", "-c", line.replace("/etc/llama-smart-proxy/config.yaml", str(config))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert told in done.stderr


def test_settings_that_cannot_be_used_are_not_tried_again() -> None:
    assert SETTINGS["RestartPreventExitStatus"] == "2"


def lines(listener: socket.socket) -> list[str]:
    """Of the next message."""
    return listener.recv(4096).decode().splitlines()


def test_a_real_gateway_tells_it_how_it_goes(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(20)
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        config: Json = {"server": {"drain_timeout": 100}}
        with running(config, tmp_path, **told) as gateway:
            ready = lines(listener)
            assert ready[0] == "READY=1"
            assert gateway.url.removeprefix("http://") in ready[1]
            assert gateway.client.get("/health/live").status_code == 200, "it listens by then"
            for _ in range(3):
                assert lines(listener) == ["WATCHDOG=1"]
            gateway.process.send_signal(signal.SIGTERM)
            while (last := lines(listener)) == ["WATCHDOG=1"]:
                pass
            assert last[0] == "STOPPING=1"
            (more,) = [line for line in last if line.startswith("EXTEND_TIMEOUT_USEC=")]
            assert int(more.partition("=")[2]) > 110e6, (
                "drain_timeout is longer than the unit's TimeoutStopSec"
            )


def test_its_filter_lets_pass_what_a_gateway_and_a_model_need(tmp_path: Path, real_server: None) -> None:
    systemd = program("systemd-analyze")
    try:
        ctypes.CDLL(seccomp.LIBRARY)
    except OSError:
        pytest.skip(f"{seccomp.LIBRARY} is not on this machine")
    calls: set[str] = set()
    for entry in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE):
        for group in entry.removeprefix("~").split():
            names = seccomp.expand(systemd, group)
            calls = calls - names if entry.startswith("~") else calls | names
    allowed, config = tmp_path / "calls", tmp_path / "config.yaml"
    allowed.write_text("\n".join(sorted(calls)))
    settings = {
        "server": {"port": 0, "log": {"format": "json"}},
        "server_pool": {"runtime": "embedded", "port_start": 0},
        "llama_cpp": {"models": {"demo": DEMO}},
        "agents": ["rag", "cache"],
        "agent_data": str(tmp_path / "agents"),
    }
    config.write_text(yaml.safe_dump(settings))
    gateway = [sys.executable, str(CHECKOUT / "run.py"), "--config", str(config)]
    command = [sys.executable, "-m", "tests.deploy.seccomp", str(allowed), *gateway]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=CHECKOUT) as process:
        try:
            served = Gateway(process)
            assert served.chat().status_code == 200
            document = {"text": "Slots are for requests.", "name": "a.txt"}
            answer = served.client.post("/v1/agents/rag/documents", json={"documents": [document]})
            assert answer.status_code < 300, answer.text
            assert served.stop() == 0
            assert "Traceback" not in "".join(served.raw)
            assert "denied" not in "".join(served.raw)
        finally:
            process.kill()
