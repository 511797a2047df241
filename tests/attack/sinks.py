"""Standard outputs that do not take the log. The gateway serves on, and ends when it is told to."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from tests.attack.ground import Gateway, launched
from tests.gateway import HELLO, until

REQUESTS = 600
"""A request's line has some 300 bytes: enough for a pipe's 64 KiB twice over."""


@contextmanager
def _unread() -> Iterator[int]:
    read, write = os.pipe()
    try:
        yield write
    finally:
        os.close(read)
        os.close(write)


@contextmanager
def _left() -> Iterator[int]:
    read, write = os.pipe()
    os.close(read)
    try:
        yield write
    finally:
        os.close(write)


@contextmanager
def _full() -> Iterator[IO[bytes]]:
    with Path("/dev/full").open("wb") as device:
        yield device


SINKS: dict[str, Callable[[], AbstractContextManager[IO[bytes] | int]]] = {
    "a pipe that nobody reads": _unread,
    "a pipe whose reader has left": _left,
    "a full device": _full,
}
REDIRECTIONS = {
    "closed outputs": "<&- >&- 2>&-",
    "a closed output, errors elsewhere": ">&- 2>/dev/null",
}


def attack(folder: Path) -> Iterator[str]:
    """A gateway for each."""
    for number, (name, sink) in enumerate(SINKS.items()):
        with sink() as out, launched(folder / f"sink-{number}", stdout=out) as gateway:
            yield from (f"{name}: {fault}" for fault in serves(gateway))
    for number, (name, redirect) in enumerate(REDIRECTIONS.items()):
        with launched(folder / f"redirect-{number}", redirect=redirect) as gateway:
            yield from (f"{name}: {fault}" for fault in serves(gateway))
    yield from (f"a disk that fills: {fault}" for fault in small_disk(folder))


def serves(gateway: Gateway) -> Iterator[str]:
    """Whether it answers more requests than any buffer takes lines, and then ends."""
    for number in range(REQUESTS):
        answer = gateway.client.post("/v1/chat/completions", json={"model": "nobody", "messages": HELLO})
        if answer.status_code != 404:
            yield f"request {number}: {answer.status_code} {answer.text[:100]}"
            break
    answer = gateway.chat("do:good", stream=False)
    if answer.status_code != 200:
        yield f"a chat: {answer.status_code} {answer.text[:200]}"
    yield from gateway.stop()


def small_disk(folder: Path) -> Iterator[str]:
    """A file on a file system of 64 KiB, which is freed again: the log goes on, in whole lines."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return  # only root may mount
    log = disk / "log"
    try:
        with log.open("ab") as out, launched(folder / "full", stdout=out) as gateway:
            for _ in range(REQUESTS):
                gateway.client.post("/v1/chat/completions", json={"model": "nobody", "messages": HELLO})
            last = {"model": "nobody", "messages": HELLO}
            gateway.client.post("/v1/chat/completions", json=last, headers={"X-Request-Id": "the-last-one"})
            lines: list[bytes] = []
            cuts = 0

            def has_come() -> bool:
                nonlocal cuts
                cuts += 1
                lines.extend(log.read_bytes().splitlines())
                os.truncate(log, 0)
                return any(b"the-last-one" in line for line in lines)

            try:
                until(has_come, "the last line", 20)
            except AssertionError:
                yield "the log does not go on when there is room again"
            broken = sum(not _is_json(line) for line in lines)
            if broken > cuts:  # each cut may go through the line that is being written
                yield f"{broken} of {len(lines)} lines are broken"
            yield from gateway.stop()
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
