"""Child processes: their output, their end, and the end of what they leave behind."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psutil
import pytest

from actors.processes import (
    LOOK_LIMIT,
    OWNER,
    is_running,
    leader_of,
    owner_mark,
    run_off_loop,
    sweep_orphans,
)
from actors.runtime import spawn
from actors.servers.child_process import Child
from actors.servers.output_lines import LINE_LIMIT

IGNORES_TERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); "


@asynccontextmanager
async def child(code: str, on_line: Callable[[str], None] = lambda _: None) -> AsyncIterator[Child]:
    """A Python child that runs `code`."""
    started = await Child.start([sys.executable, "-c", code], environment={}, on_line=on_line)
    reader = spawn(started.read_output(), name="reader")
    yield started
    await started.stop(0)
    reader.cancel()


async def test_its_lines() -> None:
    lines: list[str] = []
    long = LINE_LIMIT * 3
    code = f"import os; os.write(1, b'a\\n\\n\\xff\\r\\n' + b'x' * {long} + b'\\nlast'); os.write(2, b'!')"
    async with child(code, lines.append) as started:
        assert await started.wait(10)
        assert started.returncode == 0
        assert list(started.tail) == lines
    assert lines[:2] == ["a", "\ufffd"]
    assert lines[-1].endswith("last!")
    assert max(map(len, lines)) <= LINE_LIMIT


async def test_it_cannot_be_executed() -> None:
    with pytest.raises(FileNotFoundError):
        await Child.start(["/no/such/program"], environment={}, on_line=lambda _: None)


async def test_waiting_has_a_limit() -> None:
    async with child("import time; time.sleep(60)") as started:
        assert not await started.wait(0.05)
        assert started.returncode is None


async def test_who_waits_again_and_again_leaves_nothing_behind() -> None:
    async with child("import time; time.sleep(60)") as started:
        await started.wait(0.01)
        gc.collect()
        before = len(gc.get_objects())
        for _ in range(200):
            assert not await started.wait(0.0001)
        gc.collect()
        assert len(gc.get_objects()) < before + 100


async def test_one_that_ignores_term_is_killed() -> None:
    up = asyncio.Event()
    async with child(IGNORES_TERM + "signal.pause()", lambda _: up.set()) as started:
        await up.wait()
        await started.stop(0.05)
        assert started.returncode == -signal.SIGKILL


async def test_a_grandchild_dies_with_its_group_although_it_holds_the_pipe() -> None:
    lines: list[str] = []
    up = asyncio.Event()

    def on_line(line: str) -> None:
        lines.append(line)
        up.set()

    code = (
        "import subprocess, sys, signal; p = subprocess.Popen([sys.executable, '-c', "
        f"{(IGNORES_TERM.replace('up', '') + 'signal.pause()')!r}]); print(p.pid, flush=True); signal.pause()"
    )
    async with child(code, on_line) as started:
        await up.wait()
        grandchild = psutil.Process(int(lines[0]))
        await started.stop(5)
        gone, _ = await asyncio.to_thread(psutil.wait_procs, [grandchild], 5)
        assert gone
        assert started.returncode == -signal.SIGTERM


SLEEPER = f"{sys.executable} -c 'import os, signal; print(os.getpid(), flush=True); signal.pause()'"
DEAF = SLEEPER.replace("signal.pause()", "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()")


@pytest.mark.skipif(sys.platform != "linux", reason="setsid is Linux's")
@pytest.mark.parametrize(
    "wrapper",
    [
        f"setsid {SLEEPER} & wait",
        f"setsid {DEAF} & wait",
        f"(setsid {SLEEPER} &); sleep 60",
        f"env -i setsid {SLEEPER} & wait",
        f"(env -i setsid {SLEEPER} &); sleep 60",
        f"(setsid env -i setsid {SLEEPER} &); sleep 60",
        f"setsid {SLEEPER} & exit 0",
    ],
    ids=["setsid", "ignores-term", "daemon", "no-environment", "daemon-without", "both", "leader-ends"],
)
async def test_what_left_its_session_is_ended_too(wrapper: str) -> None:
    lines: list[str] = []
    up = asyncio.Event()

    def on_line(line: str) -> None:
        lines.append(line)
        up.set()

    started = await Child.start(["sh", "-c", wrapper], environment={}, on_line=on_line)
    reader = spawn(started.read_output(), name="reader")
    async with asyncio.timeout(20):
        await up.wait()
    server = psutil.Process(int(lines[0]))
    assert os.getsid(server.pid) != started.pid
    assert leader_of(server.pid) == started.pid
    await started.stop(1)
    assert not is_running(server)
    assert leader_of(server.pid) is None
    reader.cancel()


async def test_what_was_seen_is_known_when_nothing_tells_of_it_any_more() -> None:
    lines: list[str] = []
    up = asyncio.Event()

    def on_line(line: str) -> None:
        lines.append(line)
        up.set()

    wrapper = f"env -i setsid {SLEEPER} & wait"
    started = await Child.start(["sh", "-c", wrapper], environment={}, on_line=on_line)
    reader = spawn(started.read_output(), name="reader")
    await up.wait()
    server = psutil.Process(int(lines[0]))
    assert server.pid in [process.pid for process in started.family()]
    os.kill(started.pid, signal.SIGKILL)
    await started.stop(1)
    assert not is_running(server)
    reader.cancel()


async def test_term_comes_once() -> None:
    lines: list[str] = []
    up = asyncio.Event()

    def on_line(line: str) -> None:
        lines.append(line)
        up.set()

    code = (
        "import signal, time; signal.signal(signal.SIGTERM, lambda *_: print('term', flush=True)); "
        "print('up', flush=True); [time.sleep(0.05) for _ in range(100)]"
    )
    async with child(code, on_line) as started:
        await up.wait()
        await started.stop(0.5)
    assert lines == ["up", "term"]


def test_the_sweep_takes_only_what_a_dead_gateway_left() -> None:
    code = "import sys; print(flush=True); sys.stdin.read()"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    created = psutil.Process(dead.pid).create_time()
    dead.wait()

    def marked(mark: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, OWNER: mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    # The pid of a living process with another start time: a pid that was used again.
    orphans = [marked(f"{dead.pid}:{created:.2f}"), marked(f"{os.getpid()}:1.00"), marked("nonsense")]
    mine = marked(owner_mark())
    try:
        swept = sweep_orphans()
        assert mine.pid not in swept
        # A gateway of another test, which sweeps when it starts, may have been first.
        assert [process.wait(5) for process in orphans] == [-signal.SIGKILL] * 3
        assert mine.poll() is None
    finally:
        for process in (*orphans, mine):
            process.kill()
            process.communicate()


def test_the_sweep_leaves_those_in_containers_alone() -> None:
    """On the machine they are seen too, with the mark of a gateway whose pid is another's here."""
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespace of pids can be made here")
    code = "import sys; print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [*apart, sys.executable, "-c", code],
        env={**os.environ, OWNER: "1:1.00"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        (inside,) = psutil.Process(process.pid).children()
        swept = sweep_orphans()
        assert process.pid in swept, "which is outside"
        assert inside.pid not in swept
    finally:
        process.kill()
        process.communicate()


async def test_a_look_that_hangs_holds_nobody_up() -> None:
    hangs, began = threading.Event(), time.monotonic()
    assert await run_off_loop(hangs.wait, otherwise=False) is False
    assert time.monotonic() - began < LOOK_LIMIT + 5
    hangs.set()
    assert await run_off_loop(lambda: 7, otherwise=0) == 7
