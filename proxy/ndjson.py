"""Lines of JSON, pure and incremental."""

from proxy.sse import BUFFER_LIMIT, EventTooLongError


class LineSplitter:
    """Makes lines of bytes, however they were cut."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends. Raises `EventTooLongError`."""
        first, *lines = data.split(b"\n")
        self._pieces.append(first)
        self._size += len(first)
        if lines:
            lines.insert(0, b"".join(self._pieces))
            self._pieces = [lines.pop()]
            self._size = len(self._pieces[0])
        if self._size > BUFFER_LIMIT:
            raise EventTooLongError(f"a line of more than {BUFFER_LIMIT} bytes")
        return lines

    def rest(self) -> bytes:
        """The last line, which has no end."""
        rest, self._pieces = b"".join(self._pieces), []
        return rest
