"""Predicts llama.cpp's allocations for a model, in bytes per device, from its header and the settings."""

from collections.abc import Sequence

from actors.memory.prediction.compute import ComputeBuffers
from actors.memory.prediction.layers import PlacedLayers
from actors.memory.prediction.results import Certainty, Prediction
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape


def predict(shape: Shape, settings: LoadSettings, gpus: Sequence[int]) -> Prediction:
    """Predict the memory, given each GPU's free bytes. Raises `ValueError` for settings llama.cpp refuses."""
    placed = PlacedLayers(shape, settings, gpus)
    buffers = ComputeBuffers(placed)
    buffers.place()
    if settings.own_head:
        placed.place_head()
    if placed.on_host and placed.usage:
        placed.usage[0].compute += settings.expert_cache << 20
    return Prediction(
        gpus=tuple(placed.usage),
        host=placed.host,
        certainty=_certainty(placed, buffers),
        layers=tuple(placed.devices),
    )


def _certainty(placed: PlacedLayers, buffers: ComputeBuffers) -> Certainty:
    if not buffers.modelled:
        return "fallback"
    settings = placed.settings
    known = placed.is_whole and not buffers.nearly and settings.build.is_tested and not settings.own_head
    return "exact" if known else "bound"
