"""Whether the last events of a stream say that it is whole."""

import json

import pytest

from proxy.apis.llama_cpp.stream import STREAM_END as NATIVE
from proxy.apis.ollama.stream import STREAM_END as OLLAMA
from proxy.apis.openai.stream import STREAM_END as OPENAI
from proxy.apis.stream_end import StreamEnd, is_whole, outcome
from proxy.apis.table import STREAM_ENDS


def sse(*data: object, kind: str = "") -> bytes:
    name = f"event: {kind}\n" if kind else ""
    texts = (one if isinstance(one, str) else json.dumps(one) for one in data)
    return "".join(f"{name}data: {text}\n\n" for text in texts).encode()


def choice(**fields: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {}, **fields}]}


MARKS = '"finish_reason":"stop" data: [DONE] "type":"message_stop" "stop":true "done":true'


@pytest.mark.parametrize(
    ("end", "tail"),
    [
        (OPENAI, sse(choice(), "[DONE]")),
        (OPENAI, sse(choice(finish_reason="stop"))),
        (OPENAI, sse(choice(finish_reason="tool_calls"), {"choices": [], "usage": {}})),
        (OPENAI, b"e\r\ndata: [DONE]\n\n\r\n"),
        (OPENAI, sse(choice(), "[DONE]").replace(b"\n", b"\r\n")),
        (OPENAI, sse(choice(), "[DONE]").rstrip(b"\n")),
        (NATIVE, sse({"content": "", "stop": True})),
        (OLLAMA, b'{"done":false}\n{"done": true}\n'),
        (OLLAMA, b'{"done": true}'),
    ],
)
def test_whole_answers(end: StreamEnd, tail: bytes) -> None:
    assert outcome(tail, end).failure is None
    assert is_whole(tail, STREAM_ENDS)


@pytest.mark.parametrize("end", STREAM_ENDS)
@pytest.mark.parametrize(
    "data",
    [
        choice(delta={"content": MARKS}, finish_reason=None),
        {"content": MARKS, "stop": False},
        {"type": "content_block_delta", "delta": {"text": MARKS, "stop": True}},
        {"message": {"content": MARKS, "tool_calls": [{"arguments": {"done": True}}]}, "done": False},
        {"choices": "none", "done": "true", "stop": 1, "type": ["message_stop"]},
        "{no json",
        [1],
    ],
)
def test_what_a_model_says_is_no_end(end: StreamEnd, data: object) -> None:
    tail = sse(data) if end is not OLLAMA else (json.dumps(data) + "\n").encode()
    told = outcome(tail, end)
    assert told.failure is not None
    assert not told.told


@pytest.mark.parametrize(
    ("end", "tail", "told"),
    [
        (OPENAI, sse({"error": {"message": "out of luck"}}), True),
        (OPENAI, sse(choice(), {"error": "out of luck"}, "[DONE]"), True),
        (OLLAMA, b'{"error":"out of luck"}\n', True),
        (OPENAI, b'data: {}\n\nerror: {"message":"out of luck"}\n\n', False),
        (OPENAI, b"error: out of luck\n\n", False),
    ],
)
def test_errors(end: StreamEnd, tail: bytes, told: bool) -> None:
    came = outcome(tail, end)
    assert came.failure is not None
    assert came.failure.message == "out of luck"
    assert came.told == told
