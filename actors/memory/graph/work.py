"""The batch that a graph is built for, and the sizes of rows and tensors."""

import msgspec

from actors.memory.buffer import align
from actors.memory.gguf import Tensor, block_of
from actors.memory.shape import Pooling, Shape

F32 = 4
BIG_BATCH = 32
"""Minimum number of tokens for which llama.cpp uses weights of the host on the GPU."""

KERNEL_HEADS = frozenset([40, 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576])
"""Widths of heads for which GPUs have flash attention; for other widths the host computes it."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """The largest batch that the buffers must have room for.

    `tokens` of a micro-batch, `outputs` of them with logits; `sequences` in `streams` of the cache. Each
    stream has `cells`, or `window_cells` in layers with a sliding window. The types are ggml's names.
    `pooling` reduces the vectors of tokens to one of the text. `mixes`: tokens and embeddings in one batch.
    `casts_masks`: masks have 32 bits and are cast to 16.
    """

    tokens: int
    outputs: int
    sequences: int
    streams: int
    cells: int
    window_cells: int
    flash: bool
    type_k: str
    type_v: str
    pooling: Pooling = "none"
    mixes: bool = True
    casts_masks: bool = False

    def cells_of(self, shape: Shape, layer: int) -> int:
        """Return the number of a layer's cache cells in each stream."""
        return self.window_cells if shape.windowed[layer] else self.cells


class HostSide(msgspec.Struct, frozen=True, kw_only=True):
    """The tensors, and the layers' caches, on the host that are copied to the GPU when they are needed."""

    weights: frozenset[str] = frozenset()
    cache: frozenset[int] = frozenset()


def row_bytes(kind: str, count: int) -> int:
    """Return the bytes of a row. Raises `ValueError` if it is not a whole number of the type's blocks."""
    block, size = block_of(kind)
    if count % block:
        raise ValueError(
            f"a cache of the type {kind} needs rows in blocks of {block}; this model's have {count}"
        )
    return count // block * size


def on_gpu(tensor: Tensor) -> int:
    """Return the bytes of a tensor on a CUDA device.

    Rows of quantised tensors are padded to a multiple of 512 weights, tensors to a multiple of 128 bytes.
    """
    block, size = block_of(tensor.type)
    padding = -tensor.shape[0] % 512 if block > 1 and tensor.shape else 0
    return align(tensor.size + padding // block * size)


def is_quantized(kind: str) -> bool:
    return block_of(kind)[0] > 1
