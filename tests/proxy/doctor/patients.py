"""What is examined in tests: a configuration, and GPUs that are said to be there."""

import asyncio
from pathlib import Path
from typing import Any

from actors.config.file import parse_config
from actors.gpu.monitor import Gpu, Sample
from actors.placement.ledger import HostMemory
from proxy.doctor.checks import Check, Finding, Patient

NO_DRIVER = "NVML cannot be asked: NVML Shared Library Not Found"


def sample(*gpus: Gpu, error: str | None = None, lost: dict[str, str] | None = None) -> Sample:
    """What NVML says."""
    host = HostMemory(total=1 << 34, available=1 << 33)
    return Sample(asked_at=0.0, gpus=gpus, lost=lost or {}, host=host, error=error)


def gpu(index: int = 0) -> Gpu:
    """One GPU."""
    return Gpu(
        index=index, uuid=f"GPU-{index}", name="Card", total=1 << 34, used=0, free=1 << 34, driver="580.1"
    )


def patient(folder: Path, taken: Sample | None = None, *, serves: bool = False, **sections: Any) -> Patient:
    """The patient with this configuration; by default there is no driver."""

    async def take() -> Sample:
        return taken or sample(error=NO_DRIVER)

    return Patient(
        config=parse_config(sections, folder=folder),
        file=folder / "config.yaml",
        serves=serves,
        sample=asyncio.get_running_loop().create_task(take()),
    )


async def the_one(check: Check, examined: Patient) -> Finding:
    """The only finding of a check."""
    (finding,) = await check(examined)
    return finding
