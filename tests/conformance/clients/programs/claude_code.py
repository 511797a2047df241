"""Claude Code, which speaks Anthropic's API: a conversation, and one with a tool of a MCP server."""

import json
import os
import subprocess
import sys
from pathlib import Path

from steps import GATEWAY, MODEL, WEATHER, folder_of_its_own, run, step

# Its own start script works only after a script of the package's installation.
(CLAUDE,) = (Path(os.environ["NODE_CLIENTS"]) / "node_modules" / "@anthropic-ai").glob("claude-code-*/claude")
FOLDER = folder_of_its_own("claude")
SERVERS = {
    "mcpServers": {
        "weather": {"command": sys.executable, "args": [str(Path(__file__).parent / "weather_server.py")]}
    }
}


def claude(*arguments: str) -> list[dict]:
    """What happened, event by event."""
    servers = FOLDER / "servers.json"
    servers.write_text(json.dumps(SERVERS))
    given = {
        "HOME": str(FOLDER),
        "ANTHROPIC_BASE_URL": GATEWAY,
        "ANTHROPIC_AUTH_TOKEN": "none",
        "ANTHROPIC_MODEL": MODEL,
        "ANTHROPIC_SMALL_FAST_MODEL": MODEL,
        "MCP_TIMEOUT": "120000",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    tools = ["--mcp-config", str(servers), "--allowedTools", "mcp__weather__get_weather"]
    done = subprocess.run(
        [str(CLAUDE), "-p", "--output-format", "stream-json", "--verbose", *arguments, *tools],
        cwd=FOLDER,
        env={**os.environ, **given},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=False,
    )
    print(done.stdout, file=sys.stderr)
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, done.stdout[-500:]
    assert events[-1]["type"] == "result"
    assert not events[-1]["is_error"], events[-1]
    return events


@step("conversation")
def conversation() -> None:
    assert claude("hello")[-1]["result"]
    assert claude("--continue", "hello")[-1]["result"]


@step("a tool")
def tool() -> None:
    events = claude(WEATHER)
    parts = [part for event in events if event["type"] == "assistant" for part in event["message"]["content"]]
    assert [part for part in parts if part["type"] == "tool_use"], "no tool was called"
    assert events[-1]["result"]


run()
