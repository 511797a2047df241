"""The ledger of memory: the bytes of each model, on each GPU and on the host. Pure.

A model's bytes are reserved from the decision to start it until a sample shows that its memory has been
returned. At first the predicted bytes are reserved, then the bytes that NVML reports for its processes. All
other used memory is *foreign* and left alone: desktops, other people's jobs, an ended process whose memory
is not returned yet.
"""

import math
from collections.abc import Collection, Iterable, Mapping

import msgspec

from actors.placement.fit import Placement, Share

LAG = 5.0
"""Seconds within which the memory of an ended process may be returned."""

GROWTH = 300 << 20
"""Bytes of a GPU that a server may take later, while it works; public logs show 294 to 298 MiB."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU at one moment, in bytes. `groups`: bytes of each process group, as far as NVML reports them.

    `overhead`: bytes of a process besides llama.cpp's buffers. `alone`: a model on this GPU can use no other
    one.
    """

    id: str
    index: int | str
    name: str
    total: int
    used: int
    groups: Mapping[int, int] = {}
    overhead: int = 0
    alone: bool = False


class HostMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Main memory in bytes: the total that this process may use, and the part available, caches included.

    `groups`: bytes that the processes of each session of the gateway's children have of their own, outside of
    files.
    """

    total: int
    available: int
    groups: Mapping[int, int] = {}


class Holding:
    """The memory that one model has reserved, by device; `seen` is the memory that NVML reports for it."""

    __slots__ = (
        "host", "is_loaded", "left_at", "overheads", "peaks", "pinned", "placement", "process", "ready_at",
        "reserved", "seen", "seen_host",
    )  # fmt: skip

    def __init__(self, placement: Placement, overheads: Mapping[str, int]) -> None:
        self.placement = placement
        self.overheads = {share.device: overheads.get(share.device, 0) for share in placement.shares}
        self.reserved = {
            share.device: share.bytes + self.overheads[share.device] for share in placement.shares
        }
        self.pinned = placement.option.pinned
        self.seen_host = 0
        """Bytes of main memory that its processes were seen to have of their own."""
        self.host = placement.host
        """Bytes of the host's memory that it takes, or may take while it works."""
        self.seen: dict[str, int] = {}
        self.peaks: dict[str, int] = {}
        self.process: int | None = None
        self.ready_at: float | None = None
        self.is_loaded = False
        """Whether the model was loaded at the latest sample: memory seen earlier is incomplete."""
        self.left_at = -math.inf

    @property
    def taken_host(self) -> int:
        """Bytes of main memory that a loaded model has now: what was seen, at least what it began with."""
        return max(self.pinned - self.placement.option.grows, min(self.seen_host, self.pinned))


class Ledger:
    """The memory of all devices: the latest sample, and the decisions since."""

    def __init__(self, headroom: int = 0) -> None:
        self.headroom = headroom
        self.devices: dict[str, Device] = {}
        self.host: HostMemory | None = None
        self.holdings: dict[str, Holding] = {}
        self._leaving: list[Holding] = []
        self._left: list[Holding] = []
        self.foreign: dict[str, int] = {}
        self._foreign_host = 0
        self._rooms: dict[str, int] | None = None
        self.sampled_at = -math.inf
        """Monotonic seconds at which the latest sample was requested."""

    # Changes

    def sample(self, devices: Iterable[Device], host: HostMemory | None, asked_at: float) -> None:
        """Take a sample requested at `asked_at`. Memory of ended models is then free, or foreign."""
        if asked_at < self.sampled_at:
            return  # a later sample has been taken already
        self.sampled_at = asked_at
        self.devices = {device.id: device for device in devices}
        self.host = host
        # A sample requested before a process ended says nothing about the return of its memory.
        self._leaving = [holding for holding in self._leaving if holding.left_at > asked_at]
        self._left = [holding for holding in self._left if asked_at - holding.left_at < LAG]
        present = [*self.holdings.values(), *self._leaving]
        for holding in present:
            holding.seen = {}
            holding.is_loaded = holding.ready_at is not None and holding.ready_at < asked_at
            for share in holding.placement.shares:
                device = self.devices.get(share.device)
                if device is None or holding.process is None:
                    continue
                if (seen := device.groups.get(holding.process)) is not None:
                    holding.seen[share.device] = seen
                    holding.peaks[share.device] = max(seen, holding.peaks.get(share.device, 0))
        for device in self.devices.values():
            ours = sum(self._counted(holding, device.id) for holding in present)
            self.foreign[device.id] = max(0, device.used - ours)
        if host is not None:
            for holding in present:
                if (own := host.groups.get(holding.process or 0, 0)) != holding.seen_host:
                    holding.seen_host = own
                    holding.host = max(holding.pinned, own) + holding.placement.option.mapped
            ours = sum(holding.taken_host for holding in present if holding.is_loaded)
            self._foreign_host = max(0, host.total - host.available - ours)
        self._rooms = None

    @staticmethod
    def _counted(holding: Holding, device: str) -> int:
        """Return the holding's part of the used memory.

        If NVML does not report it, a loaded model has all of it.
        """
        if device in holding.seen:
            return holding.seen[device]
        return holding.reserved.get(device, 0) if holding.is_loaded else 0

    def reserve(self, model: str, placement: Placement) -> None:
        """Reserve memory for a model that is about to start."""
        overheads = {device.id: device.overhead for device in self.devices.values()}
        self.holdings[model] = Holding(placement, overheads)
        self._rooms = None

    def spawned(self, model: str, process: int) -> None:
        """Note the process group of a model; the latest sample may already include its memory."""
        holding = self.holdings[model]
        if holding.process == process:
            return  # the sample has already separated the group's memory from foreign memory
        holding.process = process
        for share in holding.placement.shares:
            device = self.devices.get(share.device)
            if device is not None and (seen := device.groups.get(process)) is not None:
                holding.seen[device.id] = seen
                self.foreign[device.id] = max(0, self.foreign[device.id] - seen)
        self._rooms = None

    def move_to_host(self, model: str, placement: Placement) -> None:
        """Move a model's reservation to the host, because it does not use its GPUs."""
        holding = self.holdings[model]
        holding.placement, holding.pinned = placement, placement.option.pinned
        holding.host = max(holding.pinned, holding.seen_host) + placement.option.mapped
        for of_gpus in (holding.reserved, holding.overheads, holding.seen, holding.peaks):
            of_gpus.clear()
        self._rooms = None

    def release(self, model: str, now: float) -> Holding | None:
        """Note that a model's processes are gone. Its GPU memory stays reserved until the next sample."""
        holding = self.holdings.pop(model, None)
        if holding is not None and holding.reserved and self.devices:
            self._leaving.append(holding)
            holding.left_at = now
            self._left.append(holding)
        self._rooms = None
        return holding

    @property
    def leaving(self) -> bool:
        """Whether some ended model's memory has not been sampled since its end."""
        return bool(self._leaving)

    # Questions

    def taken(self, holding: Holding, device: str) -> int:
        """Return the bytes that a holding uses or may still take: the seen bytes, grown to the prediction."""
        reserved = holding.reserved.get(device, 0)
        seen = holding.seen.get(device, 0)
        if not seen or not holding.is_loaded:
            return max(reserved, seen)
        return max(seen, min(reserved, seen + GROWTH))

    def rooms(self) -> dict[str, int]:
        """Return the bytes on each GPU that the buffers of one more process could take."""
        if self._rooms is None:
            self._rooms = {
                device.id: device.total - self.headroom - device.overhead - self.foreign[device.id]
                for device in self.devices.values()
            }
            for holding in (*self.holdings.values(), *self._leaving):
                for device_id in holding.reserved:
                    if device_id in self._rooms:
                        self._rooms[device_id] -= self.taken(holding, device_id)
        return dict(self._rooms)

    def returns(self) -> dict[str, int]:
        """Return the bytes on each GPU that ended processes are expected to return.

        Bytes that a later sample did not show as returned count as foreign instead.
        """
        back: dict[str, int] = {}
        late: dict[str, int] = {}
        for holding in self._left:
            sums = back if holding in self._leaving else late
            for device in holding.reserved:
                sums[device] = sums.get(device, 0) + self.taken(holding, device)
        for device, size in late.items():
            back[device] = back.get(device, 0) + min(size, self.foreign.get(device, 0))
        return back

    def frees(self, model: str) -> dict[str, int]:
        """Return the bytes on each GPU that become free when this model is gone."""
        holding = self.holdings.get(model)
        if holding is None:
            return {}
        return {device: self.taken(holding, device) for device in holding.reserved if device in self.devices}

    def host_room(self, without: Collection[str] = ()) -> float:
        """Return the bytes of main memory that one more model could take; infinity if unknown."""
        if self.host is None:
            return float("inf")
        taken = sum(holding.host for model, holding in self.holdings.items() if model not in without)
        return self.host.total - self._foreign_host - taken

    def host_capacity(self, kept: Collection[str]) -> float:
        """Return `host_room` as if all models except those in `kept` were gone."""
        # The memory that a loading model already has was counted as foreign.
        loading = sum(holding.pinned for holding in self.holdings.values() if not holding.is_loaded)
        gone = [model for model in self.holdings if model not in kept]
        return self.host_room(gone) + min(loading, self._foreign_host)

    def untold(self) -> dict[str, int]:
        """Return the bytes on each GPU that a loading model may already have, but that counted as foreign."""
        sums: dict[str, int] = {}
        for holding in self.holdings.values():
            for device, size in holding.reserved.items():
                if not holding.is_loaded and device not in holding.seen:
                    sums[device] = sums.get(device, 0) + min(size, self.foreign.get(device, 0))
        return sums

    def capacities(self, kept: Collection[str]) -> dict[str, int]:
        """Return `rooms` as if all models except those in `kept` were gone."""
        rooms = self.rooms()
        for device, size in self.returns().items():
            if device in rooms:
                rooms[device] += size
        for model in self.holdings:
            if model not in kept:
                for device, size in self.frees(model).items():
                    rooms[device] += size
        for device, size in self.untold().items():
            if device in rooms:
                rooms[device] += size
        return rooms

    def where(self, shares: Iterable[Share]) -> str:
        """Describe the GPUs of a placement."""
        names = [
            str(self.devices[share.device].index) if share.device in self.devices else share.device
            for share in shares
        ]
        return f"GPU {', '.join(names)}" if names else "host"
