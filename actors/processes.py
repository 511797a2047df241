"""Finds the processes of a gateway and of its children, even those that left their session.

A child may be a wrapper that starts the server in a new session, or as a daemon. The server is found by its
ancestors or by a mark in its environment. Each child adopts the orphans among its descendants (Linux), so
ancestry holds while the child lives; the mark holds after the child has ended.
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
"""Environment variable that marks all descendants with the gateway they belong to."""
START = "LLAMA_SMART_PROXY_START"
"""Environment variable that marks a child and its descendants with this one start."""

LOOK_LIMIT = 5.0
"""Seconds for a scan of processes. Reading /proc may hang for a process that hangs in a driver."""

T = TypeVar("T")

_leaders: dict[str, int] = {}
"""The pids of running children, by the marks of their starts."""


async def run_off_loop(look: Callable[[], T], otherwise: T) -> T:
    """Run `look` in a thread; return its result, or `otherwise` after `LOOK_LIMIT`.

    The loop's pool of threads is not used: a model must be stopped even when the pool is busy, and a scan
    that hangs must neither occupy the pool nor delay the gateway's exit.
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
        with suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(tell, found)

    Thread(target=run, name="look at processes", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(LOOK_LIMIT):
            return await answer
    return otherwise


@functools.cache
def owner_mark() -> str:
    """Return the identity of this gateway: its pid and its start time, because pids are reused."""
    return f"{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_alive(mark: str) -> bool:
    """Whether the gateway with this `owner_mark` runs on this machine."""
    pid, _, created = mark.partition(":")
    try:
        owner = psutil.Process(int(pid))
        return f"{owner.create_time():.2f}" == created and owner.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return False


def sweep_orphans() -> list[int]:
    """Kill processes whose gateway is dead; return their pids. Blocking: call it in a thread.

    Processes in containers are left to the gateways there, because their pids differ.
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
    except OSError:  # the process is gone, or this is not Linux, which alone has namespaces
        return False


def register(start: str, leader: int) -> None:
    """Note that a child was started under this mark."""
    _leaders[start] = leader


def forget(start: str) -> None:
    """Note that no process of this start is left."""
    _leaders.pop(start, None)


def leader_of(pid: int) -> int | None:
    """Return the pid of our child that is this process or an ancestor of it; None if there is none."""
    leaders = set(_leaders.values())
    if pid in leaders:
        return pid
    if (start := _mark_of(pid, START)) in _leaders:
        return _leaders[start]
    with suppress(psutil.Error):
        return next((one.pid for one in psutil.Process(pid).parents() if one.pid in leaders), None)
    return None


def descendants(leader: int) -> list[psutil.Process]:
    """Return the running descendants of a process, itself included. Blocking, some milliseconds."""
    found: list[psutil.Process] = []
    with suppress(psutil.Error):
        process = psutil.Process(leader)
        found = [process, *process.children(recursive=True)]
    return [process for process in found if is_running(process)]


def of_start(start: str) -> list[psutil.Process]:
    """Return the running processes with the mark of a start.

    Blocking: it scans all processes of the machine.
    """
    return [process for process, mark in _marked(START) if mark == start and is_running(process)]


def is_running(process: psutil.Process) -> bool:
    """Whether the process runs. A zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def reap(pid: int) -> None:
    """Reap a zombie: as the first process of a container the gateway is the parent of orphans."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def processor_seconds(leader: int) -> float:
    """Return the processor seconds of a process and its descendants. Blocking."""
    used = 0.0
    for process in descendants(leader):
        with suppress(psutil.Error):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def _marked(name: str) -> Iterator[tuple[psutil.Process, str]]:
    """Return the processes with this environment variable, and its values."""
    for pid in psutil.pids():
        if mark := _mark_of(pid, name):
            with suppress(psutil.Error):
                yield psutil.Process(pid), mark


def _mark_of(pid: int, name: str) -> str:
    """Read one variable of a process's environment; empty if it is unset or not readable."""
    try:
        if sys.platform != "linux":
            return psutil.Process(pid).environ().get(name, "")
        # psutil takes ten times as long, and this runs for every process of the machine.
        _, found, rest = b"\0".join([b"", Path(f"/proc/{pid}/environ").read_bytes()]).partition(
            f"\0{name}=".encode()
        )
        return rest.partition(b"\0")[0].decode("utf-8", "replace") if found else ""
    except (psutil.Error, OSError):
        return ""
