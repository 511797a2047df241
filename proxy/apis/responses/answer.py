"""Writes a response for a client, as a stream or as a whole."""

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
    Reason,
    Reasoning,
    Text,
    ToolCallDelta,
    Usage,
    replayed,
)
from proxy.apis.fields import Json, encode
from proxy.apis.interface import AnswerContext, added_fields
from proxy.apis.responses.client_errors import RESPONSES
from proxy.apis.responses.output import FunctionCall, Item, Message, Status, Thought, ToolCall, frame
from proxy.apis.responses.response import INCOMPLETE, error_fields, head, usage_fields
from proxy.apis.responses.tools import ClientTool
from proxy.apis.server_errors import to_api_error

_TEXT_DELTA = "response.output_text.delta"


class Encoder:
    """Writes the stream of `/v1/responses`. `response` is the response object of the latest event with one.

    Texts are written one after the other. Calls stay open until the answer's end, because their pieces may
    alternate.
    """

    def __init__(self, asked: AnswerContext) -> None:
        self.response: Json = {}
        self._asked = asked
        self._count = 0
        self._items: list[Item] = []
        self._open: Message | Thought | None = None
        self._calls: dict[int, FunctionCall | ToolCall] = {}
        self._text_head = b""
        """The beginning of each further delta event of the open text, up to its sequence number."""
        self._logprobs: list[Any] = []
        self._sizes = {"thought": 0, "rest": 0}
        self._reason: Reason = "stop"
        self._usage: Usage | None = None
        self._extra: Json = {}
        self._begun = self._ended = False

    def encode(self, event: Event, now: float) -> bytes:
        """Return the bytes of `event`, often none."""
        if type(event) is Text and self._text_head and not self._logprobs:
            return self._more_text(event.text)  # nearly all events are of this kind
        return b"" if self._ended else b"".join(self._events(event, now))

    def _more_text(self, text: str) -> bytes:
        assert isinstance(self._open, Message)
        self._open.texts.append(text)
        self._sizes["rest"] += len(text)
        self._count += 1
        return b'%b%d,"delta":%b}\n\n' % (self._text_head, self._count - 1, encode(text))

    def queued(self, now: float) -> bytes:
        """Return the events of a background response whose answer has not begun yet."""
        self.response = self._head(int(now)) | {"status": "queued"}
        kinds = ("response.created", "response.queued")
        return b"".join(self._frame(kind, {"response": self.response}) for kind in kinds)

    def _events(self, event: Event, now: float) -> Iterator[bytes]:
        if not self._begun and not isinstance(event, AnswerStarted | AnswerFailed):
            yield from self._begin(int(now))
        match event:
            case Text():
                yield from self._text(event.text)
            case Reasoning():
                yield from self._thought(event.text)
            case ToolCallDelta():
                yield from self._call(event)
            case Logprobs():
                self._logprobs += event.tokens
            case AnswerStarted():
                yield from self._begin(event.created or int(now))
            case Finish():
                self._reason = event.reason
            case Usage():
                self._usage = event
            case Extra():
                self._extra |= added_fields(event)
            case AnswerFailed():
                yield from self._fail(event)
            case Done():
                yield from self._finish(now)

    def _frame(self, kind: str, fields: Json) -> bytes:
        self._count += 1
        return frame(kind, self._count - 1, fields)

    def _head(self, created: int) -> Json:
        asked = self._asked
        return head(asked.echo.get("response", {}), asked.model, asked.token, created)

    def _begin(self, created: int) -> Iterator[bytes]:
        self._begun = True
        if self.response:
            self.response = self.response | {"status": "in_progress"}
        else:
            self.response = self._head(created)
            yield self._frame("response.created", {"response": self.response})
        yield self._frame("response.in_progress", {"response": self.response})

    # Items

    def _text(self, text: str) -> Iterator[bytes]:
        item = self._open
        if not isinstance(item, Message):
            yield from self._close("completed")
            item = self._open = Message(self._id("msg"), len(self._items))
            yield from self._added(item)
        self._sizes["rest"] += len(text)
        logprobs, self._logprobs = self._logprobs, []
        yield self._frame(_TEXT_DELTA, {**item.add(text, logprobs), "delta": text})
        head = encode({"type": _TEXT_DELTA, **item.place, "logprobs": []})
        self._text_head = b'event: %b\ndata: %b,"sequence_number":' % (_TEXT_DELTA.encode(), head[:-1])

    def _thought(self, text: str) -> Iterator[bytes]:
        item, echo = self._open, self._asked.echo
        if not isinstance(item, Thought):
            yield from self._close("completed")
            item = self._open = Thought(
                self._id("rs"),
                len(self._items),
                is_summary=bool(echo.get("summary")),
                is_sealed=bool(echo.get("sealed")),
            )
            yield from self._added(item)
        self._sizes["thought"] += len(text)
        self._logprobs = []
        yield self._frame(item.delta, {**item.add(text), "delta": text})

    def _call(self, event: ToolCallDelta) -> Iterator[bytes]:
        call = self._calls.get(event.index)
        if call is None:
            yield from self._close("completed")
            known = self._asked.echo.get("tools", {}).get(event.name)
            tool = ClientTool(*known) if known else ClientTool("function", event.name)
            kind = FunctionCall if tool.type == "function" else ToolCall
            number = self._id("")
            call = self._calls[event.index] = kind(
                (number[1:], event.id or f"call{number}"), len(self._items), tool
            )
            yield from self._added(call)
        self._sizes["rest"] += len(event.arguments)
        self._logprobs = []
        for one, fields in call.add(event):
            yield self._frame(one, fields)

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._asked.token}{len(self._items):02x}"

    def _added(self, item: Item) -> Iterator[bytes]:
        self._items.append(item)
        for kind, fields in item.begin():
            yield self._frame(kind, fields)

    def _close(self, status: Status) -> Iterator[bytes]:
        if self._open is not None:
            item, self._open, self._text_head = self._open, None, b""
            for kind, fields in item.end(status):
                yield self._frame(kind, fields)

    def _close_all(self, status: Status) -> Iterator[bytes]:
        yield from self._close(status)
        for call in self._calls.values():
            for kind, fields in call.end(status):
                yield self._frame(kind, fields)

    # The end

    def _finish(self, now: float) -> Iterator[bytes]:
        self._ended = True
        incomplete = INCOMPLETE.get(self._reason)
        status: Status = "incomplete" if incomplete else "completed"
        self._usage = self._usage or Usage()
        yield from self._close_all(status)
        yield self._last(
            status,
            incomplete_details={"reason": incomplete} if incomplete else None,
            completed_at=None if incomplete else int(now),
        )

    def _fail(self, failure: AnswerFailed) -> Iterator[bytes]:
        self._ended = True
        if not self.response:
            yield RESPONSES.frame(to_api_error(failure), "")
            return
        yield from self._close_all("incomplete")
        yield self._last("failed", error=error_fields(failure))

    def _last(self, status: str, **fields: Any) -> bytes:
        sizes = self._sizes
        thought = sizes["thought"] / (sum(sizes.values()) or 1)
        self.response = {
            **self._extra,
            **self.response,
            "status": status,
            "output": [item.value for item in self._items],
            "usage": usage_fields(self._usage, thought) if self._usage else None,
            **fields,
        }
        return self._frame(f"response.{status}", {"response": self.response})


def encode_answer(answer: Answer, asked: AnswerContext, now: float) -> Json:
    """Return the whole response."""
    encoder = Encoder(asked)
    for event in replayed(answer):
        encoder.encode(event, now)
    return encoder.response
