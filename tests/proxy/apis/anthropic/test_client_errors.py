"""Errors in the middle of Anthropic's streams."""

import json

from proxy.apis.anthropic.client_errors import ANTHROPIC
from proxy.errors import ApiError


def test_an_error_in_mid_stream_is_an_event() -> None:
    kind, data, *rest = ANTHROPIC.frame(ApiError(502, "boom"), "r").splitlines()
    assert (kind, rest) == (b"event: error", [b""])
    error = {"type": "api_error", "message": "boom"}
    assert json.loads(data.removeprefix(b"data: ")) == {"type": "error", "error": error, "request_id": "r"}
