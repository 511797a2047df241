"""The sampling options that have the same names in OpenAI's, llama.cpp's and Ollama's APIs."""

import msgspec

from agents.chat import Sampling
from proxy.apis.fields import FieldError

Number = int | float | None
"""A number that must be whole: 40.0 is read as 40."""


class SamplingFields(msgspec.Struct, kw_only=True):
    """The options as fields of a body, except the limit of tokens, whose name differs between APIs."""

    temperature: float | None = None
    top_k: Number = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: Number = None
    stop: str | list[str] | None = None
    repeat_last_n: Number = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    num_ctx: Number = None


COMMON = tuple(name for name in SamplingFields.__struct_fields__ if name not in ("stop", "num_ctx"))
"""Names of the options that are passed to a model server unchanged."""

_FRACTIONS = {
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
}


def sampling_of(fields: SamplingFields, max_tokens: Number, limit: str, path: str = "") -> Sampling:
    """Return the sampling options of a body.

    `limit` is the name of the field with `max_tokens`, `path` the prefix of field names in errors. Raises
    `FieldError` for a number that does not fit into 64 bits.
    """
    values = {name: getattr(fields, name) for name in (*COMMON, "num_ctx")}
    for name, value in values.items():
        if name not in _FRACTIONS:
            values[name] = _whole(value, path + name)
    stop = [fields.stop] if isinstance(fields.stop, str) else fields.stop or []
    return Sampling(max_tokens=_whole(max_tokens, path + limit), stop=stop, **values)


_EFFORTS: dict[str, bool | str] = {"none": False, "minimal": "low", "xhigh": "max", "ultra": "max"}
"""Ollama's `think` for OpenAI's efforts that Ollama does not have."""


def thinking(effort: str | None) -> bool | str | None:
    """Return `Chat.think` for OpenAI's reasoning effort."""
    return _EFFORTS.get(effort, effort) if effort else None


def _whole(value: Number, field: str) -> int | None:
    if value is None:
        return None
    if not -(2**63) <= value < 2**64:
        raise FieldError(field, "is out of range")
    return int(value)
