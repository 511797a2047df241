"""Where a model goes: on one GPU, over several, partly on the host, or on the host alone. Pure.

In this order, and the first that fits wins:

1. the one GPU that it fits with the least left over, so that large gaps stay for large models;
2. the fewest GPUs, those with the most room first, with an explicit split by the room on each;
3. of a mixture of experts: everything on the roomiest GPU but the experts, which are read rarely;
4. as many layers as fit on the roomiest GPU;
5. the host.
"""

from collections.abc import Sequence

import msgspec

from actors.memory.predict import HOST, Prediction, Settings, predict
from actors.memory.shape import Shape

MIB = 1 << 20
RUNTIME = 500 * MIB
"""What a CUDA process takes on each GPU beside llama.cpp's buffers; public logs have 107 to 560 MiB."""

EXPERTS = r"\.ffn_(up|down|gate)_exps"
BALANCING_STEPS = 12


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """A decision. `gpus` are indices into the free bytes that were given; the prediction is for them."""

    how: str
    why: str
    gpus: tuple[int, ...]
    settings: Settings
    prediction: Prediction

    @property
    def arguments(self) -> list[str]:
        """llama-server's arguments that say the same, so that it does not guess for itself."""
        flags = ["--fit", "off"]
        if not self.gpus:
            return [*flags, "--gpu-layers", "0"]
        layers = self.settings.gpu_layers
        flags += ["--gpu-layers", "999" if layers is None else str(layers)]
        if len(self.gpus) > 1 and self.settings.tensor_split:
            total = sum(self.settings.tensor_split)
            shares = ",".join(f"{share / total:.4f}" for share in self.settings.tensor_split)
            flags += ["--split-mode", "layer", "--tensor-split", shares]
        if self.settings.overrides:
            flags += ["--override-tensor", f"{self.settings.overrides}=CPU"]
        return flags


def place(shape: Shape, settings: Settings, free: Sequence[int], *, headroom: int = 0) -> Placement:
    """Decide for GPUs with so many bytes free, of which `headroom` each stay free.

    Raises `ValueError` for settings that llama.cpp would refuse.
    """
    room = [max(0, bytes_ - RUNTIME - headroom) for bytes_ in free]
    by_room = sorted(range(len(room)), key=lambda gpu: -room[gpu])
    decision = _on_one(shape, settings, room) or _over_several(shape, settings, room, by_room)
    if decision is None and by_room:
        decision = _partly(shape, settings, room, by_room[0])
    if decision is not None:
        return decision
    why = "no GPU has room for any of it" if free else "there is no GPU"
    return Placement(how="host", why=why, gpus=(), settings=settings, prediction=predict(shape, settings, []))


def _on_one(shape: Shape, settings: Settings, room: Sequence[int]) -> Placement | None:
    prediction = predict(shape, settings, [1])
    needed = prediction.gpus[0].total
    fitting = [gpu for gpu in range(len(room)) if room[gpu] >= needed]
    if not fitting:
        return None
    best = min(fitting, key=lambda gpu: room[gpu])
    why = f"the fullest GPU that it fits, with {(room[best] - needed) // MIB:,} MiB to spare"
    return Placement(how="one GPU", why=why, gpus=(best,), settings=settings, prediction=prediction)


def _over_several(
    shape: Shape, settings: Settings, room: Sequence[int], by_room: Sequence[int]
) -> Placement | None:
    if not settings.split:
        return None
    for count in range(2, len(room) + 1):
        chosen = tuple(sorted(by_room[:count]))
        if found := _balance(shape, settings, [room[gpu] for gpu in chosen]):
            split, prediction = found
            why = f"too large for one GPU; the fewest that it fits are {count}"
            told = msgspec.structs.replace(settings, tensor_split=split)
            return Placement(how="split", why=why, gpus=chosen, settings=told, prediction=prediction)
    return None


def _balance(
    shape: Shape, settings: Settings, room: Sequence[int]
) -> tuple[tuple[float, ...], Prediction] | None:
    """A split that fits. Layers are whole, so shares are moved from where it is too much, step by step."""
    if not all(room):
        return None
    shares = [float(bytes_) for bytes_ in room]
    for _ in range(BALANCING_STEPS):
        told = msgspec.structs.replace(settings, tensor_split=tuple(shares))
        prediction = predict(shape, told, list(room))
        used = [usage.total for usage in prediction.gpus]
        if all(need <= bytes_ for need, bytes_ in zip(used, room, strict=True)):
            return tuple(shares), prediction
        if sum(used) > sum(room):
            return None
        shares = [
            share * min(1.0, bytes_ / need) if need else share
            for share, need, bytes_ in zip(shares, used, room, strict=True)
        ]
    return None


def _partly(shape: Shape, settings: Settings, room: Sequence[int], gpu: int) -> Placement | None:
    """On the roomiest GPU without the experts, or with as many layers as fit."""
    if shape.number("expert_count") and settings.overrides is None:
        told = msgspec.structs.replace(settings, overrides=EXPERTS)
        prediction = predict(shape, told, [1])
        if prediction.gpus[0].total <= room[gpu]:
            why = "with its experts it fits nowhere; they are on the host"
            return Placement(
                how="experts on host", why=why, gpus=(gpu,), settings=told, prediction=prediction
            )
    low, high = 0, shape.layers
    while low < high:  # the most layers that fit
        middle = (low + high + 1) // 2
        told = msgspec.structs.replace(settings, gpu_layers=middle)
        if predict(shape, told, [1]).gpus[0].total <= room[gpu]:
            low = middle
        else:
            high = middle - 1
    if low == 0:
        return None
    told = msgspec.structs.replace(settings, gpu_layers=low)
    why = f"{low} of its {shape.layers + 1} layers fit the roomiest GPU; the others are on the host"
    return Placement(how="partial", why=why, gpus=(gpu,), settings=told, prediction=predict(shape, told, [1]))


def layers_of(placement: Placement, gpu: int) -> int:
    """How many layers, the output counted as one, are on the n-th of its GPUs; -1 is the host."""
    assert gpu == HOST or gpu < len(placement.gpus)
    return sum(device == gpu for device in placement.prediction.layers)
