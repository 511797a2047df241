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
