"""`run.py` as its user types it."""

import socket
import subprocess
import sys
from pathlib import Path

import yaml

from actors.config.file import load_config, parse_config
from tests.gateway import CHECKOUT


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(CHECKOUT / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_help_and_version() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    for word in ("serve", "check", "--config", "--port"):
        assert word in shown.stdout
    assert run("--version").stdout.startswith("llama-smart-proxy 0.")


def test_check_prints_what_it_would_use() -> None:
    checked = run("check")
    assert checked.returncode == 0, checked.stderr
    printed = parse_config(yaml.safe_load(checked.stdout), folder=CHECKOUT)
    assert printed == load_config(CHECKOUT / "config.yaml")


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("server_pool: {sise: 3}\nserver: {port: 99999}\n")
    for command in ("check", "serve"):
        wrong = run(command, "--config", str(path))
        assert wrong.returncode == 2
        assert wrong.stderr.splitlines() == [
            f"run.py: {path}:1: server_pool.sise: unknown key; did you mean 'size'?",
            f"run.py: {path}:2: server.port: expected a whole number from 0 to 65535, got 99999",
        ]
        assert "Traceback" not in wrong.stderr
    assert "cannot be read: No such file" in run("check", "--config", "/nowhere/x.yaml").stderr


def test_check_tells_all_that_is_wrong_and_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = """\
hub:
  token: hf_this_is_secret
  endpoint: https://me:this_too@hub
llama_cpp:
  models:
    demo: {path: builtin:demo}
    coder:
      path: none.gguf
"""
    path.write_text(text)
    checked = run("check", "--config", str(path))
    message = f"run.py: {path}:7: llama_cpp.models.coder: {tmp_path}/none.gguf: no such file\n"
    assert (checked.returncode, checked.stderr) == (1, message)
    shown = yaml.safe_load(checked.stdout)
    assert (shown["hub"]["token"], shown["hub"]["endpoint"]) == ("***", "https://***@hub")
    assert "secret" not in checked.stdout
    assert "this_too" not in checked.stdout
    path.write_text(
        text + "      ctx_size: big\nagents: [nobody, {guard: {longest: 0}}]\nserver: {port: -1}\n"
    )
    checked = run("check", "--config", str(path))
    assert (checked.returncode, checked.stdout) == (2, "")
    assert [line.split(": ")[1:3] for line in checked.stderr.splitlines()] == [
        [f"{path}:9", "llama_cpp.models.coder.ctx_size"],
        [f"{path}:10", "agents.nobody"],
        [f"{path}:10", "agents.guard.longest"],
        [f"{path}:11", "server.port"],
    ]


def test_a_program_that_no_model_can_do_without(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("server_pool:\n  command: bin/serve\nllama_cpp: {models: {a: {path: builtin:demo}}}\n")
    for command in ("check", "serve"):
        wrong = run(command, "--config", str(path))
        message = f"run.py: {path}:2: server_pool.command: there is no program {tmp_path}/bin/serve\n"
        assert (wrong.returncode, wrong.stdout, wrong.stderr) == (2, "", message)


def test_agents(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    (tmp_path / "mine" / "shy").mkdir(parents=True)
    (tmp_path / "mine" / "shy" / "agent.py").write_text("1 / 0\n")
    path.write_text("agents: [gpu, {guard: {deny: [x]}}]\nagent_folders: [mine]\n")
    listed = run("agents", "--config", str(path))
    assert listed.returncode == 1
    assert "vram (enabled): Adds the memory" in listed.stdout
    assert "shy (not enabled, broken)" in listed.stdout
    assert run("check", "--config", str(path)).returncode == 0, "what is not enabled does no harm"
    path.write_text("agents: [shy]\nagent_folders: [mine]\n")
    for command in ("check", "serve"):
        wrong = run(command, "--config", str(path))
        assert wrong.returncode == 2
        assert f"{tmp_path}/mine/shy/agent.py: line 1: ZeroDivisionError" in wrong.stderr
        assert "Traceback" not in wrong.stderr


def test_rag(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("agent_data: data\n")
    (tmp_path / "bread.md").write_text("# Bread\n\nFlour and water.\n")
    added = run("rag", "add", str(tmp_path / "bread.md"), "--config", str(path))
    assert added.returncode == 0, added.stderr
    assert "1 added" in added.stdout
    assert (tmp_path / "data" / "rag" / "index.sqlite3").exists()
    assert "default: 1 documents, 1 chunks" in run("rag", "list", "--config", str(path)).stdout
    missing = run("rag", "add", "/nowhere/x.md", "--config", str(path))
    assert (missing.returncode, "Traceback" in missing.stderr) == (1, False)
    assert "/nowhere/x.md cannot be read" in missing.stderr


def test_a_port_in_use(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        path.write_text(f"server: {{port: {port}}}")
        failed = run("--config", str(path))
    assert failed.returncode == 1
    assert "cannot listen" in failed.stdout
    assert "address already in use" in failed.stdout.lower()
    assert "Traceback" not in failed.stdout + failed.stderr
