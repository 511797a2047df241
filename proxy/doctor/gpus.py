"""The NVIDIA driver, NVML, and the model servers' programs with the GPUs that they can use."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from actors.config.schema import Config, Model
from actors.errors import ConfigError
from actors.gpu.monitor import Sample
from actors.progress import readable_size
from actors.servers.llama.command import build_of, find_command, runs_in_container
from actors.servers.llama.devices import key_of, reach_of
from proxy.doctor.checks import Finding, Patient, in_thread, needed_by
from proxy.handlers.readiness import models_for_gpus

ROOT = Path("/")
NVIDIA = "0x10de"
_DISPLAY = "0x03"
"""The class of PCI devices that are display controllers."""

_DRIVER_VERSION = re.compile(r"Kernel Module(?: for \S+)?\s+(\S+)")

INSTALL = "install NVIDIA's driver, or load it: modprobe nvidia (dmesg says why it does not load)"

_CURES = (
    (
        "Shared Library Not Found",
        "install the driver; in a container: the NVIDIA Container Toolkit, and `utility` among "
        "NVIDIA_DRIVER_CAPABILITIES",
    ),
    ("version mismatch", "the driver was updated while the old one is loaded: reboot, or reload its modules"),
    ("Driver Not Loaded", INSTALL),
    ("hangs", "reset the GPU (nvidia-smi --gpu-reset), or reboot"),
)
NO_SERVER = "install llama.cpp (or `pip install xllamacpp`), or set server_pool.command"
NO_REACH = "install a build with CUDA, or set gpu.enabled: false if models shall run on the CPU"


async def check_driver(patient: Patient) -> Sequence[Finding]:
    """Compare the GPUs on the PCI bus with the loaded driver, and ask NVML."""
    gpu = patient.config.gpu
    sample = await patient.wait_sample()
    cards, driver = (
        await in_thread(partial(nvidia_cards, ROOT)),
        await in_thread(partial(loaded_driver, ROOT)),
    )
    driver = driver or (sample.gpus[0].driver if sample.gpus else None)
    if driver is not None:
        first = Finding(name="driver", status="ok", found=f"NVIDIA {driver}")
    elif cards:
        found = f"there are NVIDIA GPUs ({', '.join(cards)}), but their driver is not loaded"
        first = Finding(
            name="driver", status="error" if gpu.managed else "warning", found=found, cure=INSTALL
        )
    else:
        first = Finding(name="driver", status="absent", found="there is no NVIDIA GPU")
    return [first, _nvml(patient.config, sample, is_needed=bool(cards or driver))]


def _nvml(config: Config, sample: Sample, *, is_needed: bool) -> Finding:
    """`is_needed`: there is a GPU."""
    if not config.gpu.managed:
        return Finding(name="NVML", status="absent", found="not asked: " + (sample.error or "no management"))
    if sample.error is not None or not (sample.gpus or sample.lost):
        models = models_for_gpus(config)
        error = sample.error or "there is no GPU that this process may use (CUDA_VISIBLE_DEVICES?)"
        if models:
            error += f"{needed_by(models)}, by gpu.on_no_gpu"
        cure = next((cure for words, cure in _CURES if words in error), "see docs/operating.md")
        if is_needed or models:
            return Finding(name="NVML", status="error", found=error, cure=cure)
        return Finding(name="NVML", status="absent", found=f"{error}: models run on the CPU")
    names = [
        f"{gpu.index}: {gpu.name}, {readable_size(gpu.free)} of {readable_size(gpu.total)} free"
        for gpu in sample.gpus
    ]
    if sample.lost:
        lost = [f"{index}: cannot be used: {reason}" for index, reason in sample.lost.items()]
        cure = "a GPU that was lost needs a reset or a reboot; dmesg says more (Xid)"
        return Finding(name="NVML", status="warning", found="; ".join([*names, *lost]), cure=cure)
    return Finding(name="NVML", status="ok", found="; ".join(names))


async def check_programs(patient: Patient) -> Sequence[Finding]:
    """Find each program that runs models, its build, and whether it can use the GPUs."""
    used, missing = await in_thread(partial(_programs, patient.config))
    if not used and not missing:
        return [Finding(name="llama-server", status="absent", found="all models run in containers")]
    found = [
        Finding(name="llama-server", status="error", found=f"{error}{needed_by(names)}", cure=NO_SERVER)
        for error, names in missing.items()
    ]
    sample = await patient.wait_sample()
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(_program(command, names, sample)) for command, names in used.items()]
    return found + [task.result() for task in asked]


def _programs(config: Config) -> tuple[dict[tuple[str, ...], list[str]], dict[str, list[str]]]:
    """Return the models of each command, and of each reason why there is none. Blocking."""
    pool = config.server_pool
    used: dict[tuple[str, ...], list[str]] = {}
    missing: dict[str, list[str]] = {}
    models = {
        name: model for name, model in config.llama_cpp.models.items() if not runs_in_container(pool, model)
    }
    if not models and pool.runtime != "docker":
        models = {"": Model(path="")}
    for name, model in models.items():
        try:
            used.setdefault(tuple(find_command(pool, model)), []).append(name)
        except (ConfigError, ValueError) as error:
            missing.setdefault(str(error).removeprefix("server_pool.runtime: "), []).append(name)
    return used, missing


async def _program(command: Sequence[str], names: Sequence[str], sample: Sample) -> Finding:
    what = "embedded" if "-m" in command else " ".join(command)
    build = await build_of(command)
    if not build:
        found = f"{what} does not say its version{needed_by(names)}"
        cure = f"run `{what} --version`: it must be llama-server, and start within 5 s"
        return Finding(name="llama-server", status="error", found=found, cure=cure)
    found = f"{what}, build {build}"
    if not sample.gpus:
        return Finding(name="llama-server", status="ok", found=found)
    reach = await reach_of(command, await key_of(command, (gpu.uuid for gpu in sample.gpus)))
    if reach == "none":
        found += "; it can use no GPU, although there are some"
        return Finding(name="llama-server", status="warning", found=found, cure=NO_REACH)
    uses = {"nvidia": "; it can use the GPUs", "others": "; it uses GPUs by a backend other than CUDA"}
    return Finding(name="llama-server", status="ok", found=found + uses.get(reach or "", ""))


def nvidia_cards(root: Path) -> list[str]:
    """Return the PCI addresses of NVIDIA's GPUs, whether or not they have a driver. Blocking."""
    found = []
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        with suppress(OSError):
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
            if vendor == NVIDIA and kind.startswith(_DISPLAY):
                found.append(device.name)
    return found


def loaded_driver(root: Path) -> str | None:
    """Return the version of the loaded NVIDIA driver; None if there is none. Blocking."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = _DRIVER_VERSION.search(text)
    return found[1] if found else "of an unknown version"
