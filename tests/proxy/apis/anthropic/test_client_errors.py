"""Errors in the middle of Anthropic's streams."""

from proxy.apis.anthropic.client_errors import ANTHROPIC
from proxy.errors import ApiError


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
