"""What a prediction says: bytes on each device, and how certain they are."""

from typing import Literal

import msgspec

HOST = -1
"""The host, where devices are numbered."""

Certainty = Literal["exact", "bound", "fallback"]


class MemoryUsage(msgspec.Struct, kw_only=True):
    """Bytes on one device."""

    weights: int = 0
    kv: int = 0
    compute: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.weights + self.kv + self.compute + self.output


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """The predicted memory. `certainty`: exact, bound (an upper limit), fallback (estimate with reserve)."""

    gpus: tuple[MemoryUsage, ...]
    host: MemoryUsage
    certainty: Certainty
    layers: tuple[int, ...]
    """The device of each layer, and of the output after them; -1 is the host."""
