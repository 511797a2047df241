"""Converts calls of a client's tools: a model's calls into items, and items into arguments."""

from typing import Any

from proxy.apis.answer_json import UnreadableError, read_any
from proxy.apis.fields import Json, encode
from proxy.apis.responses.tools import ClientTool


def call_item(tool: ClientTool, arguments: str) -> Json | None:
    """Return the fields of the item for a complete tool call; None if the arguments do not fit the tool.

    Calls of functions are not converted here, because their arguments are streamed in pieces.
    """
    try:
        given = read_any((arguments or "{}").encode())
    except UnreadableError:
        given = None
    match tool.type:
        case "custom":
            return {"type": "custom_tool_call", "name": tool.name, "input": _custom_input(given, arguments)}
        case "tool_search" if isinstance(given, dict):
            return {"type": "tool_search_call", "execution": "client", "arguments": given}
        case "shell" if isinstance(given, dict) and (commands := _texts(given.get("commands"))):
            action = {"commands": commands, "timeout_ms": _whole(given.get("timeout_ms"))}
            return {"type": "shell_call", "action": {**action, "max_output_length": None}}
        case "local_shell" if isinstance(given, dict) and given.get("command"):
            return _local_shell(given)
        case "apply_patch" if isinstance(given, dict):
            return _patch(given)
    return None


def _custom_input(given: Any, arguments: str) -> str:
    """Return the input text of a custom tool, without the JSON that the model may have put around it."""
    if isinstance(given, str):
        return given
    if isinstance(given, dict):
        values = [given["input"]] if "input" in given else list(given.values())
        if len(values) == 1 and isinstance(values[0], str):
            return values[0]
    return arguments


def _local_shell(given: Json) -> Json | None:
    command = given["command"]
    command = ["bash", "-lc", command] if isinstance(command, str) else _texts(command)
    folder = given.get("working_directory")
    action: Json = {
        "type": "exec",
        "command": command,
        "env": {},
        "timeout_ms": _whole(given.get("timeout_ms")),
        "working_directory": folder if isinstance(folder, str) else None,
        "user": None,
    }
    return {"type": "local_shell_call", "action": action} if command else None


def _patch(given: Json) -> Json | None:
    operation = given.get("operation", given)
    if not isinstance(operation, dict):
        return None
    kind, path, diff = (operation.get(name) for name in ("type", "path", "diff"))
    if not isinstance(path, str):
        return None
    if kind == "delete_file":
        return {"type": "apply_patch_call", "operation": {"type": kind, "path": path}}
    if kind not in ("create_file", "update_file") or not isinstance(diff, str):
        return None
    return {"type": "apply_patch_call", "operation": {"type": kind, "path": path, "diff": diff}}


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return value if isinstance(value, list) and all(isinstance(one, str) for one in value) else []


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def arguments_of(item: Json) -> str:
    """Return the arguments of a call in the history, in the form in which the model wrote them."""
    kind = item["type"]
    if kind == "custom_tool_call":
        given: Any = {"input": item.get("input", "")}
    elif kind == "apply_patch_call":
        given = item.get("operation") or {}
    elif kind in ("local_shell_call", "shell_call"):
        action = item.get("action")
        action = action if isinstance(action, dict) else {}
        given = {name: value for name, value in action.items() if value not in (None, {}, "exec")}
    else:
        given = item.get("arguments")
    if isinstance(given, str):
        return given
    return encode(given if isinstance(given, dict) else {}).decode()
