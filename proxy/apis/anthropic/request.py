"""Reads Anthropic's `/v1/messages` requests."""

import re
from typing import Literal

import msgspec

from agents.chat import Chat, Message, linked
from proxy.apis.anthropic.blocks import WireMessage, read_messages
from proxy.apis.anthropic.tools import WireTool, WireToolChoice, read_tool_choice, read_tools
from proxy.apis.durations import keep_alive
from proxy.apis.fields import FieldError, Json, decode, unknown
from proxy.apis.sampling import Number, SamplingFields, sampling_of

_BILLING = re.compile(r"^(x-anthropic-billing-header:[^\n]*?\bcch=)[0-9a-f]+", re.MULTILINE)
"""The first line of Claude Code's system prompt, with a stamp that differs in each request."""


class _Thinking(msgspec.Struct):
    type: str
    budget_tokens: int | None = None


class _Format(msgspec.Struct):
    type: Literal["json_schema"]
    schema: Json


class _Output(msgspec.Struct):
    effort: str | None = None
    format: _Format | None = None


class _Body(SamplingFields, kw_only=True):
    """`output_format` is the older `output_config.format`; some sampling options are llama.cpp's."""

    model: str
    messages: list[WireMessage]
    max_tokens: Number = None
    system: str | list[Json] | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    tools: list[WireTool] | None = None
    tool_choice: WireToolChoice | None = None
    thinking: _Thinking | None = None
    output_config: _Output | None = None
    output_format: _Format | None = None
    keep_alive: str | int | float | None = None


_NO_EFFECT = (
    *("betas", "billing_policy", "cache_control", "diagnostics", "fallback_credit_token", "inference_geo"),
    *("metadata", "service_tier", "speed", "user_profile_id", "workspace_id"),
)
"""Fields about accounts, caching and prices, which do not change an answer."""
_NOT_HERE = (
    *("compaction", "container", "context_management", "fallbacks", "mcp_servers", "prefill", "thread"),
)
"""Fields that would change an answer, for features that the gateway does not have."""
_THINK: dict[str, bool | str] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}


def decode_request(body: bytes) -> Chat:
    """Read a body of `/v1/messages`. Raises `FieldError`.

    A `max_tokens` of 0, which only warms the prompt's cache, becomes 1: model servers write at least one
    token.
    """
    asked = decode_prompt(body)
    limit = asked.sampling.max_tokens
    if limit is None or limit < 0:
        raise FieldError("max_tokens", "is missing" if limit is None else "must not be negative")
    sampling = msgspec.structs.replace(asked.sampling, max_tokens=max(1, limit))
    return msgspec.structs.replace(asked, sampling=sampling)


def decode_prompt(body: bytes) -> Chat:
    """Read a body in which `max_tokens` is optional. Raises `FieldError`.

    A thinking budget is passed on as llama.cpp's `thinking_budget_tokens`.
    """
    wire = decode(body, _Body)
    messages, ignored_blocks = read_messages(wire.system, wire.messages)
    tools, ignored_tools = read_tools(wire.tools or [])
    extra = unknown(body, _Body)
    ignored_fields = [name for name in _NOT_HERE if extra.get(name)]
    for name in (*_NO_EFFECT, *_NOT_HERE):
        extra.pop(name, None)
    if wire.thinking is not None and wire.thinking.budget_tokens is not None:
        extra["thinking_budget_tokens"] = wire.thinking.budget_tokens
    if wire.tool_choice is not None and wire.tool_choice.disable_parallel_tool_use is not None:
        extra["parallel_tool_calls"] = not wire.tool_choice.disable_parallel_tool_use
    wire.stop = wire.stop_sequences or wire.stop
    return Chat(
        model=wire.model,
        messages=linked(map(_lasting, messages)),
        tools=tools,
        tool_choice=read_tool_choice(wire.tool_choice, tools),
        think=_think(wire),
        format=_format(wire),
        sampling=sampling_of(wire, wire.max_tokens, "max_tokens"),
        stream=bool(wire.stream),
        include_usage=True,
        keep_alive=keep_alive(wire.keep_alive),
        extra=extra,
        ignored=list(dict.fromkeys([*ignored_fields, *ignored_tools, *ignored_blocks])),
    )


def _lasting(message: Message) -> Message:
    """Return a message; in a system prompt the stamp is replaced by 0.

    With a new stamp in each request, the model server's prompt cache would never match.
    """
    if message.role != "system":
        return message
    return msgspec.structs.replace(message, text=_BILLING.sub(r"\g<1>0", message.text))


def _format(wire: _Body) -> Json | None:
    asked = (wire.output_config and wire.output_config.format) or wire.output_format
    return asked.schema if asked is not None else None


def _think(wire: _Body) -> bool | str | None:
    if wire.thinking is not None and wire.thinking.type == "disabled":
        return False
    if wire.output_config is not None and wire.output_config.effort in _THINK:
        return _THINK[wire.output_config.effort]
    return True if wire.thinking is not None and wire.thinking.type == "enabled" else None
