"""Bodies that come compressed: decoded piece by piece, never more at a time than is asked for. Pure."""

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

SLICE = 256 * 1024
"""Bytes that a decoder gives at a time at most."""


class EncodingError(Exception):
    """What came is not what its encoding says."""


class Decoder(Protocol):
    """Decodes one body."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes mean, in slices. Raises `EncodingError`."""

    def end(self) -> None:
        """All has come. Raises `EncodingError` if that is not the whole."""


class _Zlib:
    """`wbits` is zlib's word for the format, 0: deflate, with zlib's head or bare."""

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._decoder = zlib.decompressobj(wbits) if wbits else None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._decoder is None:
            zlib_head = data[0] & 0x0F == 8
            self._decoder = zlib.decompressobj(zlib.MAX_WBITS if zlib_head else -zlib.MAX_WBITS)
        piece = b"x"
        # Without input too, while there is output that fitted into no slice.
        while data or (piece and not self._decoder.eof):
            try:
                piece = self._decoder.decompress(data, SLICE)
            except zlib.error as error:
                raise EncodingError(str(error)) from None
            yield piece
            if self._decoder.unused_data:
                raise EncodingError("more follows its end")
            data = self._decoder.unconsumed_tail

    def end(self) -> None:
        if self._decoder is None or not self._decoder.eof:
            raise EncodingError("it ends in the middle")


DECODERS: dict[str, Callable[[], Decoder]] = {
    "gzip": lambda: _Zlib(16 + zlib.MAX_WBITS),
    "x-gzip": lambda: _Zlib(16 + zlib.MAX_WBITS),
    "deflate": lambda: _Zlib(0),
}
"""By the values of `Content-Encoding`."""
