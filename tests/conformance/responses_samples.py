"""What is sent to the responses API: histories that clients have, built-in tools, mistakes."""

from typing import Any

from tests.conformance.samples import tool

GET_WEATHER: Any = {"type": "function", "strict": True, **tool("get_weather")}
GET_TIME: Any = {"type": "function", "strict": False, **tool("get_time")}

MESSAGE: Any = {"role": "user", "content": "hello"}
HISTORIES: dict[str, list[Any]] = {
    "easy messages": [MESSAGE, {"role": "assistant", "content": "Yes?"}],
    "typed messages": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Yes?", "annotations": [], "logprobs": []}],
        },
    ],
    "system": [{"role": "system", "content": "Be brief."}],
    "developer": [{"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]}],
    "refusal": [
        MESSAGE,
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "refusal", "refusal": "No."}],
        },
    ],
    "reasoning without content": [
        MESSAGE,
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"},
        {"role": "assistant", "content": "Yes?"},
    ],
    "reasoning": [
        MESSAGE,
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "Somebody is here."}],
            "content": [{"type": "reasoning_text", "text": "Somebody is here."}],
        },
        {"role": "assistant", "content": "Yes?"},
    ],
    "function output as a list": [
        MESSAGE,
        {"type": "function_call", "call_id": "call_1", "name": "get_time", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "call_1",
            "output": [{"type": "input_text", "text": "10"}],
        },
    ],
    "custom tool": [
        MESSAGE,
        {"type": "custom_tool_call", "call_id": "call_1", "name": "patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "call_1", "output": "done"},
    ],
    "local shell": [
        MESSAGE,
        {
            "type": "local_shell_call",
            "id": "lsh_1",
            "call_id": "call_1",
            "status": "completed",
            "action": {"type": "exec", "command": ["ls"], "env": {}},
        },
        {"type": "local_shell_call_output", "id": "call_1", "output": '{"stdout": "a"}'},
    ],
    "shell": [
        MESSAGE,
        {"type": "shell_call", "call_id": "call_1", "action": {"commands": ["ls"]}, "status": "completed"},
        {
            "type": "shell_call_output",
            "call_id": "call_1",
            "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
        },
    ],
    "patch": [
        MESSAGE,
        {
            "type": "apply_patch_call",
            "call_id": "call_1",
            "status": "completed",
            "operation": {"type": "delete_file", "path": "a"},
        },
        {"type": "apply_patch_call_output", "call_id": "call_1", "status": "completed", "output": "done"},
    ],
    "web search": [
        MESSAGE,
        {
            "type": "web_search_call",
            "id": "ws_1",
            "status": "completed",
            "action": {"type": "search", "query": "llamas", "queries": ["llamas"]},
        },
    ],
    "compaction": [MESSAGE, {"type": "compaction", "encrypted_content": "abc"}],
    "item reference": [MESSAGE, {"type": "item_reference", "id": "msg_1"}],
}


BUILT_IN: Any = [
    {"type": "web_search"},
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "mcp", "server_label": "x", "server_url": "https://x.invalid", "require_approval": "never"},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "image_generation"},
]


BAD: dict[str, tuple[Any, str]] = {
    "no input": ({"given": []}, "input"),
    "a number": ({"given": 7}, "input"),
    "an unknown item": ({"given": [{"type": "smell"}]}, "input"),
    "no such role": ({"given": [{"role": "king", "content": "hello"}]}, "input"),
    "an unknown part": ({"given": [{"role": "user", "content": [{"type": "smell"}]}]}, "input"),
    "a result of no call": ({"given": [{"type": "function_call_output", "output": "1"}]}, "input"),
    "a tool without a name": ({"tools": [{"type": "function"}]}, "tools"),
    "tools that are no list": ({"tools": "all"}, "tools"),
    "a choice of no tool": (
        {"tools": [GET_TIME], "tool_choice": {"type": "function", "name": "get_weather"}},
        "tool_choice",
    ),
    "a warm temperature": ({"temperature": "warm"}, "temperature"),
    "a limit in words": ({"max_output_tokens": "many"}, "max_output_tokens"),
    "a form without a schema": ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text"),
    "a form of no kind": ({"text": {"format": {"type": "poem"}}}, "text"),
    "a response that is not there": ({"previous_response_id": "resp_1"}, "previous_response_id"),
}
