"""The GPUs that a model server can use: by its device list before the start, by its log afterwards.

NVML reports the machine's GPUs, but a build without CUDA runs on the CPU in spite of any flags.
"""

import asyncio
import re
import shutil
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from actors.runtime import spawn
from actors.servers.child_process import Child
from actors.servers.llama.command import python_path

Reach = Literal["nvidia", "others", "none"]
"""GPUs by CUDA; GPUs by another backend, which the server chooses itself; or no GPU."""

ANSWER_TIMEOUT = 10.0
"""Time-out for a program to list its devices, which initializes the driver."""

BELIEF = 3600.0
"""Seconds for which a log without any GPU counts; afterwards the cause may have been fixed."""

_MOST_LINES = 500
_TITLE = "Available devices:"
_DEVICE = re.compile(r"\s+(\S+): (.*) \((\d+) MiB, \d+ MiB free\)")

Key = tuple[tuple[str, ...], tuple[str, ...]]
"""A program in its present version, and the UUIDs of the machine's GPUs."""

_told: dict[Key, Reach | None] = {}
_logged: dict[Key, float] = {}


async def key_of(command: Sequence[str], gpus: Iterable[str]) -> Key:
    """Return the key under which a program's answer is remembered."""
    return (*command, *await asyncio.to_thread(_versions, command)), tuple(gpus)


def _versions(command: Sequence[str]) -> list[str]:
    """Return the versions of the program and of all other files in its command. Blocking."""
    found = [shutil.which(command[0]), *command[1:]]
    stats = [Path(word).stat() for word in found if word and Path(word).is_file()]
    return [f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats]


def image_key(build: str, gpus: Iterable[str]) -> str:
    """Return the key for an image."""
    return " ".join([build, *gpus])


async def reach_of(command: Sequence[str], key: Key) -> Reach | None:
    """Ask a server which GPUs it can use; None if it does not say. Each `key` is asked once."""
    if time.monotonic() - _logged.get(key, -BELIEF) < BELIEF:
        return "none"
    if key not in _told:
        _told[key] = await _ask(command, len(key[1]))
    return _told[key]


def used_no_gpu(key: Key) -> None:
    """Record that the log showed no GPU, which overrides the device list."""
    _logged[key] = time.monotonic()


async def _ask(command: Sequence[str], gpus: int) -> Reach | None:
    lines: deque[str] = deque(maxlen=_MOST_LINES)
    try:
        child = await Child.start(
            [*command, "--list-devices"], environment={"PYTHONPATH": python_path()}, on_line=lines.append
        )
    except OSError:
        return None
    reader = spawn(child.read_output(), name="devices of the model server")
    try:
        ended = await child.wait(ANSWER_TIMEOUT)
        status = child.returncode
    finally:
        await child.stop(0.0)
        reader.cancel()
    # The program may have failed half-way, as CUDA does when a GPU has no free memory.
    return reach_told(lines, gpus) if ended and status == 0 else None


def reach_told(lines: Iterable[str], gpus: int) -> Reach | None:
    """Parse the output of `--list-devices`; None if the program does not have this flag.

    Vulkan and similar backends ignore the selection among several GPUs (`gpus`).
    """
    listed: list[re.Match[str]] | None = None
    for line in lines:
        if line.startswith(_TITLE):
            listed = []
        elif listed is not None and (found := _DEVICE.match(line)):
            listed.append(found)
    if listed is None:
        return None
    if any(found[1].startswith("CUDA") or (gpus == 1 and "NVIDIA" in found[2]) for found in listed):
        return "nvidia"
    # CPU libraries are listed too, without memory.
    return "others" if any(int(found[3]) for found in listed) else "none"
