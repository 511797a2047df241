"""The GPUs of this machine, as NVML reports them.

NVML orders GPUs by PCI bus; CUDA does so only with CUDA_DEVICE_ORDER=PCI_BUS_ID, so GPUs are identified by
UUID. A GPU in MIG mode cannot be used as a whole: its instances take its place.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

import msgspec
import structlog

from actors.gpu.host_memory import host_memory
from actors.placement.ledger import HostMemory
from actors.processes import leader_of
from actors.runtime import spawn

log = structlog.get_logger("gpu")

WITHOUT_DRIVER = 60.0
"""Seconds between attempts while NVML does not answer: a driver may be loaded later."""

PATIENCE = 10.0
"""Seconds after which a call to NVML counts as hung."""

_NOT_TOLD = (None, -1, (1 << 64) - 1)
"""Values for unknown bytes of a process: pynvml's None, and NVML_VALUE_NOT_AVAILABLE."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU at one moment, in bytes, percent, degrees Celsius, watts; None for values not reported.

    `index` is NVML's; for a MIG instance "<GPU>:<instance>", as in NVIDIA_VISIBLE_DEVICES. Utilization,
    temperature and power of an instance are those of its GPU.
    """

    index: int | str
    uuid: str
    name: str
    total: int
    used: int
    free: int
    utilization: int | None = None
    temperature: int | None = None
    power: float | None = None
    processes: dict[int, int] = {}
    """Bytes by pid; 0 also where NVML does not report them."""
    groups: dict[int, int] = {}
    """Bytes by session id. Each model server has its own session; processes that left it are added to it.

    Only processes whose bytes NVML reports and whose pid is known are included. With Windows drivers, without
    permission, or in a container with its own pids there may be none. So a missing session uses no memory or
    an unknown amount; `used` includes it in either case.
    """
    driver: str = ""
    mig: str = ""
    """A MIG instance by its old name, MIG-<UUID of its GPU>/<GPU instance>/<compute instance>."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The machine at one moment. `asked_at`: monotonic seconds just before NVML was asked.

    `lost` maps the index of each GPU that NVML knows but that cannot be used to the reason; it ignores
    CUDA_VISIBLE_DEVICES, since such a GPU may not report its UUID. `error` says why NVML cannot be asked.
    """

    asked_at: float
    gpus: tuple[Gpu, ...]
    lost: dict[str, str] = {}
    host: HostMemory
    error: str | None = None


class GpuError(Exception):
    """NVML cannot be asked; the message says why."""


def probe(nvml: Any = None) -> list[Gpu]:
    """Ask NVML once for the GPUs that this process may use. Raises `GpuError`. Blocking.

    `nvml` is a module like pynvml; None imports pynvml.
    """
    return _ask(nvml)[0]


def take_sample(nvml: Any = None) -> Sample:
    """Ask NVML and the operating system once. Never raises. Blocking."""
    asked_at = time.monotonic()
    gpus: list[Gpu] = []
    lost: dict[str, str] = {}
    error = None
    try:
        gpus, lost = _ask(nvml)
    except GpuError as failure:
        error = str(failure)
    except Exception as failure:  # the boundary to a foreign library of any version
        log.exception("unexpected error in NVML")
        error = f"NVML is not understood: {failure!r}"
    return Sample(asked_at=asked_at, gpus=tuple(gpus), lost=lost, host=host_memory(), error=error)


def host_sample() -> Sample:
    """Sample the host's memory only, without NVML. Blocking."""
    return Sample(
        asked_at=time.monotonic(),
        gpus=(),
        host=host_memory(),
        error="gpu.enabled or gpu.enable_gpu_monitoring is false",
    )


def _ask(nvml: Any) -> tuple[list[Gpu], dict[str, str]]:
    """Return the usable GPUs, and why others are not usable, by index. Raises `GpuError`."""
    if nvml is None:
        import pynvml  # noqa: PLC0415

        nvml = pynvml
    gpus: list[Gpu] = []
    lost: dict[str, str] = {}

    @contextmanager
    def unless_lost(index: int | str) -> Iterator[None]:
        try:
            yield
        except nvml.NVMLError as error:
            lost[str(index)] = str(error)

    try:
        nvml.nvmlInit()
        try:
            driver = str(nvml.nvmlSystemGetDriverVersion())
            for number in range(nvml.nvmlDeviceGetCount()):
                with unless_lost(number):
                    whole = nvml.nvmlDeviceGetHandleByIndex(number)
                    handles = _handles(nvml, number, whole)
                    if not handles:
                        lost[str(number)] = "MIG is on, and there is no instance"
                    for index, handle in handles.items():
                        with unless_lost(index):
                            gpus.append(_read(nvml, index, handle, whole, driver))
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        raise GpuError(f"NVML cannot be asked: {error}") from error
    return visible(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"), lost), lost


def _handles(nvml: Any, number: int, whole: Any) -> dict[int | str, Any]:
    """Return the usable handles of a GPU, by index: the GPU itself, or its MIG instances."""
    mode = 0
    with suppress(nvml.NVMLError):
        mode = nvml.nvmlDeviceGetMigMode(whole)[0]
    if not mode:
        return {number: whole}
    handles: dict[int | str, Any] = {}
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(whole)):
        with suppress(nvml.NVMLError_NotFound):  # an instance may be at any of the indices
            handles[f"{number}:{place}"] = nvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, place)
    return handles


def _read(nvml: Any, index: int | str, handle: Any, whole: Any, driver: str) -> Gpu:
    """Read one GPU.

    `handle` is that of the GPU, or of a MIG instance of the GPU `whole`. Raises NVMLError.
    """
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)

    def ask(question: Callable[[], Any]) -> Any:
        """Ask for a value that not every GPU reports; None if it does not."""
        with suppress(nvml.NVMLError):
            return question()
        return None

    mig = ""
    if handle is not whole:
        places = (nvml.nvmlDeviceGetGpuInstanceId(handle), nvml.nvmlDeviceGetComputeInstanceId(handle))
        mig = f"MIG-{nvml.nvmlDeviceGetUUID(whole)}/{places[0]}/{places[1]}"
    utilization = ask(lambda: nvml.nvmlDeviceGetUtilizationRates(whole).gpu)
    milliwatts = ask(lambda: nvml.nvmlDeviceGetPowerUsage(whole))
    running = ask(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
    known = {
        process.pid: int(process.usedGpuMemory)
        for process in running
        if process.usedGpuMemory not in _NOT_TOLD
    }
    return Gpu(
        index=index,
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        name=str(nvml.nvmlDeviceGetName(handle)),
        total=int(memory.total),
        used=int(memory.used),
        free=int(memory.free),
        utilization=utilization,
        temperature=ask(lambda: nvml.nvmlDeviceGetTemperature(whole, nvml.NVML_TEMPERATURE_GPU)),
        power=None if milliwatts is None else milliwatts / 1000,
        processes={process.pid: known.get(process.pid, 0) for process in running},
        groups=_by_session(known),
        driver=driver,
        mig=mig,
    )


def _by_session(processes: Mapping[int, int]) -> dict[int, int]:
    groups: dict[int, int] = {}
    for pid, used in processes.items():
        if pid > 0:  # session 0 would mean this process
            with suppress(OSError, AttributeError):  # gone, or another namespace's; Windows has no sessions
                session = leader_of(pid) or os.getsid(pid)
                groups[session] = groups.get(session, 0) + used
    return groups


def visible(gpus: Sequence[Gpu], setting: str | None, lost: Collection[str] = ()) -> list[Gpu]:
    """Select GPUs by CUDA_VISIBLE_DEVICES, in its order. As in CUDA, a wrong entry ends the list.

    An entry that names a lost GPU is skipped. A GPU in MIG mode stands for its first instance. Of several
    compute instances in a GPU instance only the first counts: CUDA uses one, and they share memory.
    """
    chosen = list(gpus)
    if setting is not None:
        chosen = []
        wholes: dict[str, Gpu] = {}
        for gpu in gpus:
            wholes.setdefault(str(gpu.index).partition(":")[0], gpu)
        gone = {index.partition(":")[0] for index in lost}
        for word in (part.strip() for part in setting.split(",")):
            if word.startswith("MIG-"):
                found = [gpu for gpu in gpus if word == gpu.mig or gpu.uuid.startswith(word)]
            else:
                found = [gpu for index, gpu in wholes.items() if word == index or _begins(gpu, word)]
            if not found and (word in gone or (gone and word.startswith(("GPU-", "MIG-")))):
                continue
            if len(found) != 1 or found[0] in chosen:
                break
            chosen += found
    first: dict[str, Gpu] = {}
    for gpu in chosen:
        first.setdefault(gpu.mig.rpartition("/")[0] or gpu.uuid, gpu)
    return list(first.values())


def _begins(gpu: Gpu, word: str) -> bool:
    return word.startswith("GPU-") and (gpu.mig.removeprefix("MIG-") or gpu.uuid).startswith(word)


class _Question:
    """One call of `ask` in its own daemon thread, which never delays the end of the program.

    Threads of an executor would: the event loop and the interpreter wait for them.
    """

    def __init__(self, ask: Callable[[], Sample], on_end: Callable[[], object] = lambda: None) -> None:
        self.answer: Sample | None = None
        self.ended = Event()
        self._ask = ask
        self._on_end = on_end
        Thread(target=self._run, name="GPU monitor", daemon=True).start()

    def _run(self) -> None:
        try:
            self.answer = self._ask()
        finally:
            self.ended.set()
            with suppress(RuntimeError):  # the event loop is closed by now
                self._on_end()


def take_sample_in_time() -> Sample:
    """Take a sample, but give up on a driver that hangs after `PATIENCE`. Blocking."""
    question = _Question(take_sample)
    question.ended.wait(PATIENCE)
    return question.answer or _hung_sample()


def _hung_sample() -> Sample:
    return Sample(
        asked_at=time.monotonic(),
        gpus=(),
        host=host_memory(),
        error=f"NVML hangs: a call has not returned for {PATIENCE:g} s; the GPU driver may need a reset",
    )


class GpuMonitor:
    """Samples the GPUs every `interval` seconds (0: only on request), in a thread, one sample at a time.

    `sample` is the latest one; `on_sample` is called with each, on the event loop. When NVML does not answer,
    without a driver or while it is reloaded, the sample says so, and the monitor tries again. A call that
    hangs counts as no answer after `PATIENCE`; until it returns, samples cover only the host.
    """

    def __init__(self, interval: float, ask: Callable[[], Sample] = take_sample) -> None:
        self._interval = interval
        self._ask = ask
        self._task: asyncio.Task[None] | None = None
        self._question: _Question | None = None
        self._hangs = False
        self._wanted: list[float] = []
        self._next = math.inf
        self._wake = asyncio.Event()
        self._answered = asyncio.Event()
        self._taken = asyncio.Event()
        self.on_sample: Callable[[Sample], None] | None = None
        self.sample = Sample(asked_at=-math.inf, gpus=(), host=HostMemory(total=0, available=0))
        """The latest sample; before the first answer an empty one from the distant past."""

    @property
    def gpus(self) -> Sequence[Gpu]:
        """The GPUs of the latest sample."""
        return self.sample.gpus

    @property
    def error(self) -> str | None:
        """Why NVML could not be asked for the latest sample; None if it was."""
        return self.sample.error

    @property
    def asked_at(self) -> float | None:
        """Monotonic seconds of the latest sample; None before the first one."""
        return self.sample.asked_at if self._answered.is_set() else None

    def start(self) -> None:
        """Start sampling."""
        self.ask_soon()
        self._task = spawn(self._watch(), name="GPU monitor")

    def sample_every(self, interval: float) -> None:
        """Sample every `interval` seconds from now on."""
        self._interval, self._next = interval, math.inf
        self.ask_soon()

    async def wait_first(self) -> Sample:
        """Wait for the first sample, which a slow driver may delay. The monitor must have been started."""
        await self._answered.wait()
        return self.sample

    def ask_soon(self, delay: float = 0.0) -> None:
        """Request a sample taken at least `delay` seconds from now.

        One sample serves all requests that are due; a sample in progress does not count.
        """
        self._wanted.append(time.monotonic() + delay)
        self._wake.set()

    async def wait_fresh(self, patience: float) -> None:
        """Wait for a sample taken from now on, at most `timeout` seconds."""
        wanted = time.monotonic()
        self.ask_soon()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.sample.asked_at < wanted:
                    self._taken.clear()
                    await self._taken.wait()

    async def stop(self) -> None:
        """Stop sampling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _watch(self) -> None:
        while True:
            while (wait := min([self._next, *self._wanted]) - time.monotonic()) > 0:
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait if wait < math.inf else None):
                        await self._wake.wait()
            now = time.monotonic()
            self._wanted = [moment for moment in self._wanted if moment > now]
            self._take(await self._answer())

    async def _answer(self) -> Sample:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        if self._question is not None and self._question.ended.is_set():
            self._question = None  # the call hung; its answer is too old by now
        if self._question is None:
            self._hangs = False
            self._question = _Question(self._ask, lambda: loop.call_soon_threadsafe(self._ended, ended))
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await ended.wait()
        if (answer := self._question.answer) is not None:
            self._question = None
            return answer
        self._hangs = True
        return await asyncio.to_thread(_hung_sample)

    def _ended(self, ended: asyncio.Event) -> None:
        ended.set()
        if self._hangs:
            self.ask_soon()

    def _take(self, sample: Sample) -> None:
        if self._interval > 0:
            pause = self._interval if sample.error is None else max(self._interval, WITHOUT_DRIVER)
            self._next = time.monotonic() + pause
        before, self.sample = self.sample, sample
        if not self._answered.is_set() or _known(before) != _known(sample):
            names = [
                f"{gpu.index}: {gpu.name}, {gpu.free >> 20:,} of {gpu.total >> 20:,} MiB free"
                for gpu in sample.gpus
            ]
            driver = sample.gpus[0].driver if sample.gpus else None
            getattr(log, "warning" if self._hangs else "info")(
                "GPUs", gpus=names, driver=driver, lost=sample.lost, error=sample.error
            )
        if self.on_sample is not None:
            self.on_sample(sample)
        self._answered.set()
        self._taken.set()


def _known(sample: Sample) -> tuple[object, ...]:
    """Return the parts of a sample whose change is worth a log line."""
    return [gpu.uuid for gpu in sample.gpus], sample.lost, sample.error
