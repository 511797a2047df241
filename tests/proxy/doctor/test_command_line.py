"""`run.py doctor`: what it prints, and its exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway import CHECKOUT


def doctor(folder: Path, config: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    file = folder / "config.yaml"
    file.write_text(config)
    return subprocess.run(
        [
            sys.executable,
            str(CHECKOUT / "run.py"),
            "doctor",
            "--config",
            str(file),
            *arguments,
        ],
        env={**os.environ, "XDG_CACHE_HOME": str(folder), "XDG_DATA_HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


GOOD = "server: {port: 0}\nserver_pool: {runtime: embedded}\ngpu: {enabled: false}\n"


def test_all_is_well(tmp_path: Path) -> None:
    ended = doctor(tmp_path, GOOD)
    assert ended.returncode == 0, ended.stdout
    assert f"ok       configuration  {tmp_path}/config.yaml: 0 models" in ended.stdout


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (GOOD + "hub: {allow: ['*'], endpoint: 'http://127.0.0.1:9'}\n", "hub"),
        (GOOD + "ollama: {host: '127.0.0.1:9'}\n", "Ollama"),
        (GOOD + "unknown: 1\n", "configuration"),
        ("server: [\n", "configuration"),
    ],
)
def test_errors(config: str, fault: str, tmp_path: Path) -> None:
    ended = doctor(tmp_path, config, "--json", "--port", "0")
    checks = json.loads(ended.stdout)["checks"]
    assert ended.returncode == 1
    assert fault in [one["name"] for one in checks if one["status"] == "error" and one["cure"]]
