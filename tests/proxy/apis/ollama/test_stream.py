"""Whole answers out of Ollama's lines."""

import msgspec
import pytest

from proxy.apis.assemble import StreamedError
from proxy.apis.ollama.stream import LineAssembler
from proxy.wire.sse import ServerSentEvent


def test_lines_of_ollama_become_one_answer() -> None:
    assembler = LineAssembler()
    call = {"id": "c", "function": {"index": 0, "name": "f", "arguments": {}}}
    for line in (
        {"model": "m", "message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False},
        {"model": "m", "message": {"role": "assistant", "content": "a"}, "done": False, "logprobs": [1]},
        {"model": "m", "message": {"role": "assistant", "content": "b"}, "done": False, "logprobs": [2]},
        {
            "model": "m",
            "message": {"role": "assistant", "content": "", "tool_calls": [call]},
            "done": True,
            "done_reason": "stop",
            "eval_count": 2,
            "no_such_field": 7,
        },
    ):
        assembler.feed(ServerSentEvent("", msgspec.json.encode(line)))
    assert assembler.result() == {
        "model": "m",
        "message": {"role": "assistant", "content": "ab", "thinking": "hm", "tool_calls": [call]},
        "logprobs": [1, 2],
        "done": True,
        "done_reason": "stop",
        "eval_count": 2,
        "no_such_field": 7,
    }


def test_lines_of_generate_become_one_answer_and_an_error_is_raised() -> None:
    assembler = LineAssembler()
    assembler.feed(ServerSentEvent("", b'{"response":"a","done":false}'))
    assembler.feed(ServerSentEvent("", b'{"response":"b","done":true,"context":[1]}'))
    assert assembler.result() == {"response": "ab", "done": True, "context": [1]}
    with pytest.raises(StreamedError, match="no memory"):
        LineAssembler().feed(ServerSentEvent("", b'{"error":"no memory"}'))
