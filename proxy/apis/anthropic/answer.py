"""Writes Anthropic's message for a client, as a stream or as a whole."""

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
from proxy.apis import server_errors
from proxy.apis.anthropic.client_errors import ANTHROPIC
from proxy.apis.fields import Json, encode, object_text
from proxy.apis.interface import added_fields

SIGNATURE = "bGxhbWEtc21hcnQtcHJveHk="
"""The signature of each thinking block. The gateway never checks it, but clients omit blocks without one."""

_STOP_REASONS: dict[Reason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}

Piece = Text | Reasoning | ToolCallDelta


class Encoder:
    """Writes the stream of `/v1/messages`, with the model name `model` if one is given.

    Blocks are written one after the other. While the arguments of a tool call are incomplete, pieces of
    other blocks are held back, so that calls whose pieces alternate become whole blocks too.
    """

    def __init__(self, *, model: str = "", request_id: str = "") -> None:
        self._model = model
        self._request_id = request_id
        self._open: type[Piece] | int | None = None
        """The kind of the open block, or the index of its tool call; None: no block is open."""
        self._delta = b""
        """The beginning of each `content_block_delta` event of the open block."""
        self._arguments: list[str] = []
        """The pieces of the open tool call's arguments."""
        self._held: list[Piece] = []
        self._blocks = 0
        self._finish = Finish("stop")
        self._usage = Usage()
        self._extra: Json = {}
        self._ended = False

    def encode(self, event: Event, now: float) -> bytes:
        """Return the bytes of `event`, often none."""
        if type(event) is Text and self._open is Text:
            return self._delta + encode(event.text) + b"}}\n\n"
        return b"" if self._ended else b"".join(self._events(event))

    def _events(self, event: Event) -> Iterator[bytes]:
        match event:
            case Text() | Reasoning() | ToolCallDelta():
                yield from self._take(event)
            case AnswerStarted():
                yield _frame("message_start", {"message": _message(event, self._model)})
            case Finish():
                self._finish = event
            case Usage():
                self._usage = event
            case Extra():
                self._extra |= added_fields(event)
            case AnswerFailed():
                self._open, self._ended = None, True
                yield ANTHROPIC.frame(server_errors.to_api_error(event), self._request_id)
            case Done():
                yield from self._release()
                yield from self._close()
                self._ended = True
                usage = _usage(self._usage)
                yield _frame("message_delta", {**self._extra, "delta": _stop(self._finish), "usage": usage})
                yield _frame("message_stop", {})
            case Logprobs():
                pass  # Anthropic has none

    def _take(self, piece: Piece) -> Iterator[bytes]:
        if not isinstance(self._open, int):
            yield from self._write(piece)
        elif _block_of(piece) == self._open:
            yield from self._write(piece)
            if self._held and self._is_whole():
                held, self._held = self._held, []
                for one in held:
                    yield from self._take(one)
        elif self._held or not self._is_whole():
            self._held.append(piece)
        else:
            yield from self._write(piece)

    def _is_whole(self) -> bool:
        """Whether the arguments of the open tool call are complete."""
        if not self._arguments or not self._arguments[-1].rstrip().endswith("}"):
            return False
        return object_text("".join(self._arguments)) is not None

    def _release(self) -> Iterator[bytes]:
        """Write the pieces that were held back, grouped by block."""
        pieces: dict[type[Piece] | int, list[Piece]] = {}
        for piece in self._held:
            pieces.setdefault(_block_of(piece), []).append(piece)
        self._held = []
        for one in pieces.values():
            for piece in one:
                yield from self._write(piece)

    def _write(self, piece: Piece) -> Iterator[bytes]:
        block = _block_of(piece)
        if self._open != block:
            yield from self._close()
            yield self._begin(block, piece)
        text = piece.arguments if isinstance(piece, ToolCallDelta) else piece.text
        if isinstance(piece, ToolCallDelta):
            self._arguments.append(text)
        if text:
            yield self._delta + encode(text) + b"}}\n\n"

    def _begin(self, block: type[Piece] | int, piece: Piece) -> bytes:
        if isinstance(piece, ToolCallDelta):
            start, delta = _tool_use(piece.id, piece.name, {}), b'"input_json_delta","partial_json":'
            self._arguments = []
        elif isinstance(piece, Reasoning):
            start, delta = _thinking("", ""), b'"thinking_delta","thinking":'
        else:
            start, delta = {"type": "text", "text": ""}, b'"text_delta","text":'
        self._open = block
        self._delta = _DELTA % (self._blocks, delta)
        self._blocks += 1
        return _frame("content_block_start", {"index": self._blocks - 1, "content_block": start})

    def _close(self) -> Iterator[bytes]:
        index = self._blocks - 1
        if self._open is Reasoning:
            yield _DELTA % (index, b'"signature_delta","signature":') + encode(SIGNATURE) + b"}}\n\n"
        if self._open is not None:
            self._open = None
            yield _frame("content_block_stop", {"index": index})


_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b'


def _block_of(piece: Piece) -> type[Piece] | int:
    return piece.index if isinstance(piece, ToolCallDelta) else type(piece)


def _frame(kind: str, fields: Json) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + encode({"type": kind, **fields}) + b"\n\n"


def _message(start: AnswerStarted, model: str) -> Json:
    return {
        "id": "msg_" + start.id.removeprefix("chatcmpl-").removeprefix("msg_"),
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": model or start.model,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(Usage(start.prompt, cached=start.cached)),
    }


def _stop(finish: Finish) -> Json:
    reason = _STOP_REASONS[finish.reason]
    word = finish.stop_sequence if finish.reason == "stop" else None
    return {"stop_reason": "stop_sequence" if word is not None else reason, "stop_sequence": word}


def _thinking(text: str, signature: str) -> Json:
    return {"type": "thinking", "thinking": text, "signature": signature}


def _tool_use(identifier: str, name: str, arguments: Json | msgspec.Raw) -> Json:
    return {"type": "tool_use", "id": identifier, "name": name, "input": arguments}


def _usage(usage: Usage) -> Json:
    """Return Anthropic's usage, where `input_tokens` does not include the tokens read from the cache."""
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
    }


def encode_answer(answer: Answer, *, model: str = "") -> Json:
    """Return the whole message.

    Tool arguments that are not a JSON object become `{}`, as in llama.cpp's answers.
    """
    content: list[Json] = []
    if answer.reasoning:
        content.append(_thinking(answer.reasoning, SIGNATURE))
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    for call in answer.tool_calls:
        arguments = msgspec.Raw((object_text(call.arguments) or "{}").encode())
        content.append(_tool_use(call.id, call.name, arguments))
    return {
        **added_fields(Extra(answer.extra)),
        **_message(AnswerStarted(answer.id, answer.model, answer.created), model),
        "content": content,
        **_stop(Finish(answer.reason, answer.stop_sequence)),
        "usage": _usage(answer.usage),
    }
