"""Anthropic's `/v1/messages` request, read from a client."""

from typing import Literal

import msgspec

from agents.chat import Chat, Image, Message, NamedTool, Sampling, Tool, ToolCall, linked
from proxy.apis import images
from proxy.apis.durations import keep_alive
from proxy.apis.fields import FieldError, Json, decode, encode, unknown
from proxy.apis.sampling import Number, SamplingFields, sampling_of


class _Source(msgspec.Struct):
    type: Literal["base64", "url"]
    media_type: str = ""
    data: str = ""
    url: str = ""


class _ResultBlock(msgspec.Struct):
    type: str
    text: str = ""
    source: _Source | None = None


class _Block(_ResultBlock):
    """A block of any type, with all their fields. The signature of `thinking` is dropped."""

    thinking: str = ""
    id: str = ""
    name: str = ""
    input: Json | None = None
    tool_use_id: str = ""
    content: str | list[_ResultBlock] | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Block]


class _Tool(msgspec.Struct):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: Json | None = None


class _ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class _Thinking(msgspec.Struct):
    type: str
    budget_tokens: int | None = None


class _Output(msgspec.Struct):
    effort: str | None = None


class _Body(msgspec.Struct, kw_only=True):
    model: str
    messages: list[_Message]
    max_tokens: Number = None
    system: str | list[_ResultBlock] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Number = None
    stop_sequences: list[str] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    output_config: _Output | None = None
    keep_alive: str | int | float | None = None


_CHOICES: dict[str, Literal["auto", "none", "required"]] = {"auto": "auto", "none": "none", "any": "required"}
_THINK: dict[str, bool | str] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}


def decode_request(body: bytes) -> Chat:
    """Read a body of `/v1/messages`. Raises `FieldError`.

    A budget of thinking goes on as llama.cpp's `thinking_budget_tokens`.
    """
    wire = decode(body, _Body)
    messages = [Message("system", text)] if (text := _system(wire)) else []
    for index, message in enumerate(wire.messages):
        messages += _messages(message, f"messages[{index}]")
    extra = unknown(body, _Body)
    if wire.thinking is not None and wire.thinking.budget_tokens is not None:
        extra["thinking_budget_tokens"] = wire.thinking.budget_tokens
    if wire.tool_choice is not None and wire.tool_choice.disable_parallel_tool_use is not None:
        extra["parallel_tool_calls"] = not wire.tool_choice.disable_parallel_tool_use
    return Chat(
        model=wire.model,
        messages=linked(messages),
        tools=[_tool(tool, f"tools[{i}]") for i, tool in enumerate(wire.tools or [])],
        tool_choice=_tool_choice(wire.tool_choice),
        think=_think(wire),
        sampling=_sampling(wire),
        stream=bool(wire.stream),
        include_usage=True,
        keep_alive=keep_alive(wire.keep_alive),
        extra=extra,
    )


def _sampling(wire: _Body) -> Sampling:
    fields = SamplingFields(
        temperature=wire.temperature, top_p=wire.top_p, top_k=wire.top_k, stop=wire.stop_sequences
    )
    return sampling_of(fields, wire.max_tokens, "max_tokens")


def _system(wire: _Body) -> str:
    if not isinstance(wire.system, list):
        return wire.system or ""
    return "\n".join(block.text for block in wire.system)


def _messages(wire: _Message, field: str) -> list[Message]:
    """The results of tools in a message, each a message of its own, and the rest of it."""
    if isinstance(wire.content, str):
        return [Message(wire.role, wire.content)]
    results: list[Message] = []
    texts: list[str] = []
    thoughts: list[str] = []
    pictures: list[Image] = []
    calls: list[ToolCall] = []
    for index, block in enumerate(wire.content):
        where = f"{field}.content[{index}]"
        match block.type:
            case "text":
                texts.append(block.text)
            case "thinking":
                thoughts.append(block.thinking)
            case "redacted_thinking":
                pass  # only Anthropic can read it
            case "image":
                pictures.append(_image(block.source, f"{where}.source"))
            case "tool_use":
                calls.append(ToolCall(block.id, block.name, encode(block.input or {}).decode()))
            case "tool_result":
                results.append(_result(block, where))
            case _:
                raise FieldError(f"{where}.type", f"{block.type!r} is not supported for this model")
    if not (texts or thoughts or pictures or calls):
        return results
    rest = Message(wire.role, "\n".join(texts), "\n".join(thoughts), pictures, calls)
    return [*results, rest]


def _result(block: _Block, field: str) -> Message:
    texts: list[str] = []
    pictures: list[Image] = []
    if isinstance(block.content, str):
        texts.append(block.content)
    else:
        for index, part in enumerate(block.content or []):
            where = f"{field}.content[{index}]"
            if part.type == "text":
                texts.append(part.text)
            elif part.type == "image":
                pictures.append(_image(part.source, f"{where}.source"))
            else:
                raise FieldError(f"{where}.type", f"{part.type!r} is not supported for this model")
    return Message("tool", "\n".join(texts), images=pictures, tool_call_id=block.tool_use_id)


def _image(source: _Source | None, field: str) -> Image:
    if source is None:
        raise FieldError(field, "is missing")
    if source.type == "url":
        return images.from_url(source.url, f"{field}.url")
    return (
        Image(source.media_type, source.data) if source.media_type else images.from_base64(source.data, field)
    )


def _tool(wire: _Tool, field: str) -> Tool:
    if wire.type not in (None, "custom"):
        raise FieldError(f"{field}.type", f"{wire.type!r} is not supported for this model")
    return Tool(wire.name, wire.description or "", wire.input_schema)


def _tool_choice(wire: _ToolChoice | None) -> Literal["auto", "none", "required"] | NamedTool | None:
    if wire is None:
        return None
    return NamedTool(wire.name) if wire.type == "tool" else _CHOICES[wire.type]


def _think(wire: _Body) -> bool | str | None:
    if wire.thinking is not None and wire.thinking.type == "disabled":
        return False
    if wire.output_config is not None and wire.output_config.effort in _THINK:
        return _THINK[wire.output_config.effort]
    return True if wire.thinking is not None and wire.thinking.type == "enabled" else None
