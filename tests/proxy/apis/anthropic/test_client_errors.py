"""How errors are worded for Anthropic's clients."""

import json

from agents.events import AnswerFailed
from proxy.apis.anthropic.client_errors import ANTHROPIC
from proxy.apis.server_errors import to_api_error
from proxy.errors import ApiError


def test_an_error_in_mid_stream_is_an_event() -> None:
    kind, data, *rest = ANTHROPIC.frame(ApiError(502, "boom"), "r").splitlines()
    assert (kind, rest) == (b"event: error", [b""])
    error = {"type": "api_error", "message": "boom"}
    assert json.loads(data.removeprefix(b"data: ")) == {"type": "error", "error": error, "request_id": "r"}


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_clients_look_for() -> None:
    lengths = {"n_prompt_tokens": 9, "n_ctx": 5}
    for extra, words in ((lengths, "9 tokens > 5 maximum"), ({}, "no room")):
        failure = AnswerFailed(400, "no room", "", "context_length_exceeded", None, extra)
        body = ANTHROPIC.body(to_api_error(failure), "r")
        assert body["error"]["message"] == f"prompt is too long: {words}"


def test_the_field_of_an_error_is_in_its_message() -> None:
    error = ApiError(400, "is odd", param="messages[0].content")
    assert ANTHROPIC.body(error, "r")["error"]["message"] == "messages[0].content: is odd"
    error = ApiError(400, "messages: is empty", param="messages")
    assert ANTHROPIC.body(error, "r")["error"]["message"] == "messages: is empty"
