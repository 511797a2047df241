"""Child processes that never outlive the gateway: own groups, parent-death signal, sweep by identity."""

import asyncio
import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from actors.lines import Lines

OWNER = "LLAMA_SMART_PROXY_OWNER"
"""Environment variable that marks our children, and theirs, with the gateway they belong to."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@functools.cache
def owner_mark() -> str:
    """Identity of this gateway: its pid alone could be that of another process by tomorrow."""
    return f"{os.getpid()}:{psutil.Process().create_time():.2f}"


def _is_elsewhere(pid: int) -> bool:
    """Whether the process counts pids in a namespace of its own."""
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink() != Path("/proc/self/ns/pid").readlink()
    except FileNotFoundError:  # it is gone, or this is not Linux, where there are none
        return False


def sweep_orphans() -> list[int]:
    """Kill processes whose gateway is dead; return their pids. Blocking: call it in a thread.

    Those in containers, which the machine sees too, are left to the gateways there: pids differ there.
    """
    swept = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(OWNER)
            if mark is None or process.pid == os.getpid() or is_alive(mark):
                continue
            if _is_elsewhere(process.pid):
                continue
            process.kill()
            swept.append(process.pid)
        except (psutil.Error, OSError):
            continue  # gone already, or somebody else's
    return swept


def is_alive(mark: str) -> bool:
    """Whether the gateway with this `owner_mark` runs, on this machine."""
    pid, _, created = mark.partition(":")
    try:
        owner = psutil.Process(int(pid))
        return f"{owner.create_time():.2f}" == created and owner.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return False


def processor_seconds(pid: int) -> float:
    """The processor time of a process and its descendants that still run. Blocking."""
    try:
        leader = psutil.Process(pid)
        processes = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return 0.0
    used = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def _before_exec() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """One child process in its own session. Its output lines go to `on_line` and into a short tail."""

    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> None:
        self._process = process
        self.lines = Lines(on_line)
        self._drained = asyncio.Event()

    @classmethod
    async def start(
        cls, argv: Sequence[str], *, environment: Mapping[str, str], on_line: Callable[[str], None]
    ) -> "Child":
        """Start `argv`. Raises `OSError` when it cannot be executed. `read_output` must be run as a task."""
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **environment, OWNER: owner_mark()},
            start_new_session=True,
            preexec_fn=_before_exec,
        )
        return cls(process, on_line)

    @property
    def pid(self) -> int:
        """Its pid, which is also the id of its session and group."""
        return self._process.pid

    @property
    def tail(self) -> Sequence[str]:
        """Its latest lines."""
        return self.lines.tail

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        return self._process.returncode

    async def read_output(self) -> None:
        """Read lines until the pipe closes."""
        assert self._process.stdout is not None
        try:
            while data := await self._process.stdout.read(65536):
                await self.lines.take(data)
            self.lines.end()
        finally:
            self._drained.set()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has exited and its output is read; false when `timeout` seconds pass first."""
        try:
            async with asyncio.timeout(timeout):
                await self._process.wait()
        except TimeoutError:
            return False
        # A grandchild may hold the pipe open for ever; the last words come at once or not at all.
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await self._drained.wait()
        return True

    async def stop(self, grace: float) -> None:
        """TERM the group, and KILL what is left of it after `grace` seconds."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # one that is stopped would not hear of it
        await self.wait(grace)
        # Also when the leader has ended: a grandchild in the group may ignore TERM.
        self._signal(signal.SIGKILL)
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
