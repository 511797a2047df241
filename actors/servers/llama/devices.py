"""Which GPUs a model server can use: by its own word before it is started, by its log afterwards.

NVML tells what the machine has. A build without CUDA runs on the CPU nevertheless, whatever it is told.
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
"""NVIDIA's GPUs, by CUDA; others, or by other ways, so that it finds its own; no GPU at all."""

ANSWER_TIMEOUT = 10.0
"""Seconds for a program to list its devices: the driver is initialized for it."""

BELIEF = 3600.0
"""Seconds for which a log is believed that said that no GPU was used: the cause may be mended."""

_MOST_LINES = 500
_TITLE = "Available devices:"
_DEVICE = re.compile(r"\s+(\S+): (.*) \((\d+) MiB, \d+ MiB free\)")

Key = tuple[tuple[str, ...], tuple[str, ...]]
"""A program as it is now, and the GPUs of the machine by UUID."""

_told: dict[Key, Reach | None] = {}
_logged: dict[Key, float] = {}


async def key_of(command: Sequence[str], gpus: Iterable[str]) -> Key:
    """That for which the program's answer holds."""
    return (*command, *await asyncio.to_thread(_versions, command)), tuple(gpus)


def _versions(command: Sequence[str]) -> list[str]:
    """Of the program, and of whatever else in its command is a file. Blocking."""
    found = [shutil.which(command[0]), *command[1:]]
    stats = [Path(word).stat() for word in found if word and Path(word).is_file()]
    return [f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats]


def image_key(build: str, gpus: Iterable[str]) -> str:
    """The same of an image."""
    return " ".join([build, *gpus])


async def reach_of(command: Sequence[str], key: Key) -> Reach | None:
    """What the server that `command` starts can use; None if it does not tell. Asked once of each `key`."""
    if time.monotonic() - _logged.get(key, -BELIEF) < BELIEF:
        return "none"
    if key not in _told:
        _told[key] = await _ask(command, len(key[1]))
    return _told[key]


def used_no_gpu(key: Key) -> None:
    """Its log says so, and is believed rather than what it told before."""
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
    # It may have failed half way through, as CUDA does when a GPU has no memory left.
    return reach_told(lines, gpus) if ended and status == 0 else None


def reach_told(lines: Iterable[str], gpus: int) -> Reach | None:
    """What the output of `--list-devices` says; None for that of a program without this flag.

    Vulkan and its like do not heed which of several (`gpus`) they are given.
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
    # Libraries for the CPU are listed too, with no memory.
    return "others" if any(int(found[3]) for found in listed) else "none"
