"""Lines on their way to a descriptor that may take them late, in pieces, or never.

Whoever logs only appends to a bounded queue. A thread of its own writes, so a pipe that nobody reads, a
stopped terminal or a full disk blocks nobody else.
"""

import errno
import os
import select
import stat
import threading
from collections.abc import Callable, Iterable, Iterator

MOST_LINES = 10_000
MOST_BYTES = 4 << 20
"""What the queue holds. As much again may be on its way in the thread."""

PAUSE = 0.1
"""Seconds between two looks at the queue: under load one look takes many lines, which is cheaper."""
RETRY = 0.25
"""Seconds after which a descriptor that failed is tried again: its disk may have been freed."""
WHOLE = getattr(select, "PIPE_BUF", 512)
"""Bytes that a pipe takes all at once or not at all."""
FILE_WHOLE = 256 << 10
"""Bytes that are written to a file at once."""

_NEWLINE = ord("\n")


class LogWriter:
    """A queue of lines and the thread that writes them.

    `notice` makes the line which tells how many were dropped. Nothing here raises, and only `close` waits.
    """

    def __init__(self, descriptor: int, notice: Callable[[int], bytes]) -> None:
        self._descriptor = descriptor
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._notice = notice
        self._lines: list[bytes] = []
        self._bytes = 0
        self._dropped = 0
        self._lock = threading.RLock()  # a finalizer may log while its thread is in `write`
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Take a line, which ends with a newline, or drop it where the queue is full."""
        with self._lock:
            if len(self._lines) >= MOST_LINES or self._bytes + len(line) > MOST_BYTES:
                self._dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, timeout: float) -> None:
        """Write what is queued, but for at most `timeout` seconds."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        closing = False
        while not closing:
            self._wake.wait()
            self._wake.clear()
            closing = self._closing.is_set()  # before the queue is emptied: then nothing comes after
            with self._lock:
                lines, self._lines = self._lines, []
                self._bytes = 0
                dropped, self._dropped = self._dropped, 0
            for piece in _pieces(lines, FILE_WHOLE if self._is_file else WHOLE):
                self._write(piece)
            if dropped:  # after `lines`: they filled the queue
                self._write(self._notice(dropped))
            self._closing.wait(PAUSE)

    def _write(self, data: bytes) -> None:
        """Write whole lines, however long that takes; until the gateway ends."""
        end: int | None = None
        cut = False
        while data:
            try:
                if not self._has_room():
                    continue
                written = os.write(self._descriptor, data)
                cut, data = data[written - 1] != _NEWLINE, data[written:]
                end = self._end()
            except OSError as error:
                if self._closing.wait(RETRY):
                    return
                now = self._end()
                shorter = end is not None and now is not None and now < end
                if cut and (shorter or error.errno == errno.EPIPE):
                    # The beginning of a line is gone, with its reader or from its file: the rest is no line.
                    data = data[data.index(_NEWLINE) + shorter :]
                    cut = False
                    self._dropped_one()

    def _has_room(self) -> bool:
        """Wait for it, for a while: a pipe that does not block would say EAGAIN."""
        return self._is_file or os.name == "nt" or bool(select.select([], [self._descriptor], [], RETRY)[1])

    def _end(self) -> int | None:
        """The end of a file, which becomes the place of the next write; None for a pipe or a terminal."""
        if not self._is_file:
            return None
        try:
            return os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError:
            return None

    def _dropped_one(self) -> None:
        with self._lock:
            self._dropped += 1
            self._wake.set()


def _pieces(lines: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Join lines to pieces of at most so many bytes; a longer line is one of its own."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > most:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield b"".join(piece)
