"""Child processes that never outlive the gateway, nor their own stop: see `actors.processes`."""

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
"""The most seconds that what a child started may outlive it after TERM."""
LAST_WAIT = 10.0
"""Seconds for a process to end after KILL. One that hangs in a driver does not, and nobody can end it."""
_POLL = 0.01

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _before_exec() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # What it starts as a daemon stays below it, so that it can be found.
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


class Child:
    """One child process in its own session. Its output lines go to `on_line` and into a short tail."""

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
        """One question: whoever asks the process again and again leaves a future there each time."""
        await self._process.wait()
        self._ended.set()

    @classmethod
    async def start(
        cls, argv: Sequence[str], *, environment: Mapping[str, str], on_line: Callable[[str], None]
    ) -> "Child":
        """Start `argv`. Raises `OSError` when it cannot be executed. `read_output` must be run as a task.

        Of the gateway's own environment it gets what is `inherited`.
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
        if not await occurs(self._ended, timeout):
            return False
        # A grandchild may hold the pipe open for ever; the last words come at once or not at all.
        await occurs(self._drained, 0.5)
        return True

    def family(self) -> list[psutil.Process]:
        """It and all that it started, wherever that went, as far as it runs. Blocking, some milliseconds.

        What was seen once is known even when its parents and its environment are gone.
        """
        known = filter(is_running, self._known.values())
        roots = {process.pid for process in (*known, *of_start(self._start))}
        if self.returncode is None:  # afterwards its pid may be another's
            roots.add(self.pid)
        self._known = {process.pid: process for root in roots for process in descendants(root)}
        return list(self._known.values())

    async def stop(self, grace: float) -> None:
        """TERM it and all that it started, and KILL what is left after `grace` seconds."""
        family = await run_off_loop(self.family, list(self._known.values()))
        self._signal(signal.SIGTERM, family)
        self._signal(signal.SIGCONT, family)  # one that is stopped would not hear of it
        deadline = time.monotonic() + grace
        await self.wait(grace)
        if self._process.returncode is not None:
            await self._until_gone(family, min(deadline, time.monotonic() + LINGER))
        self._signal(signal.SIGKILL, family)
        deadline = time.monotonic() + LAST_WAIT
        nobody: list[psutil.Process] = []
        while family := await run_off_loop(self.family, nobody):  # something may have been forked meanwhile
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
        """Return when all have ended, or at the monotonic time `deadline`."""
        while any(map(is_running, family)) and time.monotonic() < deadline:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(_POLL)
        for process in family:
            if process.pid != self.pid:
                reap(process.pid)

    def _signal(self, number: signal.Signals, family: Collection[psutil.Process]) -> None:
        """Each once: of a second TERM llama-server ends as it is."""
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
