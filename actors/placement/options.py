"""The ways to run a model, each with its memory. Pure; made once for each load, by `demand_of`.

The prediction of one way takes milliseconds. All ways are predicted in advance, in the order of preference,
so that the planner, which compares many placements in each decision, only adds up numbers.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from actors.memory.flags import EXPERTS
from actors.memory.growth import growth
from actors.memory.prediction.compute import most_of_cuts, worst_cut
from actors.memory.prediction.layers import layer_bytes, layer_usages, repacked
from actors.memory.prediction.predict import predict
from actors.memory.prediction.results import HOST, Certainty, MemoryUsage
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape

MIB = 1 << 20

SMALLEST_CONTEXT = 8192
"""Least tokens of an automatic context."""

AMPLE = 4
"""Part of all GPUs' memory below which a model will hardly have to be shrunk."""

SERVER = 55 * MIB
"""Bytes of main memory that a server's process takes besides llama.cpp's buffers (measured)."""

UNKNOWN_MARGIN = 1.25
"""Margin on the size of a file of unknown structure."""

How = Literal["whole", "experts on host", "partial", "host"]


class Projector(msgspec.Struct, frozen=True, kw_only=True):
    """The most bytes that a projector takes on its device and on the host.

    `mapped`: what the host may drop and read again.
    """

    device: MemoryUsage = msgspec.field(default_factory=MemoryUsage)
    host: MemoryUsage = msgspec.field(default_factory=MemoryUsage)
    mapped: int = 0


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A draft model in the same server: its shape, and its settings but for those of its model."""

    shape: Shape
    settings: LoadSettings

    def beside(self, settings: LoadSettings, projector: Projector) -> Projector:
        """Return the bytes of a projector and of this model, beside a model with these settings."""
        asked = msgspec.structs.replace(
            settings,
            type_k=self.settings.type_k,
            type_v=self.settings.type_v,
            gpu_layers=self.settings.gpu_layers,
            overrides=self.settings.overrides,
            outputs=None,
            drafted=0,
            own_head=False,
            expert_cache=0,
            tensor_split=None,
        )
        on_gpu = settings.gpu_layers != 0 or self.settings.gpu_layers is not None
        found = predict(self.shape, asked, [1] if on_gpu else [])
        device = found.gpus[0] if found.gpus else MemoryUsage()
        host = msgspec.structs.replace(found.host, weights=0)
        return Projector(
            device=_sum(projector.device, device),
            host=_sum(projector.host, host),
            mapped=projector.mapped + found.host.weights,
        )


def _sum(one: MemoryUsage, other: MemoryUsage) -> MemoryUsage:
    return MemoryUsage(
        weights=one.weights + other.weights,
        kv=one.kv + other.kv,
        compute=one.compute + other.compute,
        output=one.output + other.output,
    )


class Beside(msgspec.Struct, frozen=True):
    """What a server has beside its model: a projector, and a draft model, which has the same context."""

    projector: Projector
    draft: Draft | None = None

    def at(self, settings: LoadSettings) -> Projector:
        """Return the bytes of all of it, beside a model with these settings."""
        return self.projector if self.draft is None else self.draft.beside(settings, self.projector)


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a model. All sizes are bytes.

    `layers`: each layer on GPUs with its cache, the output last, without the layers on the host. `compute`:
    bytes of a single GPU besides the layers; `shared`: the most bytes of each of several GPUs (None: a split
    is impossible); `projector`: additional bytes of the first GPU. `pinned` must stay in main memory,
    of which the server takes `grows` while it works, for prompts and checkpoints;
    `mapped` is the part of the file that the system may drop and read again. `gpu_layers` None: all layers.
    `slot`: tokens of the context for one request; None: all of them. `shrunk`: memory is short, so the
    context is smaller than the model's own. `learned`: the correction by earlier loads in `compute` and
    `shared`, of which `surcharge` is the part for memory that ran out.
    """

    how: How
    context: int
    slot: int | None = None
    gpu_layers: int | None = None
    overrides: str | None = None
    layers: tuple[int, ...] = ()
    compute: int = 0
    shared: int | None = None
    projector: int = 0
    pinned: int = 0
    grows: int = 0
    mapped: int = 0
    certainty: Certainty = "exact"
    shrunk: bool = False
    learned: tuple[int, int] = (0, 0)
    surcharge: int = 0

    @property
    def kind(self) -> str:
        """The kind of this way. A correction learned for one way applies to all ways of its kind."""
        return f"{self.how} {self.context}"

    @property
    def on_one(self) -> int:
        """Bytes when the model runs on a single GPU."""
        return sum(self.layers) + self.compute + self.projector


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """The ways to run a model, best first; the host alone is last, if the settings allow it.

    `load_seconds`: the time of earlier loads. `file`, `settings` and `build` identify the prediction: the
    model's files, the settings, and the server's version. `other_gpus`: the server may use GPUs that NVML
    does not know, such as other makers'; `elsewhere`: it uses only such GPUs. `no_gpu`: why the server can
    use no GPU.
    """

    options: tuple[Option, ...]
    load_seconds: float | None = None
    file: str = ""
    settings: str = ""
    build: str = ""
    other_gpus: bool = False
    elsewhere: bool = False
    no_gpu: str = ""

    def settings_key(self, option: Option) -> str:
        """Return the key under which loads with these settings, in this kind of way, are recorded."""
        return f"{self.settings} {option.kind}"

    @property
    def on_gpus(self) -> tuple[Option, ...]:
        """The options that need a GPU."""
        return tuple(option for option in self.options if option.how != "host")

    @property
    def on_host(self) -> tuple[Option, ...]:
        """The options on the host alone."""
        return tuple(option for option in self.options if option.how == "host")


def demand_of(
    shape: Shape,
    settings: LoadSettings,
    *,
    automatic: bool = False,
    projector: Projector | None = None,
    draft: Draft | None = None,
    capacity: int = 0,
) -> Demand:
    """Predict every way that could be chosen. Takes about 10 to 200 ms.

    `automatic`: the context may shrink. `capacity`: bytes of all GPUs; ways that GPUs of this size will not
    need are left out. Raises `ValueError` for settings that llama.cpp would refuse.
    """
    grows = growth(shape, settings)
    options = _options(shape, settings, automatic, Beside(projector or Projector(), draft), capacity)
    return Demand(
        options=tuple(
            msgspec.structs.replace(
                option,
                shrunk=option.context < settings.context,
                pinned=option.pinned + option.mapped * settings.locked + grows,
                grows=grows,
                mapped=option.mapped * (not settings.locked),
            )
            for option in options
        )
    )


def demand_of_size(
    size: int, settings: LoadSettings, layers: Sequence[int] = (), *, capacity: int = 0
) -> Demand:
    """Estimate the demand of a file of `size` bytes whose header is not sufficient for a prediction.

    `layers`: bytes of each layer's weights, if the header has them; such a model can be split or stay partly
    on the host. Cache and compute are estimated by a margin on the file: half of it counts on each device,
    the other half is divided among the layers. `capacity` as in `demand_of`.
    """
    margin = int(size * UNKNOWN_MARGIN) - size
    # Weights that belong to no layer are added to the last one, as the output is.
    weights = [*layers, max(0, size - sum(layers))] if len(layers) > 1 else [size]
    cache = margin // 2 if len(weights) > 1 else 0
    sizes = tuple(weight + cache * weight // max(1, size) for weight in weights)
    compute = size + margin - sum(sizes)
    whole = Option(
        how="whole",
        context=settings.context,
        layers=sizes,
        compute=compute,
        shared=compute if len(weights) > 1 and settings.split else None,
        pinned=SERVER,
        certainty="fallback",
    )
    options = [whole]
    gpu_layers = settings.gpu_layers
    crowded = gpu_layers is None and capacity and not (whole.on_one <= capacity // AMPLE and settings.split)
    counts = range(len(weights) - 1, 0, -1) if crowded else ()
    if gpu_layers is not None and 0 < gpu_layers < len(weights):
        options, counts = [], range(gpu_layers, gpu_layers + 1)
    for count in counts:
        rest = sum(weights[: len(weights) - count])
        part = msgspec.structs.replace(
            whole,
            how="partial",
            gpu_layers=count,
            layers=sizes[len(sizes) - count :],
            pinned=SERVER + margin * rest // max(1, size),
            mapped=rest,
        )
        options.append(part)
    if not gpu_layers:
        host = msgspec.structs.replace(
            whole,
            how="host",
            gpu_layers=0,
            layers=(),
            compute=0,
            shared=None,
            pinned=SERVER + margin,
            mapped=size,
        )
        options = [host] if gpu_layers == 0 else [*options, host]
    return Demand(options=tuple(options))


def _options(
    shape: Shape, settings: LoadSettings, automatic: bool, beside: Beside, capacity: int
) -> Iterator[Option]:
    layers = settings.gpu_layers
    contexts = _contexts(settings) if automatic else [settings.context]
    tried = settings
    if layers is None or layers > 0:
        for context in contexts if capacity else contexts[:1]:
            tried = msgspec.structs.replace(settings, context=context)
            option = _option(shape, tried, beside)
            yield option
            if option.on_one <= capacity // AMPLE and settings.split:
                break
        else:
            if capacity and layers is None and settings.overrides is None:
                yield from _spilled(shape, tried, beside)
    if layers is None or layers == 0:
        for context in contexts:
            yield _on_host(shape, msgspec.structs.replace(settings, context=context), beside)


def _spilled(shape: Shape, settings: LoadSettings, beside: Beside) -> Iterator[Option]:
    """Yield options with a part on the host: the experts, or more and more layers."""
    if shape.number("expert_count"):
        yield _option(shape, msgspec.structs.replace(settings, overrides=EXPERTS), beside)
    layers = layer_usages(shape, settings)
    sizes = [usage.total for usage in layers]
    quarters = sorted({max(1, shape.layers * part // 4) for part in range(5)}, reverse=True)
    for most, least in zip([shape.layers + 1, *quarters], quarters, strict=False):
        # The compute buffer is nearly constant within a range, so the ends of the range bound it.
        bound, top = (
            _option(shape, msgspec.structs.replace(settings, gpu_layers=end), beside)
            for end in (least, most - 1)
        )
        moved = sum(usage.kv for usage in layers[len(layers) - most + 1 : len(layers) - least])
        compute, pinned = max(bound.compute, top.compute), max(bound.pinned, top.pinned + moved)
        for count in range(most - 1, least - 1, -1):
            there = layers[len(layers) - count : len(layers) - least]
            yield msgspec.structs.replace(
                bound,
                gpu_layers=count,
                layers=tuple(sizes[len(layers) - count :]),
                compute=compute,
                shared=None if bound.shared is None else compute + bound.shared - bound.compute,
                pinned=pinned - sum(usage.kv for usage in there),
                mapped=bound.mapped - sum(usage.weights for usage in there),
            )


def _contexts(settings: LoadSettings) -> list[int]:
    """Yield the whole context, then halves of it."""
    floor = max(SMALLEST_CONTEXT, 2048 * settings.parallel)
    contexts = [settings.context]
    while contexts[-1] // 2 >= floor and len(contexts) < 5:
        contexts.append(contexts[-1] // 2)
    return contexts


def _option(shape: Shape, settings: LoadSettings, beside: Beside) -> Option:
    projector = beside.at(settings)
    whole = msgspec.structs.replace(settings, tensor_split=None, main_gpu=0)
    alone = predict(shape, whole, [1])
    layers = tuple(layer_bytes(shape, whole))
    on_gpu = layers if whole.gpu_layers is None else layers[max(0, len(layers) - whole.gpu_layers) :]
    spilled = whole.overrides is not None or HOST in alone.layers
    partial = whole.gpu_layers is not None and whole.gpu_layers <= shape.layers
    compute = max(0, alone.gpus[0].total - sum(on_gpu))
    return Option(
        how="experts on host" if whole.overrides == EXPERTS else "partial" if partial else "whole",
        context=whole.context,
        gpu_layers=whole.gpu_layers if partial else None,
        overrides=whole.overrides,
        layers=on_gpu,
        compute=compute,
        shared=_shared(shape, whole, layers, compute if spilled else None) if whole.split else None,
        projector=projector.device.total,
        pinned=SERVER + alone.host.kv + alone.host.compute + alone.host.output + projector.host.total,
        mapped=alone.host.weights + projector.mapped,
        certainty=_worse(alone.certainty, projector),
    )


def _shared(shape: Shape, settings: LoadSettings, layers: Sequence[int], spilled: int | None) -> int:
    """Return the most bytes besides layers on each of several GPUs: a first, a middle, or a last one.

    With layers on the host, no GPU needs more than a single one would, which is `spilled`, except for cuts.
    """
    if spilled is not None and settings.overrides is None:
        return spilled + worst_cut(shape, settings)
    most = 0 if spilled is None else spilled + worst_cut(shape, settings)
    for shares in ((1.0, 1.0), (1.0, 1.0, 1.0)):
        divided = msgspec.structs.replace(settings, tensor_split=shares)
        split = predict(shape, divided, [1] * len(shares))
        starts = [split.layers.index(gpu) for gpu in range(1, len(shares))]
        more = most_of_cuts(shape, divided, starts)
        for gpu, usage in enumerate(split.gpus):
            own = sum(size for size, at in zip(layers, split.layers, strict=True) if at == gpu)
            most = max(most, usage.total - own + more[gpu])
    return most + 4096  # and padding


def _on_host(shape: Shape, settings: LoadSettings, beside: Beside) -> Option:
    projector = beside.at(msgspec.structs.replace(settings, gpu_layers=0))
    changed = msgspec.structs.replace(settings, gpu_layers=None, overrides=None, tensor_split=None)
    alone = predict(shape, changed, [])
    again = repacked(shape) if settings.repack else 0
    return Option(
        how="host",
        context=changed.context,
        gpu_layers=0,
        pinned=SERVER
        + alone.host.kv
        + alone.host.compute
        + alone.host.output
        + projector.device.total
        - projector.device.weights
        + projector.host.total
        + again,
        mapped=max(0, alone.host.weights - again) + projector.device.weights + projector.mapped,
        certainty=_worse(alone.certainty, projector),
    )


def _worse(certainty: Certainty, projector: Projector) -> Certainty:
    return "bound" if certainty == "exact" and projector.device.total else certainty
