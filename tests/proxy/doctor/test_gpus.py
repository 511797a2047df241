"""What is said of drivers, NVML, and the programs that run models."""

from pathlib import Path
from typing import Any

import pytest

from proxy.doctor import gpus
from proxy.doctor.gpus import check_driver, check_programs, loaded_driver, nvidia_cards
from tests.proxy.doctor.patients import NO_DRIVER, gpu, patient, sample, the_one

VERSION = "NVRM version: NVIDIA UNIX {}Kernel Module{}  580.95.05  Release Build"


@pytest.fixture(autouse=True)
def no_blocking_calls() -> None:
    """A child process is found in /proc, which nobody waits for."""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine's /sys and /proc."""
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(gpus, "ROOT", root)
    return root


def plug(root: Path, address: str, vendor: str, kind: str) -> None:
    device = root / "sys/bus/pci/devices" / address
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")


def load_driver(root: Path) -> None:
    folder = root / "proc/driver/nvidia"
    folder.mkdir(parents=True)
    (folder / "version").write_text(VERSION.format("", ""))


def test_nvidia_gpus_are_found_without_a_driver(tmp_path: Path) -> None:
    plug(tmp_path, "0000:01:00.0", "0x10de", "0x030000")
    plug(tmp_path, "0000:02:00.0", "0x10de", "0x030200")
    plug(tmp_path, "0000:01:00.1", "0x10de", "0x040300")  # the sound of the first
    plug(tmp_path, "0000:00:02.0", "0x8086", "0x030000")
    (tmp_path / "sys/bus/pci/devices/0000:09:00.0").mkdir()  # just unplugged
    assert nvidia_cards(tmp_path) == ["0000:01:00.0", "0000:02:00.0"]
    assert nvidia_cards(tmp_path / "none") == []


@pytest.mark.parametrize(
    "text", [VERSION.format("x86_64 ", ""), VERSION.format("Open ", " for x86_64")], ids=["closed", "open"]
)
def test_the_version_of_the_driver(text: str, tmp_path: Path) -> None:
    assert loaded_driver(tmp_path) is None
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(text)
    assert loaded_driver(tmp_path) == "580.95.05"


async def test_a_machine_without_a_gpu_is_well(machine: Path, tmp_path: Path) -> None:
    driver, nvml = await check_driver(patient(tmp_path))
    assert (driver.status, nvml.status) == ("absent", "absent")
    assert nvml.found == f"{NO_DRIVER}: models run on the CPU"


async def test_a_gpu_whose_driver_is_not_loaded(machine: Path, tmp_path: Path) -> None:
    plug(machine, "0000:01:00.0", "0x10de", "0x030000")
    driver, nvml = await check_driver(patient(tmp_path))
    assert (driver.status, nvml.status) == ("error", "error")
    assert "0000:01:00.0" in driver.found
    assert driver.cure is not None
    assert "modprobe" in driver.cure


async def test_gpus_that_work(machine: Path, tmp_path: Path) -> None:
    load_driver(machine)
    driver, nvml = await check_driver(patient(tmp_path, sample(gpu(0), gpu(1))))
    assert (driver.status, driver.found) == ("ok", "NVIDIA 580.95.05")
    assert nvml.status == "ok"
    assert nvml.found.startswith("0: Card, ")


async def test_the_driver_is_known_by_nvml_where_proc_has_none(machine: Path, tmp_path: Path) -> None:
    driver, _ = await check_driver(patient(tmp_path, sample(gpu())))
    assert (driver.status, driver.found) == ("ok", "NVIDIA 580.1")


@pytest.mark.parametrize(
    ("taken", "status", "cure"),
    [
        (sample(gpu(), lost={"1": "GPU is lost"}), "warning", "reset or a reboot"),
        (sample(error="NVML cannot be asked: Driver/library version mismatch"), "error", "reboot"),
        (sample(error="NVML hangs: a call has not returned"), "error", "reset the GPU"),
        (sample(), "error", "docs/operating.md"),
    ],
)
async def test_gpus_that_do_not_work(
    taken: Any, status: str, cure: str, machine: Path, tmp_path: Path
) -> None:
    load_driver(machine)
    _, nvml = await check_driver(patient(tmp_path, taken))
    assert nvml.status == status
    assert nvml.cure is not None
    assert cure in nvml.cure


async def test_models_that_need_a_gpu(machine: Path, tmp_path: Path) -> None:
    models = {"m": {"path": "builtin:demo"}, "on-cpu": {"path": "builtin:demo", "gpu_layers": 0}}
    ill = patient(tmp_path, llama_cpp={"models": models}, gpu={"on_no_gpu": "fail"})
    driver, nvml = await check_driver(ill)
    assert (driver.status, nvml.status) == ("absent", "error")
    assert nvml.found.endswith("needed by m, by gpu.on_no_gpu")


async def test_gpus_that_are_not_managed(machine: Path, tmp_path: Path) -> None:
    plug(machine, "0000:01:00.0", "0x10de", "0x030000")
    driver, nvml = await check_driver(patient(tmp_path, gpu={"enabled": False}))
    assert (driver.status, nvml.status) == ("warning", "absent")


def program(folder: Path, name: str, version: str, devices: str) -> str:
    """A llama-server that says this."""
    file = folder / name
    cases = f"*--version*) echo '{version}' ;;\n*) printf '{devices}' ;;"
    file.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}\nesac\n')
    file.chmod(0o755)
    return str(file)


CUDA = r"Available devices:\n  CUDA0: Card (16384 MiB, 16000 MiB free)\n"


@pytest.mark.parametrize(
    ("devices", "status", "words"),
    [
        (CUDA, "ok", "build 8123; it can use the GPUs"),
        (CUDA.replace("CUDA0", "Vulkan0"), "ok", "it uses GPUs by a backend other than CUDA"),
        (r"Available devices:\n", "warning", "it can use no GPU"),
        (r"unknown argument\n", "ok", "build 8123"),
    ],
)
async def test_a_program_and_the_gpus(devices: str, status: str, words: str, tmp_path: Path) -> None:
    command = program(tmp_path, "server", "version: 8123 (abc)", devices)
    ill = patient(tmp_path, sample(gpu(0), gpu(1)), server_pool={"command": command})
    finding = await the_one(check_programs, ill)
    assert finding.status == status
    assert words in finding.found


async def test_each_program_is_asked_once(tmp_path: Path) -> None:
    good = program(tmp_path, "server", "version: 8123 (abc)", CUDA)
    mute = program(tmp_path, "mute", "no number", CUDA)
    demo = {"path": "builtin:demo"}
    models = {"a": demo, "b": demo, "c": {**demo, "command": mute}}
    ill = patient(tmp_path, server_pool={"command": good}, llama_cpp={"models": models})
    found = await check_programs(ill)
    assert [(one.status, one.found) for one in found] == [
        ("ok", f"{good}, build 8123"),
        ("error", f"{mute} does not say its version; needed by c"),
    ]


async def test_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    models = {"m": {"path": "builtin:demo", "runtime": "llama-server"}}
    finding = await the_one(check_programs, patient(tmp_path, llama_cpp={"models": models}))
    assert finding.status == "error"
    assert finding.found.startswith("no llama-server on the PATH")
    assert finding.found.endswith("needed by m")


async def test_models_in_containers_need_no_program(tmp_path: Path) -> None:
    ill = patient(tmp_path, server_pool={"runtime": "docker"})
    assert (await the_one(check_programs, ill)).status == "absent"
