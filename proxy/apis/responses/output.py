"""The items of an answer, while they are streamed: each yields its events."""

from collections.abc import Iterator
from typing import Any, Literal, Protocol

from agents.events import ToolCallDelta
from proxy.apis.fields import Json, encode
from proxy.apis.responses.calls import call_item
from proxy.apis.responses.response import sealed
from proxy.apis.responses.tools import ClientTool

Status = Literal["in_progress", "completed", "incomplete"]
Events = Iterator[tuple[str, Json]]
"""Pairs of an event's type and its fields."""


def frame(kind: str, number: int, fields: Json) -> bytes:
    """Return an event of a stream."""
    data = {"type": kind, "sequence_number": number, **fields}
    return b"event: " + kind.encode() + b"\ndata: " + encode(data) + b"\n\n"


class Item(Protocol):
    """One item of the output. `value` is the complete item, set by `end`."""

    value: Json

    def begin(self) -> Events:
        """Yield the events that add the item."""

    def end(self, status: Status) -> Events:
        """Yield the events that complete the item."""


class Message:
    """A text of the model for the user."""

    def __init__(self, id: str, index: int) -> None:  # noqa: A002 the wire's own word
        self.value: Json = {}
        self.place: Json = {"item_id": id, "output_index": index, "content_index": 0}
        self._id = id
        self._index = index
        self.texts: list[str] = []
        self._logprobs: list[Json] = []

    def begin(self) -> Events:
        """Yield events with an empty message and an empty text."""
        yield _added(self._index, self._item("in_progress", []))
        yield "response.content_part.added", {**self.place, "part": _output_text("", [])}

    def add(self, text: str, logprobs: list[Any]) -> Json:
        """Add a piece; return the fields of its event, except the text."""
        self.texts.append(text)
        self._logprobs += logprobs
        return {**self.place, "logprobs": [_logprob(one) for one in logprobs]}

    def end(self, status: Status) -> Events:
        """Yield events with the whole text, its part and the message."""
        text = "".join(self.texts)
        part = _output_text(text, [_logprob(one, with_bytes=True) for one in self._logprobs])
        logprobs = [_logprob(one) for one in self._logprobs]
        self.value = self._item(status, [part])
        yield "response.output_text.done", {**self.place, "text": text, "logprobs": logprobs}
        yield "response.content_part.done", {**self.place, "part": part}
        yield _done(self._index, self.value)

    def _item(self, status: Status, content: list[Json]) -> Json:
        return {"id": self._id, "type": "message", "role": "assistant", "status": status, "content": content}


class Thought:
    """The model's reasoning. If the client asked for a summary, it is written as one, for users to see."""

    def __init__(self, id: str, index: int, *, is_summary: bool, is_sealed: bool) -> None:  # noqa: A002
        self.value: Json = {}
        part = "summary_index" if is_summary else "content_index"
        self.place: Json = {"item_id": id, "output_index": index, part: 0}
        self.delta = f"response.reasoning_{'summary_text' if is_summary else 'text'}.delta"
        self._id = id
        self._index = index
        self._is_summary = is_summary
        self._is_sealed = is_sealed
        self._texts: list[str] = []

    def begin(self) -> Events:
        """Yield events with an empty item and an empty part."""
        yield _added(self._index, self._item("in_progress", None))
        yield f"{self._part}.added", {**self.place, "part": self._text("")}

    def add(self, text: str) -> Json:
        """Add a piece; return the fields of its event, except the text."""
        self._texts.append(text)
        return self.place

    def end(self, status: Status) -> Events:
        """Yield events with the whole text, its part and the item."""
        text = "".join(self._texts)
        self.value = self._item(status, text)
        yield f"{self.delta.removesuffix('.delta')}.done", {**self.place, "text": text}
        yield f"{self._part}.done", {**self.place, "part": self._text(text)}
        yield _done(self._index, self.value)

    @property
    def _part(self) -> str:
        return "response.reasoning_summary_part" if self._is_summary else "response.content_part"

    def _text(self, text: str) -> Json:
        return {"type": "summary_text" if self._is_summary else "reasoning_text", "text": text}

    def _item(self, status: Status, text: str | None) -> Json:
        parts = [] if text is None else [self._text(text)]
        return {
            "id": self._id,
            "type": "reasoning",
            "status": status,
            "summary": parts if self._is_summary else [],
            **({} if self._is_summary else {"content": parts}),
            **({"encrypted_content": sealed(text)} if self._is_sealed and text is not None else {}),
        }


class FunctionCall:
    """A call of a function."""

    def __init__(self, ids: tuple[str, str], index: int, tool: ClientTool) -> None:
        self.value: Json = {}
        self.place: Json = {"item_id": f"fc_{ids[0]}", "output_index": index}
        self._call_id = ids[1]
        self._index = index
        self._tool = tool
        self._arguments: list[str] = []

    def begin(self) -> Events:
        """Yield the event with a call without arguments."""
        yield _added(self._index, self._item("in_progress", ""))

    def add(self, delta: ToolCallDelta) -> Events:
        """Add a piece of the arguments; yield its event."""
        if delta.arguments:
            self._arguments.append(delta.arguments)
            yield "response.function_call_arguments.delta", {**self.place, "delta": delta.arguments}

    def end(self, status: Status) -> Events:
        """Yield events with the whole arguments and the call."""
        arguments = "".join(self._arguments)
        self.value = self._item(status, arguments)
        yield "response.function_call_arguments.done", {**self.place, "arguments": arguments}
        yield _done(self._index, self.value)

    def _item(self, status: Status, arguments: str) -> Json:
        return {
            "id": self.place["item_id"],
            "type": "function_call",
            "status": status,
            "call_id": self._call_id,
            "name": self._tool.name,
            "arguments": arguments,
            **({"namespace": self._tool.namespace} if self._tool.namespace else {}),
        }


class ToolCall:
    """A call of a tool that is not a function. It is written when it is complete, not in pieces."""

    def __init__(self, ids: tuple[str, str], index: int, tool: ClientTool) -> None:
        self.value: Json = {}
        self._ids = ids
        self._index = index
        self._tool = tool
        self._arguments: list[str] = []

    def begin(self) -> Events:
        """Yield nothing: the item is added by `end`."""
        yield from ()

    def add(self, delta: ToolCallDelta) -> Events:
        """Add a piece of the arguments; yield nothing."""
        self._arguments.append(delta.arguments)
        yield from ()

    def end(self, status: Status) -> Events:
        """Yield the events of the call.

        A call whose arguments do not fit the tool is written as a function call, for the client to refuse.
        """
        arguments = "".join(self._arguments)
        fields = call_item(self._tool, arguments)
        if fields is None:
            call = FunctionCall(self._ids, self._index, self._tool)
            yield from call.begin()
            yield from call.add(ToolCallDelta(0, arguments=arguments))
            yield from call.end(status)
            self.value = call.value
            return
        item_id, call_id = f"{_PREFIXES[fields['type']]}_{self._ids[0]}", self._ids[1]
        self.value = {"id": item_id, "call_id": call_id, "status": status, **fields}
        place = {"item_id": item_id, "output_index": self._index}
        if "input" in fields:
            text = fields["input"]
            yield _added(self._index, {**self.value, "status": "in_progress", "input": ""})
            yield "response.custom_tool_call_input.delta", {**place, "delta": text}
            yield "response.custom_tool_call_input.done", {**place, "input": text}
        else:
            if fields["type"] == "apply_patch_call":
                self.value["status"] = "completed"
            yield _added(self._index, {**self.value, "status": "in_progress"})
        yield _done(self._index, self.value)


_PREFIXES = {
    "custom_tool_call": "ctc",
    "local_shell_call": "lsh",
    "shell_call": "sh",
    "apply_patch_call": "apc",
    "tool_search_call": "tsc",
}


def _added(index: int, item: Json) -> tuple[str, Json]:
    return "response.output_item.added", {"output_index": index, "item": item}


def _done(index: int, item: Json) -> tuple[str, Json]:
    return "response.output_item.done", {"output_index": index, "item": item}


def _output_text(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _logprob(token: Any, *, with_bytes: bool = False) -> Json:
    """Return the log probability of one token. Only those of a whole text have the token's bytes."""
    known = token if isinstance(token, dict) else {}
    top = [one for one in known.get("top_logprobs") or [] if isinstance(one, dict)]
    return {
        **_token(known, with_bytes=with_bytes),
        "top_logprobs": [_token(one, with_bytes=with_bytes) for one in top],
    }


def _token(known: Json, *, with_bytes: bool) -> Json:
    text = str(known.get("token", ""))
    fields: Json = {"token": text, "logprob": known.get("logprob") or 0.0}
    return fields | {"bytes": known.get("bytes") or list(text.encode())} if with_bytes else fields
