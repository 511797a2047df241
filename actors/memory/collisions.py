"""Finds flags of llama-server that collide with the gateway's placement of models on GPUs.

A server sees only the GPUs that it is given, and numbers them from 0. A flag with other GPU numbers, or with
another split of the memory than the reserved one, is refused; the message names the setting with the same
meaning. Flags that the placement takes into account do not collide: `--gpu-layers`, `--device none`,
`--split-mode none`, `=CPU` of tensors.
"""

import re
from collections.abc import Callable, Iterator, Sequence

import msgspec

from actors.memory.flags import flags_with_values

_LEAVE = "leave it out, or set gpu.enabled: false, and llama.cpp places every model by itself"

_CUDA = re.compile(r"CUDA(\d+)(?!\w)", re.IGNORECASE)

_Check = Callable[[str, int], str | None]
"""Returns the words for what to use instead of a value with this number of GPUs; None: no collision."""


class Collision(msgspec.Struct, frozen=True):
    """A collision: the index of the word in the command or the arguments, and the error message."""

    index: int
    message: str


def collisions(words: Sequence[str], gpus: int) -> Iterator[Collision]:
    """Yield all collisions in a command or in arguments, for placement on `gpus` GPUs; none without GPUs."""
    if not gpus:
        return
    for name, value, index in flags_with_values(words, _CHECKS):
        if value and (instead := _CHECKS[name](value, gpus)):
            yield Collision(index, _message(f"{name} {value}", instead))
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if equals and (check := _VARIABLES.get(name)) and (instead := check(value, gpus)):
            yield Collision(index, _message(word, instead))


def _message(what: str, instead: str) -> str:
    return (
        f"{what} collides with the placement (a server sees only the GPUs that it is given, counted from 0): "
        f"{instead}"
    )


def _main_gpu(value: str, _gpus: int) -> str | None:
    if value == "0":
        return None
    if value.startswith("-"):
        return "use gpu_layers: 0 for the host"
    return f"use devices: [{value}]"


def _devices(value: str, gpus: int) -> str | None:
    numbers = [int(number) for number in _CUDA.findall(value)]
    if not numbers or (gpus == 1 and set(numbers) == {0}):
        return None
    return f"use devices: {numbers}"


def _tensor_split(value: str, gpus: int) -> str | None:
    if gpus == 1:
        return None
    shares = re.split("[,/]+", value)
    numbers = ", ".join(str(number) for number, _ in enumerate(shares))
    return f"use tensor_split: [{', '.join(shares)}] with devices: [{numbers}]"


def _split_mode(value: str, gpus: int) -> str | None:
    return None if gpus == 1 or value in ("none", "layer") else f"models are split by layers; {_LEAVE}"


def _tensors(value: str, gpus: int) -> str | None:
    if not _devices(value, gpus):
        return None
    return f"use devices and tensor_split, or PATTERN=CPU for what stays on the host; or {_LEAVE}"


def _companion(value: str, gpus: int) -> str | None:
    return f"it has the GPUs of its model; {_LEAVE}" if _devices(value, gpus) else None


def _visible(value: str, _gpus: int) -> str:
    numbers = [part.strip() for part in value.split(",") if part.strip()]
    if not numbers or numbers[0] in ("-1", "none", "void"):
        return "use gpu_layers: 0 for the host"
    return "leave it out" if numbers == ["all"] else f"use devices: [{', '.join(numbers)}]"


_CHECKS: dict[str, _Check] = {
    name: check
    for names, check in (
        ("-mg --main-gpu", _main_gpu),
        ("-dev --device", _devices),
        ("-ts --tensor-split", _tensor_split),
        ("-sm --split-mode", _split_mode),
        ("-ot --override-tensor", _tensors),
        ("-devd --device-draft --spec-draft-device", _companion),
        ("-mmdev --mmproj-device", _companion),
        ("-otd --override-tensor-draft --spec-draft-override-tensor", _companion),
    )
    for name in names.split()
}
_VARIABLES: dict[str, _Check] = {
    "CUDA_VISIBLE_DEVICES": _visible,
    "NVIDIA_VISIBLE_DEVICES": _visible,
    "LLAMA_ARG_MAIN_GPU": _main_gpu,
    "LLAMA_ARG_DEVICE": _devices,
    "LLAMA_ARG_TENSOR_SPLIT": _tensor_split,
    "LLAMA_ARG_SPLIT_MODE": _split_mode,
    "LLAMA_ARG_OVERRIDE_TENSOR": _tensors,
    "LLAMA_ARG_DEVICE_DRAFT": _companion,
    "LLAMA_ARG_SPEC_DRAFT_DEVICE": _companion,
    "LLAMA_ARG_MMPROJ_DEVICE": _companion,
}
"""Checks of environment variables in a command such as `env NAME=value llama-server`."""
