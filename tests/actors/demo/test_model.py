"""The built-in models: written whole or not at all, and known to be whole when they are used."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.demo.model import demo_path, is_whole_demo, write_demo
from tests.conftest import DEMO
from tests.gateway import running


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.gguf"
    write_demo(path, embedding=False)
    return path


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def zeros(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(4096))


def without_digest(path: Path) -> None:
    path.with_name(path.name + ".sha256").unlink()


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [truncated, zeros, without_digest, gone])
def test_what_is_not_whole_is_known(tmp_path: Path, written: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "demo.gguf"
    for file in written.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert is_whole_demo(path)
    damage(path)
    assert not is_whole_demo(path)


def test_what_a_killed_writer_left_is_removed(tmp_path: Path, written: Path) -> None:
    path = tmp_path / "demo.gguf"
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [tmp_path / f"demo.gguf.{dead.pid}.partial", tmp_path / f"demo.gguf.{dead.pid}.digest.partial"]
    others = tmp_path / f"demo.gguf.{os.getppid()}.partial"
    for file in (*left, others):
        file.write_bytes(b"half")
    write_demo(path, embedding=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, others.name, "demo.gguf.sha256"]
    assert path.read_bytes() == written.read_bytes()


def test_a_damaged_one_is_written_anew_when_it_is_asked_for(tmp_path: Path, real_server: None) -> None:
    path = demo_path("demo", tmp_path / "llama-smart-proxy")
    path.parent.mkdir()
    path.write_bytes(b"GGUF" + bytes(100_000))
    with running(
        {"llama_cpp": {"models": {"demo": DEMO}}}, tmp_path, XDG_CACHE_HOME=str(tmp_path)
    ) as gateway:
        assert gateway.chat().status_code == 200
        gateway.wait_for("the built-in model is damaged", path=str(path))
    assert is_whole_demo(path)
