"""opencode, which speaks the chat API by way of Vercel's AI SDK: a conversation, and one with a tool."""

import json
import os
import subprocess
import sys
from pathlib import Path

from steps import GATEWAY, MODEL, WEATHER, folder_of_its_own, run, step

# Its own start script works only after a script of the package's installation.
OPENCODE = min((Path(os.environ["NODE_CLIENTS"]) / "node_modules").glob("opencode-*/bin/opencode"))
FOLDER = folder_of_its_own("opencode")
PROVIDER = {
    "npm": "@ai-sdk/openai-compatible",
    "name": "Llama Smart Proxy",
    "options": {"baseURL": f"{GATEWAY}/v1"},
    "models": {MODEL: {"name": MODEL, "limit": {"context": 131072, "output": 4096}}},
}
SETTINGS = {
    "$schema": "https://opencode.ai/config.json",
    "model": f"gateway/{MODEL}",
    "small_model": f"gateway/{MODEL}",
    "autoupdate": False,
    "share": "disabled",
    "provider": {"gateway": PROVIDER},
    "mcp": {
        "weather": {
            "type": "local",
            "command": [sys.executable, str(Path(__file__).parent / "weather_server.py")],
            "enabled": True,
        }
    },
}


def opencode(*arguments: str) -> list[dict]:
    """What happened, event by event."""
    home, work = FOLDER / "home", FOLDER / "work"
    for folder in (home, work):
        folder.mkdir(exist_ok=True)
    (work / "opencode.json").write_text(json.dumps(SETTINGS))
    done = subprocess.run(
        [str(OPENCODE), "run", "--format", "json", *arguments],
        cwd=work,
        env={**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home), "PWD": str(work)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    )
    print(done.stdout, file=sys.stderr)
    assert done.returncode == 0, done.stdout[-500:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def texts(events: list[dict]) -> list[str]:
    """What was said."""
    return [event["part"]["text"] for event in events if event["type"] == "text"]


@step("conversation")
def conversation() -> None:
    assert texts(opencode("hello"))
    assert texts(opencode("--continue", "hello"))


@step("a tool")
def tool() -> None:
    events = opencode(WEATHER)
    assert [event for event in events if event["type"] == "tool_use"], "no tool was called"
    assert texts(events)


run()
