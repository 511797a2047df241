"""Bodies of the Responses, as a chat: each field, and everything that histories are made of."""

import base64
import json
from typing import Any

import pytest

from agents.chat import Chat, Image, Message, NamedTool, Sampling, ToolCall
from proxy.apis.fields import FieldError
from proxy.apis.responses.request import decode_request
from proxy.apis.responses.response import sealed

Json = dict[str, Any]
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
PDF = base64.b64encode(b"%PDF-1.7\n\xff").decode()
PICTURE = Image("image/png", PNG)
USER = {"role": "user", "content": "go on"}


def read(**fields: Any) -> Chat:
    return decode_request(json.dumps({"model": "demo", "input": "hello", **fields}).encode())


def history(*items: Json, **fields: Any) -> list[Message]:
    return read(input=list(items), **fields).messages


def refused(**fields: Any) -> str | None:
    with pytest.raises(FieldError) as caught:
        read(**fields)
    return caught.value.field


# Fields


def test_a_text() -> None:
    chat = read(input="hello", instructions="Be kind.", stream=True)
    assert chat.messages == [Message("system", "Be kind."), Message("user", "hello")]
    assert (chat.model, chat.stream, chat.ignored, chat.extra) == ("demo", True, [], {})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_output_tokens": 5}, {"sampling": Sampling(max_tokens=5)}),
        ({"temperature": 0.5, "top_p": 0.1}, {"sampling": Sampling(temperature=0.5, top_p=0.1)}),
        ({"top_k": 3, "min_p": 0.1, "seed": 1}, {"sampling": Sampling(top_k=3, min_p=0.1, seed=1)}),
        ({"stop": "x", "presence_penalty": 1}, {"sampling": Sampling(stop=["x"], presence_penalty=1)}),
        ({"reasoning": {"effort": "high"}}, {"think": "high"}),
        ({"reasoning": {"effort": "none"}}, {"think": False}),
        ({"reasoning": {"effort": "minimal", "summary": "auto"}}, {"think": "low"}),
        ({"reasoning": {"effort": None}}, {"think": None}),
        ({"text": {"format": {"type": "text"}}}, {"format": None}),
        ({"text": {"format": {"type": "json_object"}}}, {"format": "json"}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": {"a": 1}}}},
            {"format": {"a": 1}},
        ),
        ({"parallel_tool_calls": False}, {"extra": {"parallel_tool_calls": False}}),
        (
            {"mirostat": 2, "chat_template_kwargs": {"a": 1}},
            {"extra": {"mirostat": 2, "chat_template_kwargs": {"a": 1}}},
        ),
        ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
        ({"keep_alive": "5m"}, {"keep_alive": 300.0}),
        ({"tools": None, "tool_choice": None, "store": True, "metadata": None}, {"tools": [], "ignored": []}),
        ({"user": "u", "prompt_cache_key": "k", "safety_identifier": "s"}, {"extra": {}, "ignored": []}),
        ({"truncation": "auto"}, {"ignored": ["truncation"]}),
        ({"truncation": "disabled", "service_tier": "auto"}, {"ignored": []}),
        ({"text": {"verbosity": "low"}}, {"ignored": ["text.verbosity"]}),
        ({"service_tier": "flex"}, {"ignored": ["service_tier"]}),
        ({"include": ["reasoning.encrypted_content"]}, {"ignored": []}),
        ({"include": ["file_search_call.results"]}, {"ignored": ["include file_search_call.results"]}),
        ({"context_management": [{"type": "compaction"}]}, {"ignored": ["context_management"]}),
    ],
)
def test_fields(fields: Json, expected: Json) -> None:
    chat = read(**fields)
    assert {name: getattr(chat, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"type": 3}]}, "input[0].type"),
        ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"model": 3}, "model"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"truncation": "some"}, "truncation"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": {}, "name": "f"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "f", "parameters": 3}]}, "tools[0].parameters"),
        ({"tools": [{"type": "custom", "name": 3}]}, "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": "n"}]}, "tools[0].tools"),
        ({"tools": ["x"]}, "tools[0]"),
    ],
)
def test_what_cannot_be_meant(fields: Json, field: str) -> None:
    assert refused(**fields) == field


# Tools

FUNCTION = {
    "type": "function",
    "name": "f",
    "description": "d",
    "parameters": {"type": "object"},
    "strict": True,
}
OTHER = {"type": "function", "name": "g"}
BUILT_IN = [
    {"type": "web_search"},
    {"type": "web_search_preview_2025_03_11"},
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "mcp", "server_label": "x", "server_url": "https://mcp.example.org"},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "image_generation"},
    {"type": "computer_use_preview", "display_width": 1, "display_height": 1, "environment": "linux"},
    {"type": "shell", "environment": {"type": "container_auto"}},
    {"type": "tool_search"},
    {"type": "programmatic_tool_calling"},
    {"type": "of_tomorrow", "name": "x"},
]


def test_of_two_tools_with_one_name_the_other_is_named() -> None:
    chat = read(tools=[FUNCTION, FUNCTION, {"type": "custom", "name": "f"}])
    assert ([tool.name for tool in chat.tools], chat.ignored) == (["f"], ["tools custom f"])


def test_tools_that_clients_run_are_functions() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: WORD"}
    tools = [
        FUNCTION,
        {"type": "function", "function": {"name": "of_chat"}},
        {"type": "custom", "name": "c", "description": "d", "format": grammar},
        {"type": "local_shell"},
        {"type": "shell"},
        {"type": "shell", "environment": {"type": "local"}},
        {"type": "apply_patch"},
        {"type": "namespace", "name": "n", "description": "d", "tools": [FUNCTION, OTHER]},
        {"type": "tool_search", "execution": "client", "description": "d", "parameters": {"type": "object"}},
    ]
    chat = read(tools=tools)
    names = ["f", "of_chat", "c", "local_shell", "shell", "apply_patch", "n__f", "g", "tool_search"]
    assert [tool.name for tool in chat.tools] == names
    assert (chat.tools[0].description, chat.tools[0].parameters, chat.tools[0].strict) == (
        "d",
        {"type": "object"},
        True,
    )
    assert "start: WORD" in chat.tools[2].description
    assert chat.tools[2].parameters == {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
    }
    assert chat.ignored == []


@pytest.mark.parametrize("tool", BUILT_IN, ids=lambda tool: tool["type"])
def test_a_tool_that_nobody_can_run_is_left_out_unless_it_is_forced(tool: Json) -> None:
    for choice in (None, "auto", "required", {"type": "function", "name": "f"}):
        chat = read(tools=[tool, FUNCTION], tool_choice=choice)
        assert [one.name for one in chat.tools] == ["f"]
        assert chat.ignored == [f"tools {tool['type']}"]
    assert read(tools=[tool]).tools == []
    assert refused(tools=[tool], tool_choice="required") == "tool_choice"
    assert refused(tools=[tool, FUNCTION], tool_choice=tool) == "tool_choice"
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [tool]}
    assert refused(tools=[tool, FUNCTION], tool_choice=allowed) == "tool_choice.tools[0]"
    chat = read(tools=[tool, FUNCTION], tool_choice={**allowed, "mode": "auto"})
    assert (chat.tools, chat.tool_choice) == ([], "none")


@pytest.mark.parametrize(
    ("choice", "expected", "names"),
    [
        ("auto", "auto", "fg"),
        ("none", "none", "fg"),
        ("required", "required", "fg"),
        ({"type": "function", "name": "g"}, NamedTool("g"), "fg"),
        ({"type": "function", "function": {"name": "g"}}, NamedTool("g"), "fg"),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]},
            "auto",
            "g",
        ),
        ({"type": "allowed_tools", "mode": "required", "tools": [OTHER]}, "required", "g"),
    ],
)
def test_choices(choice: Any, expected: Any, names: str) -> None:
    chat = read(tools=[FUNCTION, OTHER], tool_choice=choice)
    assert chat.tool_choice == expected
    assert [tool.name for tool in chat.tools] == list(names)


def test_choices_of_other_tools() -> None:
    tools = [{"type": "custom", "name": "c"}, {"type": "apply_patch"}, {"type": "shell"}]
    for choice, name in (
        ({"type": "custom", "name": "c"}, "c"),
        ({"type": "apply_patch"}, "apply_patch"),
        ({"type": "shell"}, "shell"),
    ):
        assert read(tools=tools, tool_choice=choice).tool_choice == NamedTool(name)


@pytest.mark.parametrize(
    ("choice", "field"),
    [
        ({"type": "function", "name": "x"}, "tool_choice"),
        ({"type": "custom", "name": "f"}, "tool_choice"),
        ({"type": "apply_patch"}, "tool_choice"),
        ({"type": "mcp", "server_label": "x"}, "tool_choice"),
        ("sometimes", "tool_choice"),
        (3, "tool_choice"),
        ({"type": "allowed_tools", "mode": "x", "tools": []}, "tool_choice.mode"),
        ({"type": "allowed_tools", "tools": "x"}, "tool_choice.tools"),
    ],
)
def test_choices_that_cannot_be_meant(choice: Any, field: str) -> None:
    assert refused(tools=[FUNCTION], tool_choice=choice) == field


# Messages


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"role": "user", "content": "a"}, Message("user", "a")),
        (
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
            Message("user", "a"),
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            Message("user", "a\nb"),
        ),
        ({"role": "assistant", "content": "hello"}, Message("assistant", "hello")),
        (
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "a", "annotations": []}],
            },
            Message("assistant", "a"),
        ),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            Message("assistant", "No."),
        ),
        ({"role": "developer", "content": "a"}, Message("system", "a")),
        (
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"}
                ],
            },
            Message("user", images=[PICTURE]),
        ),
        (
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}],
            },
            Message("user", images=[Image(url="https://x.example/a.png")]),
        ),
        (
            {
                "role": "user",
                "content": [
                    {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGk="}
                ],
            },
            Message("user", "a.txt:\nhi"),
        ),
        (
            {
                "role": "user",
                "content": [{"type": "input_file", "file_data": f"data:image/png;base64,{PNG}"}],
            },
            Message("user", images=[PICTURE]),
        ),
        (
            {"type": "agent_message", "content": [{"type": "output_text", "text": "a"}]},
            Message("assistant", "a"),
        ),
    ],
)
def test_messages(item: Json, expected: Message) -> None:
    assert history(item) == [expected]


UNREADABLE = [
    {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}},
    {"type": "input_file", "file_id": "file_1"},
    {"type": "input_file", "file_url": "https://x.example/a.pdf"},
    {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
    {"type": "input_file", "file_data": "data:application/pdf;base64,JVBERi0="},
    {"type": "input_file", "file_data": "data:application/zip;base64,aGk="},
    {"type": "input_file", "file_data": "data:text/plain"},
    {"type": "input_image", "file_id": "file_1"},
    {"type": "input_image", "image_url": "ftp://x"},
    {"type": "input_video", "video": "x"},
]


@pytest.mark.parametrize("part", UNREADABLE)
def test_what_nobody_can_read_is_refused_while_it_is_new(part: Json) -> None:
    turn = {"role": "user", "content": [{"type": "input_text", "text": "see"}, part]}
    assert str(refused(input=[USER, {"role": "assistant", "content": "a"}, turn])).startswith(
        "input[2].content[1]"
    )
    chat = read(input=[turn, {"role": "assistant", "content": "I see."}, USER])
    assert chat.messages[0] == Message("user", f"see\n[{part['type']}]")
    assert [name.startswith("input[0].content[1]") for name in chat.ignored] == [True]


def test_instructions_at_the_beginning_are_one() -> None:
    """Most templates refuse a second system message."""
    developer = {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "b"}]}
    messages = history(developer, USER, developer, instructions="a")
    assert [(one.role, one.text) for one in messages] == [
        ("system", "a\n\nb"),
        ("user", "go on"),
        ("system", "b"),
    ]


# What models have said


def test_a_turn_of_the_model_is_one_message() -> None:
    messages = history(
        USER,
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
        },
        {"type": "message", "role": "assistant", "content": "Wait."},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"a":1}'},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": ""},
        {"type": "function_call_output", "call_id": "c2", "output": "two"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "reasoning", "summary": []},
        {"role": "assistant", "content": "Done."},
    )
    assert messages == [
        Message("user", "go on"),
        Message("assistant", "Wait.", "Hm.", [], [ToolCall("c1", "f", '{"a":1}'), ToolCall("c2", "g", "{}")]),
        Message("tool", "two", tool_call_id="c2", tool_name="g"),
        Message("tool", "one", tool_call_id="c1", tool_name="f"),
        Message("assistant", "Done."),
    ]


@pytest.mark.parametrize(
    ("item", "thought"),
    [
        ({"summary": [{"type": "summary_text", "text": "a"}]}, "a"),
        (
            {
                "summary": [{"type": "summary_text", "text": "a"}],
                "content": [{"type": "reasoning_text", "text": "b"}],
            },
            "b",
        ),
        ({"summary": [], "encrypted_content": sealed("c")}, "c"),
        ({"summary": [], "encrypted_content": "gAAAAAB-of-another-provider"}, ""),
        ({"summary": [], "encrypted_content": "readable:%%"}, ""),
        ({}, ""),
        ({"content": None, "summary": None}, ""),
    ],
)
def test_reasoning(item: Json, thought: str) -> None:
    messages = history(
        USER, {"type": "reasoning", "id": "rs_1", **item}, {"role": "assistant", "content": "x"}
    )
    assert messages[1:] == [Message("assistant", "x", thought)]


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("output", "text", "pictures"),
    [
        ("a", "a", []),
        ([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}], "a\nb", []),
        ([{"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}], "", [PICTURE]),
        ([], "", []),
        (None, "", []),
        ({"a": 1}, '{"a":1}', []),
        ([1, 2], "[1,2]", []),
        ([{"stdout": "a"}], '[{"stdout":"a"}]', []),
    ],
)
def test_outputs_of_functions(output: Any, text: str, pictures: list[Image]) -> None:
    for kind in ("function", "custom_tool"):
        items = [
            {**CALL, "type": f"{kind}_call"},
            {"type": f"{kind}_call_output", "call_id": "c", "output": output},
        ]
        assert history(USER, *items)[-1] == Message(
            "tool", text, images=pictures, tool_call_id="c", tool_name="f"
        )


@pytest.mark.parametrize("arguments", ["no JSON", "[1]", '{"a":', "3"])
def test_arguments_that_are_no_object_stay(arguments: str) -> None:
    (call,) = history(USER, {**CALL, "arguments": arguments})[1].tool_calls
    assert json.loads(call.arguments) == {"input": arguments}


LOCAL: Json = {"type": "exec", "command": ["ls"], "env": {}, "timeout_ms": None, "working_directory": "/x"}
PATCH: Json = {"type": "create_file", "path": "a", "diff": "+b"}


@pytest.mark.parametrize(
    ("call", "output", "name", "arguments", "text"),
    [
        (
            {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** Begin"},
            {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"},
            "apply_patch",
            {"input": "*** Begin"},
            "ok",
        ),
        (
            {
                "type": "local_shell_call",
                "id": "lsh_1",
                "call_id": "c",
                "status": "completed",
                "action": LOCAL,
            },
            {"type": "local_shell_call_output", "id": "lsh_1", "output": "a b"},
            "local_shell",
            {"command": ["ls"], "working_directory": "/x"},
            "a b",
        ),
        (
            {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"], "timeout_ms": 5}},
            {
                "type": "shell_call_output",
                "call_id": "c",
                "output": [{"stdout": "a", "outcome": {"type": "timeout"}}],
            },
            "shell",
            {"commands": ["ls"], "timeout_ms": 5},
            '[{"stdout":"a","outcome":{"type":"timeout"}}]',
        ),
        (
            {"type": "apply_patch_call", "call_id": "c", "status": "completed", "operation": PATCH},
            {"type": "apply_patch_call_output", "call_id": "c", "status": "failed", "output": "no such file"},
            "apply_patch",
            PATCH,
            "failed\nno such file",
        ),
        (
            {
                "type": "computer_call",
                "id": "cu_1",
                "call_id": "c",
                "status": "completed",
                "action": {"type": "click", "x": 1},
            },
            {"type": "computer_call_output", "call_id": "c", "output": "done"},
            "computer",
            {"action": {"type": "click", "x": 1}},
            "done",
        ),
        (
            {"type": "tool_search_call", "call_id": "c", "execution": "client", "arguments": {"query": "x"}},
            {"type": "tool_search_output", "call_id": "c", "execution": "client", "tools": [FUNCTION]},
            "tool_search",
            {"query": "x"},
            '{"tools":["f"]}',
        ),
        (
            {"type": "program", "id": "p_1", "call_id": "c", "code": "f()", "fingerprint": "x"},
            {"type": "program_output", "id": "po_1", "call_id": "c", "result": "3", "status": "completed"},
            "program",
            {"code": "f()", "fingerprint": "x"},
            "3",
        ),
        (
            {"type": "of_tomorrow_call", "call_id": "c", "way": "x"},
            {"type": "of_tomorrow_call_output", "call_id": "c", "output": "y"},
            "of_tomorrow",
            {"way": "x"},
            "y",
        ),
    ],
)
def test_calls_of_any_tool(call: Json, output: Json, name: str, arguments: Json, text: str) -> None:
    _, turn, result, _ = history(USER, call, output, USER)
    (made,) = turn.tool_calls
    assert (made.id, made.name, json.loads(made.arguments)) == ("c", name, arguments)
    assert result == Message("tool", text, tool_call_id="c", tool_name=name)


@pytest.mark.parametrize(
    ("item", "name", "text"),
    [
        (
            {
                "type": "web_search_call",
                "id": "ws_1",
                "status": "completed",
                "action": {"type": "search", "query": "x"},
            },
            "web_search",
            '{"status":"completed"}',
        ),
        (
            {"type": "file_search_call", "id": "fs_1", "queries": ["x"], "results": [{"text": "y"}]},
            "file_search",
            '[{"text":"y"}]',
        ),
        (
            {
                "type": "code_interpreter_call",
                "id": "ci_1",
                "code": "1",
                "container_id": "x",
                "outputs": None,
            },
            "code_interpreter",
            '{"status":null}',
        ),
        (
            {
                "type": "mcp_call",
                "id": "mcp_1",
                "name": "roll",
                "server_label": "dice",
                "arguments": "{}",
                "output": "4",
            },
            "roll",
            "4",
        ),
        (
            {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "A" * 9000},
            "image_generation",
            "...",
        ),
    ],
)
def test_what_a_provider_has_run_is_a_call_with_its_result(item: Json, name: str, text: str) -> None:
    _, turn, result, _ = history(USER, item, USER)
    assert [call.name for call in turn.tool_calls] == [name]
    assert (result.role, result.text, result.tool_call_id) == ("tool", text, item["id"])


@pytest.mark.parametrize(
    "item",
    [
        {"type": "item_reference", "id": "msg_1"},
        {"id": "msg_1"},
        {"type": "compaction", "id": "cmp_1", "encrypted_content": "x"},
        {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "x", "tools": []},
        {"type": "mcp_approval_request", "id": "mcpr_1", "name": "x", "arguments": "{}", "server_label": "x"},
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
        {"type": "of_tomorrow", "way": "x"},
    ],
)
def test_items_that_say_nothing_are_named(item: Json) -> None:
    chat = read(input=[USER, item, USER])
    assert [message.role for message in chat.messages] == ["user", "user"]
    assert chat.ignored == [f"input[1] {item.get('type', 'item_reference')}"]


def test_a_result_without_its_call_gets_one() -> None:
    messages = history(USER, {"type": "function_call_output", "call_id": "c9", "output": "x"})
    assert messages[1].tool_calls == [ToolCall("c9", "function", "{}")]
    assert messages[2] == Message("tool", "x", tool_call_id="c9", tool_name="function")


def test_tools_of_items_are_offered() -> None:
    chat = read(
        input=[{"type": "additional_tools", "role": "developer", "tools": [FUNCTION]}, USER], tools=[OTHER]
    )
    assert [tool.name for tool in chat.tools] == ["g", "f"]
    assert chat.messages == [Message("user", "go on")]


def test_a_call_in_a_namespace_keeps_the_name_that_the_model_saw() -> None:
    tools = [FUNCTION, {"type": "namespace", "name": "n", "tools": [FUNCTION]}]
    (call,) = history(USER, {**CALL, "namespace": "n"}, tools=tools)[1].tool_calls
    assert call.name == "n__f"


def test_only_what_nobody_can_read_is_no_request() -> None:
    assert refused(input=[{"type": "item_reference", "id": "msg_1"}]) == "input"
