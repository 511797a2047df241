"""`run.py reload`: the running gateway reads its configuration again, or says what that would change."""

import argparse
import json
from typing import Any

from actors.commands.effective_config import read, tell
from actors.commands.running_gateway import GatewayAwayError, GatewayRefusalError, ask
from actors.terminal import complain, printable, say

PATIENCE = 120.0
"""Seconds within which a gateway has reloaded; agents may take a while to start."""
LONGEST = 60
"""Most characters of a value that is shown."""
INVALID = 422
"""The status for a configuration that the gateway cannot use."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("--plan", action="store_true", help="only say what would change")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    """Print what changes; return the exit status: 1 without a gateway, 2 for an unusable configuration."""
    settings, config = read(options)
    if lines := settings.report():
        return tell(lines)
    path = "/admin/reload?plan=1" if options.plan else "/admin/reload"
    try:
        answer = ask(config, "POST", path, timeout=PATIENCE)
        text = json.dumps(answer, indent=2) if options.json else _in_words(answer)
    except GatewayRefusalError as error:
        lines = str(error).splitlines()
        return tell(lines) if error.status == INVALID else _failed(str(error))
    except GatewayAwayError as error:
        return _failed(str(error))
    say(text)
    return 0


def _failed(reason: str) -> int:
    complain(reason)
    return 1


def _in_words(answer: dict[str, Any]) -> str:
    changes = answer["changes"]
    if not changes:
        return "nothing has changed"
    title = "reloaded" if answer["applied"] else "a reload would change"
    return "\n".join([f"{title}:", *(f"  {_line(change)}" for change in changes)])


def _line(change: dict[str, Any]) -> str:
    old, new = change["from"], change["to"]
    if old is None and isinstance(new, dict):
        what = "new"
    elif new is None and isinstance(old, dict):
        what = "removed"
    else:
        what = f"{_value(old)} -> {_value(new)}"
    return printable(f"{change['path']}: {what} ({change['effect']})")


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
