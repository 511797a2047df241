"""Anthropic's tools: described, known, and those that nobody here can run."""

from typing import Any

import pytest

from agents.chat import NamedTool, Tool
from proxy.apis.anthropic.tools import WireTool, WireToolChoice, read_tool_choice, read_tools
from proxy.apis.fields import FieldError

SCHEMA: Any = {"type": "object", "properties": {}}


def test_described_tools() -> None:
    tools, ignored = read_tools(
        [
            WireTool("f", description="d", input_schema=SCHEMA),
            WireTool("g", type="custom", strict=True, input_schema=SCHEMA),
            WireTool("web_search", input_schema=SCHEMA, type="web_search_20990101"),
        ]
    )
    assert tools == [
        Tool("f", "d", SCHEMA),
        Tool("g", parameters=SCHEMA, strict=True),
        Tool("web_search", parameters=SCHEMA),
    ]
    assert not ignored


@pytest.mark.parametrize(
    ("kind", "name", "field"),
    [
        ("bash_20250124", "bash", "command"),
        ("bash_20241022", "bash", "restart"),
        ("text_editor_20250728", "str_replace_based_edit_tool", "old_str"),
        ("text_editor_20241022", "str_replace_editor", "insert_line"),
        ("memory_20250818", "memory", "new_path"),
        ("computer_20250124", "computer", "coordinate"),
    ],
)
def test_tools_that_a_client_only_names_are_described(kind: str, name: str, field: str) -> None:
    (tool,), ignored = read_tools([WireTool(name, type=kind, display_width_px=800, display_height_px=600)])
    assert not ignored
    assert tool.name == name
    assert "800 x 600" in tool.description
    assert tool.parameters is not None
    assert field in tool.parameters["properties"]


@pytest.mark.parametrize(
    "kind",
    [
        "web_search_20250305",
        "web_fetch_20260318",
        "code_execution_20250825",
        "tool_search_tool_bm25_20251119",
        "mcp_toolset",
        "computer_toolset_20260801",
        "something_new_20300101",
        "bash_of_mine",
    ],
)
def test_tools_that_nobody_here_can_run_are_left_out(kind: str) -> None:
    assert read_tools([WireTool("f", input_schema=SCHEMA), WireTool("w", type=kind)])[1] == ["tools.w"]
    assert read_tools([WireTool(type=kind)]) == ([], [f"tools.{kind}"])


def test_choices() -> None:
    tools = [Tool("f")]
    assert read_tool_choice(None, tools) is None
    assert read_tool_choice(WireToolChoice("auto"), []) == "auto"
    assert read_tool_choice(WireToolChoice("none"), tools) == "none"
    assert read_tool_choice(WireToolChoice("any"), tools) == "required"
    assert read_tool_choice(WireToolChoice("tool", "f"), tools) == NamedTool("f")
    for choice, field in (("any", "tool_choice.type"), ("tool", "tool_choice.name")):
        with pytest.raises(FieldError) as caught:
            read_tool_choice(WireToolChoice(choice, "w"), [])  # type: ignore[arg-type]
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("tool", "field"), [(WireTool(input_schema=SCHEMA), "name"), (WireTool("f"), "input_schema")]
)
def test_what_a_tool_needs(tool: WireTool, field: str) -> None:
    with pytest.raises(FieldError) as caught:
        read_tools([tool])
    assert caught.value.field == f"tools[0].{field}"
