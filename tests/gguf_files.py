"""GGUF files for tests and benchmarks: real headers by the gguf package, and no weights."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Tensors = Sequence[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType]]
Q4_K, Q8_0, F32 = (
    gguf.GGMLQuantizationType.Q4_K,
    gguf.GGMLQuantizationType.Q8_0,
    gguf.GGMLQuantizationType.F32,
)
SMALL: Tensors = (("token_embd.weight", (256, 8), Q8_0), ("output_norm.weight", (256,), F32))


def write(
    path: Path, metadata: dict[str, Any], tensors: Tensors = SMALL, *, architecture: str = "llama"
) -> Path:
    """Write a file of these metadata, and tensors that are holes in it. Shapes have the row length first."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case list():
                writer.add_array(key, value)
            case _:
                raise TypeError(value)
    for name, shape, kind in tensors:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        count = int(np.prod(shape, dtype=np.int64)) // block * size
        rows = (
            gguf.quant_shape_to_byte_shape(tuple(reversed(shape)), kind)
            if block > 1
            else tuple(reversed(shape))
        )
        writer.add_tensor_info(
            name, rows, np.dtype(np.uint8 if block > 1 else np.float32), count, raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    end = sum(-(-_bytes(shape, kind) // 32) * 32 for _, shape, kind in tensors)
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        file.truncate(-(-size // 32) * 32 + end)
    return path


def _bytes(shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(np.prod(shape, dtype=np.int64)) // block * size


def string(text: bytes) -> bytes:
    """A string as the format has it."""
    return struct.pack("<Q", len(text)) + text


def raw(*, tensors: int = 0, pairs: int = 0, version: int = 3, rest: bytes = b"") -> bytes:
    """The beginning of a file by hand, whatever it claims."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + rest


def large_vocabulary(path: Path, tokens: int = 151_936) -> Path:
    """A model with a vocabulary and merges of today's size."""
    words = [f"tok{number:x}" for number in range(tokens)]
    return write(
        path,
        {
            "llama.context_length": 40960,
            "llama.block_count": 36,
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": words,
            "tokenizer.ggml.token_type": [1] * tokens,
            "tokenizer.ggml.merges": [f"{word} {word}" for word in words],
        },
    )


def many_experts(path: Path, layers: int = 60) -> Path:
    """A mixture of experts with ten tensors in each layer; the file is a hole of many gigabytes."""
    tensors: list[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType]] = [
        ("token_embd.weight", (4096, 32000), Q4_K),
        ("output_norm.weight", (4096,), F32),
    ]
    for layer in range(layers):
        block = f"blk.{layer}"
        tensors += [(f"{block}.{name}.weight", (4096,), F32) for name in ("attn_norm", "ffn_norm")]
        tensors += [(f"{block}.attn_{name}.weight", (4096, 4096), Q4_K) for name in ("q", "k", "v", "output")]
        tensors += [
            (f"{block}.ffn_{name}_exps.weight", (4096, 1536, 128), Q4_K) for name in ("gate", "up", "down")
        ]
        tensors.append((f"{block}.ffn_gate_inp.weight", (4096, 128), F32))
    metadata = {
        "llama.block_count": layers,
        "llama.context_length": 131072,
        "llama.embedding_length": 4096,
        "llama.attention.head_count": 32,
        "llama.expert_count": 128,
        "llama.expert_used_count": 8,
        "llama.expert_feed_forward_length": 1536,
    }
    return write(path, metadata, tensors)
