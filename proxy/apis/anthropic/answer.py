"""Anthropic's message, written for a client in pieces or as a whole."""

from collections.abc import Iterator

import msgspec

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
    Usage,
)
from proxy.apis import server_errors as failures
from proxy.apis.anthropic.client_errors import ANTHROPIC
from proxy.apis.fields import Json, encode, object_text
from proxy.apis.interface import added_fields

_STOP_REASONS: dict[Reason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


class Encoder:
    """Writes the stream of `/v1/messages`, under the name `model` if one is given.

    Blocks come one after the other. A piece of an earlier tool call than the last still goes to its own
    block, which has been ended: clients add pieces up by the block's index.
    """

    def __init__(self, *, model: str = "", request_id: str = "") -> None:
        self._model = model
        self._request_id = request_id
        self._open: type[Event] | int | None = None
        self._blocks = 0
        self._block_of_call: dict[int, int] = {}
        self._reason: Reason = "stop"
        self._usage = Usage()
        self._extra: Json = {}
        self._ended = False

    def encode(self, event: Event, now: float) -> bytes:
        """The bytes that say `event`."""
        return b"" if self._ended else b"".join(self._events(event))

    def _events(self, event: Event) -> Iterator[bytes]:
        match event:
            case Text():
                yield from self._block(Text, {"type": "text", "text": ""})
                yield self._delta(b'"text_delta","text":', event.text)
            case Reasoning():
                yield from self._block(Reasoning, {"type": "thinking", "thinking": "", "signature": ""})
                yield self._delta(b'"thinking_delta","thinking":', event.text)
            case ToolCallDelta():
                yield from self._call(event)
            case AnswerStarted():
                yield _frame("message_start", {"message": _message(event, self._model)})
            case Finish():
                self._reason = event.reason
            case Usage():
                self._usage = event
            case Extra():
                self._extra |= added_fields(event)
            case AnswerFailed():
                self._ended = True
                yield ANTHROPIC.frame(failures.to_api_error(event), self._request_id)
            case Done():
                self._ended = True
                yield from self._close()
                delta = {"stop_reason": _STOP_REASONS[self._reason], "stop_sequence": None}
                yield _frame("message_delta", {**self._extra, "delta": delta, "usage": _usage(self._usage)})
                yield _frame("message_stop", {})
            case Logprobs():
                pass  # Anthropic has none

    def _block(self, kind: type[Event] | int, start: Json) -> Iterator[bytes]:
        if self._open != kind:
            yield from self._close()
            self._open = kind
            self._blocks += 1
            yield _frame("content_block_start", {"index": self._blocks - 1, "content_block": start})

    def _close(self) -> Iterator[bytes]:
        if self._open is not None:
            self._open = None
            yield _frame("content_block_stop", {"index": self._blocks - 1})

    def _call(self, event: ToolCallDelta) -> Iterator[bytes]:
        if event.index not in self._block_of_call:
            start = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
            yield from self._block(event.index, start)
            self._block_of_call[event.index] = self._blocks - 1
        if event.arguments:
            block = self._block_of_call[event.index]
            yield self._delta(b'"input_json_delta","partial_json":', event.arguments, block)

    def _delta(self, kind: bytes, text: str, block: int | None = None) -> bytes:
        index = b"%d" % (self._blocks - 1 if block is None else block)
        head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":' + index
        return head + b',"delta":{"type":' + kind + encode(text) + b"}}\n\n"


def _frame(kind: str, fields: Json) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + encode({"type": kind, **fields}) + b"\n\n"


def _message(start: AnswerStarted, model: str) -> Json:
    return {
        "id": start.id,
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": model or start.model,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(Usage()),
    }


def _usage(usage: Usage) -> Json:
    """Anthropic counts the tokens that were in the cache apart from the others."""
    return {
        "cache_read_input_tokens": usage.cached,
        "input_tokens": usage.prompt - usage.cached,
        "output_tokens": usage.completion,
    }


def encode_answer(answer: Answer, *, model: str = "") -> Json:
    """The whole message. Arguments of a tool that are no JSON object are none at all, as from llama.cpp."""
    content: list[Json] = []
    if answer.reasoning:
        content.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    for call in answer.tool_calls:
        arguments = msgspec.Raw((object_text(call.arguments) or "{}").encode())
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments})
    return {
        **added_fields(Extra(answer.extra)),
        **_message(AnswerStarted(answer.id, answer.model, answer.created), model),
        "content": content,
        "stop_reason": _STOP_REASONS[answer.reason],
        "usage": _usage(answer.usage),
    }
