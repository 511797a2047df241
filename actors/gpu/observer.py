"""Connects GPU monitor, calibration and supervisor.

NVML and SQLite block, so both are called in threads; the supervisor only gets messages.
"""

import asyncio
from collections.abc import Callable, Collection

import structlog

from actors.gpu.calibration import Calibration, CardAccuracy, DeviceLoad, Load
from actors.gpu.monitor import Gpu, GpuMonitor, Sample
from actors.messages import Measured, MemorySampled
from actors.placement.ledger import Device
from actors.runtime import spawn

log = structlog.get_logger("memory")


def device_of(gpu: Gpu, overhead: int, left_over: Collection[int] = ()) -> Device:
    """Describe a GPU for the ledger. Memory of the sessions in `left_over` counts as free."""
    return Device(
        id=gpu.uuid,
        index=gpu.index,
        name=gpu.name,
        total=gpu.total,
        used=gpu.used - sum(gpu.groups.get(session, 0) for session in left_over),
        groups=gpu.groups,
        overhead=overhead,
        alone=bool(gpu.mig),  # CUDA does not let a process use several MIG instances
    )


class Observer:
    """Turns samples into messages, and records measured loads.

    `manages`: the gateway places models on GPUs; otherwise the supervisor hears of the host's memory only.
    """

    def __init__(self, monitor: GpuMonitor, calibration: Calibration, *, manages: bool) -> None:
        self.monitor = monitor
        self.calibration = calibration
        self.build = ""
        """The model server's version, when it is known."""
        self._manages = manages
        self._overheads: dict[tuple[str, str], int] = {}
        self._numbers: dict[tuple[str, int], int] = {}
        self.left_over: Callable[[], Collection[int]] = tuple
        """Sessions of servers that a dead gateway left; their memory counts as free."""
        self.cards: list[CardAccuracy] = []
        """The accuracy for each kind of card, for /health."""
        self.loads: dict[str, Load] = {}
        """The last measured load of each model, by the model's name, also from earlier runs."""

    def attach(self, report: Callable[[MemorySampled], None]) -> None:
        """Report the present sample and each later one."""

        def on_sample(sample: Sample) -> None:
            unknown = {(gpu.name, gpu.driver) for gpu in sample.gpus} - self._overheads.keys()
            if self._manages and unknown:
                _ = spawn(self._learn_and_report(sample, report), name="overheads")
            else:
                report(self._message(sample))

        self.monitor.on_sample = on_sample
        if self.monitor.asked_at is not None:
            on_sample(self.monitor.sample)

    def report_again(self) -> None:
        """Report the present sample again, because `left_over` has changed."""
        if self.monitor.on_sample is not None and self.monitor.asked_at is not None:
            self.monitor.on_sample(self.monitor.sample)

    def last_load(self, model: str) -> Load | None:
        """Return the memory of a model's present or last load, if it was measured."""
        return self.loads.get(model)

    async def refresh(self) -> None:
        """Read the accuracy of the cards again."""
        for name, driver in {(gpu.name, gpu.driver) for gpu in self.monitor.gpus}:
            overhead = await asyncio.to_thread(self.calibration.overhead, name, driver, self.build)
            self._overheads[name, driver] = overhead
        self.cards = await asyncio.to_thread(self.calibration.summary)
        self.loads = await asyncio.to_thread(self.calibration.last_loads)

    async def _learn_and_report(self, sample: Sample, report: Callable[[MemorySampled], None]) -> None:
        await self.refresh()
        report(self._message(sample))

    def _message(self, sample: Sample) -> MemorySampled:
        gpus = sample.gpus if self._manages else ()
        left_over = self.left_over()
        devices = tuple(
            device_of(gpu, self._overheads.get((gpu.name, gpu.driver), 0), left_over) for gpu in gpus
        )
        host = sample.host if sample.host.total else None
        return MemorySampled(asked_at=sample.asked_at, devices=devices, host=host)

    def learn(self, measured: Measured) -> None:
        """Record a load, and its peak of memory."""
        _ = spawn(self._learn(measured), name=f"figures of {measured.model}")

    async def _learn(self, measured: Measured) -> None:
        shares, figures, demand = measured.placement.shares, measured.figures, measured.demand
        seen = [measured.seen.get(share.device) for share in shares]
        key = (measured.model, measured.epoch)
        if measured.ended:
            if number := self._numbers.pop(key, 0):
                await asyncio.to_thread(self.calibration.peaked, number, seen)
                await self.refresh()
            return
        cards = {gpu.uuid: gpu for gpu in self.monitor.gpus}
        if not demand.file or figures.taken_over or any(share.device not in cards for share in shares):
            return
        if len(figures.predicted) != len(shares):
            return  # nothing to compare with
        devices = tuple(
            DeviceLoad(
                gpu=cards[share.device].name,
                driver=cards[share.device].driver,
                predicted=figures.predicted[nth],
                buffers=figures.buffers[nth] if nth < len(figures.buffers) else None,
                measured=seen[nth],
            )
            for nth, share in enumerate(shares)
        )
        load = Load(
            model=measured.model,
            file=demand.file,
            settings=demand.settings_key(measured.placement.option),
            build=demand.build,
            certainty=measured.placement.option.certainty,
            seconds=measured.seconds,
            devices=devices,
            host_predicted=figures.host_predicted,
            host_buffers=figures.host_buffers,
        )
        log.info(
            "memory of a load",
            model=measured.model,
            epoch=measured.epoch,
            predicted=[device.predicted for device in devices],
            buffers=[device.buffers for device in devices],
            measured=seen,
            host_predicted=load.host_predicted,
            host_buffers=load.host_buffers,
            certainty=load.certainty,
            seconds=round(load.seconds, 3),
        )
        self._numbers[key] = await asyncio.to_thread(self.calibration.record, load)
        await self.refresh()
