"""Who has what memory, on each GPU and on the host. Pure.

A model's bytes are reserved from the decision to start it until its memory is *seen* back: what was predicted
at first, then what NVML says that its processes have. Everything else that is used is foreign, and respected:
desktops, other people's jobs, a process of ours that ended but whose memory has not been returned yet.
"""

import math
from collections.abc import Collection, Iterable, Mapping

import msgspec

from actors.placement.fit import Placement, Share

LAG = 5.0
"""Seconds in which the memory of a process that ended may come back."""

GROWTH = 300 << 20
"""Bytes that a server may yet take of a GPU while it works; public logs have 294 to 298 MiB."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU at one moment, in bytes. `groups`: what each process group has of it, as far as NVML tells.

    `overhead` is what a process takes beside llama.cpp's buffers. `alone`: a model has it and no other GPU.
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
    """Bytes of main memory that this process may use, and that it could get now, caches included."""

    total: int
    available: int


class Holding:
    """What one model has reserved, by device; `seen` is what NVML says that it has."""

    __slots__ = (
        "is_loaded", "left_at", "overheads", "peaks", "pinned", "placement", "process", "ready_at",
        "reserved", "seen",
    )  # fmt: skip

    def __init__(self, placement: Placement, overheads: Mapping[str, int]) -> None:
        self.placement = placement
        self.overheads = {share.device: overheads.get(share.device, 0) for share in placement.shares}
        self.reserved = {
            share.device: share.bytes + self.overheads[share.device] for share in placement.shares
        }
        self.pinned = placement.option.pinned
        self.seen: dict[str, int] = {}
        self.peaks: dict[str, int] = {}
        self.process: int | None = None
        self.ready_at: float | None = None
        self.is_loaded = False
        """As of the latest sample: what was seen before is not all that it takes."""
        self.left_at = -math.inf

    @property
    def host(self) -> int:
        """Bytes of the host's memory."""
        return self.placement.host


class Ledger:
    """The memory of all devices, as of the latest sample and of what was decided since."""

    def __init__(self, headroom: int = 0) -> None:
        self._headroom = headroom
        self.devices: dict[str, Device] = {}
        self.host: HostMemory | None = None
        self.holdings: dict[str, Holding] = {}
        self._leaving: list[Holding] = []
        self._left: list[Holding] = []
        self.foreign: dict[str, int] = {}
        self._foreign_host = 0
        self._rooms: dict[str, int] | None = None
        self.sampled_at = -math.inf
        """When the latest sample was asked for."""

    # What happens

    def sample(self, devices: Iterable[Device], host: HostMemory | None, asked_at: float) -> None:
        """Take what was measured at `asked_at`. What models had that had ended is back, or foreign."""
        if asked_at < self.sampled_at:
            return  # it was overtaken
        self.sampled_at = asked_at
        self.devices = {device.id: device for device in devices}
        self.host = host
        # What was asked for before a process ended says nothing about its memory's return.
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
            ours = sum(holding.pinned for holding in present if holding.is_loaded)
            self._foreign_host = max(0, host.total - host.available - ours)
        self._rooms = None

    @staticmethod
    def _counted(holding: Holding, device: str) -> int:
        """How much of what is used is the holding's. Where NVML does not tell, a loaded model has it all."""
        if device in holding.seen:
            return holding.seen[device]
        return holding.reserved.get(device, 0) if holding.is_loaded else 0

    def reserve(self, model: str, placement: Placement) -> None:
        """The model is about to start there."""
        overheads = {device.id: device.overhead for device in self.devices.values()}
        self.holdings[model] = Holding(placement, overheads)
        self._rooms = None

    def spawned(self, model: str, process: int) -> None:
        """The model's processes are in this group, of which the latest sample may have memory already."""
        holding = self.holdings[model]
        if holding.process == process:
            return  # what it has was told from what is foreign already
        holding.process = process
        for share in holding.placement.shares:
            device = self.devices.get(share.device)
            if device is not None and (seen := device.groups.get(process)) is not None:
                holding.seen[device.id] = seen
                self.foreign[device.id] = max(0, self.foreign[device.id] - seen)
        self._rooms = None

    def move_to_host(self, model: str, placement: Placement) -> None:
        """The model turned out to run there, and not on the GPUs that it was given."""
        holding = self.holdings[model]
        holding.placement, holding.pinned = placement, placement.option.pinned
        for of_gpus in (holding.reserved, holding.overheads, holding.seen, holding.peaks):
            of_gpus.clear()
        self._rooms = None

    def release(self, model: str, now: float) -> Holding | None:
        """The model's processes are gone; what it had of GPUs stays reserved until the next sample."""
        holding = self.holdings.pop(model, None)
        if holding is not None and holding.reserved and self.devices:
            self._leaving.append(holding)
            holding.left_at = now
            self._left.append(holding)
        self._rooms = None
        return holding

    @property
    def leaving(self) -> bool:
        """Whether memory of ended processes has not been looked for yet."""
        return bool(self._leaving)

    # What there is

    def taken(self, holding: Holding, device: str) -> int:
        """Bytes that it has or may still take: what was seen, with room to grow up to the prediction."""
        reserved = holding.reserved.get(device, 0)
        seen = holding.seen.get(device, 0)
        if not seen or not holding.is_loaded:
            return max(reserved, seen)
        return max(seen, min(reserved, seen + GROWTH))

    def rooms(self) -> dict[str, int]:
        """Bytes of llama.cpp's buffers that one more process could have on each GPU."""
        if self._rooms is None:
            self._rooms = {
                device.id: device.total - self._headroom - device.overhead - self.foreign[device.id]
                for device in self.devices.values()
            }
            for holding in (*self.holdings.values(), *self._leaving):
                for device_id in holding.reserved:
                    if device_id in self._rooms:
                        self._rooms[device_id] -= self.taken(holding, device_id)
        return dict(self._rooms)

    def returns(self) -> dict[str, int]:
        """Bytes on each GPU that are expected back, of processes that have ended.

        Where they have been looked for and were not back, they are a part of what is foreign.
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
        """Bytes on each GPU that are free when this model is gone."""
        holding = self.holdings.get(model)
        if holding is None:
            return {}
        return {device: self.taken(holding, device) for device in holding.reserved if device in self.devices}

    def host_room(self, without: Collection[str] = ()) -> float:
        """Bytes of the host's memory that one more model could have; infinity while that is not known."""
        if self.host is None:
            return float("inf")
        taken = sum(holding.host for model, holding in self.holdings.items() if model not in without)
        return self.host.total - self._foreign_host - taken

    def host_capacity(self, kept: Collection[str]) -> float:
        """The same if all models but those that are kept were gone."""
        # What one that loads has by now was taken for foreign.
        loading = sum(holding.pinned for holding in self.holdings.values() if not holding.is_loaded)
        gone = [model for model in self.holdings if model not in kept]
        return self.host_room(gone) + min(loading, self._foreign_host)

    def untold(self) -> dict[str, int]:
        """Bytes on each GPU that one that loads may have by now and that were taken for foreign."""
        sums: dict[str, int] = {}
        for holding in self.holdings.values():
            for device, size in holding.reserved.items():
                if not holding.is_loaded and device not in holding.seen:
                    sums[device] = sums.get(device, 0) + min(size, self.foreign.get(device, 0))
        return sums

    def capacities(self, kept: Collection[str]) -> dict[str, int]:
        """The rooms if all models but those that are kept were gone."""
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
        """The GPUs of a placement in words."""
        names = [
            str(self.devices[share.device].index) if share.device in self.devices else share.device
            for share in shares
        ]
        return f"GPU {', '.join(names)}" if names else "host"
