"""Splits bytes into lines of JSON. Pure and incremental."""

from proxy.wire.sse import BUFFER_LIMIT, EventTooLongError


class LineSplitter:
    """Splits bytes into lines, however they are cut."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def holds(self) -> bool:
        """Whether an unfinished line is held."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without line ends. Raises `EventTooLongError`."""
        first, *lines = data.split(b"\n")
        self._rest += first
        if lines:
            lines.insert(0, self.rest())
            self._rest += lines.pop()
        if len(self._rest) > BUFFER_LIMIT:
            raise EventTooLongError(f"a line of more than {BUFFER_LIMIT} bytes")
        return lines

    def rest(self) -> bytes:
        """Return the last line, which has no line end."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest
