"""How large the compute buffer of a device must be."""

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
    """Bytes of the compute buffer of a device that has these layers.

    `first` and `last`: whether it has the embedding's and the head's side. `foreign`: layers that read a
    cache which is on another GPU. Layers repeat: a few are enough.
    """
    if len(layers) > 14 and not shape.beside and not foreign:
        layers = [*layers[:12], *layers[-2:]]
    kind = Decoder if shape.cached else Encoder
    graph = kind(shape, work, gpu=gpu, host=host or HostSide(), copies=copies, foreign=foreign)
    return graph.build(layers, first=first, last=last).required(copies)
