"""The dimensions in a model's header that its memory depends on."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from actors.memory.gguf import Header, Tensor

WINDOW_PERIOD = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gemma-embedding": 6,
    "gpt-oss": 2,
    "llama4": 4,
    "cohere2": 4,
    "exaone4": 4,
    "modern-bert": 3,
    "olmo2": 4,
}
"""Defaults for headers that do not name the layers with a sliding window: all but every n-th."""

CHUNK = 8192
"""Tokens in the window of llama4's windowed layers, if the header does not say."""

TURNS_IN_WINDOW = frozenset(["afmoe", "cohere2", "cohere2moe", "exaone4", "exaone-moe", "llama4"])
"""Architectures whose layers without a window have no rotary positions, if others have one."""

NEVER_TURNS = frozenset(["jamba", "kimi-linear", "nemotron_h", "nemotron_h_moe"])
"""Architectures without rotary positions, because their recurrent layers know the order of tokens."""

UNTURNED_PERIOD = {"smollm3": 4}
"""Architectures of which each n-th layer has no rotary positions."""

FIRST_SEES_ALL = frozenset(["modern-bert"])
"""Architectures in which the first of every n layers has no window, instead of the last."""

Pooling = Literal["none", "mean", "cls", "last", "rank"]
"""The method that reduces the vectors of a text's tokens to one."""

ENCODERS = frozenset(
    [
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
    ]
)
"""Architectures without a cache, which can only embed and rank."""

_LAYER = re.compile(r"blk\.([0-9]{1,5})\.")
_ATTENTION = ("attn_k.weight", "attn_qkv.weight", "attn_kv_a_mqa.weight")
_RECURRENT = (
    "ssm_conv1d.weight",
    "ssm_conv1d_q.weight",
    "shortconv.conv.weight",
    "time_mix_key.weight",
)


MOST_LAYERS = 1024
MOST = 1 << 31
"""Upper limit of any other number of a header: llama.cpp keeps them in 32 bits."""


class ShapeError(ValueError):
    """The header lacks a value that a prediction needs, or has an impossible one; the message names it."""


def weights_by_layer(header: Header) -> list[int]:
    """Return the bytes of each layer's weights, by tensor names; empty if these do not match the layers.

    Works for any architecture, also if the header lacks other values that a `Shape` needs.
    """
    sizes: dict[int, int] = {}
    for tensor in header.tensors:
        if found := _LAYER.match(tensor.name):
            layer = int(found[1])
            sizes[layer] = sizes.get(layer, 0) + tensor.size
    count = header.layers or 0
    # The first and the last layer may have few tensors, but no layer may be missing or in excess.
    whole = len(sizes) == count and all(layer < count for layer in sizes)
    return [sizes[layer] for layer in range(count)] if whole else []


class Shape:
    """A model's dimensions. Lists have one entry per layer. Raises `ShapeError`."""

    def __init__(self, header: Header) -> None:
        self.architecture = header.architecture or ""
        self._metadata: Mapping[str, Any] = header.metadata
        self.tensors: dict[str, Tensor] = {tensor.name: tensor for tensor in header.tensors}
        embedding = self.tensors.get("token_embd.weight")
        self.layers = self.number("block_count")
        self.width = self.number("embedding_length")
        if not (self.architecture and self.layers and self.width and embedding and len(embedding.shape) == 2):
            raise ShapeError(
                f"a language model's dimensions are missing (architecture {self.architecture!r})"
            )
        self.vocabulary = embedding.shape[1]
        if self.layers > MOST_LAYERS:
            raise ShapeError(
                f"{self.architecture}.block_count is {self.layers}; llama.cpp takes half as many"
            )
        self.unused = self.number("nextn_predict_layers")
        """Number of layers at the end that only multi-token prediction uses."""
        if self.unused >= self.layers:
            raise ShapeError(f"{self.unused} of its {self.layers} layers are for multi-token prediction")
        self.heads = self._per_layer("attention.head_count", 0)
        self.kv_heads = self._per_layer("attention.head_count_kv", self.heads[0])
        head = self.width // max(1, self.heads[0])
        self.latent = self.number("attention.key_length_mla") > 0
        """Whether it has multi-head latent attention: the cache has compressed keys and no values."""
        self.blocks = self._by_layer()
        self.recurrent = [any(name in block for name in _RECURRENT) for block in self.blocks]
        both = self.architecture == "falcon-h1"
        sharing = max(2, self.layers - self.number("attention.shared_kv_layers"))
        self.attends = [
            (layer >= sharing or any(name in block for name in _ATTENTION)) and (both or not recurrent)
            for layer, (block, recurrent) in enumerate(zip(self.blocks, self.recurrent, strict=True))
        ]
        self.cached = self.architecture not in ENCODERS
        """Whether the model keeps a cache of the tokens that it has read."""
        self.caches = [
            self.cached and attends and layer < sharing for layer, attends in enumerate(self.attends)
        ]
        """Whether a layer has a cache of its own; the last layers may read those of others."""
        self.writes = self.cached or self.architecture == "gemma-embedding" or "output.weight" in self.tensors
        """Whether an output head for the next token is loaded, even if it is not used."""
        self.indexed = [
            self.number("attention.indexer.key_length") * any(part.startswith("indexer.") for part in block)
            for block in self.blocks
        ]
        """Width of the data that a layer keeps per token to select tokens; 0: it attends to all."""
        self.window = self.number("attention.sliding_window", CHUNK if self.architecture == "llama4" else 0)
        self.windowed = self._windowed()
        self.turns = self._turned()
        """Whether a layer rotates its queries and keys by their positions."""
        self.sources = [
            layer if layer < sharing else sharing - 1 - windowed
            for layer, windowed in enumerate(self.windowed)
        ]
        """The layer whose cache a layer reads."""
        self.beside = self.number("embedding_length_per_layer_input")
        """Width of the additional embedding of each token that each layer gets; 0: none."""
        self.stacked = self.number("n_deepstack_layers")
        """Number of layers that get additional activations of images, which come with the embedding."""
        self.keys, self.values = self._widths("key", head), self._widths("value", head)
        """Widths of a head's keys, and of its values."""
        self.conv_width, self.conv_state, self.ssm_state = self._states()

    def _by_layer(self) -> list[dict[str, Tensor]]:
        """Return the tensors of each layer, by the rest of their names."""
        blocks: list[dict[str, Tensor]] = [{} for _ in range(self.layers)]
        for name, tensor in self.tensors.items():
            if name.startswith("blk."):
                found = _LAYER.match(name)
                if found is None or int(found[1]) >= self.layers:
                    raise ShapeError(f"tensor {name!r:.80} belongs to none of its {self.layers} layers")
                blocks[int(found[1])][name[found.end() :]] = tensor
        return blocks

    @property
    def last(self) -> int:
        """The index of the last layer that is used."""
        return self.layers - self.unused - 1

    def interrupted(self, first: int) -> int | None:
        """Return the recurrent layer before layer `first` that is completed only after it has begun; or None.

        llama.cpp adds a layer to the graph up to the update of its state, then fetches the state of the next
        one; the rest follows with the next attention, the next experts, or the next update.
        """

        def near(layers: Iterable[int]) -> int | None:
            flushes = (layer for layer in layers if self.recurrent[layer] or self.flushes(layer))
            return next(flushes, None)

        before, after = near(range(first - 1, -1, -1)), near(range(first, self.last + 1))
        if before is None or after is None or self.flushes(before) or not self.recurrent[after]:
            return None
        return before

    def waits_for_experts(self, layer: int) -> bool:
        """Whether a layer has a shared expert without tensors, of which its activation function is left."""
        block = self.blocks[layer]
        shared = self.number("expert_shared_count") > 0 and "ffn_up_shexp.weight" not in block
        return shared and "ffn_gate_inp.weight" in block

    def flushes(self, layer: int) -> bool:
        """Whether everything up to a layer's second half is in the graph before the next layer begins."""
        return self.attends[layer] or "ffn_gate_inp.weight" in self.blocks[layer]

    def number(self, key: str, default: int = 0) -> int:
        """Return a number of the architecture's metadata. Raises `ShapeError` for an impossible one."""
        value = self._metadata.get(f"{self.architecture}.{key}", default)
        return self._whole(key, value) if isinstance(value, int | float) else default

    def scales(self, key: str) -> bool:
        """Whether a factor of the architecture's metadata changes what it multiplies."""
        return self._metadata.get(f"{self.architecture}.{key}", 0.0) not in (0.0, 1.0)

    def _whole(self, key: str, value: object) -> int:
        if isinstance(value, int | float) and 0 <= value < MOST:  # NaN is neither
            return int(value)
        raise ShapeError(f"{self.architecture}.{key} is {value!r:.40}")

    def _per_layer(self, key: str, default: int) -> list[int]:
        value = self._metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, tuple):
            if len(value) < self.layers:
                raise ShapeError(
                    f"{self.architecture}.{key} has {len(value)} values for {self.layers} layers"
                )
            return [self._whole(key, item) for item in value[: self.layers]]
        return [self._whole(key, value)] * self.layers

    def _widths(self, part: str, default: int) -> list[int]:
        width = self.number(f"attention.{part}_length") or default
        in_window = self.number(f"attention.{part}_length_swa") or width
        return [in_window if windowed else width for windowed in self.windowed]

    def _windowed(self) -> list[bool]:
        pattern = self._metadata.get(f"{self.architecture}.attention.sliding_window_pattern")
        if isinstance(pattern, tuple) and len(pattern) >= self.layers:
            return [bool(item) for item in pattern[: self.layers]]
        period = pattern if isinstance(pattern, int) else WINDOW_PERIOD.get(self.architecture, 0)
        without = 0 if self.architecture in FIRST_SEES_ALL else period - 1
        return [bool(self.window and period and layer % period != without) for layer in range(self.layers)]

    def _turned(self) -> list[bool]:
        if self.architecture in TURNS_IN_WINDOW and any(self.windowed):
            return self.windowed
        period = UNTURNED_PERIOD.get(self.architecture, 0)
        untold = f"{self.architecture}.rope.scaling.finetuned" not in self._metadata
        never = self.architecture in NEVER_TURNS or not (
            untold or self._metadata[f"{self.architecture}.rope.scaling.finetuned"]
        )
        return [not never and not (period and layer % period == period - 1) for layer in range(self.layers)]

    def _states(self) -> tuple[int, int, int]:
        """Return the dimensions of recurrent layers, 0 without any.

        They are: channels before the state; floats kept per sequence, of those channels and of the state.
        """
        if not any(self.recurrent):
            return 0, 0, 0
        if short := self.number("shortconv.l_cache"):
            return 0, (short - 1) * self.width, 0
        if head := self.number("kda.head_dim"):  # each head's state is a square matrix
            channels = 3 * head * self.heads[0]
            return (
                channels,
                max(0, self.number("ssm.conv_kernel") - 1) * channels,
                head * head * self.heads[0],
            )
        if head := self.number("wkv.head_size"):
            return self.width, self.number("token_shift_count", 2) * self.width, head * self.width
        inner, state = self.number("ssm.inner_size"), self.number("ssm.state_size")
        channels = inner + 2 * self.number("ssm.group_count") * state
        return channels, max(0, self.number("ssm.conv_kernel") - 1) * channels, state * inner
