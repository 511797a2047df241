"""Reads headers of GGUF files in milliseconds, from a file or by byte ranges from a hub.

The `gguf` package defines the format's constants, but its reader maps the whole file, makes an array of every
token (seconds and hundreds of megabytes for today's vocabularies), and trusts the file. This reader skips big
arrays, and checks every size in a file against the file's own size before it uses it.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import functools
import importlib.util
import os
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from actors.model_names import part_names

ReadBytes = Callable[[int, int], bytes]
"""Takes an offset and a number of bytes; returns that many bytes, fewer only at the end of the file."""

MAGIC = b"GGUF"
VERSIONS = (2, 3)
WINDOW = 1 << 20
MAX_HEADER = 1 << 28
MAX_ITEMS = 1 << 22
"""Maximum number of strings in all arrays together: sixteen times the largest vocabulary of today."""
MAX_STRING = 1 << 20
MAX_NUMBERS = 1 << 13
"""Maximum length of an array of numbers whose values are kept. Of a longer array only the length is kept."""
MAX_DIMENSIONS = 4

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_SCALARS = {
    code: struct.Struct("<" + letter)
    for code, letter in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_STRING, _ARRAY = 8, 9


class HeaderError(ValueError):
    """The file is not a usable GGUF file. The message names the fault, not the file."""


class Tensor(msgspec.Struct, frozen=True):
    """One tensor. `shape` has the row length first, `type` is ggml's name (Q4_K), `size` is in bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size: int


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The header of a GGUF file. `size` is the file's, `data_offset` is where its tensors begin, in bytes.

    `metadata` has the scalars, the strings, and the short arrays of numbers; `lengths` has the number of
    elements of every array.
    """

    version: int
    size: int
    data_offset: int
    metadata: dict[str, Any]
    lengths: dict[str, int]
    tensors: tuple[Tensor, ...]

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def _number(self, key: str) -> int | None:
        value = self.metadata.get(f"{self.architecture}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def architecture(self) -> str | None:
        """llama.cpp's name of the model's architecture, such as qwen3moe."""
        return self._text("general.architecture")

    @property
    def name(self) -> str | None:
        """The model's name, as chosen by the author of the file."""
        return self._text("general.name")

    @property
    def context_length(self) -> int | None:
        """The context that the model was trained for, in tokens."""
        return self._number("context_length")

    @property
    def layers(self) -> int | None:
        """The number of blocks."""
        return self._number("block_count")

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of a chat model."""
        return self._text("tokenizer.chat_template")

    @property
    def vocabulary(self) -> int | None:
        """The number of tokens."""
        return self.lengths.get("tokenizer.ggml.tokens")

    @property
    def parameters(self) -> int:
        """The number of weights in this file."""
        return sum(functools.reduce(int.__mul__, tensor.shape, 1) for tensor in self.tensors)

    @property
    def quantization(self) -> str | None:
        """ggml's name of the tensor type with the most bytes."""
        bytes_of: Counter[str] = Counter()
        for tensor in self.tensors:
            bytes_of[tensor.type] += tensor.size
        return bytes_of.most_common(1)[0][0] if bytes_of else None

    @property
    def parts(self) -> int:
        """The number of files that the model consists of."""
        count = self.metadata.get("split.count")
        return count if isinstance(count, int) and count > 0 else 1


def read_header(fetch: ReadBytes, size: int, *, window: int = WINDOW) -> Header:
    """Read the header of a file of `size` bytes. Raises `HeaderError`, and all exceptions of `fetch`."""
    return _Reader(fetch, size, window).header()


def read_file(path: Path) -> Header:
    """Read a file's header; an unchanged file is read once. Raises `HeaderError`, `OSError`. Blocking."""
    found = path.stat()
    return _read_file(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _read_file(path: Path, _device: int, _inode: int, size: int, _changed: int) -> Header:
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        return read_header(lambda offset, count: os.pread(descriptor, count, offset), size)


def read_metadata(path: Path) -> dict[str, Any]:
    """Read all of a file's metadata, with every array, which takes a second for a large vocabulary.

    Raises `HeaderError`, `OSError`. Blocking.
    """
    with path.open("rb", buffering=0) as file:
        descriptor, size = file.fileno(), path.stat().st_size
        reader = _MetadataReader(lambda offset, count: os.pread(descriptor, count, offset), size, WINDOW)
        return reader.header().metadata


def read_model(first: Path) -> Header:
    """Read all parts of a model as one header: the first part's metadata, the tensors and sizes of all."""
    headers = []
    for name in part_names(first.name):
        try:
            headers.append(read_file(first.with_name(name)))
        except HeaderError as error:
            raise HeaderError(f"{name}: {error}" if name != first.name else str(error)) from None
    return join_parts(headers)


def join_parts(headers: Sequence[Header]) -> Header:
    """Join the parts of a split model into one header. Raises `HeaderError` if they do not match."""
    first = headers[0]
    if first.parts != len(headers):
        raise HeaderError(f"is one of {first.parts} parts, and {len(headers)} are there")
    if len(headers) == 1:
        return first
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    expected = first.metadata.get("split.tensors.count")
    if expected != len(tensors):
        raise HeaderError(f"its parts have {len(tensors)} tensors; {expected} were expected")
    return msgspec.structs.replace(first, tensors=tensors, size=sum(header.size for header in headers))


@functools.cache
def _vocabulary() -> dict[int, tuple[str, int, int]]:
    """Return ggml's name, weights per block and bytes per block of each tensor type, by its number.

    Only the table of the gguf package is loaded: the whole package would import numpy, and keep 20 MB.
    """
    package = importlib.util.find_spec("gguf")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "constants.py"
    spec = importlib.util.spec_from_file_location("gguf_constants", path)
    assert spec is not None
    assert spec.loader is not None
    constants: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(constants)
    return {int(kind): (kind.name, *sizes) for kind, sizes in constants.GGML_QUANT_SIZES.items()}


def block_of(kind: str) -> tuple[int, int]:
    """Return weights and bytes per block of the type with this name. Raises `KeyError`."""
    return _by_name()[kind]


@functools.cache
def _by_name() -> dict[str, tuple[int, int]]:
    return {name: (block, size) for name, block, size in _vocabulary().values()}


class _Reader:
    """A cursor over the file, which keeps one window of the file in memory."""

    def __init__(self, fetch: ReadBytes, size: int, window: int) -> None:
        self._fetch = fetch
        self._size = size
        self._window = window
        self._base = self._at = 0
        self._buffer = b""
        self._items = 0

    def header(self) -> Header:
        if self._size < 24:
            short = self._take(min(self._size, 4))
            raise HeaderError("is a truncated GGUF file" if short == MAGIC else "is not a GGUF file")
        if self._take(4) != MAGIC:
            raise HeaderError("is not a GGUF file")
        version = self._u32()
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            kind = "is a big-endian GGUF file" if swapped in VERSIONS else f"is of GGUF version {version}"
            raise HeaderError(f"{kind}; llama.cpp reads little-endian files of versions 2 and 3")
        tensor_count = self._count("tensors", 24)
        pair_count = self._count("metadata keys", 13)
        metadata: dict[str, Any] = {}
        lengths: dict[str, int] = {}
        for _ in range(pair_count):
            self._pair(metadata, lengths)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise HeaderError(f"general.alignment: expected a power of two, got {alignment!r}")
        tensors = [self._tensor(alignment) for _ in range(tensor_count)]
        if len({tensor.name for tensor in tensors}) != tensor_count:
            raise HeaderError("two of its tensors have the same name")
        data_offset = -(-self._position // alignment) * alignment
        needed = data_offset + max((tensor.offset + tensor.size for tensor in tensors), default=0)
        if tensors and needed > self._size:
            raise HeaderError(f"is a truncated GGUF file: {self._size:,} bytes of {needed:,}")
        return Header(
            version=version,
            size=self._size,
            data_offset=data_offset,
            metadata=metadata,
            lengths=lengths,
            tensors=tuple(tensors),
        )

    # Pieces

    def _pair(self, metadata: dict[str, Any], lengths: dict[str, int]) -> None:
        key = self._string("a metadata key", 1 << 16)
        if key in metadata or key in lengths:
            raise HeaderError(f"the metadata key {key[:80]!r} comes twice")
        kind = self._u32()
        if kind == _ARRAY:
            lengths[key], values = self._array(key)
            if values is not None:
                metadata[key] = values
        elif kind == _STRING:
            metadata[key] = self._string(key, MAX_STRING)
        else:
            scalar = self._scalar(key, kind)
            (metadata[key],) = scalar.unpack(self._take(scalar.size))

    def _array(self, key: str) -> tuple[int, tuple[Any, ...] | None]:
        kind = self._u32()
        if kind == _STRING:
            count = self._count(f"strings in {key[:80]!r}", 8)
            self._skip_strings(count)
            return count, None
        scalar = self._scalar(key, kind)  # llama.cpp does not support arrays of arrays either
        count = self._count(f"elements in {key[:80]!r}", scalar.size)
        if count > MAX_NUMBERS:
            self._move_to(self._position + count * scalar.size)
            return count, None
        data = self._take(count * scalar.size)
        return count, struct.unpack(f"<{count}{scalar.format[1:]}", data)

    def _skip_strings(self, count: int) -> None:
        """Skip strings. Reading a header spends most of its time in this loop."""
        self._items += count
        if self._items > MAX_ITEMS:
            raise HeaderError(f"its arrays have more than {MAX_ITEMS:,} strings")
        length_at = _U64.unpack_from
        while count:
            self._fill(8)
            buffer, at, done = self._buffer, self._at, 0
            try:
                for done in range(count):  # noqa: B007 (`done` is used after the loop)
                    at += 8 + length_at(buffer, at)[0]
                count = 0
            except (struct.error, OverflowError):  # the next length is not in this window
                count -= done
            self._move_to(self._base + at)

    def _tensor(self, alignment: int) -> Tensor:
        name = self._string("a tensor's name", 1 << 10)
        dimensions = self._u32()
        if dimensions > MAX_DIMENSIONS:
            raise HeaderError(
                f"tensor {name!r} has {dimensions} dimensions; at most {MAX_DIMENSIONS} are possible"
            )
        shape = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
        number = self._u32()
        offset = self._u64()
        if number not in _vocabulary():
            raise HeaderError(f"tensor {name!r} is of the type {number}, which this version does not know")
        kind, block, block_bytes = _vocabulary()[number]
        weights = functools.reduce(int.__mul__, shape, 1)
        if weights >= 1 << 63 or not all(shape):
            raise HeaderError(f"tensor {name!r} has the impossible shape {shape}")
        if shape and shape[0] % block:
            raise HeaderError(
                f"tensor {name!r}: rows of {shape[0]} are no multiple of {kind}'s blocks of {block}"
            )
        if offset % alignment:
            raise HeaderError(f"tensor {name!r} is not aligned to {alignment} bytes")
        return Tensor(name, shape, kind, offset, weights // block * block_bytes)

    def _scalar(self, key: str, kind: int) -> struct.Struct:
        if (scalar := _SCALARS.get(kind)) is None:
            raise HeaderError(f"{key[:80]!r} has a value of the unknown type {kind}")
        return scalar

    def _count(self, what: str, least: int) -> int:
        """Read a number of items, each of which takes at least `least` bytes. Raises `HeaderError`."""
        count = self._u64()
        if count * least > self._size - self._position:
            raise HeaderError(
                f"is truncated or corrupt: it claims {count:,} {what}, for which it is too short"
            )
        if count * least > MAX_HEADER:
            raise HeaderError(f"claims {count:,} {what}, more than any model has")
        return count

    def _string(self, what: str, limit: int) -> str:
        length = self._u64()
        if length > min(limit, self._size - self._position):
            raise HeaderError(f"is truncated or corrupt: it claims {length:,} bytes for {what[:80]}")
        return self._take(length).decode("utf-8", "replace")

    def _u32(self) -> int:
        return int(_U32.unpack(self._take(4))[0])

    def _u64(self) -> int:
        return int(_U64.unpack(self._take(8))[0])

    # The window

    @property
    def _position(self) -> int:
        return self._base + self._at

    def _take(self, count: int) -> bytes:
        self._fill(count)
        start = self._at
        self._at += count
        return self._buffer[start : self._at]

    def _fill(self, count: int) -> None:
        """Make sure that the window contains the next `count` bytes."""
        if self._at + count <= len(self._buffer):
            return
        self._base, self._at = self._position, 0
        if self._base + count > self._size:
            raise HeaderError(
                f"is a truncated GGUF file: its header does not end within its {self._size:,} bytes"
            )
        if self._base > MAX_HEADER:
            raise HeaderError(f"has a header of more than {MAX_HEADER >> 20} MiB")
        self._buffer = self._fetch(self._base, max(self._window, count))
        if len(self._buffer) < count:
            raise HeaderError("became shorter while it was read")

    def _move_to(self, position: int) -> None:
        if position > self._size:
            raise HeaderError(f"is truncated or corrupt: its header goes on past its {self._size:,} bytes")
        self._at = position - self._base
        if self._at > len(self._buffer):
            self._base, self._at, self._buffer = position, 0, b""


class _MetadataReader(_Reader):
    """Keeps the values of all arrays, also of long ones."""

    def _array(self, key: str) -> tuple[int, tuple[Any, ...] | None]:
        kind = self._u32()
        if kind == _STRING:
            count = self._count(f"strings in {key[:80]!r}", 8)
            self._items += count
            if self._items > MAX_ITEMS:
                raise HeaderError(f"its arrays have more than {MAX_ITEMS:,} strings")
            return count, tuple(self._string(key, MAX_STRING) for _ in range(count))
        scalar = self._scalar(key, kind)
        count = self._count(f"elements in {key[:80]!r}", scalar.size)
        return count, struct.unpack(f"<{count}{scalar.format[1:]}", self._take(count * scalar.size))
