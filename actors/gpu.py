"""The GPUs of this machine, as NVML tells of them."""

import msgspec

MIB = 1 << 20


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU at one moment; bytes. `index` is NVML's."""

    index: int
    uuid: str
    name: str
    total: int
    free: int
    driver: str


class GpuError(Exception):
    """NVML cannot be asked; the message says why."""


def probe() -> list[Gpu]:
    """Ask NVML once. Raises `GpuError` where there is no driver, or it does not answer. Blocking."""
    import pynvml

    def read(index: int) -> Gpu:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return Gpu(
            index=index,
            uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
            name=str(pynvml.nvmlDeviceGetName(handle)),
            total=int(memory.total),
            free=int(memory.free),
            driver=str(pynvml.nvmlSystemGetDriverVersion()),
        )

    try:
        pynvml.nvmlInit()
        try:
            return [read(index) for index in range(pynvml.nvmlDeviceGetCount())]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise GpuError(f"NVML cannot be asked: {error}") from error
