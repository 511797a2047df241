"""Small bodies that are large when they are decoded."""

import zlib


def gzip_bomb() -> bytes:
    """2 GiB of zeros."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(deflate.compress(bytes(2**24)) for _ in range(128)) + deflate.flush()


def zstd_bomb() -> bytes:
    """20 GiB of zeros: blocks that say "128 KiB of this byte"."""
    frame_of_1_mib_window = b"\x28\xb5\x2f\xfd\x00\x50"
    block = (2**17 << 3 | 1 << 1).to_bytes(3, "little") + b"\x00"
    return frame_of_1_mib_window + block * (20 * 2**13)
