"""Headers of models of many architectures, and what llama.cpp (build 11549) allocated for them.

`headers.jsonl` has each model's metadata and tensors, those of like layers once. `truth.jsonl` has the loads,
by llama.cpp itself on pretended GPUs with CUDA's sizes, of sparse files that were made of these headers.
"""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from actors.memory.gguf import Header, Tensor, block_of
from actors.memory.prediction.predict import predict
from actors.memory.prediction.results import Prediction
from actors.memory.shape import Shape
from tests.actors.memory.loads import Load, read

MIB = 1 << 20
_HERE = Path(__file__).parent


class _Layers(msgspec.Struct):
    name: str
    metadata: dict[str, Any]
    ends: list[tuple[Any, ...]]
    kinds: list[dict[str, tuple[Any, ...]]]
    layers: list[int]


@cache
def header(name: str) -> Header:
    """A model's header."""
    return _headers()[name]


@cache
def shape(name: str) -> Shape:
    """A model's shape."""
    return Shape(header(name))


def names() -> list[str]:
    """All the models."""
    return sorted(_headers())


def loads() -> Iterator[Load]:
    """All the loads; their GPUs in MiB."""
    return read(_HERE / "truth.jsonl")


def predicted(load: Load) -> Prediction:
    """What is predicted for a load."""
    return predict(shape(load.model), load.as_settings, [size * MIB for size in load.gpus])


@cache
def _headers() -> dict[str, Header]:
    lines = (_HERE / "headers.jsonl").read_text().splitlines()
    return {
        found.name: _header(found) for found in (msgspec.json.decode(line, type=_Layers) for line in lines)
    }


def _header(found: _Layers) -> Header:
    tensors = [_tensor(*end) for end in found.ends]
    for number, kind in enumerate(found.layers):
        tensors += [_tensor(f"blk.{number}.{part}", *rest) for part, rest in found.kinds[kind].items()]
    metadata = {
        key: tuple(value) if isinstance(value, list) else value for key, value in found.metadata.items()
    }
    return Header(
        version=3,
        size=sum(tensor.size for tensor in tensors),
        data_offset=0,
        metadata=metadata,
        lengths={},
        tensors=tuple(tensors),
    )


def _tensor(name: str, kind: str, *sizes: int) -> Tensor:
    block, size = block_of(kind)
    return Tensor(name, sizes, kind, 0, math.prod(sizes) // block * size)
