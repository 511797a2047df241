"""Headers of GGUF files: what a model is, read in milliseconds, from a file or from a hub by ranges.

The package of the same name has the vocabulary of the format, but its reader maps the whole file and makes
an array of every token (seconds and hundreds of megabytes for today's vocabularies), and it trusts what it
reads. Here the big arrays are stepped over, and nothing that a file says is believed before it is checked
against the file's size. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
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
"""Returns at most so many bytes (second) from an offset (first); less only at the end of the file."""

MAGIC = b"GGUF"
VERSIONS = (2, 3)
WINDOW = 1 << 20
MAX_HEADER = 1 << 28
MAX_ITEMS = 1 << 22
"""Strings in all arrays together: sixteen times the largest vocabulary of today."""
MAX_STRING = 1 << 20
MAX_NUMBERS = 1 << 13
"""Numbers of an array whose values are kept; of a longer one only the length is."""
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
    """The file is no usable GGUF file. The message says what is wrong, not where the file is."""


class Tensor(msgspec.Struct, frozen=True):
    """One tensor. `shape` has the row length first, `type` is ggml's name (Q4_K), `size` is in bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size: int


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a GGUF file says of its model. `size` is that of the file, `data_offset` where its tensors begin.

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
        """llama.cpp's name of it, such as qwen3moe."""
        return self._text("general.architecture")

    @property
    def name(self) -> str | None:
        """The model's name in the words of who made the file."""
        return self._text("general.name")

    @property
    def context_length(self) -> int | None:
        """Tokens that the model was trained for."""
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
        """ggml's name of the type that most of the bytes have."""
        bytes_of: Counter[str] = Counter()
        for tensor in self.tensors:
            bytes_of[tensor.type] += tensor.size
        return bytes_of.most_common(1)[0][0] if bytes_of else None

    @property
    def parts(self) -> int:
        """Files that the model consists of."""
        count = self.metadata.get("split.count")
        return count if isinstance(count, int) and count > 0 else 1


def read_header(fetch: ReadBytes, size: int, *, window: int = WINDOW) -> Header:
    """Read the header of a file of `size` bytes. Raises `HeaderError`, and whatever `fetch` raises."""
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
    """Read all the parts of a model as one header: the first one's metadata, the tensors and size of all."""
    headers = []
    for name in part_names(first.name):
        try:
            headers.append(read_file(first.with_name(name)))
        except HeaderError as error:
            raise HeaderError(f"{name}: {error}" if name != first.name else str(error)) from None
    return join_parts(headers)


def join_parts(headers: Sequence[Header]) -> Header:
    """The parts of a split model as one header. Raises `HeaderError` when they do not belong together."""
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
    """By the number of a type: ggml's name, weights of a block, bytes of a block.

    Of the gguf package only the table is loaded: all of it would bring numpy, and 20 MB that stay.
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
    """Weights and bytes of a block of the type with this name. Raises `KeyError`."""
    return _by_name()[kind]


@functools.cache
def _by_name() -> dict[str, tuple[int, int]]:
    return {name: (block, size) for name, block, size in _vocabulary().values()}


class _Reader:
    """A cursor over the file, which holds one window of it."""

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
        scalar = self._scalar(key, kind)  # llama.cpp knows no arrays of arrays either
        count = self._count(f"elements in {key[:80]!r}", scalar.size)
        if count > MAX_NUMBERS:
            self._move_to(self._position + count * scalar.size)
            return count, None
        data = self._take(count * scalar.size)
        return count, struct.unpack(f"<{count}{scalar.format[1:]}", data)

    def _skip_strings(self, count: int) -> None:
        """Step over strings. This loop is what reading a header costs."""
        self._items += count
        if self._items > MAX_ITEMS:
            raise HeaderError(f"its arrays have more than {MAX_ITEMS:,} strings")
        length_at = _U64.unpack_from
        while count:
            self._fill(8)
            buffer, at, done = self._buffer, self._at, 0
            try:
                for done in range(count):  # noqa: B007 (how far it came is the point)
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
        """A number of things, each of which takes at least so many bytes."""
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
        """Have the next `count` bytes in the window."""
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
    """Keeps the values of all arrays."""

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
