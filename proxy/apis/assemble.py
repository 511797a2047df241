"""Whole answers out of streams, pure: what llama.cpp itself would have answered without `stream`.

Every upstream is asked for a stream, because a llama.cpp server notices the disconnect of a client that
waits for a whole answer late or never. Each class takes the events of one API and gives its answer.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from proxy.apis.answer_json import UnreadableError, read_object, reader
from proxy.wire.sse import ServerSentEvent

Json = dict[str, Any]

_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode
_read = reader(Any)

INDEX_LIMIT = 2**31
"""Above any index of a choice, a tool call or a block."""


class StreamedError(Exception):
    """The stream carried an error object instead of more of the answer."""

    def __init__(self, error: Json) -> None:
        super().__init__(str(error.get("message", error)))
        self.error = error


class UnfinishedError(Exception):
    """The stream has ended before its answer. The message says what was to come."""


class Assembler(Protocol):
    """Takes the events of one answer, then gives it. `assemble` is how that is asked for."""

    def feed(self, event: ServerSentEvent) -> None:
        """Take the next event. Raises `StreamedError`."""

    def result(self) -> Json:
        """The whole answer. Raises `UnfinishedError`."""


def take(assembler: Assembler, events: Iterable[ServerSentEvent]) -> None:
    """Feed events. Raises `StreamedError`, or `UnreadableError` for what makes no sense."""
    for event in events:
        try:
            assembler.feed(event)
        except _NONSENSE as error:
            raise UnreadableError(f"{error}: {event.data[:200]!r}") from None


def assemble(assembler: Assembler) -> bytes:
    """The whole answer as JSON. Raises `UnfinishedError`, or `UnreadableError` for what makes no sense."""
    try:
        return msgspec.json.encode(assembler.result())
    except _NONSENSE as error:
        raise UnreadableError(str(error)) from None


_NONSENSE = (LookupError, TypeError, AttributeError, ValueError, RecursionError)
"""What events of any other shape than an API's make its assembler raise."""


class _Pieces(list[str]):
    """A text in pieces: to add to a whole one would cost its length each time."""


class _Calls(dict[int, Json]):
    """Tool calls by their index, of which there may be any."""


def _add(target: Json, key: str, text: str) -> None:
    pieces = target.get(key)
    if not isinstance(pieces, _Pieces):
        pieces = target[key] = _Pieces([pieces] if isinstance(pieces, str) else [])
    pieces.append(text)


def _joined(target: Json) -> Json:
    return {key: _whole(value) for key, value in target.items()}


def _whole(value: Any) -> Any:
    if isinstance(value, _Pieces):
        return "".join(value)
    if isinstance(value, _Calls):
        return [{**call, "function": _joined(call["function"])} for _, call in sorted(value.items())]
    return value


def _index(value: Any) -> int:
    """An index. Raises `UnreadableError` for what is none."""
    if type(value) is not int or not 0 <= value < INDEX_LIMIT:
        raise UnreadableError(f"no index: {str(value)[:40]}")
    return value


def _load(event: ServerSentEvent) -> Json | None:
    if event.data == b"[DONE]":
        return None
    value = _read(event.data)
    if event.type == "error" and not isinstance(value, dict):
        raise StreamedError({"message": str(value)[:500]})
    if not isinstance(value, dict):
        raise UnreadableError("no JSON object")
    if (error := value.get("error")) is not None and (event.type in ("", "error")):
        raise StreamedError(error if isinstance(error, dict) else {"message": str(error)})
    if event.type == "error":
        raise StreamedError(value)
    return value


class LineAssembler:
    """Ollama's lines: the texts are joined, and what the last line says counts."""

    def __init__(self) -> None:
        self._last: Json = {}
        self._texts: dict[str, list[str]] = {}
        self._calls: list[Any] = []
        self._logprobs: list[Any] = []

    def feed(self, event: ServerSentEvent) -> None:
        """Take the next line."""
        line = read_object(event.data)
        if "error" in line:
            raise StreamedError({"message": str(line["error"])})
        said = line.get("message") or line
        for name in ("content", "response", "thinking"):
            if text := said.pop(name, ""):
                self._texts.setdefault(name, []).append(text)
        self._calls += said.pop("tool_calls", None) or []
        self._logprobs += line.pop("logprobs", None) or []
        self._last.update(line)

    def result(self) -> Json:
        """The whole answer."""
        whole = self._last
        if whole.get("done") is not True:
            raise UnfinishedError("its last line")
        said = whole.get("message", whole)
        said["content" if "message" in whole else "response"] = ""
        said.update({name: "".join(parts) for name, parts in self._texts.items()})
        if self._calls:
            said["tool_calls"] = self._calls
        if self._logprobs:
            whole["logprobs"] = self._logprobs
        return whole


class ChatAssembler:
    """`chat.completion.chunk` events to a `chat.completion`.

    Nearly all of llama.cpp's events differ from the one before in nothing but the text. Those are not
    decoded: it is cut out between the known `text_follows` and what followed it last time.
    """

    object_name = "chat.completion"
    text_follows = b'{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"'
    text_ends = b'"}}],"created":'

    def __init__(self) -> None:
        self._base: Json = {}
        self._choices: dict[int, Json] = {}
        self._last_finished = 0
        self._is_done = False
        self._after_text = b""
        self._texts: list[str] = []

    def feed(self, event: ServerSentEvent) -> None:
        """Take the next chunk."""
        data, after = event.data, self._after_text
        if after and data.endswith(after) and data.startswith(self.text_follows):
            # What is not one JSON string in between raises a DecodeError, and is decoded as a whole.
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
        if (chunk := _load(event)) is None:
            self._is_done = True
            return
        choices = chunk.pop("choices", [])
        chunk.pop("prompt_progress", None)
        for choice in choices:
            index = _index(choice.get("index", 0))
            self._merge_choice(self._choices.setdefault(index, {"index": index}), choice)
            if choice.get("finish_reason") is not None:
                self._last_finished = index
        # Of several choices llama.cpp reports the first one's usage.
        if self._last_finished != 0:
            chunk.pop("usage", None)
            chunk.pop("timings", None)
        self._base.update(chunk)

    def _merge_choice(self, whole: Json, part: Json) -> None:
        _merge_delta(whole.setdefault("message", {}), part.pop("delta", None) or {})
        _merge_rest(whole, part)

    def result(self) -> Json:
        """The whole completion."""
        self._add_texts()
        if not self._choices:
            raise UnfinishedError("any choice")
        choices = [self._choices[index] for index in sorted(self._choices)]
        if not self._is_done and any(choice.get("finish_reason") is None for choice in choices):
            raise UnfinishedError("a finish reason")
        choices = [self._finished(choice) for choice in choices]
        return {**self._base, "object": self.object_name, "choices": choices}

    def _finished(self, choice: Json) -> Json:
        message = choice["message"] = _joined(choice["message"])
        message.setdefault("role", "assistant")
        message.setdefault("content", None)
        if message["content"] is None:
            message["content"] = ""
        choice.setdefault("finish_reason", None)
        return choice


class CompletionAssembler(ChatAssembler):
    """`text_completion` events to one `text_completion`."""

    object_name = "text_completion"
    text_follows = b'{"choices":[{"text":"'
    text_ends = b'","index":0,"logprobs":null,"finish_reason":null}],"created":'

    def _add_texts(self) -> None:
        if self._texts:
            self._choices[0]["text"] += self._texts
            self._texts.clear()

    def _merge_choice(self, whole: Json, part: Json) -> None:
        _add(whole, "text", part.pop("text", None) or "")
        _merge_rest(whole, part)

    def _finished(self, choice: Json) -> Json:
        return {"logprobs": None, **_joined(choice)}


def _merge_delta(message: Json, delta: Json) -> None:
    for key, value in delta.items():
        if key == "tool_calls":
            calls = message.setdefault("tool_calls", _Calls())
            for part in value or []:
                _merge_tool_call(calls, part)
        elif isinstance(value, str) and key != "role":
            _add(message, key, value)
        elif value is not None or key not in message:
            message[key] = value


def _merge_tool_call(calls: "_Calls", part: Json) -> None:
    index = _index(part.get("index", len(calls)))
    call = calls.get(index)
    if call is None:
        call = calls[index] = {"type": "function", "function": {"name": "", "arguments": ""}}
    for key, value in part.items():
        if key == "function":
            for name, text in value.items():
                _add(call["function"], name, text or "")
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


class NativeAssembler:
    """llama.cpp's own completion events (`/completion`, `/infill`) to its own answer."""

    def __init__(self, *, return_tokens: bool = False) -> None:
        self._return_tokens = return_tokens
        self._content: list[str] = []
        self._tokens: list[int] = []
        self._probabilities: list[Any] = []
        self._final: Json = {}

    def feed(self, event: ServerSentEvent) -> None:
        """Take the next event; the last one carries everything but the text."""
        if (chunk := _load(event)) is None or "prompt_progress" in chunk:
            return
        self._content.append(chunk.get("content", ""))
        self._tokens.extend(chunk.get("tokens", ()))
        self._probabilities.extend(chunk.pop("completion_probabilities", ()))
        if chunk.get("stop"):
            self._final = chunk

    def result(self) -> Json:
        """The whole answer."""
        if not self._final:
            raise UnfinishedError("its last event")
        answer = {**self._final, "content": "".join(self._content)}
        answer["tokens"] = self._tokens if self._return_tokens else []
        if self._probabilities:
            answer["completion_probabilities"] = self._probabilities
        if isinstance(settings := answer.get("generation_settings"), dict):
            settings["stream"] = False
        return answer


class MessageAssembler:
    """Anthropic's message events to a message."""

    def __init__(self) -> None:
        self._message: Json = {}
        self._blocks: dict[int, Json] = {}
        self._inputs: dict[int, list[str]] = {}
        self._is_stopped = False

    def feed(self, event: ServerSentEvent) -> None:
        """Take the next event."""
        if (data := _load(event)) is None:
            return
        match data.get("type"):
            case "message_start":
                self._message = data["message"]
            case "content_block_start":
                self._blocks[_index(data["index"])] = data["content_block"]
            case "content_block_delta":
                self._merge(_index(data["index"]), data["delta"])
            case "message_delta":
                self._message.update(data["delta"])
                self._message.setdefault("usage", {}).update(data.get("usage", {}))
            case "message_stop":
                self._is_stopped = True
            case _:
                pass  # ping, and the ends of blocks

    def _merge(self, index: int, delta: Json) -> None:
        block = self._blocks[index]
        for key, value in delta.items():
            if key == "partial_json":
                self._inputs.setdefault(index, []).append(value)
            elif key == "signature":
                block[key] = value
            elif key != "type":
                _add(block, key, value)

    def result(self) -> Json:
        """The whole message."""
        if not (self._is_stopped and self._message):
            raise UnfinishedError("the event that stops it")
        blocks = {index: _joined(block) for index, block in sorted(self._blocks.items())}
        for index, pieces in self._inputs.items():
            try:
                blocks[index]["input"] = _read("".join(pieces).encode())
            except UnreadableError:
                blocks[index]["input"] = {}
        for block in blocks.values():
            if block.get("type") == "tool_use":
                block.setdefault("input", {})
            elif block.get("type") == "thinking":
                block.setdefault("signature", "")
        return {**self._message, "content": list(blocks.values())}


class ResponseAssembler:
    """Events of the Responses API to a response: the last event carries it."""

    def __init__(self) -> None:
        self._response: Json = {}

    def feed(self, event: ServerSentEvent) -> None:
        """Take the next event."""
        if (data := _load(event)) is None:
            return
        if data.get("type") in ("response.completed", "response.incomplete", "response.failed"):
            self._response = data["response"]

    def result(self) -> Json:
        """The whole response, with what llama.cpp leaves out of the streamed one."""
        response = self._response
        if not response:
            raise UnfinishedError("the event that ends it")
        response.setdefault("completed_at", response.get("created_at"))
        for item in response.get("output", ()):
            item.setdefault("status", "completed")
        return response
