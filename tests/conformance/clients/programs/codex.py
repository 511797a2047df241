"""Codex CLI, which speaks OpenAI's responses API: a conversation, and one with a tool."""

import json
import os
import subprocess
import sys
from pathlib import Path

from steps import GATEWAY, MODEL, WEATHER, folder_of_its_own, run, step

CODEX = Path(os.environ["NODE_CLIENTS"]) / "node_modules" / ".bin" / "codex"
FOLDER = folder_of_its_own("codex", Path.home())  # it keeps no programs in /tmp
SETTINGS = f"""
model = "{MODEL}"
model_provider = "gateway"

[model_providers.gateway]
name = "Llama Smart Proxy"
base_url = "{GATEWAY}/v1"

[mcp_servers.weather]
command = "{sys.executable}"
args = ["{Path(__file__).parent / "weather_server.py"}"]
default_tools_approval_mode = "approve"
required = true
startup_timeout_sec = 120
"""


def codex(*arguments: str) -> list[dict]:
    """What happened, event by event."""
    home, work = FOLDER / "home", FOLDER / "work"
    home.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    (home / "config.toml").write_text(SETTINGS)
    command = [str(CODEX), "exec", "--skip-git-repo-check", "--json", *arguments]
    done = subprocess.run(
        command,
        cwd=work,
        env={**os.environ, "CODEX_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    )
    print(done.stdout, file=sys.stderr)
    assert done.returncode == 0, done.stdout[-500:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def items(events: list[dict], kind: str) -> list[dict]:
    """The finished items of a kind."""
    return [
        event["item"]
        for event in events
        if event["type"] == "item.completed" and event["item"].get("type") == kind
    ]


@step("conversation")
def conversation() -> None:
    events = codex("hello")
    assert items(events, "agent_message")[-1]["text"]
    assert events[-1]["type"] == "turn.completed"
    assert events[-1]["usage"]["input_tokens"]
    (thread,) = [event["thread_id"] for event in events if event["type"] == "thread.started"]
    assert items(codex("resume", thread, "hello"), "agent_message")[-1]["text"]


@step("a tool")
def tool() -> None:
    events = codex(WEATHER)
    called = items(events, "mcp_tool_call") + items(events, "command_execution")
    assert called, "no tool was called"
    assert items(events, "agent_message")[-1]["text"]


run()
