"""Writes Ollama's answers for a client, as a stream or as a whole."""

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from agents.chat import ToolCall
from agents.events import (
    Answer,
    AnswerFailed,
    AnswerStarted,
    Done,
    Event,
    Extra,
    Finish,
    Logprobs,
    Reason,
    Reasoning,
    Text,
    ToolCallDelta,
    ToolCalls,
    Usage,
)
from proxy.apis.fields import Json, encode, object_text
from proxy.apis.interface import added_fields
from proxy.apis.ollama.client_errors import ollama_error
from proxy.apis.ollama.context import Turn, write_context

INVALID_ARGUMENTS = "_invalid_json"
"""The key that holds a tool call's arguments as text, if the model did not write a JSON object."""

Api = Literal["chat", "generate"]


class Encoder:
    """Writes answers of `/api/chat` or `/api/generate`, with the requested model name `model`.

    `started` is the time of the request, in seconds since the epoch; `load_seconds` is how long the model
    took to load. Both are used if the model server reports no durations. Tool calls are written whole, before
    the last line, the one with `done`. If `turns`, those before the answer, are given, the last line has a
    `context` that a client may send with its next prompt.
    """

    def __init__(
        self,
        model: str,
        *,
        api: Api = "chat",
        started: float = 0.0,
        load_seconds: float = 0.0,
        turns: list[Turn] | None = None,
    ) -> None:
        self._model = model
        self._chat = api == "chat"
        self._started = started
        self._load_seconds = load_seconds
        self._turns = turns
        self._texts: list[str] = []
        self._head = b'{"model":' + encode(model) + b',"created_at":"'
        self._text_follows = b'","message":{"role":"assistant","content":' if self._chat else b'","response":'
        self._text_ends = b"}" if self._chat else b""
        self._calls = ToolCalls()
        self._logprobs: list[Any] = []
        self._reason: Reason = "stop"
        self._usage = Usage()
        self._extra: Json = {}
        self._ended = False

    def encode(self, event: Event, now: float) -> bytes:
        """Return the lines of `event`, often none."""
        if self._ended:
            return b""
        match event:
            case Text():
                return self._say(now, event.text)
            case Reasoning():
                return self._line(now, "", b',"thinking":' + encode(event.text))
            case ToolCallDelta():
                self._calls.feed(event)
            case Logprobs():
                self._logprobs += event.tokens
            case Finish():
                self._reason = event.reason
            case Usage():
                self._usage = event
            case Extra():
                self._extra |= added_fields(event)
            case AnswerFailed():
                self._ended = True
                _, text = ollama_error(event.status, event.message, event.code, self._model)
                return encode({"error": text}) + b"\n"
            case Done():
                self._ended = True
                return self._last_lines(now)
            case AnswerStarted():
                pass  # every line has the model and the time
        return b""

    def _say(self, now: float, text: str) -> bytes:
        if self._turns is not None:
            self._texts.append(text)
        return self._line(now, text)

    def _line(self, now: float, text: str, more: bytes = b"", end: bytes = b',"done":false') -> bytes:
        if self._logprobs:
            end += b',"logprobs":' + encode(self._logprobs)
            self._logprobs = []
        created = rfc3339(now).encode()
        message = self._text_follows + encode(text) + more + self._text_ends
        return self._head + created + message + end + b"}\n"

    def _last_lines(self, now: float) -> bytes:
        calls = self._calls.take()
        before = self._line(now, "", b',"tool_calls":' + encode(_tool_calls(calls))) if calls else b""
        done = _final_fields(self._reason, self._usage, now - self._started, self._load_seconds)
        fields = {**self._extra, **done}
        if self._turns is not None:
            fields["context"] = write_context(self._turns, "".join(self._texts))
        return before + self._line(now, "", end=b"," + encode(fields)[1:-1])

    def encode_answer(self, answer: Answer, now: float) -> Json:
        """Return the whole answer, as for `stream: false`."""
        said: Json = {"content" if self._chat else "response": answer.text}
        if answer.reasoning:
            said["thinking"] = answer.reasoning
        if answer.tool_calls:
            said["tool_calls"] = _tool_calls(answer.tool_calls)
        whole: Json = {
            **added_fields(Extra(answer.extra)),
            "model": self._model,
            "created_at": rfc3339(now),
            **({"message": {"role": "assistant", **said}} if self._chat else said),
            **_final_fields(answer.reason, answer.usage, now - self._started, self._load_seconds),
        }
        if self._turns is not None:
            whole["context"] = write_context(self._turns, answer.text)
        if answer.logprobs:
            whole["logprobs"] = answer.logprobs
        return whole


def rfc3339(now: float) -> str:
    """Return a time, given in seconds since the epoch, as Go writes it."""
    return datetime.fromtimestamp(now, UTC).isoformat().removesuffix("+00:00") + "Z"


def _tool_calls(calls: list[ToolCall]) -> list[Json]:
    return [
        {"id": call.id, "function": {"index": index, "name": call.name, "arguments": _arguments(call)}}
        for index, call in enumerate(calls)
    ]


def _arguments(call: ToolCall) -> Any:
    text = object_text(call.arguments)
    return {INVALID_ARGUMENTS: call.arguments} if text is None else msgspec.Raw(text.encode())


def _final_fields(reason: Reason, usage: Usage, total_seconds: float, load_seconds: float) -> Json:
    counters = {
        "total_duration": _nanoseconds(usage.total_seconds or total_seconds),
        "load_duration": _nanoseconds(usage.load_seconds or load_seconds),
        "prompt_eval_count": usage.prompt,
        "prompt_eval_duration": _nanoseconds(usage.prompt_seconds),
        "eval_count": usage.completion,
        "eval_duration": _nanoseconds(usage.completion_seconds),
    }
    done = {"done": True, "done_reason": "length" if reason == "length" else "stop"}
    return {**done, **counters}


def _nanoseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


def encode_waiting(model: str, *, now: float, api: Api = "chat") -> bytes:
    """Return a line with an empty text, which keeps a connection alive."""
    return Encoder(model, api=api).encode(Text(""), now)


def encode_load(api: Api, reason: Literal["load", "unload"], model: str, now: float) -> Json:
    """Return the answer to a request without a prompt, after its model was loaded or unloaded."""
    said: Json = {"message": {"role": "assistant", "content": ""}} if api == "chat" else {"response": ""}
    return {"model": model, "created_at": rfc3339(now), **said, "done": True, "done_reason": reason}
