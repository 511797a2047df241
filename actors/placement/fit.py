"""Finds a placement for a way to run a model: one GPU, several, or the host. Pure; takes microseconds.

* `single-gpu-preferred`: the GPU on which the least room is left over, so that large gaps stay for large
models;
  otherwise the fewest GPUs, those with the most room first.
* `distribute`: as many GPUs as possible, so that each keeps the most room.

A split is a number of whole layers for each GPU, and llama.cpp gets exactly these numbers.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from actors.config.schema import Strategy
from actors.placement.options import MIB, Option


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """The part of one GPU: its number of layers, where the output counts as one, and its bytes."""

    device: str
    layers: int
    bytes: int


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """The placement that a model's settings ask for: the only devices it may use, and their shares."""

    devices: tuple[str, ...] = ()
    """UUIDs, or NVML's indices as text; empty: all devices."""
    split: tuple[float, ...] = ()
    """The proportion of layers for each device; empty: by the room on each."""


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """A decision where to run. No shares: the host. `managed` is false if llama.cpp decides by itself."""

    option: Option
    shares: tuple[Share, ...]
    why: str
    managed: bool = True

    @property
    def how(self) -> str:
        """The kind of placement in one or two words, for people."""
        if not self.shares:
            return "host"
        if self.option.how == "whole":
            return "one GPU" if len(self.shares) == 1 else "split"
        return self.option.how

    @property
    def host(self) -> int:
        """Bytes of the host's memory."""
        return self.option.pinned + self.option.mapped

    @property
    def arguments(self) -> list[str]:
        """The arguments that make llama-server use exactly this placement."""
        if not self.managed:
            return []
        flags = ["--fit", "off"]
        if not self.shares:
            return [*flags, "--gpu-layers", "0"]
        layers = self.option.gpu_layers
        flags += ["--gpu-layers", "999" if layers is None else str(layers)]
        if len(self.shares) > 1:
            counts = ",".join(str(share.layers) for share in self.shares)
            flags += ["--split-mode", "layer", "--tensor-split", counts]
        if self.option.overrides:
            flags += ["--override-tensor", f"{self.option.overrides}=CPU"]
        return flags

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that limit the process to its own GPUs."""
        if not self.managed:
            return {}
        return {"CUDA_VISIBLE_DEVICES": ",".join(share.device for share in self.shares)}


def fit(
    option: Option,
    rooms: Mapping[str, int],
    *,
    strategy: Strategy = "single-gpu-preferred",
    wish: Wish | None = None,
    alone: Collection[str] = (),
) -> tuple[Share, ...] | None:
    """Find the shares of GPUs, given the bytes of room on each; None if the option does not fit.

    GPUs in `alone` take a model whole or not at all.

    With a wish for devices, `rooms` contains only these, in the order of the wish.
    """
    if option.how == "host":
        return ()
    if wish is not None and wish.split and len(rooms) > 1:
        return None if set(alone) & rooms.keys() else _as_wished(option, rooms, wish.split)
    one = _on_one(option, rooms)
    if one and strategy != "distribute":
        return one
    several = {device: room for device, room in rooms.items() if device not in alone}
    fewest_first = range(2, len(several) + 1)
    counts = fewest_first if strategy != "distribute" else fewest_first[::-1]
    return _over_several(option, several, counts) or one


def _on_one(option: Option, rooms: Mapping[str, int]) -> tuple[Share, ...] | None:
    needed = option.on_one
    best: str | None = None
    for device, room in rooms.items():
        if room >= needed and (best is None or room < rooms[best]):
            best = device
    return None if best is None else (Share(device=best, layers=len(option.layers), bytes=needed),)


def _over_several(
    option: Option, rooms: Mapping[str, int], counts: Sequence[int]
) -> tuple[Share, ...] | None:
    if option.shared is None or sum(option.layers) + option.projector > sum(rooms.values()):
        return None
    roomiest = sorted(rooms, key=lambda device: -rooms[device])
    for count in counts:
        chosen = [device for device in rooms if device in roomiest[:count]]
        free = [rooms[device] - option.shared for device in chosen]
        free[0] -= option.projector
        if min(free) <= 0 or sum(free) < sum(option.layers):
            continue
        layers = _by_room(option.layers, free) or _filled_up(option.layers, free)
        if layers is not None:
            return _shares(option, chosen, layers)
    return None


def _by_room(layers: Sequence[int], free: Sequence[int]) -> list[int] | None:
    """Divide the layers in proportion to each GPU's room; None if they do not fit that way."""
    total, room = sum(layers), sum(free)
    counts, at, done = [], 0, 0
    bound = 0.0
    for space in free:
        bound += total * space / room
        count = used = 0
        # A layer goes to the GPU on which its middle falls.
        while at < len(layers) and done + layers[at] / 2 <= bound:
            used += layers[at]
            done += layers[at]
            count += 1
            at += 1
        if used > space or not count:
            return None
        counts.append(count)
    return counts if at == len(layers) else None


def _filled_up(layers: Sequence[int], free: Sequence[int]) -> list[int] | None:
    """Fill each GPU in turn with as many layers as fit: if any split fits in this order, this one does."""
    counts, at = [], 0
    for nth, space in enumerate(free):
        count = used = 0
        # Each of the following GPUs needs a layer too.
        while at < len(layers) - (len(free) - nth - 1) and used + layers[at] <= space:
            used += layers[at]
            count += 1
            at += 1
        if not count:
            return None
        counts.append(count)
    return counts if at == len(layers) else None


def _as_wished(option: Option, rooms: Mapping[str, int], split: Sequence[float]) -> tuple[Share, ...] | None:
    if option.shared is None or len(split) != len(rooms):
        return None
    total, bound, at = sum(split), 0.0, 0
    counts = []
    for share in split:
        bound += share / total
        count = max(0, round(bound * len(option.layers)) - at)
        counts.append(count)
        at += count
    shares = _shares(option, list(rooms), counts)
    return shares if all(share.bytes <= rooms[share.device] for share in shares) else None


def _shares(option: Option, devices: Sequence[str], counts: Sequence[int]) -> tuple[Share, ...]:
    assert option.shared is not None
    shares: list[Share] = []
    at = 0
    for device, count in zip(devices, counts, strict=True):
        size = sum(option.layers[at : at + count]) + option.shared
        size += option.projector if not shares else 0
        shares.append(Share(device=device, layers=count, bytes=size))
        at += count
    return tuple(shares)


def mib(size: int) -> str:
    """Write bytes in MiB, rounded up."""
    return f"{-(-size // MIB):,} MiB"
