"""The options of sampling that OpenAI, llama.cpp and Ollama call by the same names."""

import msgspec

from agents.chat import Sampling
from proxy.apis.fields import FieldError

Number = int | float | None
"""A number where a whole one is meant; clients that write 40.0 mean 40."""


class SamplingFields(msgspec.Struct, kw_only=True):
    """The same as fields of a body, but for the limit, whose name is each dialect's own."""

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
"""The options that a model server takes as they are."""

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
    """The options of a body's fields. `limit` names its `max_tokens`, `path` comes before the names.

    Raises `FieldError` for a number that is none of 64 bits.
    """
    values = {name: getattr(fields, name) for name in (*COMMON, "num_ctx")}
    for name, value in values.items():
        if name not in _FRACTIONS:
            values[name] = _whole(value, path + name)
    stop = [fields.stop] if isinstance(fields.stop, str) else fields.stop or []
    return Sampling(max_tokens=_whole(max_tokens, path + limit), stop=stop, **values)


_EFFORTS: dict[str, bool | str] = {"none": False, "minimal": "low", "xhigh": "max", "ultra": "max"}
"""OpenAI's scale goes on beyond both ends of Ollama's."""


def thinking(effort: str | None) -> bool | str | None:
    """How a model is to think, for OpenAI's word for it."""
    return _EFFORTS.get(effort, effort) if effort else None


def _whole(value: Number, field: str) -> int | None:
    if value is None:
        return None
    if not -(2**63) <= value < 2**64:
        raise FieldError(field, "is out of range")
    return int(value)
