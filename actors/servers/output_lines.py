"""The output of a program as lines, whatever it writes and however much."""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

LINE_LIMIT = 8192
"""Bytes of one line; the rest of a longer one is left out, so that memory and work stay bounded."""

PIECE = 4096
"""Bytes that are taken in one go: some milliseconds of work, however short the lines."""

SHARE = 0.2
"""The most of the loop's time that one program's output gets; a program that writes more has to wait."""

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*\x07?|[@-Z\\-_])")
"""A terminal's sequences: colours, cursor, title."""
_CONTROLS = {code: " " if code == 9 else None for code in (*range(32), *range(127, 160))}


class Lines:
    """Gives each line to `on_line`, and keeps the last ones. A carriage return ends a line too.

    Lines are without control characters; what is no UTF-8 is replaced.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self._skips = False
        self._tail: deque[bytes] = deque(maxlen=60)
        self.last_progress = time.monotonic()
        """When anything came, or this began."""

    @property
    def tail(self) -> Sequence[str]:
        """The latest lines."""
        return [text for line in self._tail if (text := clean(line))]

    async def take(self, data: bytes) -> None:
        """Take a piece of the output, wherever it was cut; others get the loop in between."""
        for piece in _pieces(data):
            began = time.monotonic()
            self.feed(piece)
            await asyncio.sleep((time.monotonic() - began) * (1 / SHARE - 1))

    def feed(self, data: bytes) -> None:
        """Take a piece of the output at once."""
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
        """There is no more."""
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
    """The text of a line, without what would control a terminal."""
    text = line.decode("utf-8", "replace")
    if not text.isprintable():
        text = _ESCAPE.sub("", text).translate(_CONTROLS)
    return text.rstrip()
