"""Errors keep their meaning from one dialect to the other."""

import json
from typing import Any

import pytest

from agents.events import AnswerFailed
from proxy.apis import failures
from proxy.apis.dialects import OLLAMA_BUSY, OPENAI, ollama_error
from proxy.apis.failures import from_ollama, from_openai, to_api_error


@pytest.mark.parametrize(
    ("status", "text", "expected", "code"),
    [
        (404, "model 'x' not found", 404, "model_not_found"),
        (404, 'model "x" not found, try pulling it first', 404, "model_not_found"),
        (503, OLLAMA_BUSY, 429, "queue_full"),
        (400, "the input length exceeds the context length", 400, "context_length_exceeded"),
        (400, '"x" does not support tools', 400, "not_supported"),
        (500, "boom", 500, None),
    ],
)
def test_from_ollama(status: int, text: str, expected: int, code: str | None) -> None:
    failure = from_ollama(json.dumps({"error": text}).encode(), status)
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
    assert from_ollama(body).message == message


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
        ({"message": "x", "type": 5, "code": True, "param": 5}, (500, None)),
        ({}, (500, None)),
        ("text", (500, None)),
    ],
)
def test_from_openai(error: Any, expected: tuple[int, str | None]) -> None:
    failure = from_openai(error)
    assert (failure.status, failure.code) == expected
    assert failure.message


def test_what_llama_adds_goes_on() -> None:
    failure = from_openai({"code": 400, "message": "x", "type": "exceed_context_size_error", "n_ctx": 5})
    body = OPENAI.body(to_api_error(failure), "")
    assert body["error"]["n_ctx"] == 5
    assert failures.of_api_error(to_api_error(failure)) == failure


@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        (AnswerFailed(404, "?", code="model_not_found"), 404, 'model "m" not found, try pulling it first'),
        (AnswerFailed(404, "no such adapter", code="not_found"), 404, "no such adapter"),
        (AnswerFailed(429, "full", code="queue_full"), 503, OLLAMA_BUSY),
        (AnswerFailed(499, "left"), 499, "request canceled"),
        (AnswerFailed(503, "no turn in 60 s", code="queue_timeout"), 503, "no turn in 60 s"),
        (AnswerFailed(400, "x"), 400, "x"),
    ],
)
def test_to_ollama(failure: AnswerFailed, status: int, text: str) -> None:
    assert ollama_error(failure.status, failure.message, failure.code, "m") == (status, text)
