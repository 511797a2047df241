"""As much of pynvml as `actors.gpu.monitor` asks, without a driver: NVML as the file in FAKE_NVML says.

The file is read at each `nvmlInit`:

    {"gpus": [{"uuid": "GPU-a", "name": "Fake 24G", "total": bytes, "foreign": bytes that others take}],
     "driver": "580.1", "error": what `nvmlInit` raises or null, "lost": [index of a GPU, ...],
     "hangs": true while `nvmlInit` does not return; then there is a file of the same name with .hangs,
     "context": bytes of any process, "models": {"part of a command line": bytes besides, on each GPU},
     "lag": seconds for which the memory of a process counts as used after its end was noticed}

All but `gpus`, and of a GPU all but `uuid` and `total`, may be left out. Processes that take memory are the
caller's descendants that are marked as model servers, name a GPU in CUDA_VISIBLE_DEVICES by its UUID, and
have `--model` in their command line; of a wrapper and what it started only the latter.
"""

# ruff: noqa: N801, N802, N816, N818

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import psutil

NVML_TEMPERATURE_GPU = 0

_OWNER = "LLAMA_SMART_PROXY_OWNER"
_machine: dict[str, Any] = {}
_running: dict[psutil.Process, dict[str, int]] = {}
"""Bytes by UUID of each process."""
_ended: dict[psutil.Process, tuple[float, dict[str, int]]] = {}
"""When the end of a process was noticed, and what it took."""


class NVMLError(Exception):
    """NVML refuses."""


class NVMLError_NotSupported(NVMLError):
    """Not by this GPU."""


class NVMLError_NotFound(NVMLError):
    """There is none."""


class NVMLError_GpuIsLost(NVMLError):
    """It fell off the bus."""


class NVMLError_DriverNotLoaded(NVMLError):
    """Nobody answers."""


def nvmlInit() -> None:
    """Read the file, look for processes."""
    _machine.clear()
    _machine.update(json.loads(Path(os.environ["FAKE_NVML"]).read_text()))
    while _machine.get("hangs"):
        Path(os.environ["FAKE_NVML"]).with_suffix(".hangs").touch()
        time.sleep(0.05)
        _machine.update({"hangs": False, **json.loads(Path(os.environ["FAKE_NVML"]).read_text())})
    if _machine.get("error"):
        raise NVMLError_DriverNotLoaded(_machine["error"])
    found = _find()
    now = time.monotonic()
    for process in _running.keys() - found.keys():
        _ended[process] = now, _running[process]
    _running.clear()
    _running.update(found)


def _find() -> dict[psutil.Process, dict[str, int]]:
    uuids = {gpu["uuid"] for gpu in _machine["gpus"]}
    found: dict[psutil.Process, dict[str, int]] = {}
    parents = set()
    for process in psutil.Process().children(recursive=True):
        try:
            environment, arguments, parent = process.environ(), process.cmdline(), process.ppid()
        except psutil.Error:
            continue  # it has just ended
        places = uuids.intersection(environment.get("CUDA_VISIBLE_DEVICES", "").split(","))
        if _OWNER in environment and "--model" in arguments and places:
            line = " ".join(arguments)
            sizes = [size for part, size in _machine.get("models", {}).items() if part in line]
            found[process] = dict.fromkeys(places, _machine.get("context", 0) + sum(sizes[:1]))
            parents.add(parent)
    return {process: taken for process, taken in found.items() if process.pid not in parents}


def nvmlShutdown() -> None:
    """Nothing is held."""


def nvmlSystemGetDriverVersion() -> str:
    """Its version."""
    return str(_machine.get("driver", "580.1"))


def nvmlDeviceGetCount() -> int:
    """With those that are lost."""
    return len(_machine["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> dict[str, Any]:
    """The handle is the GPU's part of the file."""
    if index in _machine.get("lost", []):
        raise NVMLError_GpuIsLost("GPU is lost")
    gpu: dict[str, Any] = _machine["gpus"][index]
    return gpu


def nvmlDeviceGetMemoryInfo(handle: dict[str, Any]) -> SimpleNamespace:
    """What others, running processes and those that ended of late take."""
    fresh = time.monotonic() - _machine.get("lag", 0)
    taken = [*_running.values(), *(taken for ended, taken in _ended.values() if ended > fresh)]
    total = handle["total"]
    used = min(total, handle.get("foreign", 0) + sum(sizes.get(handle["uuid"], 0) for sizes in taken))
    return SimpleNamespace(total=total, used=used, free=total - used)


def nvmlDeviceGetComputeRunningProcesses(handle: dict[str, Any]) -> list[SimpleNamespace]:
    """The model servers on it; not the others."""
    return [
        SimpleNamespace(pid=process.pid, usedGpuMemory=sizes[handle["uuid"]])
        for process, sizes in _running.items()
        if handle["uuid"] in sizes
    ]


def nvmlDeviceGetUUID(handle: dict[str, Any]) -> str:
    """Of the file."""
    return str(handle["uuid"])


def nvmlDeviceGetName(handle: dict[str, Any]) -> str:
    """Of the file."""
    return str(handle.get("name", "Fake GPU"))


def nvmlDeviceGetUtilizationRates(_handle: object) -> SimpleNamespace:
    """Idle."""
    return SimpleNamespace(gpu=0, memory=0)


def nvmlDeviceGetPowerUsage(_handle: object) -> int:
    """Milliwatts."""
    return 50_000


def nvmlDeviceGetTemperature(_handle: object, _sensor: int) -> int:
    """Degrees Celsius."""
    return 40


def nvmlDeviceGetMigMode(_handle: object) -> NoReturn:
    """There is no MIG here, nor what follows from it."""
    raise NVMLError_NotSupported("Not Supported")


nvmlDeviceGetMaxMigDeviceCount = nvmlDeviceGetMigMode
nvmlDeviceGetGpuInstanceId = nvmlDeviceGetMigMode
nvmlDeviceGetComputeInstanceId = nvmlDeviceGetMigMode


def nvmlDeviceGetMigDeviceHandleByIndex(_handle: object, _index: int) -> NoReturn:
    """As above."""
    raise NVMLError_NotSupported("Not Supported")
