"""What an Ollama model will take, by its size and its header's key values. Pure, and rough on purpose:
/api/ps tells the truth as soon as it was loaded once.
"""

import re
from collections.abc import Mapping
from typing import Any

from actors.placement.options import SERVER, Demand, Option
from actors.servers.ollama.client import Running

MARGIN = 1.15
"""Margin on an estimate that ignores sliding windows, latent caches and the graph."""
DEFAULT_CONTEXT = 4096
MICRO_BATCH = 512
UNKNOWN_VOCABULARY = 152_000
"""Vocabulary in tokens if unknown; the larger families have about as many."""

_TIERS = ((47 << 30, 262_144), (23 << 30, 32_768))
_NUM_CTX = re.compile(r"^num_ctx\s+([0-9]{1,9})\s*$", re.M)

_MOST_LAYERS = 1024
"""Most layers in a header; llama.cpp accepts half as many."""
_MOST = 1 << 30
"""Largest accepted value of any other number in a header."""
_MOST_CACHE = 1 << 50
"""Most bytes of a cache, more than any machine has."""


def default_context(gpus: int) -> int:
    """Return Ollama's default context in tokens (since 0.15), by the bytes of all its GPUs."""
    return next((context for least, context in _TIERS if gpus >= least), DEFAULT_CONTEXT)


def context_of(info: Mapping[str, Any], parameters: str, wanted: int | None, default: int) -> int:
    """Return the context in tokens: requested, the Modelfile's, or the default; at most the trained one."""
    modelfile = _NUM_CTX.search(parameters)
    context = wanted or (int(modelfile[1]) if modelfile else default)
    trained = _Header(info).number("context_length")
    return min(context, trained) if trained else context


class _Header:
    """Reads `<architecture>.<key>` in the answer of /api/show, where lists are null."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self._info = info
        self._architecture = info.get("general.architecture", "")

    def number(self, key: str) -> int:
        """Return a number; 0 if it is missing or impossible."""
        value = self._info.get(f"{self._architecture}.{key}")
        if isinstance(value, list):
            value = max((entry for entry in value if isinstance(entry, int)), default=0)
        most = _MOST_LAYERS if key == "block_count" else _MOST
        return value if isinstance(value, int) and 0 < value <= most else 0


def cache_bytes(info: Mapping[str, Any], context: int) -> int:
    """Return the bytes of an f16 cache in which every layer keeps all tokens; 0 if unknown."""
    header = _Header(info)
    heads = header.number("attention.head_count")
    kv_heads = header.number("attention.head_count_kv") or heads
    head = header.number("embedding_length") // max(1, heads)
    key = header.number("attention.key_length") or head
    value = header.number("attention.value_length") or head
    size = 2 * header.number("block_count") * kv_heads * (key + value) * context
    return min(size, _MOST_CACHE)


def demand_of(
    size: int,
    info: Mapping[str, Any],
    context: int,
    *,
    on_gpus: Running | None = None,
    on_host: Running | None = None,
    surcharge: int = 0,
    load_seconds: float | None = None,
) -> Demand:
    """Estimate the demand of a model with `size` bytes on the disk: on one GPU, on several, or on the host.

    `on_gpus` and `on_host`: the memory of earlier loads, which replaces the estimate. `surcharge`:
    additional bytes per GPU.
    """
    header = _Header(info)
    layers = header.number("block_count") + 1
    cache = cache_bytes(info, context)
    vocabulary = header.number("vocab_size") or UNKNOWN_VOCABULARY
    compute = 4 * MICRO_BATCH * (vocabulary + 8 * header.number("embedding_length"))
    # The part that stayed on the host is requested from the GPU as well.
    whole = on_gpus.size if on_gpus else int(MARGIN * (size + cache + compute))
    shared = min(int(MARGIN * compute), whole)
    each = -(-(whole - shared) // layers)
    alone = max(0, on_host.size - size) if on_host else int(MARGIN * (cache + compute))
    gpu_option = Option(
        how="whole",
        context=on_gpus.context_length if on_gpus else context,
        layers=(each,) * layers,
        compute=shared + surcharge,
        shared=shared + surcharge,
        pinned=SERVER,
        certainty="fallback",
    )
    host_option = Option(
        how="host",
        context=on_host.context_length if on_host else context,
        gpu_layers=0,
        pinned=SERVER + alone,
        mapped=size,
        certainty="fallback",
    )
    return Demand(options=(gpu_option, host_option), load_seconds=load_seconds)
