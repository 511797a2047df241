"""Calculates the size of a device's compute buffer."""

from collections.abc import Sequence

from actors.memory.graph.altup import AltUp
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
    everyone = layers
    if len(layers) > 14 and not shape.beside and not foreign:
        layers = _few_of(shape, layers)
    kind = AltUp if shape.number("altup.num_inputs") else Decoder if shape.cached else Encoder
    graph = kind(shape, work, gpu=gpu, host=host or HostSide(), copies=copies, foreign=foreign)
    graph.build(layers, first=first, last=last)
    graph.add_leaves_of(set(everyone) - set(layers))
    return graph.buffer.required(copies)


def cuts(shape: Shape, work: Work) -> list[tuple[int, int]]:
    """Return the bytes that a cut before each layer but the first adds to the inputs of a device.

    For each they are those of the device after the cut, and of the one before.
    """
    if not any(shape.recurrent):
        return []
    graph = Decoder(shape, work, gpu=True, host=HostSide(), copies=1, foreign=frozenset())
    return [graph.cut_before(layer) for layer in range(1, shape.last + 1)]


def _few_of(shape: Shape, layers: Sequence[int]) -> list[int]:
    """Return the first layers and the last ones, and of those between two of each make."""
    # Where layers have leaves, gaps grow from layer to layer, until larger nodes fit into them.
    begin = 28 if shape.latent and any(shape.indexed) else 12
    chosen: list[int] = []
    counts: dict[tuple[object, ...], int] = {}
    for place, layer in enumerate(layers):
        make = (shape.windowed[layer], shape.turns[layer], shape.kv_heads[layer], *shape.blocks[layer])
        counts[make] = counts.get(make, 0) + 1
        if place < begin or place >= len(layers) - 2 or counts[make] <= 2:
            chosen.append(layer)
    return chosen
