"""Weights and KV cache, placed on the devices as llama.cpp places them."""

import operator
import re
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from actors.memory.buffer import align
from actors.memory.gguf import Tensor
from actors.memory.graph.work import F32, on_gpu, row_bytes
from actors.memory.prediction.batch import output_floats, work_of
from actors.memory.prediction.results import HOST, MemoryUsage
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape

HOST_ROWS = ("token_embd", "per_layer_token", "position_embd", "token_types")
"""Beginnings of the names of tensors whose rows are looked up singly: llama.cpp keeps them on the host."""

REPACKED = frozenset(["Q4_0", "Q4_K", "IQ4_NL", "MXFP4"])
"""Types of weights that llama.cpp packs again for CPUs with AVX2, or for ARM's."""

FIRST_LAYERS = ("token_embd_norm", "per_layer_model_proj", "per_layer_proj_norm")
"""Beginnings of the names of tensors outside of layers that are placed with the first layer."""


def repacked(shape: Shape) -> int:
    """Return the bytes of weights that llama.cpp, without GPUs, packs again for the CPU."""
    return sum(
        tensor.size
        for name, tensor in shape.tensors.items()
        if tensor.type in REPACKED and len(tensor.shape) > 1 and tensor.shape[1] % 8 == 0
        if not name.startswith(HOST_ROWS)
        or (name == "token_embd.weight" and shape.writes and "output.weight" not in shape.tensors)
    )


def layer_usages(shape: Shape, settings: LoadSettings) -> list[MemoryUsage]:
    """Return weights and cache of each layer, and last of the output layer, as if all were on GPUs."""
    apart = msgspec.structs.replace(settings, gpu_layers=None, tensor_split=None, split=True)
    placed = PlacedLayers(shape, apart, [1] * (shape.layers + 1))
    # Each device has one copy of these tensors, for any number of layers.
    copied = sum(on_gpu(tensor) for name, tensor in shape.tensors.items() if name.startswith("rope_f"))
    for usage in placed.usage[: shape.layers]:
        usage.weights -= copied
    return placed.usage


def layer_bytes(shape: Shape, settings: LoadSettings) -> list[int]:
    """Return the bytes of each layer, and last of the output layer: the totals of `layer_usages`."""
    return [usage.total for usage in layer_usages(shape, settings)]


class PlacedLayers:
    """The layers of a model on its devices: `usage` of each GPU, and of the `host`."""

    def __init__(self, shape: Shape, settings: LoadSettings, gpus: Sequence[int]) -> None:
        self.shape = shape
        self.settings = settings
        self.gpus = list(gpus) if settings.split or not gpus else [gpus[settings.main_gpu]]
        self.gpu_layers = shape.layers + 1 if settings.gpu_layers is None else settings.gpu_layers
        self.devices = self._assign()
        self.work = work_of(shape, settings, gpus=bool(gpus))
        self.usage = [MemoryUsage() for _ in self.gpus]
        self.host = MemoryUsage(output=F32 * output_floats(shape, settings))
        self.on_host: list[Tensor] = []
        self._place_weights()
        self._place_cache()

    # The devices of layers

    def _assign(self) -> list[int]:
        """Return the device of each layer and of the output, as `llama_model::load_tensors` chooses it."""
        count = self.shape.layers + 1
        first, on_gpu = max(count - self.gpu_layers, 0), min(self.gpu_layers, count)
        weights = list(self.settings.tensor_split or self.gpus)[: len(self.gpus)]
        total = sum(self.settings.tensor_split or self.gpus) or 1
        bounds = [bound / total for bound in accumulate(weights)]

        def device(layer: int) -> int:
            if not self.gpus or not first <= layer < first + on_gpu:
                return HOST
            share = (layer - first) / on_gpu
            return next((gpu for gpu, bound in enumerate(bounds) if bound > share + 1e-9), len(self.gpus) - 1)

        return [device(layer) for layer in range(count)]

    @property
    def is_whole(self) -> bool:
        """Whether all of the model is on GPUs, or nothing of it."""
        spilled = self.settings.overrides is not None or not self.settings.offload_kv
        return not self.gpus or (HOST not in self.devices and not spilled)

    # Weights

    def _place_weights(self) -> None:
        shape = self.shape
        output = self.devices[shape.layers]
        for name, tensor in shape.tensors.items():
            if name.startswith("blk."):
                layer = int(name.split(".")[1])
                if layer <= shape.last:
                    self._place(tensor, self.devices[layer])
            elif name.startswith(FIRST_LAYERS):
                self._place(tensor, self.devices[0])
            elif name.startswith(HOST_ROWS):
                self._place(tensor, HOST)
            elif name.startswith("rope_f"):  # each device has a copy
                for device in set(self.devices[: shape.layers]):
                    self._place(tensor, device)
            else:
                self._place(tensor, output)
        if "output.weight" not in shape.tensors and shape.writes and output != HOST:
            # The embedding is also the output head: a second copy of it goes to the GPU.
            embedding = shape.tensors["token_embd.weight"]
            self._place(msgspec.structs.replace(embedding, name="output.weight"), output)

    def _place(self, tensor: Tensor, device: int) -> None:
        if self.settings.overrides and re.search(self.settings.overrides, tensor.name):
            device = HOST
        if device == HOST:
            self.host.weights += align(tensor.size, 64)
            self.on_host.append(tensor)
        else:
            self.usage[device].weights += on_gpu(tensor)

    def place_head(self) -> None:
        """Place the layers for multi-token prediction, their cache, and a buffer like the model's own."""
        shape = self.shape
        for layer in range(shape.last + 1, shape.layers):
            device = self.devices[layer]
            for tensor in shape.blocks[layer].values():
                self._place(tensor, device)
            usage = self.host if device == HOST else self.usage[device]
            usage.kv += self._cache_of(layer) * self.work.streams
            usage.compute += max((each.compute for each in (*self.usage, self.host)), default=0)

    # The cache

    def _place_cache(self) -> None:
        shape, work = self.shape, self.work
        for layer in range(shape.last + 1):
            device = self.devices[layer] if self.settings.offload_kv else HOST
            usage = self.host if device == HOST else self.usage[device]
            if shape.caches[layer]:
                usage.kv += self._cache_of(layer) * work.streams
            if shape.recurrent[layer]:
                # With an own head, a state is kept for each drafted token that may have to be taken back.
                states = max(1, work.sequences) * (1 + self.settings.drafted * self.settings.own_head)
                usage.kv += F32 * (shape.conv_state + shape.ssm_state) * states

    def _cache_of(self, layer: int) -> int:
        """Return the bytes of one stream of a layer's cache."""
        shape, work = self.shape, self.work
        keys = row_bytes(work.type_k, shape.keys[layer] * shape.kv_heads[layer])
        width = shape.values[layer] * shape.kv_heads[layer]
        if not work.flash:  # values are transposed, with the largest width of all layers
            width = max(map(operator.mul, shape.values, shape.kv_heads))
        values = 0 if shape.latent else row_bytes(work.type_v, width)
        chosen = row_bytes(work.type_k, shape.indexed[layer])
        if not shape.latent:
            chosen += row_bytes(work.type_v, shape.indexed[layer])
        return (keys + values + chosen) * work.cells_of(shape, layer)
