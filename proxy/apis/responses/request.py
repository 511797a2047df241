"""Reads a body of `/v1/responses` as a chat."""

from typing import Any, Literal

import msgspec

from agents.chat import Chat
from proxy.apis.durations import keep_alive
from proxy.apis.fields import FieldError, Json, decode
from proxy.apis.responses.items import History, tools_in
from proxy.apis.responses.response import REPEATED, repeated
from proxy.apis.responses.tools import Offer, choose, offer
from proxy.apis.sampling import Number, SamplingFields, sampling_of, thinking


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: Json | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: Any = None
    mode: Any = None


class _StreamOptions(msgspec.Struct):
    include_obfuscation: bool | None = None


class _Body(SamplingFields, kw_only=True):
    model: str
    input: str | list[Json] | None = None
    instructions: str | list[Json] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_output_tokens: Number = None
    tools: list[Json] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    max_tool_calls: Number = None
    previous_response_id: str | None = None
    store: bool | None = None
    background: bool | None = None
    service_tier: str | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    client_metadata: Any = None
    keep_alive: Any = None
    # Fields for features of OpenAI's own servers.
    conversation: Any = None
    prompt: Any = None
    access_programs: Any = None
    background_options: Any = None
    context_management: Any = None
    image: Any = None
    moderation: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None


_KNOWN = frozenset(_Body.__struct_encode_fields__)

_REFUSED = {
    "conversation": "conversations are not kept here; send the history in input, or a previous_response_id",
    "prompt": "templates of prompts are not kept here; send instructions and input",
}
_OPENAIS_OWN = (
    "access_programs",
    "background_options",
    "context_management",
    "image",
    "moderation",
    "prompt_cache_options",
    "prompt_cache_retention",
)
_LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED = "reasoning.encrypted_content"


def decode_request(body: bytes) -> Chat:
    """Read a body of `/v1/responses`. Raises `FieldError`."""
    wire = decode(body, _Body)
    for name, reason in _REFUSED.items():
        if getattr(wire, name) is not None:
            raise FieldError(name, reason)
    items = [{"role": "user", "content": wire.input}] if isinstance(wire.input, str) else wire.input or []
    if not items:
        raise FieldError("input", "is missing" if wire.input is None else "is empty")
    offered = offer([*(wire.tools or []), *tools_in(items)])
    left_out = [f"tools {kind}" for kind in offered.left_out]
    choice = choose(offered, wire.tool_choice)
    history = _history(wire, items, offered)
    messages = history.messages()
    if not messages:
        raise FieldError("input", "has nothing in it that a model can read")
    include = wire.include or []
    fields = decode(body, dict[str, msgspec.Raw])
    extra = {name: decode(value, object) for name, value in fields.items() if name not in _KNOWN}
    if wire.parallel_tool_calls is not None:
        extra["parallel_tool_calls"] = wire.parallel_tool_calls
    return Chat(
        model=wire.model,
        messages=messages,
        tools=offered.tools,
        tool_choice=choice,
        think=thinking(wire.reasoning.effort) if wire.reasoning else None,
        format=_format(wire.text.format) if wire.text else None,
        sampling=sampling_of(wire, wire.max_output_tokens, "max_output_tokens"),
        stream=bool(wire.stream),
        include_usage=True,
        logprobs=_LOGPROBS in include or bool(wire.top_logprobs),
        top_logprobs=wire.top_logprobs or 0,
        keep_alive=keep_alive(wire.keep_alive),
        extra=extra,
        ignored=[*left_out, *_ignored(wire, include), *history.ignored],
        echo=_echo(fields, wire, offered, sealed=_ENCRYPTED in include),
    )


def _history(wire: _Body, items: list[Json], offered: Offer) -> History:
    history = History(offered)
    if isinstance(wire.instructions, str):
        history.add_system(wire.instructions)
    elif wire.instructions:
        history.read(wire.instructions, "instructions")
    history.read(items, "input")
    return history


def _format(wire: _Format | None) -> Literal["json"] | Json | None:
    if wire is None or wire.type == "text":
        return None
    if wire.type == "json_object":
        return "json"
    if wire.schema is None:
        raise FieldError("text.format.schema", "is missing")
    return wire.schema


def _ignored(wire: _Body, include: list[str]) -> list[str]:
    """Return the names of requested features that no model here has."""
    reasoning, text = wire.reasoning or _Reasoning(), wire.text or _Text()
    asked = {
        "truncation": wire.truncation == "auto",
        "text.verbosity": text.verbosity is not None,
        "reasoning.context": reasoning.context is not None,
        "reasoning.mode": reasoning.mode not in (None, "standard"),
        "service_tier": wire.service_tier not in (None, "auto", "default"),
        "stream_options.include_obfuscation": bool(
            wire.stream_options and wire.stream_options.include_obfuscation
        ),
        **{name: getattr(wire, name) is not None for name in _OPENAIS_OWN},
        **{f"include {name}": name not in (_LOGPROBS, _ENCRYPTED) for name in include},
    }
    return [name for name, is_asked in asked.items() if is_asked]


def _echo(given: dict[str, msgspec.Raw], wire: _Body, offered: Offer, *, sealed: bool) -> Json:
    """Return the data of the request that `answer` needs."""
    fields: Json = {name: decode(value, object) for name, value in given.items() if name in REPEATED}
    usable = {"namespace", *(client.type for client in offered.clients.values())}
    tools = [tool for tool in wire.tools or [] if tool.get("type", "function") in usable]
    fields["tools"] = [_whole_tool(tool) for tool in tools]
    if isinstance(wire.tool_choice, dict) and isinstance(inner := wire.tool_choice.get("function"), dict):
        fields["tool_choice"] = {"type": "function", "name": inner.get("name")}
    reasoning = wire.reasoning or _Reasoning()
    clients = {name: [tool.type, tool.name, tool.namespace] for name, tool in offered.clients.items()}
    return {
        "response": repeated(fields),
        "tools": clients,
        "summary": bool(reasoning.summary or reasoning.generate_summary),
        "sealed": sealed,
    }


def _whole_tool(tool: Json) -> Json:
    """Return a tool as OpenAI's answers repeat it: some clients require all fields of a function."""
    if tool.get("type", "function") != "function":
        return tool
    inner = tool.get("function")
    given = inner if isinstance(inner, dict) else tool
    return {"type": "function", "description": None, "parameters": None, "strict": None, **given}
