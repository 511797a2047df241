"""Writes OpenAI's chat answer for a client, as a stream or as a whole."""

from collections.abc import Iterator
from typing import Any

from agents.events import (
    Answer,
    AnswerFailed,
    AnswerStarted,
    Done,
    Event,
    Extra,
    Finish,
    Logprobs,
    Reasoning,
    Text,
    ToolCallDelta,
    Usage,
)
from proxy.apis import server_errors as failures
from proxy.apis.fields import Json, encode
from proxy.apis.interface import added_fields
from proxy.apis.openai.client_errors import OPENAI


def usage_fields(usage: Usage) -> Json:
    """Return OpenAI's `usage`, and llama.cpp's `timings` if durations are known."""
    fields: Json = {
        "usage": {
            "completion_tokens": usage.completion,
            "prompt_tokens": usage.prompt,
            "total_tokens": usage.prompt + usage.completion,
            "prompt_tokens_details": {"cached_tokens": usage.cached},
        }
    }
    if usage.prompt_seconds or usage.completion_seconds:
        fields["timings"] = {
            "cache_n": usage.cached,
            "prompt_n": usage.prompt - usage.cached,
            "prompt_ms": usage.prompt_seconds * 1000,
            "predicted_n": usage.completion,
            "predicted_ms": usage.completion_seconds * 1000,
        }
    return fields


class Encoder:
    """Writes the stream of `/v1/chat/completions`, with the model name `model` if one is given.

    The last events are the usage, if the client asked for it, and `[DONE]`. An error is the last event.
    """

    def __init__(self, *, model: str = "", include_usage: bool = False) -> None:
        self._model = model
        self._include_usage = include_usage
        self._usage = Usage()
        self._logprobs: list[Any] = []
        self._extra: Json = {}
        self._ended = False
        self._begin(AnswerStarted("", "", 0))

    def _begin(self, start: AnswerStarted) -> None:
        shared = {
            "id": start.id,
            "object": "chat.completion.chunk",
            "created": start.created,
            "model": self._model or start.model,
        }
        self._shared = b"data: " + encode(shared)[:-1]
        self._head = self._shared + b',"choices":[{"index":0,"delta":'
        self._tail = b'],"usage":null}\n\n' if self._include_usage else b"]}\n\n"

    def encode(self, event: Event, now: float) -> bytes:
        """Return the bytes of `event`, often none."""
        return b"" if self._ended else b"".join(self._chunks(event))

    def _chunks(self, event: Event) -> Iterator[bytes]:
        match event:
            case Text():
                yield self._chunk(b'{"content":' + encode(event.text) + b"}")
            case Reasoning():
                yield self._chunk(b'{"reasoning_content":' + encode(event.text) + b"}")
            case ToolCallDelta():
                yield self._chunk(encode({"tool_calls": [_call_delta(event)]}))
            case Logprobs():
                self._logprobs += event.tokens
            case AnswerStarted():
                self._begin(event)
                yield self._chunk(b'{"role":"assistant","content":""}')
            case Finish():
                chunk = self._chunk(b"{}", b'"' + event.reason.encode() + b'"')
                yield chunk[:-3] + b"," + encode(self._extra)[1:] + b"\n\n" if self._extra else chunk
            case Extra():
                self._extra |= added_fields(event)
            case Usage():
                self._usage = event
            case AnswerFailed():
                self._ended = True
                yield OPENAI.frame(failures.to_api_error(event), "")
            case Done():
                self._ended = True
                if self._include_usage:
                    yield self._shared + b',"choices":[],' + encode(usage_fields(self._usage))[1:] + b"\n\n"
                yield b"data: [DONE]\n\n"

    def _chunk(self, delta: bytes, reason: bytes = b"null") -> bytes:
        logprobs = b""
        if self._logprobs:
            logprobs = b',"logprobs":' + encode({"content": self._logprobs})
            self._logprobs = []
        return self._head + delta + logprobs + b',"finish_reason":' + reason + b"}" + self._tail


def _call_delta(event: ToolCallDelta) -> Json:
    call: Json = {"index": event.index}
    if event.id:
        call |= {"id": event.id, "type": "function"}
    function = {"name": event.name} if event.name else {}
    return {**call, "function": {**function, "arguments": event.arguments}}


def encode_answer(answer: Answer, *, model: str = "") -> Json:
    """Return the whole `chat.completion`."""
    message: Json = {"role": "assistant", "content": answer.text}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.tool_calls
        ]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": {"content": answer.logprobs} if answer.logprobs else None,
        "finish_reason": answer.reason,
    }
    return {
        **added_fields(Extra(answer.extra)),
        "id": answer.id,
        "object": "chat.completion",
        "created": answer.created,
        "model": model or answer.model,
        "choices": [choice],
        **usage_fields(answer.usage),
    }
