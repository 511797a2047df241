"""Calculates the size of a device's compute buffer."""

from collections.abc import Sequence

from actors.memory.graph.decoder import Decoder
from actors.memory.graph.encoder import Encoder
from actors.memory.graph.work import HostSide, Work
from actors.memory.shape import Shape


def compute_buffer(
    shape: Shape,
    work: Work,
    layers: Sequence[int],
    *,
    first: bool,
    last: bool,
    gpu: bool,
    copies: int = 1,
    host: HostSide | None = None,
    foreign: frozenset[int] = frozenset(),
) -> int:
    """Return the bytes of the compute buffer of a device with these layers.

    `first` and `last`: whether the device computes the embedding, and the output head. `foreign`: layers that
    read a cache on another GPU. Layers repeat, so only a few of many are built.
    """
    if len(layers) > 14 and not shape.beside and not foreign:
        layers = [*layers[:12], *layers[-2:]]
    kind = Decoder if shape.cached else Encoder
    graph = kind(shape, work, gpu=gpu, host=host or HostSide(), copies=copies, foreign=foreign)
    return graph.build(layers, first=first, last=last).required(copies)
