"""Finds the end of a stream of OpenAI's chat or completions, and assembles the whole answer from it."""

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec

from proxy.apis.assemble import Calls, UnfinishedError, add_text, index_of, joined, load
from proxy.apis.fields import Json
from proxy.apis.openai.server_errors import from_error
from proxy.apis.stream_end import StreamEnd
from proxy.wire.sse import ServerSentEvent

STREAM_END = StreamEnd(
    "a finish reason",
    lambda event: any(isinstance(choice.finish_reason, str) for choice in event.choices or ()),
    failure=from_error,
    done_marker=True,
    is_answer=lambda answer: bool(answer.choices),
)

_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode


class ChatAssembler:
    """Assembles a `chat.completion` from `chat.completion.chunk` events.

    Nearly all of llama.cpp's events differ from the previous one in the text alone. Such an event is not
    decoded: its text is cut out between the known `text_follows` and the bytes that followed the previous
    text.
    """

    object_name = "chat.completion"
    text_follows = b'{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"'
    text_ends = b'"}}],"created":'

    def __init__(self, wanted: float = 1) -> None:
        self._wanted = wanted
        """The number of choices that a complete answer has."""
        self._base: Json = {}
        self._choices: dict[int, Json] = {}
        self._last_finished = 0
        self._is_done = False
        self._after_text = b""
        self._texts: list[str] = []

    def feed(self, event: ServerSentEvent) -> None:
        """Add the next chunk. Raises `StreamedError` for an error."""
        data, after = event.data, self._after_text
        if after and data.endswith(after) and data.startswith(self.text_follows):
            # Anything but one JSON string in between raises DecodeError; then the whole event is decoded.
            with contextlib.suppress(msgspec.DecodeError):
                self._texts.append(_decode(data[len(self.text_follows) - 1 : 1 - len(after)]))
                return
        self._add_texts()
        self._feed_decoded(event)
        if data.startswith(self.text_follows) and (end := data.rfind(self.text_ends)) > 0:
            self._after_text = data[end:]

    def _add_texts(self) -> None:
        if self._texts:
            self._choices[0]["message"]["content"] += self._texts
            self._texts.clear()

    def _feed_decoded(self, event: ServerSentEvent) -> None:
        if (chunk := load(event)) is None:
            self._is_done = True
            return
        choices = chunk.pop("choices", [])
        chunk.pop("prompt_progress", None)
        for choice in choices:
            index = index_of(choice.get("index", 0))
            self._merge_choice(self._choices.setdefault(index, {"index": index}), choice)
            if choice.get("finish_reason") is not None:
                self._last_finished = index
        # Of several choices llama.cpp reports the usage of the first only.
        if self._last_finished != 0:
            chunk.pop("usage", None)
            chunk.pop("timings", None)
        self._base.update(chunk)

    def _merge_choice(self, whole: Json, part: Json) -> None:
        _merge_delta(whole.setdefault("message", {}), part.pop("delta", None) or {})
        _merge_rest(whole, part)

    def result(self) -> Json:
        """Return the whole completion. Raises `UnfinishedError`."""
        self._add_texts()
        if not self._choices:
            raise UnfinishedError("any choice")
        choices = [self._choices[index] for index in sorted(self._choices)]
        finished = sum(choice.get("finish_reason") is not None for choice in choices)
        if not self._is_done and finished < max(self._wanted, len(choices)):
            raise UnfinishedError("a finish reason")
        choices = [self._finished(choice) for choice in choices]
        return {**self._base, "object": self.object_name, "choices": choices}

    def _finished(self, choice: Json) -> Json:
        message = choice["message"] = joined(choice["message"])
        message.setdefault("role", "assistant")
        message.setdefault("content", None)
        if message["content"] is None:
            message["content"] = ""
        choice.setdefault("finish_reason", None)
        return choice


class CompletionAssembler(ChatAssembler):
    """Assembles one `text_completion` from `text_completion` events."""

    object_name = "text_completion"
    text_follows = b'{"choices":[{"text":"'
    text_ends = b'","index":0,"logprobs":null,"finish_reason":null}],"created":'

    def _add_texts(self) -> None:
        if self._texts:
            self._choices[0]["text"] += self._texts
            self._texts.clear()

    def _merge_choice(self, whole: Json, part: Json) -> None:
        add_text(whole, "text", part.pop("text", None) or "")
        _merge_rest(whole, part)

    def _finished(self, choice: Json) -> Json:
        return {"logprobs": None, **joined(choice)}


def _merge_delta(message: Json, delta: Json) -> None:
    for key, value in delta.items():
        if key == "tool_calls":
            calls = message.setdefault("tool_calls", Calls())
            for part in value or []:
                _merge_tool_call(calls, part)
        elif isinstance(value, str) and key != "role":
            add_text(message, key, value)
        elif value is not None or key not in message:
            message[key] = value


def _merge_tool_call(calls: Calls, part: Json) -> None:
    index = index_of(part.get("index", len(calls)))
    call = calls.get(index)
    if call is None:
        call = calls[index] = {"type": "function", "function": {"name": "", "arguments": ""}}
    for key, value in part.items():
        if key == "function":
            for name, text in value.items():
                add_text(call["function"], name, text or "")
        elif key != "index" and value is not None:
            call[key] = value


def _merge_rest(whole: Json, part: Json) -> None:
    logprobs = part.pop("logprobs", None)
    if logprobs is not None:
        merged = whole.get("logprobs") or {}
        for key, value in logprobs.items():
            if isinstance(value, list):
                merged.setdefault(key, []).extend(value)
            else:
                merged[key] = value
        whole["logprobs"] = merged
    for key, value in part.items():
        if value is not None or key not in whole:
            whole[key] = value
