"""Lines of JSON, pure and incremental."""

from proxy.wire.sse import BUFFER_LIMIT, EventTooLongError


class LineSplitter:
    """Makes lines of bytes, however they were cut."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def holds(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends. Raises `EventTooLongError`."""
        first, *lines = data.split(b"\n")
        self._rest += first
        if lines:
            lines.insert(0, self.rest())
            self._rest += lines.pop()
        if len(self._rest) > BUFFER_LIMIT:
            raise EventTooLongError(f"a line of more than {BUFFER_LIMIT} bytes")
        return lines

    def rest(self) -> bytes:
        """The last line, which has no end."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest
