"""What commands print: to readers that leave, full disks, terminals; and what an interrupt does to them."""

import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO

import pytest
import yaml

from actors.demo.model import write_demo
from tests.gateway import CHECKOUT, until
from tests.stand_in_hub import StandInHub

NAME = "Org/Demo-GGUF:Q8_0"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    models = {"d": {"path": str(tmp_path / "d.gguf")}}
    write_demo(tmp_path / "d.gguf", embedding=False)
    settings = {"llama_cpp": {"models": models}, "hub": {"cache_dir": str(tmp_path / "cache")}}
    path.write_text(yaml.safe_dump({**settings, "agent_data": str(tmp_path / "data")}))
    return path


def start(
    *words: str, stdout: int | IO[bytes] = subprocess.PIPE, redirect: str = "", **environment: str
) -> "subprocess.Popen[bytes]":
    command = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, str(CHECKOUT / "run.py"), *words]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        # As from a terminal: a test that runs in a shell's background finds it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (no lock is taken)
    )


def ended(process: "subprocess.Popen[bytes]") -> tuple[int, str]:
    """Its exit status, and what it said on standard error."""
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors.decode()


COMMANDS = [
    ("--help",),
    ("check",),
    ("agents",),
    ("models",),
    ("plan", "d", "--gpus", ""),
    ("migrate", "old.json"),
    ("rag", "add", "doc.md"),
    ("rag", "list"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_reader_that_leaves(words: tuple[str, ...], config: Path, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("{}")
    (tmp_path / "doc.md").write_text("# Bread\n")
    words = tuple(str(tmp_path / word) if "." in word else word for word in words)
    common = ["--config", str(config)]
    if words == ("rag", "list"):
        assert ended(start("rag", "add", str(tmp_path / "doc.md"), *common)) == (0, "")
    if words[0] == "migrate":
        words = (*words, "--output", str(tmp_path / "new.yaml"))
    reader, writer = os.pipe()
    os.close(reader)
    process = start(*words, *common, stdout=writer)
    os.close(writer)
    assert ended(process) == (141, "")


@pytest.mark.parametrize(
    ("redirect", "reason"),
    [
        (">/dev/full", "standard output cannot be written: No space left on device"),
        (">&-", "standard output is closed"),
    ],
)
@pytest.mark.parametrize("command", ["agents", "--help"])
def test_an_output_that_takes_nothing(redirect: str, reason: str, command: str, config: Path) -> None:
    status, errors = ended(start(command, "--config", str(config), redirect=redirect))
    assert (status, errors) == (1, f"run.py: {reason}\n")


def test_no_output_at_all(config: Path) -> None:
    assert ended(start("models", "--config", str(config), redirect=">/dev/full 2>&1"))[0] == 1
    assert ended(start("pull", "x", "--config", str(config), redirect="<&- >&- 2>&-"))[0] == 1


def test_a_locale_that_cannot_express_a_name(config: Path, tmp_path: Path) -> None:
    (tmp_path / "Brot für alle.md").write_text("# Brot\n")
    added = start("rag", "add", str(tmp_path), "--config", str(config), PYTHONIOENCODING="ascii")
    assert ended(added)[0] == 0
    listed = start("rag", "list", "--config", str(config), PYTHONIOENCODING="ascii")
    assert b"Brot f\\xfcr alle.md" in listed.communicate(timeout=30)[0]


def test_names_cannot_steer_a_terminal(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("a\x1b[31m\n b.md", "\u202edm.c.md"):
        (folder / name).write_text("# Bread\n")
    for repo in ("models--org--\x1b[2J\nx",):
        snapshot = tmp_path / "cache" / repo / "snapshots" / "main"
        snapshot.mkdir(parents=True)
        (snapshot / "m-Q8_0.gguf").write_bytes(b"GGUF")
    words = ("--config", str(config))
    told = b""
    for command in (("rag", "add", str(folder)), ("rag", "list"), ("models",), ("plan", "\x1b[1m\nx")):
        process = start(*command, *words)
        told += b"".join(process.communicate(timeout=30))
    lines = told.decode().split("\n")
    assert all(line.isprintable() for line in lines)
    assert any("a\\x1b[31m\\n b.md" in line for line in lines)
    assert any("\\u202edm.c.md" in line for line in lines)
    assert any("org/\\x1b[2J\\nx" in line for line in lines)


def test_nothing_done_is_no_success(config: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, said in (
        (("rm", "org/none"), "is not in"),
        (("rag", "add", str(tmp_path / "empty")), "there is no document"),
        (("pull", "nothing"), "is no model of a hub"),
        (("plan", "nothing"), "is no configured model"),
        (("migrate", str(tmp_path / "none.json")), "none.json: No such file or directory"),
    ):
        status, errors = ended(start(*words, "--config", str(config)))
        assert status == 1, words
        assert said in errors
        assert errors.count("\n") == 1
    (tmp_path / "d.gguf").write_bytes(b"no model")
    assert ended(start("models", "--config", str(config)))[0] == 1, "one of them cannot be read"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[StandInHub]:
    folder = tmp_path / "hub" / "Org/Demo-GGUF"
    folder.mkdir(parents=True)
    write_demo(folder / "demo-Q8_0.gguf", embedding=False)
    with StandInHub(tmp_path / "hub") as hub:
        yield hub


def pull_of(site: StandInHub, folder: Path) -> tuple[str, ...]:
    """The words of a command that downloads."""
    path = folder / "pull.yaml"
    path.write_text(json.dumps({"hub": {"endpoint": site.url, "cache_dir": str(folder / "cache")}}))
    return "pull", NAME, "--config", str(path)


def test_an_interrupted_download(site: StandInHub, tmp_path: Path) -> None:
    site.pace = (64 * 1024, 0.05)
    process = start(*pull_of(site, tmp_path))
    assert site.arrived.wait(20)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "run.py: interrupted; what has arrived is kept\n")


def test_an_interrupted_question(config: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as gateway:
        port = str(gateway.getsockname()[1])
        process = start("plan", "d", "--port", port, "--config", str(config))
        gateway.settimeout(20)
        asked, _ = gateway.accept()  # and no answer
        process.send_signal(signal.SIGINT)
        assert ended(process) == (130, "")
        asked.close()


@pytest.mark.parametrize(
    "body",
    [
        b"[1]",
        b'{"action": "start"}',
        b'{"action": 5, "evicts": 5}',
        b"[" * 100_000,
        b'{"action": "\xff"}',
        b"",
    ],
)
def test_another_program_where_the_gateway_should_be(body: bytes, config: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        process = start("plan", "d", "--port", str(other.getsockname()[1]), "--config", str(config))
        other.settimeout(20)
        asked, _ = other.accept()
        with closing(asked):
            asked.recv(65536)
            asked.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + body)
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")
    assert out.startswith(b"d: gemma3")


def test_an_interrupt_while_it_starts(config: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as gateway:
        port = str(gateway.getsockname()[1])
        process = start("plan", "d", "--port", port, "--config", str(config))
        maps = Path(f"/proc/{process.pid}/maps")
        until(lambda: "msgspec" in maps.read_text(), "imports")
        process.send_signal(signal.SIGINT)
        status, errors = ended(process)
    assert status in (130, -signal.SIGINT)
    assert errors == ""


def test_a_bar_is_for_terminals(site: StandInHub, tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, str(CHECKOUT / "run.py"), *pull_of(site, tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # its end
        while piece := os.read(screen, 1 << 16):
            shown += piece
    os.close(screen)
    assert process.communicate(timeout=30)[0].endswith(b"demo-Q8_0.gguf\n")
    assert process.returncode == 0
    assert b"100%" in shown
