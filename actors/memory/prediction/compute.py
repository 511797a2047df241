"""Compute buffers of the devices, and what cuts between devices add to them."""

from collections.abc import Sequence

from actors.memory.graph.work import BIG_BATCH, F32, HostSide, on_gpu
from actors.memory.graph.worst_case import compute_buffer, cuts
from actors.memory.prediction.architectures import MODELLED, NEARLY_MODELLED
from actors.memory.prediction.batch import work_of
from actors.memory.prediction.estimate import estimate
from actors.memory.prediction.layers import HOST_ROWS, PlacedLayers
from actors.memory.prediction.results import HOST
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape

PIPELINE = 4
"""Number of copies of the inputs with pipeline parallelism, which works on so many batches at a time."""

OWN_ROWS = 5
"""Number of rows of activations to add to the estimate if a graph cannot be replayed at all (measured)."""

ALTUP_ROWS = 8
"""Number of rows of activations that go from one GPU to the next, for models with AltUp (measured)."""

SPILL, SPILL_EXPERTS, SPILL_ENCODER = 3.4, 6.3, 2.1
"""Maximum memory beyond its graph of a partly offloaded model, in activations of a micro-batch (measured).

Of models without experts, with experts, and of encoders.
"""

FALLBACK_MARGIN, REPLAY_MARGIN = 1.15, 1.1
"""Factors for graphs that are not modelled: of the estimate, and of the replay of a similar graph."""


def most_of_cuts(shape: Shape, settings: LoadSettings, starts: Sequence[int]) -> list[int]:
    """Return the bytes that each GPU takes more where the cuts between them are least favourable.

    `starts`: the first layer of each GPU except the first. A cut inside a block costs more than one between.
    """
    costs = cuts(shape, work_of(shape, settings, gpus=True))
    if not costs:
        return [0] * (len(starts) + 1)
    after, before = (max(cost[side] for cost in costs) for side in (0, 1))
    own = [costs[start - 1] if 0 < start <= len(costs) else (0, 0) for start in starts]
    more = [0] * (len(starts) + 1)
    for nth, (after_own, before_own) in enumerate(own):
        more[nth] += PIPELINE * (before - before_own)
        more[nth + 1] += PIPELINE * (after - after_own)
    return more


def worst_cut(shape: Shape, settings: LoadSettings) -> int:
    """Return the most bytes that cuts add to a GPU without pipeline parallelism, and with what they copy."""
    costs = cuts(shape, work_of(shape, settings, gpus=True))
    return 2 * sum(max((cost[side] for cost in costs), default=0) for side in (0, 1))


class ComputeBuffers:
    """The compute buffers of placed layers. `modelled`: the graph of the architecture was replayed."""

    def __init__(self, placed: PlacedLayers) -> None:
        self.placed = placed
        self.shape, self.settings, self.work = placed.shape, placed.settings, placed.work
        self.nearly = placed.shape.architecture in NEARLY_MODELLED
        self.modelled = placed.shape.architecture in MODELLED or self.nearly

    def place(self) -> None:
        """Add the buffers to the memory of their devices."""
        placed = self.placed
        shape, layers = self.shape, range(self.shape.last + 1)
        if not placed.gpus:
            placed.host.compute += self._buffer(list(layers), gpu=False)
            return
        spilled = self._host_side()
        for gpu, usage in enumerate(placed.usage):
            # For big batches the first GPU also computes the layers on the host.
            host = spilled if gpu == 0 else None
            if host is None and spilled is not None and not self.settings.offload_kv:
                host = HostSide(cache=spilled.cache)  # each GPU reads the caches of its own layers
            takers = {gpu, HOST} if gpu == 0 and spilled is not None else {gpu}
            mine = [layer for layer in layers if placed.devices[layer] in takers or len(placed.gpus) == 1]
            if mine:
                usage.compute += (
                    self._buffer(mine, gpu=True, host=host) + self._cut(mine) + self._between(host)
                )
        activations = F32 * shape.width * self.work.tokens
        inputs = self._masks() + self._value_indices()
        copies = self._copies
        placed.host.compute += (
            4 * activations + inputs if copies == 1 else 2 * activations + copies * (2 * activations + inputs)
        )

    def _cut(self, mine: list[int]) -> int:
        """Return the bytes for activations where the graph is cut inside a block, between two GPUs.

        Mamba's graph is cut there, and the graph of any recurrent layer that is not modelled may be.
        """
        shape, modelled = self.shape, self.modelled
        if self._copies == 1 or modelled:
            return 0
        alone = [
            block["ssm_in.weight"].shape[1]
            for block in shape.blocks
            if "ssm_in.weight" in block and "ffn_norm.weight" not in block
        ]
        width = shape.conv_width if modelled else max([shape.conv_width, *alone])
        if shape.number("altup.num_inputs"):
            width = max(width, ALTUP_ROWS * shape.width)
        return F32 * width * self.work.tokens * self._copies * (2 * (mine[0] != 0) + (mine[-1] != shape.last))

    @property
    def _copies(self) -> int:
        """The number of copies of the inputs: pipeline parallelism works on four batches at a time."""
        everything = self.placed.gpu_layers > self.shape.layers and self.placed.is_whole
        return PIPELINE if len(self.placed.gpus) > 1 and everything else 1

    def _buffer(self, layers: list[int], *, gpu: bool, host: HostSide | None = None) -> int:
        first, last = layers[0] == 0, layers[-1] == self.shape.last
        shape, work, copies = self.shape, self.work, self._copies
        devices = self.placed.devices
        gpus = {devices[layer] for layer in layers}
        foreign = {
            layer for layer in layers if shape.cached and devices[shape.sources[layer]] not in {*gpus, HOST}
        }
        try:
            size = compute_buffer(
                shape,
                work,
                layers,
                first=first,
                last=last,
                gpu=gpu,
                copies=copies,
                host=host,
                foreign=frozenset(foreign),
            )
        except LookupError:  # a layer lacks a tensor that the graph needs
            size, self.modelled = 0, False
        if size and self.modelled:
            return int(REPLAY_MARGIN * size) if self.nearly else size
        passed = 0 if size else OWN_ROWS * F32 * shape.width * work.tokens * copies
        return max(int(REPLAY_MARGIN * size), int(FALLBACK_MARGIN * estimate(shape, work)) + passed)

    def _host_side(self) -> HostSide | None:
        """Return the weights and caches on the host that big batches copy to the first GPU, or None."""
        if self.placed.is_whole or self.work.tokens < BIG_BATCH:
            return None
        cache = {
            layer
            for layer in range(self.shape.last + 1)
            if self.shape.attends[layer]
            and (self.placed.devices[self.shape.sources[layer]] == HOST or not self.settings.offload_kv)
        }
        weights = {tensor.name for tensor in self.placed.on_host if not tensor.name.startswith(HOST_ROWS)}
        return HostSide(weights=frozenset(weights), cache=frozenset(cache))

    def _between(self, host: HostSide | None) -> int:
        """Return an upper limit of the bytes kept where the graph goes from the GPU to the host and back."""
        if host is None:
            return 0
        experts = self.shape.number("expert_count") > 0
        rows = SPILL_EXPERTS if experts else SPILL if self.shape.cached else SPILL_ENCODER
        spill = int(rows * F32 * self.shape.width * self.work.tokens)
        gated = "ffn_gate_inp_shexp.weight" in self.shape.blocks[self.shape.last]
        spill += 2 * F32 * self.shape.beside * self.shape.layers * self.work.tokens
        waits = gated or self.shape.waits_for_experts(self.shape.last)
        if self.settings.overrides and (waits or not self.modelled):
            # Two copies of expert tensors exist at a time, while the shared expert's part is computed.
            spill += max((on_gpu(self.shape.tensors[name]) for name in host.weights), default=0)
        return spill

    def _masks(self) -> int:
        shape, work = self.shape, self.work
        row = (2 if work.flash else 4) * work.tokens // work.streams * work.streams
        kinds = {
            (work.cells_of(shape, layer), shape.windowed[layer])
            for layer in range(shape.layers)
            if shape.attends[layer]
        }
        return sum(row * cells for cells, _ in kinds)

    def _value_indices(self) -> int:
        shape, work = self.shape, self.work
        if work.flash or shape.latent:
            return 0
        by_window = {
            shape.windowed[layer]: 8 * work.tokens * shape.values[layer] * shape.kv_heads[layer]
            for layer in range(shape.layers)
            if shape.attends[layer]
        }
        return sum(by_window.values())
