"""Child processes that never outlive the gateway: own groups, parent-death signal, sweep by identity."""

import asyncio
import ctypes
import functools
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

OWNER = "LLAMA_SMART_PROXY_OWNER"
"""Environment variable that marks our children, and theirs, with the gateway they belong to."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

LINE_LIMIT = 8192


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
            if mark is None or process.pid == os.getpid() or _is_alive(mark):
                continue
            if _is_elsewhere(process.pid):
                continue
            process.kill()
            swept.append(process.pid)
        except (psutil.Error, OSError):
            continue  # gone already, or somebody else's
    return swept


def _is_alive(mark: str) -> bool:
    pid, _, created = mark.partition(":")
    try:
        owner = psutil.Process(int(pid))
        return f"{owner.create_time():.2f}" == created and owner.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return False


def _before_exec() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """One child process in its own session. Its output lines go to `on_line` and into a short tail."""

    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> None:
        self._process = process
        self._on_line = on_line
        self.tail: deque[str] = deque(maxlen=60)
        self.last_progress = time.monotonic()
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
    def returncode(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        return self._process.returncode

    async def read_output(self) -> None:
        """Read lines until the pipe closes. An endless line is cut, so that memory stays bounded."""
        assert self._process.stdout is not None
        rest = b""
        try:
            while data := await self._process.stdout.read(65536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(line)
                if len(rest) > LINE_LIMIT:
                    self._take(rest)
                    rest = b""
            if rest:
                self._take(rest)
        finally:
            self._drained.set()

    def _take(self, line: bytes) -> None:
        text = line[:LINE_LIMIT].decode("utf-8", "replace").rstrip()
        if text:
            self.last_progress = time.monotonic()
            self.tail.append(text)
            self._on_line(text)

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
        await self.wait(grace)
        # Also when the leader has ended: a grandchild in the group may ignore TERM.
        self._signal(signal.SIGKILL)
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
