"""`pip install .` gives the command `llama-smart-proxy`, and takes no names from other packages."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import DEMO
from tests.gateway import CHECKOUT, Gateway, marked_processes, until

SOURCES = (
    ["actors", "agents", "proxy", "llama_smart_proxy"],
    ["run.py", "setup.py", "config.yaml", "pyproject.toml", "README.md"],
)


def install(folder: Path, *options: str) -> Path:
    """Install a copy of the checkout into a fresh environment; return its programs' folder."""
    copy, environment = folder / "copy", folder / "environment"
    for name in SOURCES[0]:
        shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in SOURCES[1]:
        shutil.copy(CHECKOUT / name, copy)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    programs = environment / "bin"
    # The dependencies are those of the tests.
    packages = next((environment / "lib").glob("python*/site-packages"))
    (packages / "zz_dependencies.pth").write_text(sysconfig.get_path("purelib"))
    words = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    pip: list[str | Path] = [programs / "python", "-m", "pip", "install", *words, *options, copy]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return programs


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("installed"))


def say(folder: Path, *argv: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What a program says that is started in another folder."""
    own = {**os.environ, "XDG_CONFIG_HOME": str(folder / "config"), **environment}
    own.pop("PYTHONPATH", None)
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=folder, env=own)


def test_the_command_does_what_run_does(programs: Path, tmp_path: Path) -> None:
    command = programs / "llama-smart-proxy"
    assert say(tmp_path, command, "--version").stdout.startswith("llama-smart-proxy ")
    shipped = say(tmp_path, command, "models")
    assert "demo" in shipped.stdout, "of the config.yaml that it brings"
    wrong = say(tmp_path, command, "nonsense")
    assert (wrong.returncode, wrong.stderr.splitlines()[-1][:25]) == (2, "llama-smart-proxy: error:")
    own = tmp_path / "config" / "llama-smart-proxy" / "config.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("llama_cpp: {models: {mine: {path: 'builtin:demo'}}}")
    assert "mine" in say(tmp_path, command, "check").stdout, "the user's own comes first"


def test_documents_are_read_by_a_process_that_finds_it_all(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>The harbour master is called Ilse.</p>")
    command, data = programs / "llama-smart-proxy", str(tmp_path / "data")
    added = say(tmp_path, command, "rag", "add", "page.html", XDG_DATA_HOME=data)
    assert (added.returncode, "1 added" in added.stdout) == (0, True), added.stderr


@pytest.mark.parametrize("name", ["proxy", "agents", "actors", "run"])
def test_no_name_is_taken_from_others(programs: Path, tmp_path: Path, name: str) -> None:
    python = programs / "python"
    missing = say(tmp_path, python, "-c", f"import {name}")
    assert f"No module named '{name}'" in missing.stderr
    packages = next((programs.parent / "lib").glob("python*/site-packages"))
    other = packages / f"{name}.py"
    other.write_text("WHOSE = 'another package of this name'")
    try:
        assert say(tmp_path, python, "-c", f"import {name}; print({name}.WHOSE)").stdout.startswith("another")
        version = say(tmp_path, programs / "llama-smart-proxy", "check")
        assert version.returncode == 0, version.stderr
    finally:
        other.unlink()


@pytest.fixture
def gateway(programs: Path, tmp_path: Path, cache: str) -> Iterator[Gateway]:
    """One that was started by the command, in another folder."""
    config = {"server": {"port": 0}, "server_pool": {"port_start": 0, "runtime": "embedded"}}
    own = tmp_path / "llama-smart-proxy" / "config.yaml"
    own.parent.mkdir()
    own.write_text(json.dumps({**config, "llama_cpp": {"models": {"demo": DEMO}}}))
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "XDG_CACHE_HOME": cache}
    environment.pop("PYTHONPATH", None)
    with subprocess.Popen(
        [programs / "llama-smart-proxy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=tmp_path,
    ) as process:
        try:
            started = Gateway(process)
            yield started
            assert started.stop() == 0
        finally:
            process.kill()
    until(lambda: str(process.pid) not in marked_processes(), "all model servers gone", 5)


def test_it_serves(gateway: Gateway, real_server: None) -> None:
    assert gateway.chat().status_code == 200
    assert "/main.js" in gateway.client.get("/ui").text


def test_an_editable_installation_is_the_checkout(tmp_path: Path) -> None:
    programs = install(tmp_path, "--editable")
    house = say(tmp_path, programs / "python", "-c", "import llama_smart_proxy as it; print(it.HOUSE)")
    assert house.stdout.strip() == str(tmp_path / "copy")
    assert say(tmp_path, programs / "llama-smart-proxy", "check").returncode == 0
    assert "No module named 'proxy'" in say(tmp_path, programs / "python", "-c", "import proxy").stderr
