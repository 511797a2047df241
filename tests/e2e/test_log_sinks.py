"""A gateway whose output nobody takes: it serves all the same, and ends when it is told to."""

import json
import os
import pty
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
import pytest
import yaml

from tests.gateway import CHECKOUT, HELLO, until

CONFIG: dict[str, Any] = {
    "llama_cpp": {"models": {}},
    "server": {"log": {"format": "json"}},
    "server_pool": {"port_start": 0, "runtime": "embedded"},
}


class Serving:
    """A gateway that is asked over HTTP, and otherwise left alone."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        port = until(self._port, "a gateway that listens", 20)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)

    def _port(self) -> int | None:
        assert self.process.poll() is None, "the gateway ended"
        for connection in psutil.Process(self.process.pid).net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                return int(connection.laddr.port)
        return None

    def ask(self, count: int) -> None:
        """So many requests, each of which is logged, and answered."""
        for _ in range(count):
            answer = self.client.post("/v1/chat/completions", json={"model": "x", "messages": HELLO})
            assert answer.status_code == 404

    def end(self) -> int:
        """TERM it; returns its exit status."""
        self.process.terminate()
        return self.process.wait(10)


@contextmanager
def serving(
    folder: Path, stdout: int | IO[bytes], *, redirect: str = "", stderr: int | IO[bytes] = subprocess.STDOUT
) -> Iterator[Serving]:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    command = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, str(CHECKOUT / "run.py")]
    command += ["--config", str(path), "--port", "0"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
    try:
        gateway = Serving(process)
        yield gateway
        gateway.client.close()
        assert gateway.end() == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_pipe_that_nobody_reads(tmp_path: Path, pipe: tuple[int, int], blocking: bool) -> None:
    _, writer = pipe
    os.set_blocking(writer, blocking)
    with serving(tmp_path, writer) as gateway:
        gateway.ask(2000)


def test_a_reader_that_has_gone(tmp_path: Path, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with serving(tmp_path, writer) as gateway:
        gateway.ask(5)
        os.close(reader)
        gateway.ask(300)


def test_a_terminal_that_is_stopped(tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    try:
        with serving(tmp_path, terminal) as gateway:
            gateway.ask(300)
    finally:
        os.close(terminal)
        os.close(screen)


@pytest.mark.parametrize(
    "redirect", [">/dev/full 2>&1", "<&- >&- 2>&-", ">&-", "<&-", "2>&-"], ids=["full", "none", "1", "0", "2"]
)
def test_no_output(tmp_path: Path, redirect: str) -> None:
    with serving(tmp_path, subprocess.DEVNULL, redirect=redirect) as gateway:
        gateway.ask(300)
        folder = Path(f"/proc/{gateway.process.pid}/fd")
        if folder.exists():
            for number in range(3):
                kind = str((folder / str(number)).readlink())
                assert kind.startswith("/dev/"), "no socket of the gateway's has a standard stream's number"


def test_a_disk_that_fills_and_is_freed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file, serving(tmp_path, file) as gateway:
        gateway.ask(5)
        until(lambda: path.read_bytes().count(b'"request"') == 5, "five lines")
        # A file that may not grow any more is what a full disk looks like, short writes included.
        pid, (_, hard) = gateway.process.pid, resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
        gateway.ask(300)
        assert path.stat().st_size <= resource.prlimit(pid, resource.RLIMIT_FSIZE)[0]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        gateway.ask(5)
        until(lambda: path.read_bytes().count(b'"request"') == 310, "all lines")
    events = [json.loads(text)["event"] for text in path.read_bytes().splitlines()]
    assert events.count("request") == 310


def test_what_was_dropped_is_counted(tmp_path: Path, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with serving(tmp_path, writer) as gateway:
        # Long paths make long lines, so that not many are needed.
        for _ in range(1500):
            assert gateway.client.get(f"/v1/{'x' * 8000}").status_code == 404
        lines: list[dict[str, Any]] = []
        rest = b""
        os.set_blocking(reader, False)

        def told(event: Callable[[dict[str, Any]], bool]) -> bool:
            nonlocal rest
            with suppress(BlockingIOError):
                while piece := os.read(reader, 1 << 16):
                    *whole, rest = (rest + piece).split(b"\n")
                    lines.extend(map(json.loads, whole))
            return any(map(event, lines))

        until(lambda: told(lambda line: line["event"] == "log lines were dropped"), "the notice")
        (notice,) = [line for line in lines if line["event"] == "log lines were dropped"]
        assert notice["count"] > 0
        assert notice["level"] == "warning"
        assert notice["count"] + sum(line["event"] == "request" for line in lines) == 1500
        gateway.client.get("/v1/afterwards")
        until(lambda: told(lambda line: line.get("path") == "/v1/afterwards"), "the next line")
