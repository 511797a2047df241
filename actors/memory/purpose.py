"""Finds the purpose of a model (to write, to embed, or to rank) and the settings that it needs. Pure.

As in llama.cpp, build 11549 (`server_slot::can_split`): only a model that has a cache, and in which the last
token counts, reads a text in parts. All others need the whole text in one micro-batch.
"""

from collections.abc import Sequence
from typing import get_args

import msgspec

from actors.memory.flags import is_given, last_of
from actors.memory.gguf import Header
from actors.memory.graph.work import F32
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import ENCODERS, Pooling

_POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
"""The poolings, by their numbers in headers."""


LONGEST_TEXT, SHORTEST_TEXT = 8192, 512
"""Limits of the default context of a model that reads a text at once, in tokens: see `longest_text`.

The maximum is what embedding models are trained for; their compute buffer grows with its square.
"""

PART_FOR_ROWS = 4
"""By default the rows of a text's tokens take at most one part in so many of main memory."""


class Purpose(msgspec.Struct, frozen=True, kw_only=True):
    """The purpose of a model's server.

    `pooling` is None for a model that writes. `whole`: each text has to fit into one micro-batch. `cached`:
    the model keeps a cache. `flags` are the flags that llama-server needs for the purpose.
    """

    pooling: Pooling | None = None
    whole: bool = False
    cached: bool = False
    flags: tuple[str, ...] = ()


def purpose_of(
    header: Header, arguments: Sequence[str], *, embeds: bool | None = None, ranks: bool | None = None
) -> Purpose:
    """Return the purpose by the model's settings (None: not set) and flags, or else by its header."""
    own = _pooling_in(header)
    told_to_rank = is_given(arguments, "--rerank", "--reranking")
    told_to_embed = is_given(arguments, "--embedding", "--embeddings")
    encodes = header.architecture in ENCODERS
    if ranks is None:
        ranks = told_to_rank or (own == "rank" and not embeds and not told_to_embed)
    if embeds is None:
        embeds = told_to_embed or encodes or own not in (None, "none")
    if not ranks and not embeds:
        return Purpose()
    given = last_of(arguments, "--pooling")
    pooling: Pooling = "rank" if ranks else own or "none"
    if pooling == "rank" and not ranks:
        pooling = "none"
    flags = ["--reranking"] * (ranks and not told_to_rank) or ["--embeddings"] * (
        not ranks and not told_to_embed
    )
    if given is not None:
        pooling = next((one for one in _POOLINGS if one == given[1]), pooling)
    elif pooling == "none":
        # No API returns vectors of single tokens.
        pooling = "mean"
        flags += ["--pooling", pooling]
    causal = header.metadata.get(f"{header.architecture}.attention.causal") is not False
    in_parts = not encodes and (pooling == "last" or (pooling == "rank" and causal))
    return Purpose(pooling=pooling, whole=not in_parts, cached=not encodes, flags=tuple(flags))


def longest_text(header: Header, memory: int) -> int:
    """Return the default maximum number of tokens of a text read at once, on a host with `memory` bytes.

    For each token llama.cpp allocates a row as wide as the vocabulary there, although it does not use it.
    """
    shapes = (tensor.shape for tensor in header.tensors if tensor.name == "token_embd.weight")
    vocabulary = max(next(shapes, (1,))[-1], 1)
    rows = memory // PART_FOR_ROWS // (F32 * vocabulary)
    return max(SHORTEST_TEXT, min(LONGEST_TEXT, rows // 256 * 256))


def for_purpose(
    settings: LoadSettings,
    purpose: Purpose,
    arguments: Sequence[str],
    *,
    limit: int | None,
    longest: int | None,
) -> LoadSettings:
    """Return the settings that a server needs for its purpose.

    `limit`: maximum tokens of a slot; None: unknown. `longest`: maximum tokens of the context if texts are
    read at once; None: the user chose the context. A micro-batch that the user chose is kept.

    Several slots would share the cache, in which waiting texts keep the cells of earlier texts, but a long
    text needs the whole cache. So there is one slot if texts cannot be read in parts.
    """
    if purpose.pooling is None:
        return settings
    # A text's vector is computed from all of its tokens, so each token is an output.
    settings = msgspec.structs.replace(settings, pooling=purpose.pooling, outputs=0)
    if not purpose.whole or is_given(arguments, "-ub", "--ubatch-size"):
        return settings
    if purpose.cached and not is_given(arguments, "-np", "--parallel"):
        settings = msgspec.structs.replace(settings, parallel=1, unified=False)
    context = min(settings.context, longest or settings.context)
    most = min(limit or context, context)
    if is_given(arguments, "-b", "--batch-size"):
        most = min(most, settings.batch)
    return msgspec.structs.replace(settings, context=context, input_limit=most)


def _pooling_in(header: Header) -> Pooling | None:
    """Return the pooling in the header, or None."""
    number = header.metadata.get(f"{header.architecture}.pooling_type")
    return _POOLINGS[number] if isinstance(number, int) and 0 <= number < len(_POOLINGS) else None
