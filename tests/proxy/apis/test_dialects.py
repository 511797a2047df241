"""How errors are worded."""

import json
from typing import Any

import pytest

from proxy.apis.dialects import ANTHROPIC, OPENAI, RESPONSES, upstream_error
from proxy.errors import REJECTIONS, ApiError


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
    error = ApiError(status, "words", code="c", param="p")
    assert OPENAI.body(error, "id") == {
        "error": {"message": "words", "type": openai, "param": "p", "code": "c"}
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


def test_a_bare_error_in_mid_stream_is_wrapped_for_anthropic() -> None:
    assert ANTHROPIC.patch is not None
    bare = b'event: error\ndata: {"code":500,"message":"boom","type":"server_error"}\n\n'
    patched = ANTHROPIC.patch(b"event: ping\ndata: {}\n\n" + bare)
    assert patched.startswith(b"event: ping\ndata: {}\n\nevent: error\n")
    assert b'{"type":"error","error":{"type":"api_error","message":"boom"}' in patched
    for other in (
        b'data: {"text":"event: error\\n"}\n\n',
        b'data: {"text":"an event: error\n"}',
        ANTHROPIC.frame(ApiError(500, "x"), ""),
    ):
        assert ANTHROPIC.patch(other) == other


def test_every_rejection_has_its_status() -> None:
    from actors.errors import Rejection

    assert set(REJECTIONS) == set(Rejection.__subclasses__())
