"""Checks run at the same time, within a limit, and none of them raises or delays the exit."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import structlog

from actors.config.schema import Config
from proxy.doctor.checks import Finding, Patient, examine, in_thread
from tests.gateway import CHECKOUT

OK = Finding(name="fine", status="ok", found="it works")


async def test_each_check_has_its_findings_whatever_the_others_do() -> None:
    met = asyncio.Barrier(2)
    stuck = threading.Event()

    async def fine(_: Patient) -> Sequence[Finding]:
        await met.wait()
        return [OK]

    async def hangs(_: Patient) -> Sequence[Finding]:
        await in_thread(stuck.wait)
        return []

    async def fails(_: Patient) -> Sequence[Finding]:
        raise LookupError("a defect")

    checks = {"first": fine, "hangs": hangs, "fails": fails, "last": fine}
    with structlog.testing.capture_logs() as logs:
        found = await examine(Config(), Path("config.yaml"), checks, serves=False, limit=1.0)
    stuck.set()
    assert [(line["event"], line["check"]) for line in logs] == [("check failed", "fails")]
    assert [one.name for one in found] == ["fine", "hangs", "fails", "fine"]
    assert [one.status for one in found] == ["ok", "error", "error", "ok"]
    assert found[1].found == "the check did not end within 1 s"
    assert "LookupError('a defect')" in found[2].found


def test_a_thread_that_hangs_does_not_delay_the_exit() -> None:
    program = """
import asyncio, threading
from proxy.doctor.checks import in_thread

async def main():
    try:
        async with asyncio.timeout(0.01):
            await in_thread(threading.Event().wait)
    except TimeoutError:
        print("given up")

asyncio.run(main())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "given up\n"
