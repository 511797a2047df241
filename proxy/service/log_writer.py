"""Writes lines to a descriptor that may accept them late, in pieces, or never.

Logging only appends to a bounded queue. A separate thread writes, so that a pipe without a reader, a stopped
terminal or a full disk blocks nothing else.
"""

import errno
import os
import select
import stat
import threading
from collections.abc import Callable, Iterable, Iterator

MOST_LINES = 10_000
MOST_BYTES = 4 << 20
"""Most bytes in the queue. As many again may be in the thread's hands."""

PAUSE = 0.1
"""Seconds between two looks at the queue: under load one look takes many lines, which is cheaper."""
RETRY = 0.25
"""Seconds after which a failed descriptor is tried again: its disk may have free space by then."""
WHOLE = getattr(select, "PIPE_BUF", 512)
"""Bytes that a pipe accepts completely or not at all."""
FILE_WHOLE = 256 << 10
"""Bytes that are written to a file at once."""

_NEWLINE = ord("\n")


class LogWriter:
    """A queue of lines, and the thread that writes them.

    `notice` makes the line that reports dropped lines. No method raises, and only `close` waits.
    """

    def __init__(self, descriptor: int, notice: Callable[[int], bytes]) -> None:
        self._descriptor = descriptor
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._notice = notice
        self._lines: list[bytes] = []
        self._bytes = 0
        self._dropped = 0
        self._lock = threading.RLock()  # a finalizer may log while the same thread is inside `write`
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue a line, which ends with a newline, or drop it if the queue is full."""
        with self._lock:
            if len(self._lines) >= MOST_LINES or self._bytes + len(line) > MOST_BYTES:
                self._dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, timeout: float) -> None:
        """Write the queued lines, for at most `timeout` seconds."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        closing = False
        while not closing:
            self._wake.wait()
            self._wake.clear()
            closing = self._closing.is_set()  # before the queue is emptied, so that no line follows
            with self._lock:
                lines, self._lines = self._lines, []
                self._bytes = 0
                dropped, self._dropped = self._dropped, 0
            for piece in _pieces(lines, FILE_WHOLE if self._is_file else WHOLE):
                self._write(piece)
            if dropped:  # after `lines`, which filled the queue
                self._write(self._notice(dropped))
            self._closing.wait(PAUSE)

    def _write(self, data: bytes) -> None:
        """Write whole lines, however long that takes, until the gateway ends."""
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
                    # The beginning of the line is lost, with its reader or from its
                    # file, so the rest is dropped.
                    data = data[data.index(_NEWLINE) + shorter :]
                    cut = False
                    self._dropped_one()

    def _has_room(self) -> bool:
        """Wait for a limited time until a write can succeed: a non-blocking pipe fails with EAGAIN."""
        return self._is_file or os.name == "nt" or bool(select.select([], [self._descriptor], [], RETRY)[1])

    def _end(self) -> int | None:
        """Seek to the end of a file and return it; None for a pipe or a terminal."""
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
    """Join lines into pieces of at most `size` bytes; a longer line is its own piece."""
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
