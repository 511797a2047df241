"""What is checked of a chat's body before a model is loaded, and what llama.cpp takes only in another form.

Texts and images are not decoded for that: of a value that may be large, its first byte says what it is.
"""

from typing import Any

import msgspec

from agents.chat import NamedTool
from proxy.apis.fields import FieldError, Json, call_arguments, decode, decode_part, encode
from proxy.apis.openai import tool_choice
from proxy.apis.requests import GenerationRequest, Number, check_limit

Raw = msgspec.Raw
_ABSENT = Raw(b"")

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_PARTS = {
    "text": "text",
    "refusal": "refusal",
    "image_url": "image_url",
    "input_audio": "input_audio",
    "video_url": "video_url",
    "input_video": "input_video",
}
"""The types of parts that llama.cpp's models may take, and the field that each must have."""


class _Called(msgspec.Struct):
    name: str
    arguments: Raw = _ABSENT


class _Call(msgspec.Struct):
    function: _Called | None = None
    type: str = "function"


class _Message(msgspec.Struct):
    role: str
    content: Raw = _ABSENT
    refusal: Raw = _ABSENT
    tool_calls: list[_Call] | None = None


class _Part(msgspec.Struct, kw_only=True):
    type: str
    text: Raw = _ABSENT
    refusal: Raw = _ABSENT
    image_url: Raw = _ABSENT
    input_audio: Raw = _ABSENT
    video_url: Raw = _ABSENT
    input_video: Raw = _ABSENT


class _Function(msgspec.Struct):
    name: str
    parameters: Raw = _ABSENT


class _Tool(msgspec.Struct):
    function: _Function | None = None
    type: str = "function"


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
    def is_never_streamed(self) -> bool:
        """llama.cpp gives no probabilities in the stream of a chat with tools."""
        return bool(self.logprobs and self.tools and not self.stream)

    def check(self) -> None:
        """Raise `FieldError` for what no model server can take, or would refuse in words of its own."""
        super().check()
        if not self.messages:
            raise FieldError("messages", "is empty", "empty_array")
        has_called = False
        for index, message in enumerate(self.messages):
            if message.role not in ROLES:
                problem = f"{message.role[:100]!r} is none of {', '.join(ROLES)}"
                raise FieldError(f"messages[{index}].role", problem)
            if _kind(message.content) != "text":
                _check_content(message, index)
            if message.tool_calls:
                has_called = True
                _check_calls(message.tool_calls, f"messages[{index}].tool_calls")
            elif message.role == "tool" and not has_called:
                raise FieldError(f"messages[{index}].role", "a tool's result must follow a call of it")
        for index, tool in enumerate(self.tools or ()):
            _check_tool(tool, f"tools[{index}]")
        if self.tool_choice is not None:
            tool_choice.read(self.tool_choice, self._tool_names())
        check_limit("max_completion_tokens", self.max_completion_tokens)
        if self.top_logprobs is not None and self.top_logprobs < 0:
            raise FieldError("top_logprobs", "must not be negative", "integer_below_min_value")
        if self.response_format is not None:
            _check_format(self.response_format)
        if self.modalities is not None and "text" not in self.modalities:
            raise FieldError("modalities", "models answer in text alone", "unsupported_value")

    def _tool_names(self) -> list[str]:
        return [tool.function.name for tool in self.tools or () if tool.function is not None]

    def corrections(self, body: bytes) -> dict[str, bytes]:
        """The fields that llama.cpp refuses or mistakes as they are, as it takes them."""
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
        return fields

    def _chosen_tools(self, body: bytes) -> dict[str, bytes]:
        """The tools that may be called alone: llama.cpp shows all, and reads no name in `tool_choice`."""
        choice = tool_choice.read(self.tool_choice, self._tool_names())
        if choice.mode == "none":
            return {"tools": b"[]", "tool_choice": b'"auto"'}
        tools = decode(decode(body, dict[str, Raw])["tools"], list[Raw])
        allowed = choice.allowed or frozenset()
        kept = [
            one
            for tool, one in zip(self.tools or (), tools, strict=True)
            if tool.function is not None and tool.function.name in allowed
        ]
        if isinstance(choice.mode, NamedTool):
            return {"tools": encode(kept), "tool_choice": b'"required"', "parallel_tool_calls": b"false"}
        return {"tools": encode(kept), "tool_choice": encode(choice.mode)}

    def field_of(self, code: str | None) -> str | None:
        """The field that an error with this code is about, where the model server does not say it."""
        if code == "invalid_json_schema":
            return "tools" if self.tools else "response_format"
        return super().field_of(code)


def _kind(value: Raw) -> str:
    """What JSON a value is, by its first byte."""
    first = bytes(memoryview(value)[:1])
    return _KINDS.get(first, "number")


_KINDS = {
    b"": "nothing",
    b'"': "text",
    b"[": "list",
    b"{": "object",
    b"n": "null",
    b"t": "bool",
    b"f": "bool",
}


def _check_content(message: _Message, index: int) -> None:
    """The content of a message, which is no text."""
    field = f"messages[{index}].content"
    kind = _kind(message.content)
    if kind == "list":
        for number, part in enumerate(decode_part(message.content, list[_Part], field)):
            _check_part(part, f"{field}[{number}]")
    elif kind not in ("null", "nothing"):
        raise FieldError(field, f"must be a text or a list of parts, not a {kind}", "invalid_type")
    elif message.role not in ("assistant", "function"):
        if kind == "nothing":
            raise FieldError(field, "is missing", "missing_required_parameter")
        raise FieldError(field, "must be a text or a list of parts, not null", "invalid_type")


def _check_part(part: _Part, field: str) -> None:
    needed = _PARTS.get(part.type)
    if needed is None:
        raise FieldError(f"{field}.type", f"{part.type[:100]!r} is none of {', '.join(_PARTS)}")
    kind = _kind(getattr(part, needed))
    if kind == "nothing":
        raise FieldError(f"{field}.{needed}", "is missing", "missing_required_parameter")
    if kind != "text" and (part.type in ("text", "refusal") or kind != "object"):
        wanted = "a text" if part.type in ("text", "refusal") else "an object"
        raise FieldError(f"{field}.{needed}", f"must be {wanted}, not a {kind}", "invalid_type")


def _check_calls(calls: list[_Call], field: str) -> None:
    for number, call in enumerate(calls):
        where = f"{field}[{number}]"
        if call.type != "function":
            raise FieldError(f"{where}.type", f"{call.type[:100]!r} is not function", "unsupported_value")
        if call.function is None:
            raise FieldError(f"{where}.function", "is missing", "missing_required_parameter")
        kind = _kind(call.function.arguments)
        if kind == "text":
            call_arguments(decode(call.function.arguments, str), where)
        elif kind not in ("object", "null", "nothing"):
            problem = f"must be the text of a JSON object, not a {kind}"
            raise FieldError(f"{where}.function.arguments", problem, "invalid_type")


def _check_tool(tool: _Tool, field: str) -> None:
    if tool.type != "function":
        problem = f"{tool.type[:100]!r} is not supported, only functions are"
        raise FieldError(f"{field}.type", problem, "unsupported_value")
    if tool.function is None:
        raise FieldError(f"{field}.function", "is missing", "missing_required_parameter")
    if not tool.function.name:
        raise FieldError(f"{field}.function.name", "is empty", "empty_string")
    if _kind(tool.function.parameters) not in ("object", "null", "nothing"):
        problem = "must be a JSON schema, which is an object"
        raise FieldError(f"{field}.function.parameters", problem, "invalid_function_parameters")


def _check_format(wire: _Format) -> None:
    known = ("text", "json_object", "json_schema")
    if wire.type not in known:
        raise FieldError("response_format.type", f"{wire.type[:100]!r} is none of {', '.join(known)}")
    if wire.type == "json_schema" and wire.json_schema is None:
        raise FieldError("response_format.json_schema", "is missing", "missing_required_parameter")


def _needs_correction(message: _Message) -> bool:
    if message.tool_calls and any(_is_blank(call) for call in message.tool_calls):
        return True
    if message.role != "assistant":
        return False
    kind = _kind(message.content)
    if kind in ("null", "nothing"):
        return _kind(message.refusal) == "text"
    return kind == "list" and b'"refusal"' in bytes(message.content)


def _is_blank(call: _Call) -> bool:
    """Whether arguments are missing, which llama.cpp does not take for none."""
    if call.function is None:
        return False
    arguments = bytes(call.function.arguments)
    return arguments in (b"", b"null") or (arguments.startswith(b'"') and not decode(arguments, str).strip())


def _corrected(raw: Raw) -> Json:
    """A message of the history: calls without arguments have `{}`, and a refusal is a text."""
    message = decode(raw, Json)
    for call in message.get("tool_calls") or ():
        function: dict[str, Any] = call["function"]
        if not str(function.get("arguments") or "").strip():
            function["arguments"] = "{}"
    content = message.get("content")
    if content is None and message.get("refusal"):
        message["content"] = message["refusal"]
    elif isinstance(content, list):
        message["content"] = [
            {"type": "text", "text": part["refusal"]} if part["type"] == "refusal" else part
            for part in content
        ]
    return message
