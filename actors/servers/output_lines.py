"""Splits a program's output into lines, whatever it writes and however much."""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

LINE_LIMIT = 8192
"""Most bytes of one line. The rest of a longer line is dropped, to limit memory and work."""

PIECE = 4096
"""Most bytes handled without a pause: some milliseconds of work, even for short lines."""

SHARE = 0.2
"""Largest share of the event loop's time for one program's output. A program that writes more waits."""

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*\x07?|[@-Z\\-_])")
"""Escape sequences of terminals: colours, cursor, title."""
_CONTROLS = {code: " " if code == 9 else None for code in (*range(32), *range(127, 160))}


class Lines:
    """Passes each line to `on_line` and keeps the last ones. A carriage return ends a line too.

    Control characters are removed; bytes that are not UTF-8 are replaced.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self._skips = False
        self._tail: deque[bytes] = deque(maxlen=60)
        self.last_progress = time.monotonic()
        """Monotonic time of the latest output, or of the start."""

    @property
    def tail(self) -> Sequence[str]:
        """Return the latest lines."""
        return [text for line in self._tail if (text := clean(line))]

    async def take(self, data: bytes) -> None:
        """Handle a piece of the output, cut anywhere, with pauses for other tasks."""
        for piece in _pieces(data):
            began = time.monotonic()
            self.feed(piece)
            await asyncio.sleep((time.monotonic() - began) * (1 / SHARE - 1))

    def feed(self, data: bytes) -> None:
        """Handle a piece of the output without a pause."""
        self.last_progress = time.monotonic()
        *lines, rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._take(line)
            self._skips = False
        self._rest = rest
        if len(rest) > LINE_LIMIT:
            self._take(rest)
            self._skips = True
        if self._skips:
            self._rest = b""

    def end(self) -> None:
        """Handle the end of the output."""
        rest, self._rest = self._rest, b""
        self._take(rest)

    def _take(self, line: bytes) -> None:
        if self._skips or not line:
            return
        line = line[:LINE_LIMIT]
        if text := clean(line):
            self._tail.append(line)
            self._on_line(text)


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[at : at + PIECE] for at in range(0, len(data), PIECE))


def clean(line: bytes) -> str:
    """Decode a line, without sequences that would control a terminal."""
    text = line.decode("utf-8", "replace")
    if not text.isprintable():
        text = _ESCAPE.sub("", text).translate(_CONTROLS)
    return text.rstrip()
