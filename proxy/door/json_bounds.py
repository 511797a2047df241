"""Limits the contents and the depth of a JSON text before it is decoded. Pure.

A decoder runs without a pause and blocks the event loop. Its time depends on the number of objects, strings
and values rather than on bytes.
"""

MOST_CONTAINERS = 32_768
"""Most objects and arrays: enough for 5,000 messages with parts and calls, and some hundred tools."""
MOST_STRINGS = 131_072
"""Most strings, including names of fields."""
MOST_VALUES = 1_048_576
"""Most values: enough for two thousand inputs of five hundred tokens each."""
MOST_ESCAPES = 4_194_304
"""Most backslashes: enough for four million Chinese characters in ASCII. Each costs time twice."""
MOST_LEVELS = 128
"""Most levels of nested objects and arrays."""

_STRUCTURE = b'"[]{},'
_REST = bytes(set(range(256)) - set(_STRUCTURE))


class BoundsError(Exception):
    """A JSON text has too many parts, or is nested too deeply (`deep`)."""

    def __init__(self, message: str, *, deep: bool = False) -> None:
        super().__init__(message)
        self.deep = deep


class Bounds:
    """Counts the structure of a JSON text that arrives in pieces, ignoring the contents of strings.

    Invalid JSON may be counted wrongly, but the decoder refuses it anyway.
    """

    def __init__(self) -> None:
        self._containers = self._quotes = self._values = self._open = self._escapes = 0
        self._brackets: list[bytes] = []
        self._escape = b""
        self._inside = 0
        """1 within a string."""

    def feed(self, piece: bytes) -> None:
        """Count the next piece. Raises `BoundsError`."""
        self._escapes += piece.count(b"\\")
        if self._escape or piece.endswith(b"\\"):
            piece = self._escape + piece
            # A backslash that escapes the first character of the next piece.
            odd = (len(piece) - len(piece.rstrip(b"\\"))) % 2
            self._escape = b"\\" * odd
            piece = piece[: len(piece) - odd]
        skeleton = piece.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _REST)
        parts = skeleton.split(b'"')
        outside = b"".join(parts[self._inside :: 2])
        self._inside ^= (len(parts) - 1) % 2
        brackets = outside.translate(None, b",")
        self._brackets.append(brackets)
        opened = brackets.count(b"[") + brackets.count(b"{")
        self._containers += opened
        self._open += 2 * opened - len(brackets)
        self._quotes += len(parts) - 1
        self._values += outside.count(b",")
        if self._open > MOST_LEVELS:
            raise _too_deep()
        if self._containers > MOST_CONTAINERS:
            raise BoundsError(f"more than {MOST_CONTAINERS} objects and arrays")
        if self._quotes > 2 * MOST_STRINGS:
            raise BoundsError(f"more than {MOST_STRINGS} texts and names of fields")
        if self._values > MOST_VALUES:
            raise BoundsError(f"more than {MOST_VALUES} values")
        if self._escapes > MOST_ESCAPES:
            raise BoundsError(f"more than {MOST_ESCAPES} escaped characters")

    def end(self) -> None:
        """Check the complete text. Raises `BoundsError` if it is nested too deeply."""
        brackets = b"".join(self._brackets)
        for _ in range(MOST_LEVELS):
            inner = brackets.replace(b"[]", b"").replace(b"{}", b"")
            if len(inner) == len(brackets):
                return
            brackets = inner
        if brackets:
            raise _too_deep()


def _too_deep() -> BoundsError:
    return BoundsError(f"more than {MOST_LEVELS} levels", deep=True)


def may_be_deep(text: bytes) -> bool:
    """Whether a JSON text has enough brackets, in strings or outside, to be nested too deeply."""
    return text.count(b"{") + text.count(b"[") > MOST_LEVELS
