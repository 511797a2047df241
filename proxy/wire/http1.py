"""Parses HTTP/1.1 responses: the head, and the body's framing. Pure and incremental.

It covers only what the relay needs. Chunk extensions and trailers are accepted and dropped. Anything else
that is not HTTP raises `ProtocolError`.
"""

import re
from functools import lru_cache

HEAD_LIMIT = 64 * 1024
"""Most bytes of a response's head, and of its trailer."""
INTERIM_LIMIT = 512 * 1024
"""Most bytes of all interim heads. A server may send one every second while it reads a prompt."""
HEADERS_LIMIT = 256
CHUNK_LINE_LIMIT = 4096
SIZE_DIGITS = 16
"""Most digits of a chunk's size or of a body's length."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class ProtocolError(Exception):
    """The upstream sent data that is not an HTTP/1.1 response."""


class Head:
    """Status and headers of a response; header names are in lower case."""

    __slots__ = ("headers", "status")

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers

    @property
    def content_type(self) -> str:
        """The media type without its parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection may be reused after the body."""
        return "close" not in list_of(self.headers.get("connection", ""))


def list_of(value: str) -> list[str]:
    """Return the members of a list header, in lower case."""
    return [member.strip().lower() for member in value.split(",")]


@lru_cache(maxsize=64)
def parse_head(data: bytes) -> Head:
    """Parse a head, without its final empty line. Repeated headers are joined with commas.

    A server's heads are nearly all equal, so results are cached and must not be changed. UTF-8 in values is
    kept, so that values can be passed on unchanged.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    status_line, *lines = text.split("\r\n")
    version, _, rest = status_line.partition(" ")
    if not version.startswith("HTTP/1.") or not (rest[:3].isascii() and rest[:3].isdigit()):
        raise ProtocolError(f"not an HTTP/1.1 status line: {status_line[:80]!r}")
    status = int(rest[:3])
    if not 100 <= status < 600 or rest[3:4].strip():
        raise ProtocolError(f"no status of HTTP: {status_line[:80]!r}")
    if len(lines) > HEADERS_LIMIT:
        raise ProtocolError(f"more than {HEADERS_LIMIT} headers")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.rstrip().lower()
        if not colon or not _TOKEN.fullmatch(name) or _CONTROL.search(value):
            raise ProtocolError(f"not a header: {line[:80]!r}")
        value = value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if version == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return Head(status, headers)


class HeadReader:
    """Finds the head of a response, however its bytes are cut, and drops interim heads before it."""

    __slots__ = ("_buffer", "_interim", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._interim = 0

    @property
    def has_begun(self) -> bool:
        """Whether a byte of the response has arrived."""
        return bool(self._buffer) or self._interim > 0

    def feed(self, data: bytes) -> tuple[Head, bytes] | None:
        """Return the head and the bytes after it, once it is complete. Raises `ProtocolError`."""
        buffer = self._buffer
        buffer += data
        while (end := buffer.find(b"\r\n\r\n", self._searched)) >= 0:
            if end > HEAD_LIMIT:
                break
            head = parse_head(bytes(buffer[:end]))
            if head.status >= 200:
                return head, bytes(buffer[end + 4 :])
            if head.status == 101:
                raise ProtocolError("it switched to a protocol that nobody asked for")
            self._interim += end + 4
            if self._interim > INTERIM_LIMIT:
                raise ProtocolError(f"more than {INTERIM_LIMIT} bytes of interim answers")
            self._searched = 0
            del buffer[: end + 4]
        if max(len(buffer) if end < 0 else 0, end) > HEAD_LIMIT:
            raise ProtocolError(f"a head of more than {HEAD_LIMIT} bytes")
        if not buffer.startswith(b"HTTP/1."[: len(buffer)]):
            raise ProtocolError(f"not an HTTP/1.1 status line: {bytes(buffer[:80])!r}")
        self._searched = max(0, len(buffer) - 3)
        return None


COMMON_CHUNK = 4096
"""Chunks of fewer bytes with their framing are compared with `CHUNK_HEADS`."""


def _chunk_head(length: int) -> bytes:
    """Return the first bytes of a chunk that has `length` bytes with its framing."""
    for digits in (2, 3):
        size = length - digits - len("\r\n\r\n")
        if 16 ** (digits - 1) <= size < 16**digits:
            return b"%x\r\n" % size
    return bytes(COMMON_CHUNK)  # too long to be the beginning of anything that is compared


CHUNK_HEADS = [_chunk_head(length) for length in range(COMMON_CHUNK)]
"""The first bytes of a chunk, by its whole length: comparing is cheaper than parsing."""


class ChunkedBody:
    """Removes the chunk framing. `whole`: whether the last `feed` began and ended between chunks."""

    __slots__ = ("_left", "_line", "_trailer", "_trailer_size", "done", "rest", "whole")

    def __init__(self) -> None:
        self._trailer_size = 0
        self._left = 0
        """Missing bytes of the present chunk, with its CRLF; 0 between chunks."""
        self._line = b""
        self._trailer = False
        self.done = False
        self.whole = False
        self.rest = b""
        """Bytes after the end of the body."""

    def feed(self, data: bytes) -> bytes:
        """Return the payload in `data`. After the last chunk `done` is set."""
        if self._left == 0 and not self._line and not self._trailer:
            # By far the most common case: one whole chunk, as llama-server writes an event.
            length = len(data)
            if length < COMMON_CHUNK and data.startswith(CHUNK_HEADS[length]) and data.endswith(b"\r\n"):
                self.whole = True
                return data[len(CHUNK_HEADS[length]) : -2]
        return self._feed_slowly(data)

    def _feed_slowly(self, data: bytes) -> bytes:
        started_between = self._left == 0 and not self._line and not self._trailer
        pieces: list[bytes] = []
        position = 0
        while position < len(data) and not self.done:
            if self._left:
                position = self._read_chunk(data, position, pieces)
                continue
            end = data.find(b"\n", position)
            if end < 0:
                self._line += data[position:]
                if len(self._line) > CHUNK_LINE_LIMIT:
                    raise ProtocolError("a chunk's size line is too long")
                break
            line = (self._line + data[position:end]).rstrip(b"\r")
            self._line = b""
            position = end + 1
            if self._trailer:
                self.done = not line
                self._trailer_size += len(line)
                if self._trailer_size > HEAD_LIMIT:
                    raise ProtocolError(f"a trailer of more than {HEAD_LIMIT} bytes")
            elif size := _size(line):
                self._left = size + 2
            else:
                self._trailer = True
        if self.done:
            self.rest = data[position:]
        self.whole = started_between and self._left == 0 and not self._line and not self._trailer
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_chunk(self, data: bytes, position: int, pieces: list[bytes]) -> int:
        left = self._left
        end = position + left
        if left > 2 and end <= len(data):
            if data[end - 2 : end] != b"\r\n":
                raise ProtocolError("a chunk does not end where its size says")
            pieces.append(data[position : end - 2])
            self._left = 0
            return end
        piece = data[position:end]
        # The last two bytes of `_left` are the CRLF after the chunk.
        payload = min(len(piece), max(0, left - 2))
        if payload:
            pieces.append(piece[:payload])
        if piece[payload:] != b"\r\n"[2 - min(2, left) :][: len(piece) - payload]:
            raise ProtocolError("a chunk does not end where its size says")
        self._left -= len(piece)
        return position + len(piece)


def _size(line: bytes) -> int:
    digits = line.partition(b";")[0].rstrip()
    try:
        if len(digits) > SIZE_DIGITS or not digits.isalnum():  # int() would accept signs and underscores
            raise ValueError
        return int(digits, 16)
    except ValueError:
        raise ProtocolError(f"not a chunk size: {line[:40]!r}") from None


class LengthBody:
    """A body of `length` bytes."""

    __slots__ = ("_left", "done", "rest", "whole")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.whole = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the payload in `data`."""
        payload, self.rest = data[: self._left], data[self._left :]
        self._left -= len(payload)
        self.done = self._left == 0
        return payload


class OpenBody:
    """A body that ends with the connection."""

    __slots__ = ("done", "rest", "whole")

    def __init__(self) -> None:
        self.done = False
        self.whole = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return `data`."""
        return data


Body = ChunkedBody | LengthBody | OpenBody


def body_of(head: Head, method: str = "GET") -> Body:
    """Return the framing of a response's body for `method` (RFC 9112, section 6.3).

    Raises `ProtocolError`.
    """
    coding, length = head.headers.get("transfer-encoding"), length_of(head)
    if coding is not None and length is not None:
        raise ProtocolError("both a length and a transfer encoding")
    if coding is not None and coding.lower() != "chunked":
        raise ProtocolError(f"an unknown transfer encoding: {coding[:40]!r}")
    if method == "HEAD" or head.status in (204, 304):
        return LengthBody(0)
    if coding is not None:
        return ChunkedBody()
    return OpenBody() if length is None else LengthBody(length)


def length_of(head: Head) -> int | None:
    """Return the announced length of the body. Raises `ProtocolError`."""
    declared = head.headers.get("content-length")
    if declared is None:
        return None
    length, *others = {one.strip() for one in declared.split(",")}
    if others or not (length.isascii() and length.isdigit()) or len(length) > SIZE_DIGITS:
        raise ProtocolError(f"not a content length: {declared[:40]!r}")
    return int(length)
