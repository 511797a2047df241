"""Anthropic's requests: fields beside the messages."""

import json
from typing import Any

import pytest

from agents.chat import Chat
from proxy.apis.anthropic.request import decode_request
from proxy.apis.fields import FieldError
from proxy.apis.llama_cpp import server as llama_server
from proxy.apis.ollama import server as ollama_server

HI = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}


def decoded(**fields: Any) -> Chat:
    return decode_request(json.dumps({"model": "m", "max_tokens": 9, "messages": [HI], **fields}).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": None}},
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
    ],
)
def test_structured_output(fields: Any) -> None:
    asked = decoded(**fields)
    assert (
        json.loads(llama_server.encode_request(asked))["response_format"]["json_schema"]["schema"] == SCHEMA
    )
    assert json.loads(ollama_server.encode_request(asked))["format"] == SCHEMA


def test_options_that_llama_cpp_knows_get_through() -> None:
    asked = decoded(
        min_p=0.1, seed=5, grammar="root ::= x", chat_template_kwargs={"a": 1}, cache_prompt=False
    )
    sent = json.loads(llama_server.encode_request(asked))
    assert sent.items() >= {"min_p": 0.1, "seed": 5, "grammar": "root ::= x", "cache_prompt": False}.items()
    assert sent["chat_template_kwargs"] == {"a": 1}
    assert (
        json.loads(ollama_server.encode_request(asked))["options"].items()
        >= {"min_p": 0.1, "seed": 5}.items()
    )
    assert ollama_server.ignored(asked) == ["grammar", "chat_template_kwargs", "cache_prompt"]


def test_fields_about_accounts_change_nothing() -> None:
    asked = decoded(
        metadata={"user_id": "u"},
        service_tier="auto",
        inference_geo="us",
        cache_control={"type": "ephemeral"},
    )
    assert (asked.extra, asked.ignored) == ({}, [])


def test_what_nobody_here_does_is_named() -> None:
    asked = decoded(
        context_management={"edits": [{}]},
        container="c",
        mcp_servers=[{"name": "m"}],
        fallbacks=None,
        tools=[{"type": "web_search_20250305", "name": "web_search"}],
    )
    assert asked.extra == {}
    assert asked.ignored == ["container", "context_management", "mcp_servers", "tools.web_search"]


def test_the_stamp_of_claude_code_is_no_part_of_the_prompt() -> None:
    head = "x-anthropic-billing-header: cc_version=2.1.101.e51; cc_entrypoint=cli; cch="
    prompts = {
        decoded(system=[{"type": "text", "text": f"{head}{stamp};"}, {"type": "text", "text": "cch=be"}])
        .messages[0]
        .text
        for stamp in ("a5145", "00000")
    }
    assert prompts == {f"{head}0;\ncch=be"}


def test_a_choice_of_tools_is_not_ignored_by_ollama() -> None:
    tools = [{"name": "f", "input_schema": SCHEMA}]
    choice = {"type": "any", "disable_parallel_tool_use": True}
    assert ollama_server.ignored(decoded(tools=tools, tool_choice=choice)) == []


def test_an_answer_of_no_token_has_one() -> None:
    assert decoded(max_tokens=0).sampling.max_tokens == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_config": {"format": {"type": "regex", "schema": {}}}}, "output_config.format.type"),
        ({"system": 5}, "system"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"system": [{"type": "text", "text": 5}]}, "system[0].text"),
        ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
    ],
)
def test_what_is_wrong_is_named(fields: Any, field: str) -> None:
    with pytest.raises(FieldError) as caught:
        decoded(**fields)
    assert caught.value.field == field
