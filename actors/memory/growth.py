"""Predicts what a server takes of main memory while it works: saved prompts and checkpoints. Pure.

As in llama.cpp, build 11549: an idle prompt is saved with up to two checkpoints, within `--cache-ram`; each
slot has up to `--ctx-checkpoints` more. A checkpoint has what cannot be cut at a token: the rows of layers
with a sliding window, and the states of recurrent layers. Both limits are given to each server, so that it
cannot take more than is reserved.
"""

import msgspec

from actors.memory.graph.work import F32, row_bytes
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape

MIB = 1 << 20
DEFAULT_CACHE, DEFAULT_CHECKPOINTS = 8192, 32
"""llama-server's own limits: MiB of saved prompts, and checkpoints of a slot."""

PART = 32
"""Saved prompts, and checkpoints, each take at most one part in so many of main memory."""

STEP = 64
"""MiB of which a limit of saved prompts is a multiple."""


def checkpoint_bytes(shape: Shape, settings: LoadSettings) -> int:
    """Return the bytes of a checkpoint of one slot; 0 for a model that needs none."""
    if not shape.cached:
        return 0
    per_slot = settings.context if settings.unified else settings.context // max(1, settings.parallel)
    tokens = min(shape.window, per_slot)
    total = 0
    for layer in range(shape.last + 1):
        if shape.windowed[layer] and shape.caches[layer] and not settings.full_window:
            heads = shape.kv_heads[layer]
            total += tokens * row_bytes(settings.type_k, shape.keys[layer] * heads)
            total += tokens * row_bytes(settings.type_v, shape.values[layer] * heads)
        if shape.recurrent[layer]:
            total += F32 * (shape.conv_state + shape.ssm_state)
    return total


def with_limits(shape: Shape, settings: LoadSettings, host: int) -> LoadSettings:
    """Return the settings with limits that suit a host of so many bytes, where the user chose none.

    A model that does not write saves no prompts.
    """
    if settings.pooling is not None or not shape.cached:
        return msgspec.structs.replace(settings, prompt_cache=0, checkpoints=0)
    part = host // PART
    size = checkpoint_bytes(shape, settings)
    cache, checkpoints = settings.prompt_cache, settings.checkpoints
    if cache is None:
        cache = min(DEFAULT_CACHE, part // MIB // STEP * STEP)
    if checkpoints is None:
        slots = max(1, settings.parallel)
        checkpoints = (
            max(1, min(DEFAULT_CHECKPOINTS, part // (slots * size))) if size else DEFAULT_CHECKPOINTS
        )
    return msgspec.structs.replace(settings, prompt_cache=cache, checkpoints=checkpoints)


def growth(shape: Shape, settings: LoadSettings) -> int:
    """Return the most bytes that saved prompts and checkpoints take; 0 if they have no known limits."""
    if settings.prompt_cache is None or settings.checkpoints is None:
        return 0
    slots = max(1, settings.parallel)
    return settings.prompt_cache * MIB + settings.checkpoints * slots * checkpoint_bytes(shape, settings)
