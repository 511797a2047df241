"""The parameters of requests that a model's settings may hold, and what is wrong with them. Pure.

They have OpenAI's and llama.cpp's names, whatever API the client speaks.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from actors.config.document import Path
from actors.config.fields import Fields
from actors.config.schema import RequestSettings
from actors.errors import Fault

Json = dict[str, Any]

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]

KINDS: Mapping[str, Any] = {
    "max_tokens": Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)],
    "temperature": Annotated[float, msgspec.Meta(ge=0)],
    "top_k": int,
    "top_p": _Share,
    "min_p": _Share,
    "typical_p": _Share,
    "seed": int,
    "stop": str | list[str],
    "repeat_last_n": int,
    "repeat_penalty": Annotated[float, msgspec.Meta(ge=0)],
    "presence_penalty": _Penalty,
    "frequency_penalty": _Penalty,
    "reasoning_effort": Effort,
    "chat_template_kwargs": dict[str, Any],
    "thinking_budget_tokens": int,
    "parallel_tool_calls": bool,
    "logit_bias": dict[str, Any] | list[Any],
    "n": Annotated[int, msgspec.Meta(ge=1)],
    "cache_prompt": bool,
    "grammar": str,
    "samplers": list[str] | str,
}
"""The types of parameters that every llama.cpp server knows. Others are passed on as they are."""

_INSTEAD = {
    **dict.fromkeys(("max_completion_tokens", "max_output_tokens", "n_predict", "num_predict"), "max_tokens"),
    **dict.fromkeys(("think", "thinking", "reasoning"), "reasoning_effort"),
    "enable_thinking": "chat_template_kwargs: {enable_thinking: ...}",
    "stop_sequences": "stop",
    "options": "the options themselves, such as temperature",
    **dict.fromkeys(("num_ctx", "n_ctx", "ctx_size"), "the model's ctx_size"),
    "keep_alive": "the model's idle_timeout",
    "agents": "the model's agents",
}
"""What to write instead of names that other APIs have, or that the gateway has settings for."""

_CONTENT = frozenset(
    [
        *("model", "messages", "prompt", "input", "system", "instructions", "suffix", "images", "context"),
        *("template", "raw", "input_prefix", "input_suffix", "input_extra", "tools", "tool_choice"),
        *(
            "functions",
            "function_call",
            "response_format",
            "format",
            "output_format",
            "output_config",
            "text",
        ),
        *("stream", "stream_options", "return_progress", "logprobs", "top_logprobs", "n_probs", "n_cmpl"),
        *("previous_response_id", "conversation", "store", "background", "include", "echo", "verbose"),
        *("modalities", "response_fields", "return_tokens"),
    ]
)
"""Fields with a request's content, and those that decide the form of its answer."""


def is_empty(settings: RequestSettings) -> bool:
    """Whether the settings change no request."""
    return not (settings.default or settings.set or settings.strip)


def merged(below: RequestSettings, above: RequestSettings) -> RequestSettings:
    """Return both, as a preset's settings are merged over its model's."""
    return RequestSettings(
        default=deep_merged(below.default, above.default),
        set=deep_merged(below.set, above.set),
        strip=list(dict.fromkeys([*below.strip, *above.strip])),
    )


def faults_of(settings: RequestSettings, place: Path) -> Iterator[Fault]:
    """Yield the faults of a model's `request`."""
    for section, given in (("default", settings.default), ("set", settings.set)):
        for name, value in given.items():
            path = (*place, section, name)
            if (fault := _faulty_name(name)) is not None:
                yield Fault(path, fault)
            elif value is None:
                yield Fault(path, "has no value; a parameter is taken out by its name in strip")
            elif name in KINDS:
                fields = Fields()
                fields.take(value, KINDS[name], path)
                yield from fields.faults
    for index, dotted in enumerate(settings.strip):
        names = dotted.split(".")
        if not all(names):
            yield Fault((*place, "strip", index), f"expected a name, or dotted names, got {dotted!r}")
        elif (fault := _faulty_name(names[0])) is not None:
            yield Fault((*place, "strip", index), fault)


def _faulty_name(name: str) -> str | None:
    if name in _INSTEAD:
        return f"{name!r} cannot be set here; use {_INSTEAD[name]}"
    if name in _CONTENT:
        return f"{name!r} is a part of the request's content or of its answer's form, and no parameter"
    return None


def deep_merged(below: Json, above: Json) -> Json:
    """Return both; of equal names the value `above` counts. Mappings in mappings are merged likewise."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        if isinstance(value, dict) and isinstance(under, dict):
            merged[name] = deep_merged(under, value)
        else:
            merged[name] = value
    return merged
