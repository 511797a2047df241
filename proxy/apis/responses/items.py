"""Reads the history of a request: the items of its `input`, as messages.

Items of other models and other providers never make a request fail. They are converted to something that any
model can read: calls of any tool become function calls, and their outputs become results.
"""

from typing import Any

from actors.scheduler.loading import without_lines
from agents.chat import Message, ToolCall, linked
from proxy.apis.fields import FieldError, Json, encode, object_text
from proxy.apis.responses.calls import arguments_of
from proxy.apis.responses.content import Content
from proxy.apis.responses.response import unsealed
from proxy.apis.responses.tools import ClientTool, Offer

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_RESULT_FIELDS = ("output", "outputs", "results", "result", "error")
_CALL_FIELDS = ("id", "type", "status", "call_id", "name", "namespace", "server_label", "caller")
_CLIENT_CALLS = {
    "function_call": "function",
    "custom_tool_call": "custom",
    "local_shell_call": "local_shell",
    "shell_call": "shell",
    "apply_patch_call": "apply_patch",
    "tool_search_call": "tool_search",
}
BLOB = 4096
"""Number of characters; a longer value without a space is taken for an image or encrypted data."""


def tools_in(items: list[Json]) -> list[Json]:
    """Return the tools that items define, in addition to the request's own `tools`."""
    bring = [
        item.get("tools") for item in items if item.get("type") in ("additional_tools", "tool_search_output")
    ]
    return [tool for tools in bring if isinstance(tools, list) for tool in tools if isinstance(tool, dict)]


class History:
    """Reads items into messages. `ignored` names the items and parts that no model here can read."""

    def __init__(self, offer: Offer) -> None:
        self.ignored: list[str] = []
        self._offer = offer
        self._messages: list[Message] = []
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._call_ids: dict[str, str] = {}
        """The id of each call, by its `call_id` and by its item's id: an output may refer to either."""

    def read(self, items: list[Json], field: str) -> None:
        """Read the items in a field of the request. Raises `FieldError`."""
        last_answer = max((i for i, item in enumerate(items) if _is_models(item)), default=-1)
        for index, item in enumerate(items):
            self._read_item(item, f"{field}[{index}]", is_new=index > last_answer)

    def messages(self) -> list[Message]:
        """Return all messages. System messages at the beginning are joined into one."""
        self._end_turn()
        count = next((i for i, one in enumerate(self._messages) if one.role != "system"), len(self._messages))
        if count > 1:
            text = "\n\n".join(one.text for one in self._messages[:count])
            pictures = [image for one in self._messages[:count] for image in one.images]
            self._messages[:count] = [Message("system", text, images=pictures)]
        return linked(self._messages)

    def add_system(self, text: str) -> None:
        """Add instructions as a system message."""
        self._messages.append(Message("system", text))

    def _read_item(self, item: Json, field: str, *, is_new: bool) -> None:
        kind = kind_of(item)
        if not isinstance(kind, str):
            raise FieldError(f"{field}.type", "must be a text")
        if kind == "reasoning":
            self._thoughts += [text for text in [_thought(item)] if text]
        elif kind.endswith("_output"):
            self._read_output(item, field, is_new=is_new)
        elif kind in _CLIENT_CALLS:
            self._read_call(
                item, ClientTool(_CLIENT_CALLS[kind], _tool_name(item), _str(item.get("namespace")))
            )
        elif kind == "message" or "content" in item:
            self._read_message(item, field, is_new=is_new)
        elif kind.endswith("_call") or "call_id" in item:
            self._read_foreign_call(item)
        elif kind != "additional_tools":
            self.ignored.append(f"{field} {kind}")

    def _read_message(self, item: Json, field: str, *, is_new: bool) -> None:
        role = item.get("role", "assistant" if kind_of(item) != "message" else None)
        if not isinstance(role, str) or not role:
            raise FieldError(f"{field}.role", "is missing")
        if role not in _ROLES:
            raise FieldError(f"{field}.role", f"{role[:100]!r} is none of {', '.join(_ROLES)}")
        if item.get("content") is None and role != "assistant":
            raise FieldError(f"{field}.content", "is missing")
        content = Content(self.ignored, refuses=is_new)
        content.read(item.get("content"), f"{field}.content")
        if role == "assistant":
            self._texts += [content.text] if content.text else []
            return
        self._end_turn()
        self._messages.append(Message(_ROLES[role], content.text, images=content.images))

    def _read_call(self, item: Json, tool: ClientTool) -> None:
        arguments = arguments_of(item) or "{}"
        if object_text(arguments) is None:
            arguments = encode({"input": arguments}).decode()
        self._add_call(item, self._offer.name_of(tool), arguments)

    def _read_foreign_call(self, item: Json) -> None:
        """Add the call of a tool that a provider ran, and its result if the item has one."""
        result = {name: item[name] for name in _RESULT_FIELDS if item.get(name) is not None}
        rest = {name: value for name, value in item.items() if name not in (*_CALL_FIELDS, *_RESULT_FIELDS)}
        given = item.get("arguments")
        arguments = object_text(given) if isinstance(given, str) else None
        call = self._add_call(item, _tool_name(item), arguments or encode(_readable(rest)).decode())
        if result or not item.get("call_id"):
            text = next(iter(result.values())) if len(result) == 1 else result
            text = text if isinstance(text, str) else encode(text or {"status": item.get("status")}).decode()
            self._end_turn()
            self._messages.append(Message("tool", _readable(text), tool_call_id=call))

    def _add_call(self, item: Json, name: str, arguments: str) -> str:
        known = _str(item.get("call_id")) or _str(item.get("id")) or f"call{len(self._call_ids):05d}"
        self._call_ids |= {known: known, _str(item.get("id")) or known: known}
        self._calls.append(ToolCall(known, name, arguments))
        return known

    def _read_output(self, item: Json, field: str, *, is_new: bool) -> None:
        content = Content(self.ignored, refuses=is_new)
        if item["type"] == "tool_search_output":
            names = [tool.get("name") or tool.get("type") for tool in tools_in([item])]
            content.read(encode({"tools": names}).decode(), field)
        else:
            content.read(item.get("output", item.get("result")), f"{field}.output")
        text = content.text
        if item.get("status") in ("failed", "incomplete"):
            text = f"{item['status']}\n{text}"
        given = _str(item.get("call_id")) or _str(item.get("id"))
        if not given and not self._call_ids:
            raise FieldError(f"{field}.call_id", "is missing, and there is no call that it could answer")
        if given and given not in self._call_ids:
            # Chat templates require a call for each result, and the client may have shortened its history.
            self._add_call({"call_id": given}, _tool_name(item), "{}")
        self._end_turn()
        self._messages.append(
            Message("tool", text, images=content.images, tool_call_id=self._call_ids.get(given, ""))
        )

    def _end_turn(self) -> None:
        """Add one assistant message for the model's items since the previous message."""
        if self._texts or self._thoughts or self._calls:
            self._messages.append(
                Message("assistant", "\n\n".join(self._texts), "\n\n".join(self._thoughts), [], self._calls)
            )
            self._texts, self._thoughts, self._calls = [], [], []


def kind_of(item: Json) -> Any:
    """Return the type of an item. Messages may omit it, and references, which have an id and no role."""
    kind = item.get("type")
    if kind is not None:
        return kind
    return "item_reference" if "role" not in item and "id" in item else "message"


def _is_models(item: Json) -> bool:
    """Whether a model wrote the item, so that no item before it is new."""
    kind = kind_of(item)
    if kind == "message":
        return item.get("role") == "assistant"
    return isinstance(kind, str) and not kind.endswith("_output")


def _tool_name(item: Json) -> str:
    """Return the name of an item's tool, or one derived from the item's type."""
    kind = str(item.get("type", "tool"))
    return _str(item.get("name")) or kind.removesuffix("_output").removesuffix("_call")


def _thought(item: Json) -> str:
    for parts in (item.get("content"), item.get("summary")):
        content = Content([], refuses=False)
        content.read(parts or None, "")
        if content.text:
            return without_lines(content.text)
    return without_lines(unsealed(item.get("encrypted_content")))


def _str(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _readable(value: Any) -> Any:
    """Return a value in which long strings without spaces, which no model can read, are replaced by "..."."""
    match value:
        case str() if len(value) > BLOB and " " not in value:
            return "..."
        case dict():
            return {name: _readable(one) for name, one in value.items()}
        case list():
            return [_readable(one) for one in value]
        case _:
            return value
