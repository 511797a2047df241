"""GPUs: what NVML tells, what CUDA_VISIBLE_DEVICES leaves, and a driver that goes and comes back."""

import asyncio
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from actors.gpu import monitor as module
from actors.gpu.monitor import (
    Gpu,
    GpuError,
    GpuMonitor,
    Sample,
    probe,
    take_sample,
    visible,
)
from actors.placement.ledger import HostMemory

GIB = 1 << 30


def gpu(index: int | str, **fields: Any) -> Gpu:
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


def instance(whole: int, place: int, within: int, part: int = 0) -> Gpu:
    """A MIG instance at `place` of a GPU: compute instance `part` of GPU instance `within`."""
    old_name = f"MIG-GPU-{whole}abc/{within}/{part}"
    return gpu(f"{whole}:{place}", uuid=f"MIG-{whole}{place}def", mig=old_name)


MIXED = [gpu(0), instance(1, 0, 3, 0), instance(1, 1, 3, 1), instance(1, 2, 5), gpu(2)]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, [0, "1:0", "1:2", 2]),
        ("1", ["1:0"]),
        ("2,1,0", [2, "1:0", 0]),
        ("GPU-1abc,0", ["1:0", 0]),
        ("GPU-1", ["1:0"]),
        ("MIG-12def,MIG-10def", ["1:2", "1:0"]),
        ("MIG-11def", ["1:1"]),
        ("MIG-11def,MIG-10def,0", ["1:1", 0]),
        ("MIG-GPU-1abc/5/0", ["1:2"]),
        ("MIG-GPU-1abc/5/1,0", []),
        ("MIG-1", []),
        ("1:0", []),
        ("1,MIG-10def,0", ["1:0"]),
    ],
)
def test_the_environment_with_instances(setting: str | None, expected: list[int | str]) -> None:
    assert [found.index for found in visible(MIXED, setting)] == expected


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, [0, 2]),
        ("0,1,2", [0, 2]),
        ("2,GPU-1abc,0", [2, 0]),
        ("0,MIG-10def,2", [0, 2]),
        ("0,3,2", [0]),
        ("0,0,2", [0]),
    ],
)
@pytest.mark.parametrize("lost", ["1", "1:0"])
def test_one_that_is_lost_does_not_hide_those_after_it(
    setting: str | None, expected: list[int], lost: str
) -> None:
    assert [found.index for found in visible([gpu(0), gpu(2)], setting, {lost})] == expected


class FakeNvml:
    """As much of pynvml as is asked, of two GPUs; it refuses what is in `refuses`, and all of `gone`.

    With `mig`, the second has it on, with instances in the places 0 and 2.
    """

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    class NVMLError_NotFound(NVMLError):  # noqa: N801, N818
        pass

    def __init__(self, *refuses: str, gone: tuple[str, ...] = (), mig: bool = False, places: int = 3) -> None:
        self.refuses = refuses
        self.gone = gone
        self.mig = mig
        self.places = places
        self.open = 0
        self.running = [
            SimpleNamespace(pid=7, usedGpuMemory=2 * GIB),
            SimpleNamespace(pid=8, usedGpuMemory=None),
        ]

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        if str(index) in self.gone:
            raise FakeNvml.NVMLError("GPU is lost")
        return str(index)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, whole: str, place: int) -> str:  # noqa: N802
        if place == 1:
            raise FakeNvml.NVMLError_NotFound("Not Found")
        return f"{whole}:{place}"

    def __getattr__(self, name: str) -> Any:
        whole: dict[str, Any] = {
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=42),
            "nvmlDeviceGetPowerUsage": 123_456,
            "nvmlDeviceGetTemperature": 61,
        }

        def answer(handle: str = "", *_: object) -> Any:
            if name in self.refuses:
                raise FakeNvml.NVMLError(f"{name}: Not Supported")
            if handle in self.gone:
                raise FakeNvml.NVMLError("GPU is lost")
            self.open += {"nvmlInit": 1, "nvmlShutdown": -1}.get(name, 0)
            part, place = handle.partition(":")[1:]
            if part and name in whole:
                raise FakeNvml.NVMLError("Not Supported")
            size = 40 if part else 80
            answers = {
                **whole,
                "nvmlInit": None,
                "nvmlShutdown": None,
                "nvmlSystemGetDriverVersion": "580.1",
                "nvmlDeviceGetCount": 2,
                "nvmlDeviceGetMemoryInfo": SimpleNamespace(
                    total=size * GIB, used=3 * GIB, free=(size - 3) * GIB
                ),
                "nvmlDeviceGetComputeRunningProcesses": self.running,
                "nvmlDeviceGetUUID": f"MIG-{place}" if part else f"GPU-{handle}",
                "nvmlDeviceGetName": "NVIDIA H100",
                "nvmlDeviceGetMigMode": [int(self.mig and handle == "1"), 0],
                "nvmlDeviceGetMaxMigDeviceCount": self.places,
                "nvmlDeviceGetGpuInstanceId": 5,
                "nvmlDeviceGetComputeInstanceId": 0,
            }
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
    assert (first.uuid, first.mig) == ("GPU-0", "")


def test_a_gpu_that_does_not_tell_everything() -> None:
    nvml = FakeNvml(
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetMigMode",
    )
    first = probe(nvml)[0]
    assert (first.power, first.temperature, first.processes, first.utilization) == (None, None, {}, 42)


def test_instances_take_the_place_of_their_gpu() -> None:
    whole, first = probe(FakeNvml(mig=True))
    assert (whole.index, whole.total) == (0, 80 * GIB)
    # Both say that they are of GPU instance 5, so that they have its memory together.
    assert (first.index, first.uuid, first.mig) == ("1:0", "MIG-0", "MIG-GPU-1/5/0")
    assert (first.total, first.free, first.processes) == (40 * GIB, 37 * GIB, {7: 2 * GIB, 8: 0})
    assert (first.utilization, first.temperature, first.power) == (42, 61, 123.456)


def test_mig_without_an_instance() -> None:
    sample = take_sample(FakeNvml(mig=True, places=0))
    assert [found.index for found in sample.gpus] == [0]
    assert sample.lost == {"1": "MIG is on, and there is no instance"}


def test_memory_by_session() -> None:
    code = "import os; print(os.getpid(), flush=True); input()"
    wrapper = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    server = subprocess.Popen(
        [sys.executable, "-c", wrapper], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with server:
        assert server.stdout is not None
        behind = int(server.stdout.readline())
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        nvml = FakeNvml()
        nvml.running = [
            SimpleNamespace(pid=pid, usedGpuMemory=used)
            for pid, used in [
                (server.pid, 5),
                (behind, 70),
                (os.getpid(), 900),
                (os.getppid(), None),
                (os.getppid(), -1),
                (1, (1 << 64) - 1),
                (0, 11),
                (ended.pid, 13),
            ]
        ]
        first = probe(nvml)[0]
        server.communicate(b"\n")
    assert first.groups == {server.pid: 75, os.getsid(0): 900}
    assert first.processes == {
        server.pid: 5,
        behind: 70,
        os.getpid(): 900,
        os.getppid(): 0,
        1: 0,
        0: 11,
        ended.pid: 13,
    }


def test_a_system_without_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getsid")
    nvml = FakeNvml()
    nvml.running = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=5)]
    assert (probe(nvml)[0].processes, probe(nvml)[0].groups) == ({os.getpid(): 5}, {})


@pytest.mark.parametrize("refused", ["nvmlInit", "nvmlSystemGetDriverVersion", "nvmlDeviceGetCount"])
def test_an_nvml_that_does_not_answer(refused: str) -> None:
    nvml = FakeNvml(refused)
    reason = f"NVML cannot be asked: {refused}: Not Supported"
    with pytest.raises(GpuError, match=reason):
        probe(nvml)
    assert nvml.open == 0
    sample = take_sample(nvml)
    assert (sample.gpus, sample.lost, sample.error) == ((), {}, reason)
    assert sample.host.total > 0


@pytest.mark.parametrize(
    ("gone", "expected"),
    [(("0",), ["1:0"]), (("1",), [0]), (("1:0",), [0, "1:2"]), (("1:0", "1:2"), [0]), (("0", "1"), [])],
)
def test_gpus_that_are_lost_do_not_hide_the_others(gone: tuple[str, ...], expected: list[int | str]) -> None:
    nvml = FakeNvml(gone=gone, mig=True)
    before = time.monotonic()
    sample = take_sample(nvml)
    assert [found.index for found in sample.gpus] == expected
    assert (sample.lost, sample.error, nvml.open) == (dict.fromkeys(gone, "GPU is lost"), None, 0)
    assert before <= sample.asked_at <= time.monotonic()


def test_an_nvml_that_nobody_understands() -> None:
    with structlog.testing.capture_logs() as logs:
        sample = take_sample(SimpleNamespace(NVMLError=OSError))
    assert sample.error is not None
    assert "nvmlInit" in sample.error
    assert sample.host.total > 0
    assert [line["log_level"] for line in logs] == ["error"]


# The monitor


def sampled(*gpus: Gpu, **fields: Any) -> Sample:
    host = HostMemory(total=64 * GIB, available=32 * GIB)
    return Sample(**{"asked_at": time.monotonic(), "gpus": gpus, "host": host, **fields})


class Watched:
    """A monitor that runs, and its samples."""

    def __init__(self, interval: float, ask: Callable[[], Sample]) -> None:
        self.monitor = GpuMonitor(interval, ask)
        self.monitor.on_sample = self._take
        self.samples: list[Sample] = []
        self._more = asyncio.Event()

    def _take(self, sample: Sample) -> None:
        assert sample is self.monitor.sample
        self.samples.append(sample)
        self._more.set()

    async def until(self, count: int) -> Sample:
        """Wait for so many samples."""
        async with asyncio.timeout(10):
            while len(self.samples) < count:
                self._more.clear()
                await self._more.wait()
        return self.samples[count - 1]


@asynccontextmanager
async def watching(interval: float, ask: Callable[[], Sample] = sampled) -> AsyncIterator[Watched]:
    watched = Watched(interval, ask)
    watched.monitor.start()
    try:
        yield watched
    finally:
        await watched.monitor.stop()


async def test_a_driver_that_goes_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WITHOUT_DRIVER", 0.0)
    answers = [
        sampled(gpu(0)),
        sampled(gpu(0, free=1)),
        sampled(error="driver reload"),
        sampled(gpu(0), lost={"1": "GPU is lost"}),
        sampled(gpu(0)),
    ]
    left = list(answers)

    def ask() -> Sample:
        return left.pop(0) if left else answers[-1]

    with structlog.testing.capture_logs() as logs:
        async with watching(0.001, ask) as watched:
            assert await watched.monitor.wait_first() is answers[0]
            await watched.until(6)
    assert watched.samples[:5] == answers
    # Only changes are worth a line.
    assert [(line["error"], line["lost"]) for line in logs] == [
        (None, {}),
        ("driver reload", {}),
        (None, {"1": "GPU is lost"}),
        (None, {}),
    ]


async def test_without_a_driver_it_asks_seldom_unless_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WITHOUT_DRIVER", 0.05)
    async with watching(0.001, lambda: sampled(error="no driver")) as watched:
        await watched.until(2)
        assert watched.samples[1].asked_at - watched.samples[0].asked_at >= 0.05
        monkeypatch.setattr(module, "WITHOUT_DRIVER", 60.0)
        seen = await watched.until(len(watched.samples) + 1)
        assert (seen.error, watched.monitor.error, list(watched.monitor.gpus)) == ("no driver",) * 2 + ([],)
        count = len(watched.samples)
        watched.monitor.ask_soon()
        await watched.until(count + 1)


async def test_before_the_first_answer() -> None:
    monitor = GpuMonitor(1)
    assert (list(monitor.gpus), monitor.error, monitor.asked_at) == ([], None, None)
    assert monitor.sample.asked_at == -math.inf


async def test_it_ends_and_may_be_told_alone_when_to_ask() -> None:
    async with watching(0) as watched:
        first = await watched.monitor.wait_first()
        assert (watched.samples, watched.monitor.asked_at) == ([first], first.asked_at)
        wanted = time.monotonic() + 0.03
        watched.monitor.ask_soon(0.03)
        second = await watched.until(2)
        assert second.asked_at >= wanted
    watched.monitor.ask_soon()
    assert watched.samples == [first, second]


async def test_one_question_at_a_time_and_one_for_all_that_wait() -> None:
    begun = threading.Semaphore(0)
    go = threading.Semaphore(0)
    under_way = []

    def ask() -> Sample:
        under_way.append(1)
        assert len(under_way) == 1
        asked_at = time.monotonic()
        begun.release()
        assert go.acquire(timeout=10)
        under_way.pop()
        return sampled(asked_at=asked_at)

    async with watching(0, ask) as watched:
        await asyncio.to_thread(begun.acquire)
        # The one under way was asked too early for these.
        wanted = time.monotonic()
        for _ in range(5):
            watched.monitor.ask_soon()
        go.release(10)
        assert (await watched.until(2)).asked_at >= wanted
        watched.monitor.ask_soon()
        await watched.until(3)
        assert len(watched.samples) == 3


async def test_a_fresh_sample_is_waited_for_but_not_for_ever() -> None:
    go = threading.Semaphore(1)

    def ask() -> Sample:
        asked_at = time.monotonic()
        assert go.acquire(timeout=10)
        return sampled(asked_at=asked_at)

    async with watching(0, ask) as watched:
        await watched.until(1)
        go.release()
        wanted = time.monotonic()
        await watched.monitor.wait_fresh(10)
        assert watched.monitor.sample.asked_at >= wanted
        await watched.monitor.wait_fresh(0.01)
        assert len(watched.samples) == 2, "it goes on with what is known"
        go.release()


async def test_who_wants_it_soon_does_not_wait_for_who_wants_it_late() -> None:
    async with watching(0) as watched:
        await watched.until(1)
        wanted = time.monotonic() + 0.02
        watched.monitor.ask_soon(60)
        watched.monitor.ask_soon(0.02)
        assert (await watched.until(2)).asked_at >= wanted


async def test_it_can_be_told_before_it_starts_and_stopped_before_that() -> None:
    watched = Watched(0, sampled)
    await watched.monitor.stop()
    watched.monitor.ask_soon()
    watched.monitor.start()
    await watched.until(1)
    await watched.monitor.stop()
    assert len(watched.samples) == 1


async def test_a_driver_that_hangs_is_told_once_and_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    go = threading.Event()
    calls = []

    def ask() -> Sample:
        calls.append(1)
        assert go.wait(20)
        return sampled(gpu(0))

    with structlog.testing.capture_logs() as logs:
        async with watching(0, ask) as watched:
            first = await watched.until(1)
            assert first.error is not None
            assert first.error.startswith("NVML hangs")
            assert first.host.total > 0
            # Who asks meanwhile is told at once what is known: the host.
            for count in (2, 3):
                watched.monitor.ask_soon()
                assert (await watched.until(count)).error == first.error
            assert len(calls) == 1
            go.set()
            async with asyncio.timeout(10):
                while watched.monitor.error is not None:
                    await watched.until(len(watched.samples) + 1)
            assert len(calls) == 2, "what was asked for before it hung is too old"
            assert [found.index for found in watched.monitor.gpus] == [0]
    assert [(line["log_level"], line["error"]) for line in logs] == [("warning", first.error), ("info", None)]


def test_a_driver_that_hangs_does_not_hold_up_the_end() -> None:
    program = """
import asyncio, time
from actors.gpu.monitor import GpuMonitor

async def main():
    monitor = GpuMonitor(0, lambda: time.sleep(1000))
    monitor.start()
    await asyncio.sleep(0.1)
    await monitor.stop()

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
