"""The unit, by systemd's own checks."""

import re
import subprocess
import sys
from pathlib import Path

from tests.deploy import DEPLOY, program
from tests.gateway import CHECKOUT

UNIT = DEPLOY / "systemd" / "llama-smart-proxy.service"


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    here = UNIT.read_text().replace("/opt/llama-smart-proxy/.venv/bin/python", sys.executable)
    unit = tmp_path / UNIT.name
    unit.write_text(here.replace("/opt/llama-smart-proxy/", f"{CHECKOUT}/"))
    checked = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    told = "\n".join(line for line in checked.stderr.splitlines() if unit.name in line)
    assert (checked.returncode, told) == (0, "")
    unit.write_text(here.replace("KillMode=mixed", "KillMode=mixt"))
    wrong = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "kill mode" in wrong.stderr, "it would have found it"


def test_the_time_to_stop_is_enough() -> None:
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert int(seconds) > 30 + 10, "server.drain_timeout and server_pool.stop_timeout"
