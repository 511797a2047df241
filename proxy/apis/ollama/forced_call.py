"""Makes a model call a tool, although Ollama has no `tool_choice`: the `format` of the answer is a call."""

import re

import msgspec

from actors.errors import UNREADABLE
from agents.chat import Tool, ToolCall
from proxy.apis.fields import Json, encode

_ANY: Json = {"type": "object"}
_DEFINITIONS = ("$defs", "definitions")
_BEGINNING = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*')
"""The beginning of an answer that is a call; the arguments follow."""


class _Call(msgspec.Struct):
    name: str
    arguments: dict[str, msgspec.Raw]


def format_of(tools: list[Tool]) -> Json:
    """Return the JSON schema of a call of one of these tools, as models are trained to write calls."""
    shared: Json = {}
    calls = [_call_of(tool, shared) for tool in tools]
    return {**(calls[0] if len(calls) == 1 else {"anyOf": calls}), **shared}


def _call_of(tool: Tool, shared: Json) -> Json:
    """Return the schema of one tool's call.

    Definitions that the tool's schema refers to move to `shared`, at the root, where the paths of references
    begin.
    """
    parameters = dict(tool.parameters or _ANY)
    for place in _DEFINITIONS:
        own = parameters.pop(place, None)
        if own is None:
            continue
        known = shared.setdefault(place, {})
        if any(known.get(name, schema) != schema for name, schema in own.items()):
            parameters = _ANY  # two tools define the same name differently
        else:
            known |= own
    return {
        "type": "object",
        "properties": {"name": {"type": "string", "enum": [tool.name]}, "arguments": parameters or _ANY},
        "required": ["name", "arguments"],
    }


def call_in(text: str, tools: list[Tool]) -> ToolCall | None:
    """Return the call of one of these tools that a text is, or is the beginning of; None for any other text.

    The call has no id.
    """
    names = [tool.name for tool in tools]
    try:
        call = msgspec.json.decode(text, type=_Call)
        found = ToolCall("", call.name, msgspec.json.encode(call.arguments).decode())
    except UNREADABLE:
        begun = _BEGINNING.match(text)
        if begun is None:
            return None
        found = ToolCall(
            "", next((n for n in names if encode(n).decode() == begun[1]), ""), text[begun.end() :]
        )
    return found if found.name in names else None
