"""Errors in OpenAI's words, llama.cpp's too, keep their meaning."""

from typing import Any

import pytest

from proxy.apis.openai.client_errors import OPENAI
from proxy.apis.openai.server_errors import from_error, upstream_error
from proxy.apis.server_errors import of_api_error, to_api_error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": 503, "message": "Loading model", "type": "unavailable_error"}, (503, "unavailable")),
        (
            {"code": 400, "message": "x", "type": "exceed_context_size_error", "n_ctx": 5},
            (400, "context_length_exceeded"),
        ),
        ({"message": "x", "type": "not_found_error"}, (404, "not_found")),
        ({"message": "x", "type": "rate_limit_error", "code": "slow"}, (429, "slow")),
        ({"code": 400, "message": "x", "type": "novel_error"}, (400, "novel_error")),
        ({"message": "x", "type": 5, "code": True, "param": 5}, (500, None)),
        ({}, (500, None)),
        ("text", (500, None)),
    ],
)
def test_from_error(error: Any, expected: tuple[int, str | None]) -> None:
    failure = from_error(error)
    assert (failure.status, failure.code) == expected
    assert failure.message


def test_what_llama_adds_goes_on() -> None:
    failure = from_error({"code": 400, "message": "x", "type": "exceed_context_size_error", "n_ctx": 5})
    body = OPENAI.body(to_api_error(failure), "")
    assert body["error"]["n_ctx"] == 5
    assert of_api_error(to_api_error(failure)) == failure


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (
            {"code": 400, "message": "x", "type": "exceed_context_size_error", "n_ctx": 5},
            400,
            "context_length_exceeded",
        ),
        ({"code": 501, "message": "x", "type": "not_supported_error"}, 501, "not_supported"),
        ({"code": 503, "message": "x", "type": "unavailable_error"}, 503, "unavailable"),
        ({"code": "odd", "message": "x", "type": "novel"}, 500, "novel"),
        ({}, 500, None),
    ],
)
def test_llama_cpps_errors_in_our_terms(error: dict[str, Any], status: int, code: str | None) -> None:
    found = upstream_error(500, error)
    assert (found.status, found.code) == (status, code)
    assert found.extra.get("n_ctx") == error.get("n_ctx")
    assert found.message


def test_a_status_of_http_says_more_than_a_type() -> None:
    assert from_error({"message": "x", "type": "not_found_error"}, 429).status == 429


ALTERNATE = """
------------
While executing CallExpression at line 19, column 27 in source:
...% 2 == 0) -%}↵        {{ raise_exception("Conversation roles must alternate user...
                                           ^
Error: Jinja Exception: Conversation roles must alternate user/assistant/user/assistant/..."""


@pytest.mark.parametrize(
    ("message", "code", "param", "told"),
    [
        ("Failed to parse messages: Missing 'role' in message: {}", "invalid_value", None, None),
        (
            "Failed to parse tools: Missing tool function: {}; tools = [\n  {}\n]",
            "invalid_value",
            "tools",
            "Failed to parse tools: Missing tool function: {}",
        ),
        (
            "Failed to parse tool call arguments as JSON: [json.exception.x] y",
            "invalid_value",
            None,
            None,
        ),
        ("image input is not supported - hint: mmproj", "unsupported_value", None, None),
        ("Failed to load image or audio file", "invalid_image", None, None),
        ("[json.exception.type_error.302] type must be string, but is number", "invalid_type", None, None),
        ("Field 'lora': Error: 'lora' must be an array", "invalid_value", "lora", None),
        (
            "Unable to generate parser for this template. Automatic parser generation failed: "
            "JSON schema error at #: unrecognized type x",
            "invalid_json_schema",
            None,
            "JSON schema error at #: unrecognized type x",
        ),
        (
            "vector::_M_range_check: __n (which is 999) >= this->size() (which is 512)",
            "invalid_value",
            "tokens",
            "a token is not one of the model's vocabulary",
        ),
        (
            ALTERNATE,
            "invalid_value",
            None,
            "Conversation roles must alternate user/assistant/user/assistant/...",
        ),
        (
            f"Unable to generate parser for this template. Automatic parser generation failed: {ALTERNATE}",
            "invalid_value",
            None,
            "Conversation roles must alternate user/assistant/user/assistant/...",
        ),
        (
            "input (600 tokens) is too large to process. increase the physical batch size "
            "(current batch size: 512)",
            "context_length_exceeded",
            None,
            "the text has 600 tokens, and the model reads 512 at most",
        ),
    ],
)
def test_what_the_client_did_is_no_fault_of_the_server(
    message: str, code: str, param: str | None, told: str | None
) -> None:
    failure = from_error({"code": 500, "message": message, "type": "server_error"})
    assert (failure.status, failure.kind) == (400, "invalid_request_error")
    assert (failure.code, failure.param, failure.message) == (code, param, told or message)
    if code == "context_length_exceeded":
        assert failure.extra == {"n_prompt_tokens": 600, "n_ctx": 512}


@pytest.mark.parametrize("what", ["embeddings", "reranking"])
def test_a_model_that_is_for_something_else(what: str) -> None:
    said = f"This server does not support {what}. Start it with `--{what}`"
    failure = from_error({"code": 501, "message": said, "type": "not_supported_error"})
    assert (failure.status, failure.code, failure.param) == (400, "not_supported", "model")
    assert failure.message == f"this model does not support {what}."
    other = from_error({"code": 501, "message": "This server does not support slots", "type": "x"})
    assert other.status == 501


@pytest.mark.parametrize(
    "message",
    [
        "Compute error.",
        "Failed to parse input at pos 5: <tool_call>",
        "failed to decode: CUDA error",
        "Unable to restore slot: no such file",
        "Failed to tokenize prompt",
    ],
)
def test_faults_of_the_server_stay_its_own(message: str) -> None:
    failure = from_error({"code": 500, "message": message, "type": "server_error"})
    assert (failure.status, failure.kind, failure.code) == (500, "server_error", None)
