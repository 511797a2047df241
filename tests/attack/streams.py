"""What model servers' answers are made of, right ones: events, heads, bodies."""

import json
from typing import Any

Json = dict[str, Any]


def event(data: Json | bytes, kind: str = "") -> bytes:
    """A server-sent event."""
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return (f"event: {kind}\n".encode() if kind else b"") + b"data: " + text + b"\n\n"


def chat_event(delta: Json, finish: str | None = None, **more: Any) -> bytes:
    """An event of a chat's stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event({"id": "x", "object": "chat.completion.chunk", "created": 1, "choices": [choice], **more})


def text_event(text: str, finish: str | None = None) -> bytes:
    """One of an older completion's."""
    choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
    return event({"id": "x", "object": "text_completion", "created": 1, "choices": [choice]})


DONE = b"data: [DONE]\n\n"
USAGE = {"completion_tokens": 3, "prompt_tokens": 9, "total_tokens": 12}

GOOD: dict[str, list[bytes]] = {
    "/v1/chat/completions": [
        chat_event({"role": "assistant", "content": None}),
        *(chat_event({"content": text}) for text in ("a ", "b ", "c")),
        chat_event({}, "stop", usage=USAGE),
        DONE,
    ],
    "/v1/completions": [*(text_event(text) for text in ("a ", "b ", "c")), text_event("", "stop"), DONE],
    "/completion": [
        *(event({"content": text, "stop": False}) for text in ("a ", "b ", "c")),
        event({"content": "", "stop": True, "tokens_predicted": 3, "tokens_evaluated": 9}),
    ],
}
"""A whole stream of each of llama.cpp's APIs."""

ENDS = {
    "/v1/chat/completions": 2,
    "/v1/completions": 2,
    "/completion": 1,
}
"""How many of its last events make it a whole one."""


def head(*lines: str, status: str = "200 OK", kind: str = "text/event-stream", chunked: bool = True) -> bytes:
    """A response's head."""
    framing = ("Transfer-Encoding: chunked",) if chunked else ()
    text = "\r\n".join((f"HTTP/1.1 {status}", f"Content-Type: {kind}", *framing, *lines, "", ""))
    return text.encode("utf-8")


def chunks(pieces: list[bytes], end: bytes = b"0\r\n\r\n") -> bytes:
    """A chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + end


def body(data: bytes, *lines: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """A response with a length."""
    return head(f"Content-Length: {len(data)}", *lines, status=status, kind=kind, chunked=False) + data
