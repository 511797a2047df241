"""The ways in which a model can run, and what each takes. Pure; made once for each load, by `demand_of`.

The prediction of one way takes milliseconds. Here they are made in advance, in the order of preference, so
that the planner, which looks at many placements in each decision, only adds up numbers.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from actors.memory.flags import EXPERTS
from actors.memory.predict import (
    HOST,
    Certainty,
    LoadSettings,
    MemoryUsage,
    layer_bytes,
    layer_usages,
    predict,
)
from actors.memory.shape import Shape

MIB = 1 << 20

SMALLEST_CONTEXT = 8192
"""Tokens below which an automatic context does not shrink."""

AMPLE = 4
"""A model that takes less than this part of all the GPUs will hardly have to do with less."""

SERVER = 55 * MIB
"""What a model server's process takes of the host beside llama.cpp's buffers (measured)."""

UNKNOWN_MARGIN = 1.25
"""On the size of a file of which nothing more is known."""

How = Literal["whole", "experts on host", "partial", "host"]


class Projector(msgspec.Struct, frozen=True, kw_only=True):
    """What a projector takes on its device and on the host, at most."""

    device: MemoryUsage = msgspec.field(default_factory=MemoryUsage)
    host: MemoryUsage = msgspec.field(default_factory=MemoryUsage)


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a model. All sizes are bytes.

    `layers`: each layer on a GPU, with its cache, the output last; those on the host are not in it.
    `compute` is what one GPU takes beside that, `shared` what each of several takes at most (None: it
    does not run on several), `projector` what the first of them takes more. `pinned` must be in the host's
    memory, `mapped` is the part of the file that the system may drop and read again. `gpu_layers` None: all.
    `slot`: tokens of the context that one request can have; None: all of it.
    `shrunk`: the context is smaller than the model's own, for want of memory. `learned` is what earlier loads
    added to `compute` and `shared`, or took off; `surcharge` is the part of it that is there because memory
    ran out.
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
    mapped: int = 0
    certainty: Certainty = "exact"
    shrunk: bool = False
    learned: tuple[int, int] = (0, 0)
    surcharge: int = 0

    @property
    def kind(self) -> str:
        """What is learned of one way to run a model holds for all the ways of its kind."""
        return f"{self.how} {self.context}"

    @property
    def on_one(self) -> int:
        """Bytes on a single GPU."""
        return sum(self.layers) + self.compute + self.projector


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes, in the order of preference; the host alone comes last, if the settings allow it.

    `load_seconds`: what earlier loads took. `file`, `settings` and `build` say what was predicted for: the
    model's files, how it is run, and by which version of the server. `other_gpus`: its server may know of
    GPUs that NVML does not, other makers' for example; `elsewhere`: it knows of such alone. `no_gpu`: why its
    server can use none.
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
        """The key of these settings, and this kind of way, among the measured loads of the file."""
        return f"{self.settings} {option.kind}"

    @property
    def on_gpus(self) -> tuple[Option, ...]:
        """Those that need a GPU."""
        return tuple(option for option in self.options if option.how != "host")

    @property
    def on_host(self) -> tuple[Option, ...]:
        """Those that are the host alone."""
        return tuple(option for option in self.options if option.how == "host")


def demand_of(
    shape: Shape,
    settings: LoadSettings,
    *,
    automatic: bool = False,
    projector: Projector | None = None,
    capacity: int = 0,
) -> Demand:
    """Predict every way that could be chosen. Some 10 to 200 ms.

    `automatic`: the context may shrink. `capacity`: bytes of all GPUs; ways that such GPUs will not need are
    left out. Raises `ValueError` for settings that llama.cpp would refuse.
    """
    options = _options(shape, settings, automatic, projector or Projector(), capacity)
    return Demand(
        options=tuple(
            msgspec.structs.replace(option, shrunk=option.context < settings.context) for option in options
        )
    )


def demand_of_size(
    size: int, settings: LoadSettings, layers: Sequence[int] = (), *, capacity: int = 0
) -> Demand:
    """For a file of so many bytes whose header does not say what a prediction needs.

    `layers`: bytes of the weights of each layer, if the header has that much; such a model can be split, and
    a part of it can stay on the host. For cache and compute each device gets half of the margin on the
    whole file, each layer its part of the other half. `capacity` as in `demand_of`.
    """
    margin = int(size * UNKNOWN_MARGIN) - size
    # What belongs to no layer goes with the last one, as the output does.
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
    shape: Shape, settings: LoadSettings, automatic: bool, projector: Projector, capacity: int
) -> Iterator[Option]:
    layers = settings.gpu_layers
    contexts = _contexts(settings) if automatic else [settings.context]
    tried = settings
    if layers is None or layers > 0:
        for context in contexts if capacity else contexts[:1]:
            tried = msgspec.structs.replace(settings, context=context)
            option = _option(shape, tried, projector)
            yield option
            if option.on_one <= capacity // AMPLE and settings.split:
                break
        else:
            if capacity and layers is None and settings.overrides is None:
                yield from _spilled(shape, tried, projector)
    if layers is None or layers == 0:
        for context in contexts:
            yield _on_host(shape, msgspec.structs.replace(settings, context=context), projector)


def _spilled(shape: Shape, settings: LoadSettings, projector: Projector) -> Iterator[Option]:
    """With a part on the host: the experts, or more and more layers."""
    if shape.number("expert_count"):
        yield _option(shape, msgspec.structs.replace(settings, overrides=EXPERTS), projector)
    layers = layer_usages(shape, settings)
    sizes = [usage.total for usage in layers]
    quarters = sorted({max(1, shape.layers * part // 4) for part in range(5)}, reverse=True)
    for most, least in zip([shape.layers + 1, *quarters], quarters, strict=False):
        # What is computed in is nearly the same throughout a range: its ends bound it.
        bound, top = (
            _option(shape, msgspec.structs.replace(settings, gpu_layers=end), projector)
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
                shared=None if bound.shared is None else compute,
                pinned=pinned - sum(usage.kv for usage in there),
                mapped=bound.mapped - sum(usage.weights for usage in there),
            )


def _contexts(settings: LoadSettings) -> list[int]:
    """The whole context, then halves of it."""
    floor = max(SMALLEST_CONTEXT, 2048 * settings.parallel)
    contexts = [settings.context]
    while contexts[-1] // 2 >= floor and len(contexts) < 5:
        contexts.append(contexts[-1] // 2)
    return contexts


def _option(shape: Shape, settings: LoadSettings, projector: Projector) -> Option:
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
        # With several GPUs and a part on the host, no one has more to compute than a single GPU would.
        shared=None if not whole.split else compute if spilled else _shared(shape, whole, layers),
        projector=projector.device.total,
        pinned=SERVER + alone.host.kv + alone.host.compute + alone.host.output + projector.host.total,
        mapped=alone.host.weights,
        certainty=_worse(alone.certainty, projector),
    )


def _shared(shape: Shape, settings: LoadSettings, layers: Sequence[int]) -> int:
    """What each of several GPUs takes beside its layers, at most: a first, a middle, or a last one."""
    most = 0
    for shares in ((1.0, 1.0), (1.0, 1.0, 1.0)):
        divided = msgspec.structs.replace(settings, tensor_split=shares)
        split = predict(shape, divided, [1] * len(shares))
        for gpu, usage in enumerate(split.gpus):
            own = sum(size for size, at in zip(layers, split.layers, strict=True) if at == gpu)
            most = max(most, usage.total - own)
    return most + 4096  # and some padding


def _on_host(shape: Shape, settings: LoadSettings, projector: Projector) -> Option:
    changed = msgspec.structs.replace(settings, gpu_layers=None, overrides=None, tensor_split=None)
    alone = predict(shape, changed, [])
    return Option(
        how="host",
        context=changed.context,
        gpu_layers=0,
        pinned=SERVER
        + alone.host.kv
        + alone.host.compute
        + alone.host.output
        + projector.device.compute
        + projector.host.total,
        mapped=alone.host.weights + projector.device.weights,
        certainty=_worse(alone.certainty, projector),
    )


def _worse(certainty: Certainty, projector: Projector) -> Certainty:
    return "bound" if certainty == "exact" and projector.device.total else certainty
