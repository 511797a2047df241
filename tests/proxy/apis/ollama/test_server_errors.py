"""Errors of Ollama daemons keep their meaning."""

import json

import pytest

from proxy.apis.ollama.client_errors import BUSY
from proxy.apis.ollama.server_errors import from_body
from proxy.apis.server_errors import to_api_error


@pytest.mark.parametrize(
    ("status", "text", "expected", "code"),
    [
        (404, "model 'x' not found", 404, "model_not_found"),
        (404, 'model "x" not found, try pulling it first', 404, "model_not_found"),
        (503, BUSY, 429, "queue_full"),
        (400, "the input length exceeds the context length", 400, "context_length_exceeded"),
        (400, '"x" does not support tools', 400, "not_supported"),
        (500, "boom", 500, None),
        (500, 'option "stop" must be of type array', 400, "invalid_type"),
        (500, 'invalid format: "x"; expected "json" or a valid JSON Schema object', 400, "invalid_value"),
        (
            500,
            "this model only supports one image while more than one image requested",
            400,
            "unsupported_value",
        ),
        (500, "an error was encountered while running the model: CUDA error: out of memory", 500, None),
        (500, "model runner has unexpectedly stopped, this may be due to resource limitations", 500, None),
    ],
)
def test_from_ollama(status: int, text: str, expected: int, code: str | None) -> None:
    failure = from_body(json.dumps({"error": text}).encode(), status)
    assert (failure.status, failure.message, failure.code) == (expected, text, code)
    assert failure.kind == to_api_error(failure).kind


TOO_LONG = {
    "code": 400,
    "message": "request (20 tokens) exceeds the available context size (16 tokens), try increasing it",
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 20,
    "n_ctx": 16,
}
NO_IMAGES = {"code": 500, "message": "image input is not supported - hint: mmproj", "type": "server_error"}
GO = f"map[code:400 message:{TOO_LONG['message']}"


@pytest.mark.parametrize(
    ("status", "text", "expected", "code"),
    [
        (400, json.dumps({"error": TOO_LONG}), 400, "context_length_exceeded"),
        (500, json.dumps({"error": json.dumps({"error": TOO_LONG})}), 400, "context_length_exceeded"),
        (500, "tokenize error: " + json.dumps({"error": TOO_LONG}), 400, "context_length_exceeded"),
        (
            500,
            f"llama-server chat error: {GO} n_ctx:16 n_prompt_tokens:20 type:exceed_context_size_error]",
            400,
            "context_length_exceeded",
        ),
        (500, json.dumps({"error": NO_IMAGES}), 400, "unsupported_value"),
        (
            500,
            "llama-server chat error: map[code:500 message:Compute error. type:server_error]",
            500,
            None,
        ),
        (
            500,
            json.dumps({"error": {"code": 500, "message": "Compute error.", "type": "server_error"}})
            + "\nggml_cuda: out of memory",
            500,
            None,
        ),
        (500, '{"error": ' * 2000, 500, None),
        (500, '{"error": null}', 500, None),
        (500, "{}", 500, None),
    ],
)
def test_the_runners_error_is_unpacked(status: int, text: str, expected: int, code: str | None) -> None:
    failure = from_body(json.dumps({"error": text}).encode(), status)
    assert (failure.status, failure.code) == (expected, code)
    assert failure.message
    if code is not None:
        assert not failure.message.startswith(("{", "map[", "llama-server", "tokenize"))
    if code == "context_length_exceeded":
        assert (failure.extra["n_prompt_tokens"], failure.extra["n_ctx"]) == (20, 16)
    if "out of memory" in text:
        assert failure.message == "Compute error.; ggml_cuda: out of memory"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"nothing", "nothing"),
        (b"", "Ollama reported an error"),
        (b"[]", "[]"),
        (b'{"error":{"message":"x"}}', "x"),
    ],
)
def test_bodies_that_ollama_should_not_send(body: bytes, message: str) -> None:
    assert from_body(body).message == message
