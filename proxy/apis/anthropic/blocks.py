"""Reads Anthropic's messages and their content blocks into canonical messages.

Blocks come from other models, other providers and later versions of the API, and a client sends them again
with every turn. So an unreadable block is refused only in the newest user message. In other messages a short
note replaces the block, or it is left out; `ignored` then has its type.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from agents.chat import Image, Message, ToolCall
from proxy.apis import images
from proxy.apis.fields import FieldError, Json, encode, object_text

ROLES = ("user", "assistant", "system")

_CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
_NOT_TEXT = (
    *(
        "type",
        "id",
        "tool_use_id",
        "cache_control",
        "citations",
        "signature",
        "media_type",
        "data",
        "file_id",
    ),
    *("encrypted_content", "encrypted_index", "encrypted_stdout", "caller", "server_name"),
)
"""Fields of blocks that are not passed to a model as text."""
_BARE = ("text", "content", "thinking")
"""Fields whose text is passed to a model without the field's name."""


class WireMessage(msgspec.Struct):
    """One message: a text, or blocks of any shape."""

    role: str
    content: Any = None


def read_messages(system: Any, wire: list[WireMessage]) -> tuple[list[Message], list[str]]:
    """Return the messages, the system prompt first, and the types of the blocks left out.

    Consecutive messages of one role are joined, as in Anthropic's own API: the chat templates of many models
    require it. Raises `FieldError`.
    """
    ignored: list[str] = []
    messages = list(_Turn("system", "system", ignored, is_new=True).read(system)) if system else []
    for index, message in enumerate(wire):
        if message.role not in ROLES:
            raise FieldError(f"messages[{index}].role", "must be user, assistant or system")
        is_new = message.role == "user" and index == len(wire) - 1
        turn = _Turn(message.role, f"messages[{index}].content", ignored, is_new=is_new)
        for read in turn.read(message.content):
            if messages and _continues(messages[-1], read):
                messages[-1] = _joined(messages[-1], read)
            else:
                messages.append(read)
    return messages, ignored


def _continues(before: Message, message: Message) -> bool:
    return before.role == message.role != "tool" and not before.tool_calls


def _joined(before: Message, message: Message) -> Message:
    return Message(
        before.role,
        "\n".join(filter(None, (before.text, message.text))),
        "\n".join(filter(None, (before.reasoning, message.reasoning))),
        before.images + message.images,
        message.tool_calls,
    )


class _Turn:
    """Reads the blocks of one message. Each tool result becomes a message of its own.

    In a user's message the tool results come first. In an assistant's message the results of a provider's
    own tools stay between the text before them and the text after them.
    """

    def __init__(self, role: str, field: str, ignored: list[str], *, is_new: bool = False) -> None:
        self._role = role
        self._field = field
        self._ignored = ignored
        self._is_new = is_new
        self._begin()

    def _begin(self) -> None:
        self._parts = _Parts(self._ignored, strict=self._is_new, says_so=self._role != "assistant")
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []

    def _take(self) -> Iterator[Message]:
        parts, thoughts, calls = self._parts, self._thoughts, self._calls
        self._begin()
        if parts.texts or parts.images or thoughts or calls:
            yield Message(self._role, "\n".join(parts.texts), "\n".join(thoughts), parts.images, calls)

    def read(self, content: Any) -> Iterator[Message]:
        """Yield the canonical messages that the message consists of. Raises `FieldError`."""
        if isinstance(content, str):
            yield Message(self._role, content)
            return
        for index, block in enumerate(_list([] if content is None else content, self._field)):
            where = f"{self._field}[{index}]"
            kind = _kind(block)
            if kind.endswith("tool_result"):
                if self._role != "user":
                    yield from self._take()
                yield self._result(block, where)
            elif kind in _CALLS:
                self._calls.append(_call(block, where))
            elif kind == "thinking":
                self._thoughts.append(_text(block, "thinking", where))
            else:
                self._parts.read(block, where)
        yield from self._take()

    def _result(self, block: Json, field: str) -> Message:
        """Return the message for a tool result. Raises `FieldError`.

        No block in a result is refused for its type, so that the client's agent can go on.
        """
        parts = _Parts(self._ignored)
        parts.read_content(block.get("content"), f"{field}.content")
        text = "\n".join(parts.texts)
        if block.get("is_error") is True:
            text = f"Error: {text}"
        return Message("tool", text, images=parts.images, tool_call_id=_text(block, "tool_use_id", field))


class _Parts:
    """Collects texts and images from blocks.

    With `strict`, an unreadable block is refused. Otherwise it is left out, and with `says_so` a note
    replaces it.
    """

    def __init__(self, ignored: list[str], *, strict: bool = False, says_so: bool = True) -> None:
        self.texts: list[str] = []
        self.images: list[Image] = []
        self._ignored = ignored
        self._strict = strict
        self._says_so = says_so

    def read_content(self, content: Any, field: str) -> None:
        """Read the content of a block: a text, blocks, or one block. Raises `FieldError`."""
        if isinstance(content, str):
            self.texts.append(content)
        elif isinstance(content, dict):
            self.read(content, field)
        elif content is not None:
            for index, block in enumerate(_list(content, field)):
                self.read(block, f"{field}[{index}]")

    def read(self, block: Json, field: str) -> None:
        """Read a block of any kind. Raises `FieldError`, if `strict`."""
        kind = _kind(block)
        try:
            if (reader := _READERS.get(kind)) is not None:
                reader(self, block, field)
            elif not self._read_fields(block, field):
                self._leave_out(kind, f"content of the type {kind!r}")
        except FieldError:
            if self._strict:
                raise
            self._leave_out(kind, f"content of the type {kind!r}")

    def _leave_out(self, kind: str, words: str) -> None:
        self._ignored.append(f"content.{kind[:60]}")
        if self._says_so:
            self.texts.append(f"[{words} was left out: this model cannot read it]")

    def _read_text(self, block: Json, field: str) -> None:
        self.texts.append(_text(block, "text", field))

    def _read_image(self, block: Json, field: str) -> None:
        source = _object(block.get("source"), f"{field}.source")
        match source.get("type"):
            case "base64":
                data, mime = (_text(source, name, f"{field}.source") for name in ("data", "media_type"))
                image = Image(mime, data) if mime else images.from_base64(data, f"{field}.source.data")
                self.images.append(image)
            case "url":
                url = _text(source, "url", f"{field}.source")
                self.images.append(images.from_url(url, f"{field}.source.url"))
            case kind:
                self._cannot_read("image", f"an image by {kind}", field)

    def _read_document(self, block: Json, field: str) -> None:
        source = _object(block.get("source"), f"{field}.source")
        title = _text(block, "title", field)
        kind = source.get("type")
        if (citations := block.get("citations")) and citations != {"enabled": False}:
            self._ignored.append("document.citations")
        if kind not in ("text", "content"):
            name = f" {title!r}" if title else ""
            self._cannot_read("document", f"a document{name} by {source.get('media_type') or kind}", field)
            return
        self.texts.append(_tag("document", title=title))
        if context := _text(block, "context", field):
            self.texts.append(context)
        name = "data" if kind == "text" else "content"
        self.read_content(source.get(name), f"{field}.source.{name}")
        self.texts.append("</document>")

    def _cannot_read(self, kind: str, words: str, field: str) -> None:
        if self._strict:
            raise FieldError(field, f"{words} cannot be read by this model; send text, or images as base64")
        self._leave_out(kind, words)

    def _read_search_result(self, block: Json, field: str) -> None:
        title, source = _text(block, "title", field), _text(block, "source", field)
        self.texts.append(_tag("search_result", title=title, source=source))
        self.read_content(block.get("content"), f"{field}.content")
        self.texts.append("</search_result>")

    def _read_fields(self, block: Json, field: str) -> bool:
        """Read all text in a block of an unknown type; return whether there was a text or an image."""
        before = len(self.texts) + len(self.images)
        for name, value in block.items():
            for part in value if isinstance(value, list) else [value]:
                if name in _NOT_TEXT or part in ("", None):
                    continue
                if isinstance(part, dict):
                    reads = self.read if _kind(part) in _READERS else self._read_fields
                    reads(part, f"{field}.{name}")
                elif not isinstance(part, bool | list):
                    self.texts.append(str(part) if name in _BARE else f"{name}: {part}")
        return len(self.texts) + len(self.images) > before


_READERS: dict[str, Callable[[_Parts, Json, str], None]] = {
    "text": _Parts._read_text,
    "image": _Parts._read_image,
    "document": _Parts._read_document,
    "search_result": _Parts._read_search_result,
}


def _call(block: Json, field: str) -> ToolCall:
    given = block.get("input") or {}
    if isinstance(given, dict):
        arguments = encode(given).decode()
    else:  # from a model that did not write a JSON object
        arguments = (object_text(given) if isinstance(given, str) else None) or encode(
            {"input": given}
        ).decode()
    return ToolCall(_text(block, "id", field), _text(block, "name", field), arguments)


def _tag(name: str, **attributes: str) -> str:
    return f"<{' '.join([name, *(f'{key}={value!r}' for key, value in attributes.items() if value)])}>"


def _kind(block: Json) -> str:
    kind = block.get("type")
    return kind if isinstance(kind, str) else ""


def _text(block: Json, name: str, field: str) -> str:
    """Return a text field, "" if it is absent. Raises `FieldError`."""
    value = block.get(name)
    if value is not None and not isinstance(value, str):
        raise FieldError(f"{field}.{name}", "must be a text")
    return value or ""


def _object(value: Any, field: str) -> Json:
    if not isinstance(value, dict):
        raise FieldError(field, "is missing" if value is None else "must be an object")
    return value


def _list(value: Any, field: str) -> list[Json]:
    """Return the value, if it is a list of objects. Raises `FieldError`."""
    if not isinstance(value, list):
        raise FieldError(field, "must be a text or a list of blocks")
    for index, item in enumerate(value):
        _object(item, f"{field}[{index}]")
    return value
