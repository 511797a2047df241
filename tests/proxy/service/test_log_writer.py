"""The writer of the log, on descriptors that take lines late, in pieces, or not at all."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.service.log_writer import MOST_BYTES, MOST_LINES, LogWriter
from tests.gateway import until


def notice(count: int) -> bytes:
    return json.dumps({"dropped": count}).encode() + b"\n"


def line(number: int, size: int = 0) -> bytes:
    return json.dumps({"n": number, "filler": "x" * size}).encode() + b"\n"


class Pipe:
    """A pipe whose reader reads when it is told to."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.data = b""

    def read_all(self) -> None:
        with suppress(BlockingIOError):
            while piece := os.read(self.read_end, 1 << 16):
                self.data += piece

    @property
    def lines(self) -> list[dict[str, int]]:
        """What has come, each line whole: the rest of one that is on its way is waited for."""
        os.set_blocking(self.read_end, False)

        def whole() -> bool:
            self.read_all()
            return self.data.endswith(b"\n") or not self.data

        until(whole, "the rest of a line")
        return [json.loads(text) for text in self.data.splitlines()]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for descriptor in (made.read_end, made.write_end):
        with suppress(OSError):
            os.close(descriptor)


def test_lines_come_in_order_and_close_waits_for_them(pipe: Pipe) -> None:
    writer = LogWriter(pipe.write_end, notice)
    for number in range(500):
        writer.write(line(number))
    writer.close(5)
    assert [told["n"] for told in pipe.lines] == list(range(500))


@pytest.mark.parametrize("blocking", [True, False])
def test_what_nobody_reads_is_dropped_and_counted(pipe: Pipe, blocking: bool) -> None:
    os.set_blocking(pipe.write_end, blocking)
    fcntl.fcntl(pipe.write_end, fcntl.F_SETPIPE_SZ, 4096)
    writer = LogWriter(pipe.write_end, notice)
    total = 3 * MOST_LINES
    for number in range(total):
        writer.write(line(number))

    def told() -> bool:
        return any("dropped" in one for one in pipe.lines)

    until(told, "a word of what was dropped")
    kept = [one["n"] for one in pipe.lines if "n" in one]
    dropped = sum(one["dropped"] for one in pipe.lines if "dropped" in one)
    assert kept == list(range(len(kept))), "the oldest are kept, each whole and once"
    assert len(kept) >= MOST_LINES
    assert len(kept) + dropped == total
    writer.write(line(total))
    until(lambda: any(one.get("n") == total for one in pipe.lines), "what comes afterwards")
    writer.close(5)


def test_large_lines_are_bounded_by_their_bytes_and_stay_whole(pipe: Pipe) -> None:
    os.set_blocking(pipe.write_end, False)
    writer = LogWriter(pipe.write_end, notice)
    for number in range(20):
        writer.write(line(number, MOST_BYTES // 8))

    def all_told() -> bool:
        return sum(entry.get("dropped", 1) for entry in pipe.lines) == 20

    try:
        until(all_told, "each line, or that it was dropped")
        assert 7 <= sum("n" in entry for entry in pipe.lines) <= 15
    finally:
        writer.close(5)


def test_close_does_not_wait_for_a_reader_that_does_not_read(pipe: Pipe) -> None:
    writer = LogWriter(pipe.write_end, notice)
    for number in range(MOST_LINES):
        writer.write(line(number))
    began = time.monotonic()
    writer.close(0.2)
    assert time.monotonic() - began < 5
    os.set_blocking(pipe.read_end, False)  # lets the thread end
    os.close(pipe.read_end)


def test_a_reader_that_leaves_and_another_that_comes(tmp_path: Path) -> None:
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    first = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    descriptor = os.open(fifo, os.O_WRONLY)
    writer = LogWriter(descriptor, notice)
    writer.write(line(0))
    until(lambda: _read(first).endswith(b"\n"), "the first line")
    for number in range(1, 4):
        writer.write(line(number, 100_000))
    # The pipe is full, and the reader leaves in the middle of a line that it has begun to read.
    until(lambda: _read(first, 1000), "a part of a line")
    os.close(first)
    second = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer.write(line(4))
    data = b""

    def read_on() -> bool:
        nonlocal data
        data += _read(second)
        return b'{"n": 4' in data and data.endswith(b"\n")

    until(read_on, "the last line")
    # The line whose beginning has gone with its reader ends before the next one begins.
    whole = [text for text in data.splitlines() if text.startswith(b"{") and b"}" in text]
    assert 4 in [json.loads(text).get("n") for text in whole]
    writer.close(5)
    os.close(second)
    os.close(descriptor)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count writes")
def test_a_file_takes_many_lines_at_once(tmp_path: Path) -> None:
    def writes() -> int:
        return int(Path("/proc/self/io").read_text().partition("syscw: ")[2].split()[0])

    with (tmp_path / "log").open("wb") as file:
        writer = LogWriter(file.fileno(), notice)
        before = writes()
        for number in range(5000):
            writer.write(line(number, 400))
        writer.close(5)
        assert writes() - before < 100
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(text)["n"] for text in lines] == list(range(5000))


def _read(descriptor: int, count: int = 1 << 20) -> bytes:
    try:
        return os.read(descriptor, count)
    except BlockingIOError:
        return b""


def test_a_full_device_costs_nobody_anything() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    writer = LogWriter(descriptor, notice)
    for number in range(1000):
        writer.write(line(number))
    writer.close(5)
    os.close(descriptor)
