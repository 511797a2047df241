"""The batch that a graph is for, and the sizes of rows and tensors."""

import msgspec

from actors.memory.buffer import align
from actors.memory.gguf import Tensor, block_of
from actors.memory.shape import Pooling, Shape

F32 = 4
BIG_BATCH = 32
"""Tokens from which on llama.cpp computes with weights of the host on the GPU."""

KERNEL_HEADS = frozenset([40, 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576])
"""Widths of heads for which GPUs have flash attention; of others it is computed on the host."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """The batch that the buffers must be large enough for.

    `tokens` of a micro-batch, `outputs` of them with logits, `sequences` in `streams` of the cache, which
    has `cells` in each, and `window_cells` in layers with a sliding window. The types are ggml's names.
    `pooling`: how vectors of tokens become one of the text.
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

    def cells_of(self, shape: Shape, layer: int) -> int:
        """Cells of the cache in each stream, for a layer."""
        return self.window_cells if shape.windowed[layer] else self.cells


class HostSide(msgspec.Struct, frozen=True, kw_only=True):
    """What lies on the host and is copied to the GPU when it is needed: tensors, and the cache of layers."""

    weights: frozenset[str] = frozenset()
    cache: frozenset[int] = frozenset()


def row_bytes(kind: str, count: int) -> int:
    """Bytes of a row. Raises `ValueError` when it is no whole number of the type's blocks."""
    block, size = block_of(kind)
    if count % block:
        raise ValueError(
            f"a cache of the type {kind} needs rows in blocks of {block}; this model's have {count}"
        )
    return count // block * size


def on_gpu(tensor: Tensor) -> int:
    """Bytes of a tensor on a CUDA device, which pads quantised rows to 512 and tensors to 128 bytes."""
    block, size = block_of(tensor.type)
    padding = -tensor.shape[0] % 512 if block > 1 and tensor.shape else 0
    return align(tensor.size + padding // block * size)


def is_quantized(kind: str) -> bool:
    return block_of(kind)[0] > 1
