"""What is in deploy/, tried with the real programs that it is written for, where they are there."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.gateway import CHECKOUT, until

DEPLOY = CHECKOUT / "deploy"


IN_CI = ("haproxy", "nginx")
"""What .ci/run installs. Of the others, Debian 12 has no Compose v2, and Caddy and Prometheus are large."""


def program(name: str) -> str:
    """Where a program is; the test is skipped if it is not on this machine."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        reason = f"{name} is not on this machine"
        if name in IN_CI:
            missing(reason)
        pytest.skip(reason)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(command: list[str], port: int, log: Path, **environment: str) -> Iterator[None]:
    """A server of somebody else's, until it listens on `port` and for as long as the block lasts."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment or None)
    try:

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            return listens(port)

        until(ready, f"{command[0]} listens", 20)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
