"""Reads `tool_choice` of OpenAI's requests: which tools a model may call, and whether it must call one."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from agents.chat import NamedTool
from proxy.apis.fields import FieldError, Json

Mode = Literal["auto", "none", "required"]


class Choice(msgspec.Struct, frozen=True):
    """The client's choice. `allowed` has the names of the tools that may be called; None: all of them."""

    mode: Mode | NamedTool | None = None
    allowed: frozenset[str] | None = None


def read(value: str | Json | None, names: Sequence[str]) -> Choice:
    """Read a `tool_choice`, given the names of the request's tools. Raises `FieldError`."""
    if value is None or isinstance(value, str):
        return Choice(_mode(value, names, "tool_choice", ("auto", "none", "required")))
    if value.get("type") != "allowed_tools":
        name = _name(value, names, "tool_choice")
        return Choice(NamedTool(name), frozenset([name]))
    inner = value.get("allowed_tools", value)
    tools = inner.get("tools") if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or not isinstance(tools, list):
        raise FieldError("tool_choice.allowed_tools.tools", "is missing")
    mode = _mode(inner.get("mode", "auto"), names, "tool_choice.allowed_tools.mode", ("auto", "required"))
    allowed = [_name(tool, names, f"tool_choice.allowed_tools.tools[{i}]") for i, tool in enumerate(tools)]
    if not allowed and mode == "required":
        raise FieldError("tool_choice.allowed_tools.tools", "is empty", "empty_array")
    return Choice(mode if allowed else "none", frozenset(allowed))


def _mode(value: object, names: Sequence[str], field: str, known: tuple[Mode, ...]) -> Mode | None:
    if value is None:
        return None
    for mode in known:
        if value == mode:
            if mode == "required" and not names:
                raise FieldError(field, "there are no `tools` to call")
            return mode
    raise FieldError(field, f"{str(value)[:100]!r} is none of {', '.join(known)}")


def _name(value: object, names: Sequence[str], field: str) -> str:
    """Return the name in `{"type": "function", "function": {"name": ...}}`, or in a flat object.

    Raises `FieldError`.
    """
    if not isinstance(value, dict) or value.get("type", "function") != "function":
        raise FieldError(field, "must be auto, none, required, or name a function")
    inner = value.get("function", value)
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str):
        raise FieldError(f"{field}.function.name", "is missing")
    if name not in names:
        raise FieldError(field, f"there is no function {name[:100]!r} among `tools`")
    return name
