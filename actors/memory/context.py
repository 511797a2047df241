"""Calculates the context that llama.cpp gives each slot, which may be less than its share of memory. Pure.

As in llama.cpp, build 11549: a slot never has more tokens than the model was trained for. Of the flags that
stretch positions, only YaRN's raise this limit, to `original context / frequency scale`
(llama_init_from_model).
"""

import math
import struct
from collections.abc import Sequence

from actors.memory.flags import is_given, last_of
from actors.memory.gguf import Header
from actors.memory.prediction.settings import LoadSettings

LEARNED_POSITIONS = "position_embd.weight"
"""The name of the tensor with one row for each possible position."""

_FLAGS = ("--rope-scaling", "--rope-scale", "--rope-freq-scale", "--yarn-orig-ctx", "--override-kv")
_MOST_STEPS = 8


def slot_limit(header: Header, arguments: Sequence[str]) -> int | None:
    """Return the maximum number of tokens of a slot with these flags; None: the header does not say.

    Raises `ValueError`, which names the flag.
    """
    architecture = header.architecture
    trained = _overridden(arguments, f"{architecture}.context_length") or header.context_length
    if trained is None:
        return None
    own_scaling = header.metadata.get(f"{architecture}.rope.scaling.type")
    scaling = _value(arguments, "--rope-scaling") or own_scaling
    scale = _scale(arguments)
    factor = header.metadata.get(f"{architecture}.rope.scaling.factor") or 1.0
    own_scale = _single(1 / factor) if isinstance(factor, float | int) else 1.0
    if scaling != "yarn" or scale is None or scale == own_scale:
        return trained
    return int(_single(_original(header, arguments, trained) / scale))


def stretching_flags(header: Header, settings: LoadSettings, arguments: Sequence[str]) -> list[str]:
    """Return the flags with which each slot can use its whole context.

    There are none if the model was trained for that context, or if the arguments have such flags. Raises
    `ValueError` for a model with learned positions, and if llama.cpp cannot stretch the context so far.
    """
    per_slot = _share(settings, settings.context)
    limit = slot_limit(header, arguments)
    if limit is None or per_slot <= limit or is_given(arguments, *_FLAGS):
        return []
    if any(tensor.name == LEARNED_POSITIONS for tensor in header.tensors):
        raise ValueError(
            f"longer_context: the model has learned positions for {limit:,} tokens, and there can be no more"
        )
    original = _original(header, [], limit)
    for factor in range(-(-per_slot // original), -(-per_slot // original) + _MOST_STEPS):
        scale = ["--rope-freq-scale", str(1 / factor), "--yarn-orig-ctx", str(original)]
        flags = ["--rope-scaling", "yarn", *scale]
        if (slot_limit(header, flags) or 0) >= per_slot:
            return flags
    raise ValueError(f"longer_context: {per_slot:,} tokens are more than llama.cpp can stretch the model to")


def check_context(header: Header, settings: LoadSettings, arguments: Sequence[str]) -> None:
    """Raise `ValueError` for a context that is longer than all slots together can use."""
    limit = slot_limit(header, arguments)
    slots = settings.parallel
    if limit is None or settings.context <= limit * slots:
        return
    of_slots = f", {settings.context // slots:,} for each of {slots} slots," if slots > 1 else ""
    reason = f"a context of {settings.context:,} tokens{of_slots} is more than the {limit:,} that"
    if is_given(arguments, *_FLAGS):
        raise ValueError(
            f"{reason} llama.cpp gives a slot with these flags; only YaRN raises it "
            "(--rope-scaling yarn --rope-scale N)"
        )
    raise ValueError(f"{reason} the model was trained for; set longer_context if it can do that")


def slot_context(header: Header, settings: LoadSettings, context: int, arguments: Sequence[str]) -> int:
    """Return the number of tokens that one request can use, with a `context` of so many tokens."""
    limit = slot_limit(header, arguments)
    share = _share(settings, context)
    return share if limit is None else min(share, limit)


def _share(settings: LoadSettings, context: int) -> int:
    return context if settings.unified else context // settings.parallel


def _scale(arguments: Sequence[str]) -> float | None:
    """Return the factor of positions, None if no flag sets it. The last of its two flags counts."""
    last = last_of(arguments, "--rope-scale", "--rope-freq-scale")
    if last is None:
        return None
    number = _number(*last)
    return _single(1 / number if last[0] == "--rope-scale" else number)


def _value(arguments: Sequence[str], name: str) -> str | None:
    last = last_of(arguments, name)
    return last[1] if last is not None else None


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name}: expected a number above 0, got {text!r}")
    return number


def _original(header: Header, arguments: Sequence[str], trained: int) -> int:
    """Return the context that YaRN stretches, in tokens."""
    given = _value(arguments, "--yarn-orig-ctx")
    if given is not None and given != "0":
        if not given.isdecimal():
            raise ValueError(f"--yarn-orig-ctx: expected a number, 0 or more, got {given!r}")
        return int(given)
    own = header.metadata.get(f"{header.architecture}.rope.scaling.original_context_length")
    return own if isinstance(own, int) and own > 0 else trained


def _overridden(arguments: Sequence[str], key: str) -> int | None:
    """Return the number that `--override-kv` sets for a key of the header, or None."""
    for part in (_value(arguments, "--override-kv") or "").split(","):
        name, _, value = part.partition("=int:")
        if name == key and value.isdecimal():
            return int(value)
    return None


def _single(value: float) -> float:
    """Round to llama.cpp's single precision, which decides whether the last token fits."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.inf
