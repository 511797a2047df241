"""The GPUs of this machine, as NVML tells of them.

NVML's own order is that of the PCI bus, CUDA's is not unless CUDA_DEVICE_ORDER=PCI_BUS_ID is set; GPUs are
named by UUID where it matters.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from actors.runtime import spawn

log = structlog.get_logger("gpu")

WITHOUT_DRIVER = 60.0
"""Seconds between questions where NVML does not answer: a driver may be loaded, or come back."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU at one moment: bytes, percent, degrees Celsius, watts. None is what it does not tell.

    `index` is NVML's; `processes` has the bytes of each process by its pid.
    """

    index: int
    uuid: str
    name: str
    total: int
    used: int
    free: int
    utilization: int | None = None
    temperature: int | None = None
    power: float | None = None
    processes: dict[int, int] = {}
    driver: str = ""


class GpuError(Exception):
    """NVML cannot be asked; the message says why."""


def probe(nvml: Any = None) -> list[Gpu]:
    """Ask NVML once for the GPUs that this process may use. Raises `GpuError`. Blocking.

    `nvml` is a module like pynvml, which is imported when it is first needed.
    """
    if nvml is None:
        import pynvml  # noqa: PLC0415

        nvml = pynvml
    try:
        nvml.nvmlInit()
        try:
            driver = str(nvml.nvmlSystemGetDriverVersion())
            gpus = [_read(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount())]
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        raise GpuError(f"NVML cannot be asked: {error}") from error
    return visible(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _read(nvml: Any, index: int, driver: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)

    def ask(question: Callable[[], Any]) -> Any:
        """Many a GPU does not tell everything."""
        with suppress(nvml.NVMLError):
            return question()
        return None

    utilization = ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    milliwatts = ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    running = ask(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
    return Gpu(
        index=index,
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        name=str(nvml.nvmlDeviceGetName(handle)),
        total=int(memory.total),
        used=int(memory.used),
        free=int(memory.free),
        utilization=utilization,
        temperature=ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        power=None if milliwatts is None else milliwatts / 1000,
        processes={process.pid: int(process.usedGpuMemory or 0) for process in running},
        driver=driver,
    )


def visible(gpus: Sequence[Gpu], setting: str | None) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES leaves, in its order; as in CUDA, a wrong entry ends the list."""
    if setting is None:
        return list(gpus)
    chosen: list[Gpu] = []
    for word in (part.strip() for part in setting.split(",")):
        found = [
            gpu
            for gpu in gpus
            if word == str(gpu.index) or (word.startswith("GPU-") and gpu.uuid.startswith(word))
        ]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen.append(found[0])
    return chosen


class GpuMonitor:
    """Asks every `interval` seconds, off the event loop, and keeps the latest answer (0: never asks).

    When NVML does not answer, for no driver or while one is reloaded, `error` says so, `gpus` is empty, and
    it goes on asking.
    """

    def __init__(self, interval: float, ask: Callable[[], list[Gpu]] = probe) -> None:
        self._interval = interval
        self._ask = ask
        self._task: asyncio.Task[None] | None = None
        self.gpus: list[Gpu] = []
        self.error: str | None = None
        self.asked_at: float | None = None
        """Of the monotonic clock."""

    def start(self) -> None:
        """Begin to ask."""
        if self._interval > 0:
            self._task = spawn(self._watch(), name="GPU monitor")

    async def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _watch(self) -> None:
        while True:
            await self.ask()
            await asyncio.sleep(self._interval if self.error is None else max(self._interval, WITHOUT_DRIVER))

    async def ask(self) -> None:
        """Ask once."""
        try:
            gpus, error = await asyncio.to_thread(self._ask), None
        except GpuError as failure:
            gpus, error = [], str(failure)
        before = ([gpu.uuid for gpu in self.gpus], self.error)
        if self.asked_at is None or before != ([gpu.uuid for gpu in gpus], error):
            names = [
                f"{gpu.index}: {gpu.name}, {gpu.free >> 20:,} of {gpu.total >> 20:,} MiB free" for gpu in gpus
            ]
            log.info("GPUs", gpus=names, driver=gpus[0].driver if gpus else None, error=error)
        self.gpus, self.error, self.asked_at = gpus, error, time.monotonic()
