"""Reads Anthropic's tools: described by the client, only named by it, or run by Anthropic's own servers."""

from typing import Any, Literal

import msgspec

from agents.chat import NamedTool, Tool
from proxy.apis.fields import FieldError, Json

Choice = Literal["auto", "none", "required"] | NamedTool | None


class WireTool(msgspec.Struct):
    """A tool of any kind. Without an `input_schema` it is one that Anthropic's models were trained on."""

    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: Json | None = None
    strict: bool | None = None
    display_width_px: Any = None
    display_height_px: Any = None


class WireToolChoice(msgspec.Struct):
    """The client's rule for the model's use of tools."""

    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool | None = None


def _strings(*names: str, required: tuple[str, ...] = (), **others: Json) -> Json:
    properties: Json = {**others, **{name: {"type": "string"} for name in names}}
    return {"type": "object", "properties": properties, "required": list(required)}


def _one_of(*values: str) -> Json:
    return {"type": "string", "enum": list(values)}


_INTEGER: Json = {"type": "integer"}
_PAIR: Json = {"type": "array", "items": _INTEGER, "minItems": 2, "maxItems": 2}

_LEARNED: dict[str, tuple[str, Json]] = {
    "bash": (
        "Run a command in a bash session that stays open between calls. `restart` begins a new session.",
        _strings("command", restart={"type": "boolean"}),
    ),
    "text_editor": (
        "View, create and edit text files. `view` shows a file, or the lines `view_range` of it, or a "
        "folder; `create` writes `file_text`; `str_replace` puts `new_str` in the place of `old_str`, which "
        "must occur exactly once; `insert` puts `insert_text` after the line `insert_line`.",
        _strings(
            "path",
            "file_text",
            "old_str",
            "new_str",
            "insert_text",
            command=_one_of("view", "create", "str_replace", "insert"),
            insert_line=_INTEGER,
            view_range=_PAIR,
            required=("command", "path"),
        ),
    ),
    "memory": (
        "Read and write files that outlive the conversation, all of them below /memories.",
        _strings(
            "path",
            "file_text",
            "old_str",
            "new_str",
            "insert_text",
            "old_path",
            "new_path",
            command=_one_of("view", "create", "str_replace", "insert", "delete", "rename"),
            insert_line=_INTEGER,
            view_range=_PAIR,
            required=("command",),
        ),
    ),
    "computer": (
        "Use a computer with mouse and keyboard, and see its screen. Coordinates are [x, y] in pixels.",
        _strings(
            "text",
            action=_one_of(
                *("screenshot", "left_click", "right_click", "middle_click", "double_click", "triple_click"),
                *("left_click_drag", "left_mouse_down", "left_mouse_up", "mouse_move", "cursor_position"),
                *("key", "hold_key", "type", "scroll", "wait", "zoom"),
            ),
            coordinate=_PAIR,
            start_coordinate=_PAIR,
            region={"type": "array", "items": _INTEGER},
            scroll_direction=_one_of("up", "down", "left", "right"),
            scroll_amount=_INTEGER,
            duration={"type": "number"},
            required=("action",),
        ),
    ),
}
"""Description and schema of each tool, as its documentation gives them, by the type without its date."""


def read_tools(wire: list[WireTool]) -> tuple[list[Tool], list[str]]:
    """Return the tools that a model can be offered, and the names of those that no client can run.

    Raises `FieldError`.
    """
    tools: list[Tool] = []
    ignored: list[str] = []
    for index, tool in enumerate(wire):
        kind, _, date = (tool.type or "custom").rpartition("_")
        if tool.input_schema is not None or tool.type in (None, "custom"):
            for field in ("name", "input_schema"):
                if getattr(tool, field) in ("", None):
                    raise FieldError(f"tools[{index}].{field}", "is missing")
            tools.append(Tool(tool.name, tool.description or "", tool.input_schema, tool.strict))
        elif kind in _LEARNED and date.isdigit():
            description, schema = _LEARNED[kind]
            tools.append(Tool(tool.name or kind, description + _screen(tool), schema))
        else:
            ignored.append(f"tools.{tool.name or tool.type}")
    return tools, ignored


def _screen(tool: WireTool) -> str:
    if tool.display_width_px is None:
        return ""
    return f" The screen has {tool.display_width_px} x {tool.display_height_px} pixels."


def read_tool_choice(wire: WireToolChoice | None, tools: list[Tool]) -> Choice:
    """Return the canonical tool choice. Raises `FieldError` if it needs a tool that is not there."""
    if wire is None:
        return None
    if wire.type == "tool":
        if wire.name not in {tool.name for tool in tools}:
            raise FieldError(
                "tool_choice.name", f"there is no tool {wire.name[:100]!r} that can be called here"
            )
        return NamedTool(wire.name)
    if wire.type == "any":
        if not tools:
            raise FieldError("tool_choice.type", "is any, but there is no tool that can be called here")
        return "required"
    return wire.type
