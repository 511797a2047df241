"""The latest lines of a log, kept in a limited number of bytes for whoever wants to read them."""

import threading
import time
from collections import OrderedDict, deque

import msgspec

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""The levels of a log, by name."""
OVERHEAD = 200
"""Bytes that a line takes besides its text."""
MODEL_BYTES = 512 << 10
"""Bytes that are kept of each model's servers."""
MOST_MODELS = 64
"""Models whose lines are kept. Beyond it, those of the model that was started longest ago are dropped."""


class Line(msgspec.Struct, frozen=True):
    """A line with its number, which grows by one, and the Unix time at which it came."""

    number: int
    at: float
    text: str
    level: int = 0


class KeptLines:
    """Keeps the latest lines, at most `most_bytes`. Lines may be added in any thread."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self._number = 0
        self._lock = threading.Lock()

    def add(self, text: str, level: int = 0) -> None:
        """Keep a line, and drop the oldest ones for it."""
        with self._lock:
            self._number += 1
            self._lines.append(Line(self._number, time.time(), text, level))
            self._bytes += len(text) + OVERHEAD
            while self._bytes > self._most_bytes:
                self._bytes -= len(self._lines.popleft().text) + OVERHEAD

    @property
    def number(self) -> int:
        """The number of the latest line; 0 if none has come."""
        return self._number

    def after(self, number: int) -> list[Line]:
        """Return the kept lines after this number."""
        with self._lock:
            found: list[Line] = []
            for line in reversed(self._lines):
                if line.number <= number:
                    break
                found.append(line)
        return found[::-1]


class ServerLines:
    """The latest lines of each model's servers."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, KeptLines] = OrderedDict()

    def of(self, model: str) -> KeptLines:
        """Return the lines of a model, for a server that starts to write some."""
        kept = self._models.setdefault(model, KeptLines(MODEL_BYTES))
        self._models.move_to_end(model)
        while len(self._models) > MOST_MODELS:
            self._models.popitem(last=False)
        return kept

    def find(self, model: str) -> KeptLines | None:
        """Return the lines of a model; None if no server of it has written any."""
        return self._models.get(model)
