"""What a model is for: to write, to give vectors, or to rank; and the settings that this needs. Pure.

As in llama.cpp, build 11549 (`server_slot::can_split`): a text is read in parts only by a model with a cache
of which the last token counts. Any other has to have it in one micro-batch.
"""

from collections.abc import Sequence
from typing import get_args

import msgspec

from actors.memory.flags import is_given, last_of
from actors.memory.gguf import Header
from actors.memory.graph.work import F32
from actors.memory.predict import LoadSettings
from actors.memory.shape import ENCODERS, Pooling

_POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
"""In the order of the numbers that headers have for them."""


LONGEST_TEXT, SHORTEST_TEXT = 8192, 512
"""Tokens of the context of a model that reads a text at once, where nobody says how many: see `longest_text`.

The most is what embedding models are trained for; what they compute with grows with its square.
"""

PART_FOR_ROWS = 4
"""A row for each token of a text takes at most this part of main memory, where nobody says how many."""


class Purpose(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's server is for.

    `pooling` is None for a model that writes. `whole`: each text has to fit into one micro-batch. `cached`:
    it keeps a cache. `flags` are what llama-server has to be told of it.
    """

    pooling: Pooling | None = None
    whole: bool = False
    cached: bool = False
    flags: tuple[str, ...] = ()


def purpose_of(
    header: Header, arguments: Sequence[str], *, embeds: bool | None = None, ranks: bool | None = None
) -> Purpose:
    """By the model's settings (None: not said) and flags, else by its header."""
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
        # Vectors of single tokens are no answer that an API has.
        pooling = "mean"
        flags += ["--pooling", pooling]
    causal = header.metadata.get(f"{header.architecture}.attention.causal") is not False
    in_parts = not encodes and (pooling == "last" or (pooling == "rank" and causal))
    return Purpose(pooling=pooling, whole=not in_parts, cached=not encodes, flags=tuple(flags))


def longest_text(header: Header, memory: int) -> int:
    """Tokens that a text read at once may have on a host with so many bytes.

    For each of them llama.cpp keeps a row as wide as the vocabulary there, though it writes nothing into it.
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
    """The settings with which a server fulfils its purpose.

    `limit`: tokens that a slot has at most, if that is known; `longest`: those that the context has at most
    if texts are read at once, None if the user chose it. A micro-batch that the user chose stays.

    Slots would share the cache, in which the texts that wait keep the room of those before them; a long text
    has to have all of it. So there is one slot where texts cannot be read in parts.
    """
    if purpose.pooling is None:
        return settings
    # A text's vector is made of all of its tokens, so each of them is an output.
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
    """How the header says that vectors become one."""
    number = header.metadata.get(f"{header.architecture}.pooling_type")
    return _POOLINGS[number] if isinstance(number, int) and 0 <= number < len(_POOLINGS) else None
