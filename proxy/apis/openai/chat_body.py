"""Checks a chat's body before a model is loaded, and corrects the fields that llama.cpp misreads."""

from collections.abc import Container
from typing import Any

import msgspec

from actors.scheduler.loading import MARK, without_lines
from agents.chat import NamedTool
from proxy.apis.fields import FieldError, Json, check_arguments, decode, encode
from proxy.apis.openai import tool_choice
from proxy.apis.requests import GenerationRequest, Number, check_limit

Raw = msgspec.Raw
Unset = msgspec.UnsetType
UNSET = msgspec.UNSET
_FUNCTION = ("function", UNSET)

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_PARTS = {
    "text": "text",
    "refusal": "refusal",
    "image_url": "image_url",
    "input_audio": "input_audio",
    "video_url": "video_url",
    "input_video": "input_video",
}
"""The types of content parts that llama.cpp accepts, and the required field of each."""


class _Called(msgspec.Struct):
    name: str
    arguments: str | dict[str, Raw] | None = None


class _Call(msgspec.Struct):
    function: _Called | None = None
    type: str | Unset = UNSET


class _Part(msgspec.Struct, kw_only=True):
    """A part of a message's content. Its media are not decoded, because they may be large."""

    type: str
    text: str | Unset = UNSET
    refusal: str | Unset = UNSET
    image_url: Raw | Unset = UNSET
    input_audio: Raw | Unset = UNSET
    video_url: Raw | Unset = UNSET
    input_video: Raw | Unset = UNSET


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | Unset | None = UNSET
    refusal: str | None = None
    reasoning_content: str | Unset | None = UNSET
    tool_calls: list[_Call] | None = None
    function_call: _Called | None = None
    """The older form of a tool call."""


class _Function(msgspec.Struct):
    name: str
    description: str | Unset | None = UNSET
    parameters: dict[str, Raw] | None = None


class _Tool(msgspec.Struct):
    function: _Function | None = None
    type: str | Unset = UNSET


class _Schema(msgspec.Struct):
    schema: Json | None = None


class _Format(msgspec.Struct):
    type: str
    json_schema: _Schema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ChatRequest(GenerationRequest, kw_only=True):
    """`/v1/chat/completions`."""

    prompt_field = "messages"
    unheard = frozenset(
        [
            "audio",
            "function_call",
            "functions",
            "metadata",
            "prediction",
            "prompt_cache_key",
            "prompt_cache_retention",
            "safety_identifier",
            "service_tier",
            "store",
            "user",
            "verbosity",
            "web_search_options",
        ]
    )

    messages: list[_Message]
    max_completion_tokens: Number = None
    presence_penalty: Number = None
    frequency_penalty: Number = None
    tools: list[_Tool] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format | None = None
    stream_options: _StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    modalities: list[str] | None = None
    reasoning_effort: str | None = None

    @property
    def needs_translation(self) -> bool:
        """Whether a message has a call of the older form or its result, or a request has tools and a format.

        llama.cpp does not know the older form, and calls no tool where there is a format.
        """
        has_format = self.response_format is not None and self.response_format.type != "text"
        if self.tools and has_format and self.answers == 1:
            return True
        return any(
            message.function_call is not None or message.role == "function" for message in self.messages
        )

    @property
    def may_have_progress(self) -> bool:
        """Whether at most one answer is streamed.

        With several answers, progress of the second arrives after the first one's first event.
        """
        return not self.stream or self.answers <= 1

    @property
    def answer_limit(self) -> float | None:
        """`max_completion_tokens`, or the older `max_tokens`."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def is_never_streamed(self) -> bool:
        """Whether the request has tools, and is for a whole answer with log probabilities.

        llama.cpp omits log probabilities from the stream of a chat with tools.
        """
        return bool(self.logprobs and self.tools and not self.stream)

    def check(self) -> None:
        """Raise `FieldError` for values that model servers do not accept, or refuse in their own words."""
        super().check()
        self._check_messages()
        for index, tool in enumerate(self.tools or ()):
            if tool.type not in _FUNCTION or tool.function is None or not tool.function.name:
                raise _fault_of_tool(tool, f"tools[{index}]")
        if self.tool_choice is not None:
            tool_choice.read(self.tool_choice, self._tool_names())
        check_limit("max_completion_tokens", self.max_completion_tokens)
        if self.top_logprobs is not None and self.top_logprobs < 0:
            raise FieldError("top_logprobs", "must not be negative", "integer_below_min_value")
        if self.response_format is not None:
            _check_format(self.response_format)
        if self.modalities is not None and "text" not in self.modalities:
            raise FieldError("modalities", "models answer in text alone", "unsupported_value")

    def _check_messages(self) -> None:
        if not self.messages:
            raise FieldError("messages", "is empty", "empty_array")
        has_called = False
        for index, message in enumerate(self.messages):
            if message.role not in ROLES:
                problem = f"{message.role[:100]!r} is none of {', '.join(ROLES)}"
                raise FieldError(f"messages[{index}].role", problem)
            if not isinstance(message.content, str):
                _check_content(message, index)
            if message.tool_calls:
                has_called = True
                _check_calls(message.tool_calls, index)
            elif message.role == "tool" and not has_called:
                raise FieldError(f"messages[{index}].role", "a tool's result must follow a call of it")

    def _tool_names(self) -> list[str]:
        return [tool.function.name for tool in self.tools or () if tool.function is not None]

    def corrections(self, body: bytes) -> dict[str, bytes]:
        """Return corrected values for the fields that llama.cpp would refuse or misread."""
        fields: dict[str, bytes] = {}
        if any(_needs_correction(message) for message in self.messages):
            raw = decode(body, dict[str, Raw])["messages"]
            fields["messages"] = encode(
                [
                    _corrected(one) if _needs_correction(message) else one
                    for message, one in zip(self.messages, decode(raw, list[Raw]), strict=True)
                ]
            )
        if self.tool_choice is not None and self.tool_choice not in ("auto", "required"):
            fields |= self._chosen_tools(body)
        elif any(map(_is_odd, self.tools or ())):
            fields["tools"] = self._written_tools(body, None)
        return fields

    def _chosen_tools(self, body: bytes) -> dict[str, bytes]:
        """Return `tools` with only the tools that may be called, and a `tool_choice` without a name.

        llama.cpp shows the model all `tools`, and does not read a name in `tool_choice`.
        """
        choice = tool_choice.read(self.tool_choice, self._tool_names())
        if choice.mode == "none":
            return {"tools": b"[]", "tool_choice": b'"auto"'}
        tools = self._written_tools(body, choice.allowed)
        if isinstance(choice.mode, NamedTool):
            return {"tools": tools, "tool_choice": b'"required"', "parallel_tool_calls": b"false"}
        return {"tools": tools, "tool_choice": encode(choice.mode)}

    def _written_tools(self, body: bytes, allowed: Container[str] | None) -> bytes:
        """Return the tools whose names are in `allowed`, as llama.cpp accepts them; None: all tools."""
        given = decode(decode(body, dict[str, Raw])["tools"], list[Raw])
        return encode(
            [
                _corrected_tool(one) if _is_odd(tool) else one
                for tool, one in zip(self.tools or (), given, strict=True)
                if allowed is None or (tool.function is not None and tool.function.name in allowed)
            ]
        )

    def field_of(self, code: str | None) -> str | None:
        """Return the field that caused an error with this code, for errors that name no field."""
        if code == "invalid_json_schema":
            return "tools" if self.tools else "response_format"
        return super().field_of(code)


def _check_content(message: _Message, index: int) -> None:
    """Check a message's content that is not a plain text. Raises `FieldError`."""
    field = f"messages[{index}].content"
    if isinstance(message.content, list):
        for number, part in enumerate(message.content):
            _check_part(part, f"{field}[{number}]")
    elif message.role not in ("assistant", "function"):
        if message.content is UNSET:
            raise FieldError(field, "is missing")
        raise FieldError(field, "must be a text or a list of parts, not null", "invalid_type")


def _check_part(part: _Part, field: str) -> None:
    needed = _PARTS.get(part.type)
    if needed is None:
        raise FieldError(f"{field}.type", f"{part.type[:100]!r} is none of {', '.join(_PARTS)}")
    value = getattr(part, needed)
    if value is UNSET:
        raise FieldError(f"{field}.{needed}", "is missing")
    if isinstance(value, Raw) and bytes(memoryview(value)[:1]) not in (b"{", b'"'):
        raise FieldError(f"{field}.{needed}", "must be an object", "invalid_type")


def _check_calls(calls: list[_Call], index: int) -> None:
    for number, call in enumerate(calls):
        where = f"messages[{index}].tool_calls[{number}]"
        if call.type not in _FUNCTION:
            raise FieldError(f"{where}.type", f"{call.type[:100]!r} is not function", "unsupported_value")
        if call.function is None:
            raise FieldError(f"{where}.function", "is missing")
        if isinstance(call.function.arguments, str):
            check_arguments(call.function.arguments, where)


def _fault_of_tool(tool: _Tool, field: str) -> FieldError:
    if tool.type not in _FUNCTION:
        problem = f"{tool.type[:100]!r} is not supported, only functions are"
        return FieldError(f"{field}.type", problem, "unsupported_value")
    if tool.function is None:
        return FieldError(f"{field}.function", "is missing")
    return FieldError(f"{field}.function.name", "is empty", "empty_string")


def _check_format(wire: _Format) -> None:
    known = ("text", "json_object", "json_schema")
    if wire.type not in known:
        raise FieldError("response_format.type", f"{wire.type[:100]!r} is none of {', '.join(known)}")
    if wire.type == "json_schema" and wire.json_schema is None:
        raise FieldError("response_format.json_schema", "is missing")


def _needs_correction(message: _Message) -> bool:
    if message.tool_calls and any(map(_is_incomplete, message.tool_calls)):
        return True
    if message.role != "assistant":
        return False
    if isinstance(message.reasoning_content, str) and message.reasoning_content.startswith(MARK):
        return True
    if isinstance(message.content, str):
        return False
    if isinstance(message.content, list):
        return any(part.type == "refusal" for part in message.content)
    return bool(message.refusal) or (message.content is UNSET and not message.tool_calls)


def _is_incomplete(call: _Call) -> bool:
    """Whether a call lacks its type, function or arguments, which llama.cpp does not accept."""
    if call.function is None or call.type is UNSET:
        return True
    arguments = call.function.arguments
    return arguments is None or (isinstance(arguments, str) and not arguments.strip())


def _is_odd(tool: _Tool) -> bool:
    """Whether a tool has no type, or null as its description, which llama.cpp refuses."""
    return tool.type is UNSET or (tool.function is not None and tool.function.description is None)


def _corrected_tool(raw: Raw) -> Json:
    tool = decode(raw, Json)
    function = {name: value for name, value in tool["function"].items() if value is not None}
    return {**tool, "type": "function", "function": function}


def _corrected(raw: Raw) -> Json:
    """Return a message as llama.cpp accepts it.

    Calls without a type are functions, calls without arguments have `{}`, and a refusal becomes a text.
    """
    message = decode(raw, Json)
    for call in message.get("tool_calls") or ():
        call.setdefault("type", "function")
        function: dict[str, Any] = call["function"]
        if not str(function.get("arguments") or "").strip():
            function["arguments"] = "{}"
    if message.get("reasoning_content"):
        message["reasoning_content"] = without_lines(message["reasoning_content"])
    content = message.get("content")
    if content is None and not message.get("tool_calls"):
        message["content"] = message.get("refusal") or ""
    elif isinstance(content, list):
        message["content"] = [
            {"type": "text", "text": part["refusal"]} if part["type"] == "refusal" else part
            for part in content
        ]
    return message
