"""The output of a program as lines."""

import time
from collections import deque
from collections.abc import Callable

LINE_LIMIT = 8192
"""Bytes of one line; an endless one is cut, so that memory stays bounded."""


class Lines:
    """Gives each line to `on_line`, and keeps the last ones."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self.tail: deque[str] = deque(maxlen=60)
        self.last_progress = time.monotonic()
        """When the latest line came, or this began."""

    def feed(self, data: bytes) -> None:
        """Take a piece of the output, wherever it was cut."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._rest) > LINE_LIMIT:
            self.end()

    def end(self) -> None:
        """There is no more of the present line."""
        rest, self._rest = self._rest, b""
        self._take(rest)

    def _take(self, line: bytes) -> None:
        text = line[:LINE_LIMIT].decode("utf-8", "replace").rstrip()
        if text:
            self.last_progress = time.monotonic()
            self.tail.append(text)
            self._on_line(text)
