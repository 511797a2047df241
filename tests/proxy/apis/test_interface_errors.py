"""How each API words one error."""

import json

import pytest

from proxy.apis.anthropic.client_errors import ANTHROPIC
from proxy.apis.openai.client_errors import OPENAI
from proxy.apis.responses.client_errors import RESPONSES
from proxy.errors import ApiError


@pytest.mark.parametrize(
    ("status", "openai", "anthropic"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (401, "authentication_error", "authentication_error"),
        (404, "invalid_request_error", "not_found_error"),
        (413, "invalid_request_error", "request_too_large"),
        (429, "rate_limit_error", "rate_limit_error"),
        (500, "server_error", "api_error"),
        (502, "server_error", "api_error"),
        (503, "server_error", "overloaded_error"),
    ],
)
def test_types(status: int, openai: str, anthropic: str) -> None:
    error = ApiError(status, "words", code="c", param="words")
    assert OPENAI.body(error, "id") == {
        "error": {"message": "words", "type": openai, "param": "words", "code": "c"}
    }
    expected = {"type": "error", "error": {"type": anthropic, "message": "words"}, "request_id": "id"}
    assert ANTHROPIC.body(error, "id") == expected


def test_frames() -> None:
    error = ApiError(502, "gone")
    assert json.loads(OPENAI.frame(error, "i")[6:])["error"]["message"] == "gone"
    assert ANTHROPIC.frame(error, "i").startswith(b'event: error\ndata: {"type":"error","error":{')
    assert RESPONSES.frame(error, "i").startswith(
        b'event: error\ndata: {"type":"error","code":"server_error"'
    )
