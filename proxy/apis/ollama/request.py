"""Reads Ollama's requests, `/api/chat` and `/api/generate`."""

from typing import Any, Literal

import msgspec

from agents.chat import (
    Chat,
    Completion,
    Image,
    Message,
    Sampling,
    Tool,
    ToolCall,
    linked,
)
from proxy.apis import images
from proxy.apis.durations import keep_alive
from proxy.apis.fields import FieldError, Json, decode, encode, unknown
from proxy.apis.ollama.context import read_context, turns_of
from proxy.apis.sampling import Number, SamplingFields, sampling_of


class _CalledFunction(msgspec.Struct):
    name: str
    arguments: dict[str, msgspec.Raw] | None = None


class _Call(msgspec.Struct):
    function: _CalledFunction
    id: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[_Call] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: Json | None = None


class _Tool(msgspec.Struct):
    function: _Function
    type: str = "function"


class _Options(SamplingFields, kw_only=True):
    num_predict: Number = None


class _Body(msgspec.Struct, kw_only=True):
    model: str
    stream: bool | None = None
    format: str | Json | None = None
    options: _Options | None = None
    keep_alive: Any = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class _ChatBody(_Body, kw_only=True):
    messages: list[_Message] | None = None
    tools: list[_Tool] | None = None


class _GenerateBody(_Body, kw_only=True):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None


_LEVELS = ("high", "medium", "low", "max")


def decode_chat(body: bytes) -> Chat:
    """Read a body of `/api/chat`. Raises `FieldError`."""
    wire = decode(body, _ChatBody)
    return Chat(
        messages=linked(
            [_message(message, f"messages[{i}]") for i, message in enumerate(wire.messages or [])]
        ),
        tools=[
            Tool(tool.function.name, tool.function.description or "", tool.function.parameters)
            for tool in wire.tools or []
        ],
        think=_think(wire.think),
        **_shared(wire, body),
    )


def decode_generate(body: bytes) -> Chat | Completion:
    """Read a body of `/api/generate`. Raises `FieldError`.

    With `raw`, or with a `suffix` that follows the answer, the request is a completion. Otherwise it is a
    chat of the system's message, the turns in `context`, and the user's message. Without a prompt, for which
    Ollama would only load the model, the chat has no messages. A daemon's `context` is ignored: its tokens
    mean nothing to another model server.
    """
    wire = decode(body, _GenerateBody)
    shared = _shared(wire, body)
    prompt = wire.prompt or ""
    if wire.raw and (wire.template or wire.system or wire.context):
        raise FieldError(None, "raw mode does not support template, system, or context")
    if wire.template:
        raise FieldError("template", "is not supported for this model; send the whole prompt with raw")
    if wire.raw or wire.suffix:
        if wire.images:
            raise FieldError("images", "are not supported with raw or suffix for this model")
        return Completion(prompt=prompt, suffix=wire.suffix or "", **shared)
    before = read_context(wire.context or [])
    messages: list[Message] = []
    if prompt:
        if wire.system:
            messages.append(Message("system", wire.system))
        messages += before or []
        messages.append(Message("user", prompt, images=_images(wire.images, "images")))
    return Chat(
        messages=messages,
        think=_think(wire.think),
        ignored=["context"] if wire.context and before is None else [],
        echo={"turns": turns_of(messages)},
        **shared,
    )


def _shared(wire: _Body, body: bytes) -> dict[str, Any]:
    """Return the fields of a `Request`. Unknown options and unknown fields go into `extra`.

    Raises `FieldError`.
    """
    top_logprobs = wire.top_logprobs or 0
    if not 0 <= top_logprobs <= 20:
        raise FieldError("top_logprobs", "must be between 0 and 20")
    extra = {"truncate": True, **unknown(body, type(wire))}  # Ollama's default
    sampling = Sampling()
    if (options := wire.options) is not None:
        given = decode(body, dict[str, msgspec.Raw])["options"]
        extra |= unknown(given, _Options)
        sampling = sampling_of(options, options.num_predict, "num_predict", "options.")
    return {
        "model": wire.model,
        "sampling": sampling,
        "format": _format(wire.format),
        "stream": wire.stream is not False,
        "logprobs": bool(wire.logprobs),
        "top_logprobs": top_logprobs,
        "keep_alive": keep_alive(wire.keep_alive),
        "extra": extra,
    }


def _format(value: str | Json | None) -> Literal["json"] | Json | None:
    if not isinstance(value, str):
        return value
    if value not in ("", "json"):
        message = f'invalid format: "{value}"; expected "json" or a valid JSON Schema object'
        raise FieldError("format", message)
    return "json" if value else None


def _think(value: bool | str | None) -> bool | str | None:
    if isinstance(value, str) and value not in _LEVELS:
        message = f'invalid think value: "{value}" (must be "high", "medium", "low", "max", true, or false)'
        raise FieldError("think", message)
    return value


def _message(wire: _Message, field: str) -> Message:
    calls = [
        ToolCall(call.id or "", call.function.name, encode(call.function.arguments or {}).decode())
        for call in wire.tool_calls or []
    ]
    return Message(
        wire.role.lower(),
        wire.content or "",
        wire.thinking or "",
        _images(wire.images, f"{field}.images"),
        calls,
        wire.tool_call_id or "",
        wire.tool_name or "",
    )


def _images(values: list[str] | None, field: str) -> list[Image]:
    return [images.from_base64(value, f"{field}[{i}]") for i, value in enumerate(values or [])]
