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
    ],
)
def test_from_ollama(status: int, text: str, expected: int, code: str | None) -> None:
    failure = from_body(json.dumps({"error": text}).encode(), status)
    assert (failure.status, failure.message, failure.code) == (expected, text, code)
    assert failure.kind == to_api_error(failure).kind


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
