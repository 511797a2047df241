"""Which processes belong to which gateway and to which of its children, wherever they went.

A child may be a wrapper that starts the server in a session of its own, or as a daemon. It is found by what
it inherits: its parent, or a mark in its environment. Each child adopts the orphans among its descendants
(Linux), so ancestry holds while it lives; the mark holds after its end.
"""

import asyncio
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TypeVar

import psutil

OWNER = "LLAMA_SMART_PROXY_OWNER"
"""Environment variable that marks our children, and theirs, with the gateway they belong to."""
START = "LLAMA_SMART_PROXY_START"
"""Environment variable that marks a child, and all that it starts, with this one start."""

LOOK_LIMIT = 5.0
"""Seconds for a look at processes. One that hangs in a driver may make who reads its /proc hang too."""

T = TypeVar("T")

_leaders: dict[str, int] = {}
"""The pids of the children that run, by the marks of their starts."""


async def run_off_loop(look: Callable[[], T], otherwise: T) -> T:
    """What `look` returns, or `otherwise` after `LOOK_LIMIT`.

    Not in the loop's pool of threads: a model must be ended although others keep that busy, and a look that
    hangs must neither take a place there nor hold up the gateway's exit.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def tell(found: T) -> None:
        if not answer.done():
            answer.set_result(found)

    def run() -> None:
        found = otherwise
        with suppress(psutil.Error, OSError):
            found = look()
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, found)

    Thread(target=run, name="look at processes", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(LOOK_LIMIT):
            return await answer
    return otherwise


@functools.cache
def owner_mark() -> str:
    """Identity of this gateway: its pid alone could be that of another process by tomorrow."""
    return f"{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_alive(mark: str) -> bool:
    """Whether the gateway with this `owner_mark` runs, on this machine."""
    pid, _, created = mark.partition(":")
    try:
        owner = psutil.Process(int(pid))
        return f"{owner.create_time():.2f}" == created and owner.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return False


def sweep_orphans() -> list[int]:
    """Kill processes whose gateway is dead; return their pids. Blocking: call it in a thread.

    Those in containers, which the machine sees too, are left to the gateways there: pids differ there.
    """
    swept = []
    for process, mark in _marked(OWNER):
        if process.pid == os.getpid() or is_alive(mark) or _is_elsewhere(process.pid):
            continue
        with suppress(psutil.Error):
            process.kill()
            swept.append(process.pid)
    return swept


def _is_elsewhere(pid: int) -> bool:
    """Whether the process counts pids in a namespace of its own."""
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink() != Path("/proc/self/ns/pid").readlink()
    except OSError:  # it is gone, or this is not Linux, where there are none
        return False


def register(start: str, leader: int) -> None:
    """A child was started under this mark."""
    _leaders[start] = leader


def forget(start: str) -> None:
    """Nothing of this start is left."""
    _leaders.pop(start, None)


def leader_of(pid: int) -> int | None:
    """The child of ours that a process of this machine belongs to, itself included; None: to none."""
    leaders = set(_leaders.values())
    if pid in leaders:
        return pid
    if (start := _mark_of(pid, START)) in _leaders:
        return _leaders[start]
    with suppress(psutil.Error):
        return next((one.pid for one in psutil.Process(pid).parents() if one.pid in leaders), None)
    return None


def descendants(leader: int) -> list[psutil.Process]:
    """The process and all below it that run. Blocking, some milliseconds."""
    found: list[psutil.Process] = []
    with suppress(psutil.Error):
        process = psutil.Process(leader)
        found = [process, *process.children(recursive=True)]
    return [process for process in found if is_running(process)]


def of_start(start: str) -> list[psutil.Process]:
    """All that run of one start, by its mark. Blocking: it looks at all the processes of the machine."""
    return [process for process, mark in _marked(START) if mark == start and is_running(process)]


def is_running(process: psutil.Process) -> bool:
    """Whether it has not ended. What only waits to be looked after by its parent has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def reap(pid: int) -> None:
    """Look after one that has ended: as a container's first process the gateway is the parent of orphans."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def processor_seconds(leader: int) -> float:
    """The processor time of a process and its descendants. Blocking."""
    used = 0.0
    for process in descendants(leader):
        with suppress(psutil.Error):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def _marked(name: str) -> Iterator[tuple[psutil.Process, str]]:
    """The processes with this variable in their environment, and what it says."""
    for pid in psutil.pids():
        if mark := _mark_of(pid, name):
            with suppress(psutil.Error):
                yield psutil.Process(pid), mark


def _mark_of(pid: int, name: str) -> str:
    """One variable of a process's environment; empty if it is not there, or not to be seen."""
    try:
        if sys.platform != "linux":
            return psutil.Process(pid).environ().get(name, "")
        # psutil takes ten times as long, and all of the machine's processes are looked at.
        _, found, rest = b"\0".join([b"", Path(f"/proc/{pid}/environ").read_bytes()]).partition(
            f"\0{name}=".encode()
        )
        return rest.partition(b"\0")[0].decode("utf-8", "replace") if found else ""
    except (psutil.Error, OSError):
        return ""
