"""Child processes that outlive neither the gateway nor their own stop: see `actors.processes`."""

import asyncio
import ctypes
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

import psutil
import structlog

from actors.processes import (
    OWNER,
    START,
    descendants,
    forget,
    is_running,
    of_start,
    owner_mark,
    reap,
    register,
    run_off_loop,
)
from actors.runtime import occurs, spawn
from actors.servers.environment import inherited
from actors.servers.output_lines import Lines

log = structlog.get_logger("model")

LINGER = 2.0
"""Most seconds that a child's descendants may outlive it after TERM."""
LAST_WAIT = 10.0
"""Seconds for a process to end after KILL. A process that hangs in a driver cannot be ended."""
_POLL = 0.01

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _before_exec() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # Daemons that the child starts remain its descendants, so that they can be found.
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


class Child:
    """A child process in its own session. Its output lines go to `on_line` and into a short tail."""

    def __init__(
        self, process: asyncio.subprocess.Process, start: str, on_line: Callable[[str], None]
    ) -> None:
        self._process = process
        self._start = start
        self.lines = Lines(on_line)
        self._drained = asyncio.Event()
        self._known: dict[int, psutil.Process] = {}
        self._ended = asyncio.Event()
        _ = spawn(self._note_end(), name=f"end of process {process.pid}")

    async def _note_end(self) -> None:
        """Wait once for the end: each call of the process's own `wait` would leave a future behind."""
        await self._process.wait()
        self._ended.set()

    @classmethod
    async def start(
        cls, argv: Sequence[str], *, environment: Mapping[str, str], on_line: Callable[[str], None]
    ) -> "Child":
        """Start `argv`. Raises `OSError` when it cannot be executed. `read_output` must be run as a task.

        It inherits only the variables of `environment.inherited`.
        """
        start = secrets.token_hex(8)
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**inherited(os.environ), **environment, OWNER: owner_mark(), START: start},
            start_new_session=True,
            preexec_fn=_before_exec,
        )
        register(start, process.pid)
        return cls(process, start, on_line)

    @property
    def pid(self) -> int:
        """The pid, which is also the id of the child's session and process group."""
        return self._process.pid

    @property
    def tail(self) -> Sequence[str]:
        """The latest output lines."""
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
        """Wait until the child has exited and its output is read; false if `timeout` seconds pass first."""
        if not await occurs(self._ended, timeout):
            return False
        # A grandchild may hold the pipe open for ever; the last lines come at once or not at all.
        await occurs(self._drained, 0.5)
        return True

    def family(self) -> list[psutil.Process]:
        """Return the running processes of the child, itself included. Blocking, some milliseconds.

        A process found once is remembered, even when its parents and its environment are gone.
        """
        known = filter(is_running, self._known.values())
        roots = {process.pid for process in (*known, *of_start(self._start))}
        if self.returncode is None:  # afterwards the pid may be reused
            roots.add(self.pid)
        self._known = {process.pid: process for root in roots for process in descendants(root)}
        return list(self._known.values())

    async def stop(self, grace: float) -> None:
        """Send TERM to the child and its descendants, and KILL to those left after `grace` seconds."""
        family = await run_off_loop(self.family, list(self._known.values()))
        self._signal(signal.SIGTERM, family)
        self._signal(signal.SIGCONT, family)  # a stopped process would not receive TERM
        deadline = time.monotonic() + grace
        await self.wait(grace)
        if self._process.returncode is not None:
            await self._until_gone(family, min(deadline, time.monotonic() + LINGER))
        self._signal(signal.SIGKILL, family)
        deadline = time.monotonic() + LAST_WAIT
        nobody: list[psutil.Process] = []
        while family := await run_off_loop(self.family, nobody):  # a process may have been forked meanwhile
            self._signal(signal.SIGKILL, family)
            await self._until_gone(family, deadline)
            if time.monotonic() >= deadline:
                log.error("processes cannot be killed; they keep their memory", pids=list(self._known))
                break
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WAIT):
                await self._ended.wait()
        forget(self._start)

    async def _until_gone(self, family: Collection[psutil.Process], deadline: float) -> None:
        """Wait until all processes have ended, at most until the monotonic time `deadline`."""
        while any(map(is_running, family)) and time.monotonic() < deadline:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(_POLL)
        for process in family:
            if process.pid != self.pid:
                reap(process.pid)

    def _signal(self, number: signal.Signals, family: Collection[psutil.Process]) -> None:
        """Send the signal once to each process: on a second TERM llama-server aborts."""
        elsewhere = [process for process in family if _group_of(process.pid) != self.pid]
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
        for process in elsewhere:
            with suppress(psutil.Error, OSError):
                process.send_signal(number)


def _group_of(pid: int) -> int:
    with suppress(ProcessLookupError):
        return os.getpgid(pid)
    return 0
