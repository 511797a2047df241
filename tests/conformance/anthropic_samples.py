"""What is sent to Anthropic's API: histories that clients have, media, mistakes."""

from typing import Any

import anthropic

from tests.conformance.samples import HELLO, IMAGE, tool

GET_WEATHER: Any = tool("get_weather", "input_schema")
GET_TIME: Any = tool("get_time", "input_schema")

TURN: Any = {"role": "assistant", "content": "Yes?"}
RESULT: Any = {"type": "tool_result", "tool_use_id": "toolu_1"}
USE: Any = {"type": "tool_use", "id": "toolu_1", "name": "get_time", "input": {}}
SEARCH: Any = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
FOUND: Any = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [
        {"type": "web_search_result", "url": "https://x.invalid", "title": "x", "encrypted_content": "x"}
    ],
}
TEXT: Any = {"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}


def turns(assistant: list[Any], user: list[Any] | None = None) -> list[Any]:
    """A history in which the assistant and then the user have these blocks."""
    return [*HELLO, {"role": "assistant", "content": assistant}, {"role": "user", "content": user or [TEXT]}]


HISTORIES: dict[str, list[Any]] = {
    "parts": [{"role": "user", "content": [TEXT, TEXT]}],
    "turns": [*HELLO, TURN, *HELLO],
    "prefill": [*HELLO, {"role": "assistant", "content": "Hello"}],
    "thinking": turns(
        [{"type": "thinking", "thinking": "So.", "signature": "x"}, {"type": "text", "text": "Yes?"}]
    ),
    "redacted thinking": turns(
        [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "Yes?"}]
    ),
    "tool result": turns([USE], [RESULT | {"content": "10"}, TEXT]),
    "tool result without content": turns([USE], [RESULT]),
    "tool result in parts": turns([USE], [RESULT | {"content": [{"type": "text", "text": "10"}]}]),
    "tool error": turns([USE], [RESULT | {"content": "no clock", "is_error": True}]),
    "web search": turns([SEARCH, FOUND, {"type": "text", "text": "Yes?"}]),
    "a block of tomorrow": turns([{"type": "dream", "text": "sheep"}, {"type": "text", "text": "Yes?"}]),
    "document": turns(
        [{"type": "text", "text": "Yes?"}],
        [
            {
                "type": "document",
                "title": "One",
                "source": {"type": "text", "media_type": "text/plain", "data": "A llama."},
                "citations": {"enabled": False},
            },
            TEXT,
        ],
    ),
    "document of parts": turns(
        [{"type": "text", "text": "Yes?"}],
        [{"type": "document", "source": {"type": "content", "content": [TEXT]}}, TEXT],
    ),
    "search result": turns(
        [{"type": "text", "text": "Yes?"}],
        [
            {
                "type": "search_result",
                "source": "x",
                "title": "x",
                "content": [{"type": "text", "text": "x"}],
            },
            TEXT,
        ],
    ),
    "system in the middle": [*HELLO, TURN, {"role": "system", "content": "Be brief."}, *HELLO],
}


MEDIA: dict[str, Any] = {
    "image": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE}},
    "link": {"type": "image", "source": {"type": "url", "url": "https://images.invalid/1.png"}},
    "pdf": {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
    },
}


BAD: dict[str, tuple[Any, str]] = {
    "no messages": ({"messages": []}, "messages"),
    "no role": ({"messages": [{"content": "hello"}]}, "messages"),
    "no such role": ({"messages": [{"role": "king", "content": "hello"}]}, "messages"),
    "no content": ({"messages": [{"role": "user"}]}, "messages"),
    "a number as content": ({"messages": [{"role": "user", "content": 7}]}, "messages"),
    "a tool without a name": ({"tools": [{"input_schema": {"type": "object"}}]}, "tools"),
    "a tool without a schema": ({"tools": [{"name": "f"}]}, "tools"),
    "tools that are no list": ({"tools": "all"}, "tools"),
    "a choice of no tool": (
        {"tools": [GET_TIME], "tool_choice": {"type": "tool", "name": "x"}},
        "tool_choice",
    ),
    "no limit": ({"max_tokens": anthropic.omit}, "max_tokens"),
    "a limit in words": ({"max_tokens": "many"}, "max_tokens"),
    "a limit below none": ({"max_tokens": -1}, "max_tokens"),
    "a warm temperature": ({"extra_body": {"temperature": "warm"}}, "temperature"),
    "a form of no kind": ({"output_config": {"format": {"type": "poem"}}}, "output_config"),
    "a form without a schema": ({"output_config": {"format": {"type": "json_schema"}}}, "output_config"),
}
