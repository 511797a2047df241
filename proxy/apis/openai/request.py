"""Reads OpenAI's chat requests."""

from typing import Any, Literal

import msgspec

from agents.chat import (
    Chat,
    Image,
    Message,
    Tool,
    ToolCall,
    linked,
)
from proxy.apis import images
from proxy.apis.durations import keep_alive
from proxy.apis.fields import FieldError, Json, decode, encode, unknown
from proxy.apis.openai import tool_choice
from proxy.apis.sampling import Number, SamplingFields, sampling_of, thinking


class _ImageUrl(msgspec.Struct):
    url: str


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: _ImageUrl | str | None = None


class _CalledFunction(msgspec.Struct):
    name: str
    arguments: str | Json | None = ""


class _Call(msgspec.Struct):
    function: _CalledFunction
    id: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _CalledFunction | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct):
    function: _Function
    type: Literal["function"] = "function"


class _Schema(msgspec.Struct):
    schema: Json | None = None


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None
    schema: Json | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Effort(msgspec.Struct):
    effort: str | None = None


class _TemplateArguments(msgspec.Struct):
    enable_thinking: bool | None = None


class _Body(SamplingFields, kw_only=True):
    model: str
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Number = None
    max_tokens: Number = None
    max_completion_tokens: Number = None
    tools: list[_Tool] | None = None
    tool_choice: str | Json | None = None
    modalities: list[str] | None = None
    response_format: _Format | None = None
    reasoning_effort: str | None = None
    reasoning: _Effort | None = None
    chat_template_kwargs: _TemplateArguments | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    keep_alive: Any = None


def decode_request(body: bytes) -> Chat:
    """Read a body of `/v1/chat/completions`. Raises `FieldError`."""
    wire = decode(body, _Body)
    if wire.n is not None and wire.n != 1:
        raise FieldError("n", "only one choice is supported for this model", "unsupported_value")
    choice = tool_choice.read(wire.tool_choice, [tool.function.name for tool in wire.tools or []])
    extra = unknown(body, _Body)
    if wire.chat_template_kwargs is not None:
        given = decode(body, dict[str, msgspec.Raw])["chat_template_kwargs"]
        extra["chat_template_kwargs"] = decode(given, Json)
    limit = "max_tokens" if wire.max_completion_tokens is None else "max_completion_tokens"
    return Chat(
        model=wire.model,
        messages=linked([_message(message, f"messages[{i}]") for i, message in enumerate(wire.messages)]),
        tools=[
            Tool(
                tool.function.name,
                tool.function.description or "",
                tool.function.parameters,
                tool.function.strict,
            )
            for tool in wire.tools or []
            if choice.allowed is None or tool.function.name in choice.allowed
        ],
        tool_choice=choice.mode,
        think=_think(wire),
        format=_format(wire.response_format),
        sampling=sampling_of(wire, getattr(wire, limit), limit),
        stream=bool(wire.stream),
        include_usage=bool(wire.stream_options and wire.stream_options.include_usage),
        logprobs=bool(wire.logprobs),
        top_logprobs=wire.top_logprobs or 0,
        keep_alive=keep_alive(wire.keep_alive),
        extra=extra,
    )


def _message(wire: _Message, field: str) -> Message:
    text, pictures = _content(wire.content, field)
    calls = [
        ToolCall(call.id, call.function.name, _arguments(call.function.arguments))
        for call in wire.tool_calls or []
    ]
    if (older := wire.function_call) is not None:
        calls.append(ToolCall("", older.name, _arguments(older.arguments)))
    result = wire.role in ("tool", "function")
    return Message(
        {"developer": "system", "function": "tool"}.get(wire.role, wire.role),
        text or wire.refusal or "",
        wire.reasoning_content or wire.reasoning or "",
        pictures,
        calls,
        wire.tool_call_id or "",
        (wire.name or "") if result else "",
    )


def _content(content: str | list[_Part] | None, field: str) -> tuple[str, list[Image]]:
    if not isinstance(content, list):
        return content or "", []
    texts: list[str] = []
    pictures: list[Image] = []
    for index, part in enumerate(content):
        where = f"{field}.content[{index}]"
        if part.type == "text":
            texts.append(part.text)
        elif part.type == "refusal":
            texts.append(part.refusal)
        elif part.type == "image_url" and part.image_url is not None:
            url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
            pictures.append(images.from_url(url, f"{where}.image_url"))
        else:
            raise FieldError(
                f"{where}.type", f"{part.type[:100]!r} is not supported for this model", "unsupported_value"
            )
    return "\n".join(texts), pictures


def _arguments(arguments: str | Json | None) -> str:
    return arguments if isinstance(arguments, str) else encode(arguments or {}).decode()


def _format(wire: _Format | None) -> Literal["json"] | Json | None:
    if wire is None or wire.type == "text":
        return None
    if wire.type == "json_schema":
        if wire.json_schema is None:
            raise FieldError("response_format.json_schema", "is missing")
        return wire.json_schema.schema or {}
    return "json" if wire.schema is None else wire.schema


def _think(wire: _Body) -> bool | str | None:
    effort = wire.reasoning_effort or (wire.reasoning.effort if wire.reasoning else None)
    if effort:
        return thinking(effort)
    return wire.chat_template_kwargs.enable_thinking if wire.chat_template_kwargs else None
