"""What a check is, and how checks run: concurrently, each within a time limit, none of them raises."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Literal, TypeVar

import msgspec
import structlog

from actors.config.schema import Config
from actors.gpu.monitor import Sample, host_sample, take_sample_in_time
from actors.runtime import spawn

log = structlog.get_logger("doctor")

LIMIT = 30.0
"""Seconds within which a check must end. Asking NVML, and then a model server's program, may take 25."""

Status = Literal["ok", "warning", "error", "absent"]

T = TypeVar("T")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found.

    `status`: `ok`; `warning`, which works, but not as well as it could; `error`, which does not work and is
    needed; `absent`, which is not there and not needed. `cure`: what to do; null if there is nothing to do.
    """

    name: str
    status: Status
    found: str
    cure: str | None = None


class Patient(msgspec.Struct, frozen=True, kw_only=True):
    """What is examined: the configuration in effect, its file, and this machine's GPUs.

    `serves`: this process is the gateway. Otherwise one may run beside it.
    """

    config: Config
    file: Path
    serves: bool
    sample: asyncio.Task[Sample]

    async def wait_sample(self) -> Sample:
        """Wait for the GPUs; all checks share one sample."""
        await asyncio.wait([self.sample])
        return self.sample.result()


def needed_by(models: Iterable[str]) -> str:
    """Return words that name the models; empty without any."""
    known = ", ".join(filter(None, models))
    return f"; needed by {known}" if known else ""


Check = Callable[[Patient], Awaitable[Sequence[Finding]]]


async def examine(
    config: Config, file: Path, checks: Mapping[str, Check], *, serves: bool, limit: float = LIMIT
) -> list[Finding]:
    """Run all checks at the same time; return their findings in the order of `checks`."""
    take = take_sample_in_time if config.gpu.managed else host_sample
    sample = spawn(in_thread(take), name="doctor: sample of the GPUs")
    patient = Patient(config=config, file=file, serves=serves, sample=sample)
    running = [
        spawn(_findings_of(name, check, patient, limit), name=f"doctor: {name}")
        for name, check in checks.items()
    ]
    try:
        await asyncio.wait(running)
    finally:
        for task in (*running, sample):
            task.cancel()
    return [finding for task in running for finding in task.result()]


async def _findings_of(name: str, check: Check, patient: Patient, limit: float) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(limit):
            return await check(patient)
    except TimeoutError:
        found = f"the check did not end within {limit:g} s"
        cure = "something that it asks hangs: a driver, a disk, a network, or this machine is overloaded"
        return [Finding(name=name, status="error", found=found, cure=cure)]
    except Exception as error:  # the boundary of a check: the others' findings count nevertheless
        log.exception("check failed", check=name)
        found = f"the check itself failed: {error!r}"
        return [Finding(name=name, status="error", found=found, cure="report this as a defect")]


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a daemon thread. One of an executor would delay the exit if the work hangs."""
    answer: Future[T] = Future()

    def run() -> None:
        answer.set_running_or_notify_cancel()
        try:
            answer.set_result(work())
        except Exception as error:
            answer.set_exception(error)

    Thread(target=run, name="doctor", daemon=True).start()
    return await asyncio.wrap_future(answer)
