"""GPUs: what NVML tells, what CUDA_VISIBLE_DEVICES leaves, and a driver that goes and comes back."""

from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from actors.gpu import Gpu, GpuError, GpuMonitor, probe, visible

GIB = 1 << 30


def gpu(index: int, **fields: Any) -> Gpu:
    values = {"uuid": f"GPU-{index}abc", "name": "H100", "total": 80 * GIB, "used": GIB, "free": 79 * GIB}
    return Gpu(index=index, **{**values, **fields})


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("0,7,1", [0]),
        ("0,0,1", [0]),
        ("GPU-1abc", [1]),
        ("GPU-2", [2]),
        ("GPU-", []),
        ("NoDevFiles", []),
    ],
)
def test_the_environment(setting: str | None, expected: list[int]) -> None:
    assert [found.index for found in visible([gpu(0), gpu(1), gpu(2)], setting)] == expected


class FakeNvml:
    """As much of pynvml as is asked; it refuses what is in `refuses`."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, *refuses: str) -> None:
        self.refuses = refuses
        self.open = 0

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlSystemGetDriverVersion": "580.1",
            "nvmlDeviceGetCount": 2,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 * GIB, used=3 * GIB, free=77 * GIB),
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=42),
            "nvmlDeviceGetPowerUsage": 123_456,
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetComputeRunningProcesses": [
                SimpleNamespace(pid=7, usedGpuMemory=2 * GIB),
                SimpleNamespace(pid=8, usedGpuMemory=None),
            ],
            "nvmlDeviceGetUUID": "GPU-1",
            "nvmlDeviceGetName": "NVIDIA H100",
        }

        def answer(*_: object) -> Any:
            if name in self.refuses:
                raise FakeNvml.NVMLError(f"{name}: Not Supported")
            self.open += {"nvmlInit": 1, "nvmlShutdown": -1}.get(name, 0)
            return answers[name]

        return answer


@pytest.fixture(autouse=True)
def all_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_what_nvml_tells() -> None:
    nvml = FakeNvml()
    first, second = probe(nvml)
    assert (first.index, second.index) == (0, 1)
    assert (first.total, first.used, first.free) == (80 * GIB, 3 * GIB, 77 * GIB)
    assert (first.utilization, first.temperature, first.power) == (42, 61, 123.456)
    assert first.processes == {7: 2 * GIB, 8: 0}
    assert (first.name, first.driver, nvml.open) == ("NVIDIA H100", "580.1", 0)


def test_a_gpu_that_does_not_tell_everything() -> None:
    nvml = FakeNvml(
        "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTemperature", "nvmlDeviceGetComputeRunningProcesses"
    )
    first = probe(nvml)[0]
    assert (first.power, first.temperature, first.processes, first.utilization) == (None, None, {}, 42)


@pytest.mark.parametrize("refused", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetMemoryInfo"])
def test_an_nvml_that_does_not_answer(refused: str) -> None:
    nvml = FakeNvml(refused)
    with pytest.raises(GpuError, match=f"NVML cannot be asked: {refused}: Not Supported"):
        probe(nvml)
    assert nvml.open == 0


async def test_a_driver_that_goes_and_comes_back() -> None:
    answers: list[list[Gpu] | GpuError] = [[gpu(0)], [gpu(0, free=1)], GpuError("driver reload"), [gpu(0)]]

    def ask() -> list[Gpu]:
        answer = answers.pop(0)
        if isinstance(answer, GpuError):
            raise answer
        return answer

    monitor = GpuMonitor(1, ask)
    seen = []
    with structlog.testing.capture_logs() as logs:
        while answers:
            await monitor.ask()
            seen.append(([found.free for found in monitor.gpus], monitor.error))
    assert seen == [([79 * GIB], None), ([1], None), ([], "driver reload"), ([79 * GIB], None)]
    # Only changes are worth a line.
    assert [line["error"] for line in logs] == [None, "driver reload", None]


async def test_it_ends_and_may_be_off() -> None:
    asked = []
    monitor = GpuMonitor(0, lambda: asked.append(1) or [])  # type: ignore[func-returns-value]
    monitor.start()
    await monitor.stop()
    assert not asked
