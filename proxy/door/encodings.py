"""Decodes compressed bodies piece by piece, in slices of limited size. Pure."""

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SLICE = 256 * 1024
"""Most bytes of one decoded slice."""
ZSTD_WINDOW_LOG = 23
"""Of the largest window of zstd: 8 MiB, the most that HTTP allows (RFC 9659). A decoder holds as much."""


class EncodingError(Exception):
    """The data is not of the announced encoding."""


class Decoder(Protocol):
    """Decodes one body."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode the next bytes, in slices. Raises `EncodingError`."""

    def end(self) -> None:
        """Check that the data is complete. Raises `EncodingError`."""


class _Zlib:
    """gzip or deflate.

    `wbits` is zlib's parameter for the format; 0: deflate with or without zlib's header.
    """

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._decoder = zlib.decompressobj(wbits) if wbits else None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._decoder is None:
            zlib_head = data[0] & 0x0F == 8
            self._decoder = zlib.decompressobj(zlib.MAX_WBITS if zlib_head else -zlib.MAX_WBITS)
        piece = b"x"
        # Continues without input while there is output beyond a slice.
        while data or (piece and not self._decoder.eof):
            try:
                piece = self._decoder.decompress(data, SLICE)
            except zlib.error as error:
                raise EncodingError(str(error)) from None
            yield piece
            if self._decoder.unused_data:
                raise EncodingError(_MORE)
            data = self._decoder.unconsumed_tail

    def end(self) -> None:
        if self._decoder is None or not self._decoder.eof:
            raise EncodingError(_CUT)


class _Zstd:
    """One frame."""

    def __init__(self) -> None:
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
        self._decoder = zstd.ZstdDecompressor(options=options)

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._decoder.eof:
            raise EncodingError(_MORE)
        while data or not (self._decoder.needs_input or self._decoder.eof):
            try:
                piece = self._decoder.decompress(data, SLICE)
            except zstd.ZstdError as error:
                raise EncodingError(str(error)) from None
            yield piece
            if self._decoder.unused_data:
                raise EncodingError(_MORE)
            data = b""

    def end(self) -> None:
        if not self._decoder.eof:
            raise EncodingError(_CUT)


_MORE = "more follows its end"
_CUT = "it ends in the middle"

DECODERS: dict[str, Callable[[], Decoder]] = {
    "gzip": lambda: _Zlib(16 + zlib.MAX_WBITS),
    "x-gzip": lambda: _Zlib(16 + zlib.MAX_WBITS),
    "deflate": lambda: _Zlib(0),
    "zstd": _Zstd,
}
"""By the values of `Content-Encoding`."""
