"""Headers of GGUF files: real ones, split ones, and every kind of broken or hostile one."""

import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.memory.gguf import MAX_NUMBERS, HeaderError, read_file, read_header, read_model
from actors.model_names import part_names
from tests.effort import examples
from tests.gguf_files import F32, Q4_K, SMALL, large_vocabulary, many_experts, raw, string, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    """A small model of every kind of value."""
    values = {
        "general.name": "M\u00fcller",
        "llama.context_length": 4096,
        "llama.block_count": 2,
        "llama.rope.freq_base": 10000.0,
        "llama.attention.head_count_kv": [2, 4],
        "tokenizer.ggml.tokens": [f"t{number}" for number in range(300)],
        "tokenizer.ggml.scores": [0.5] * (MAX_NUMBERS + 1),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{{ messages }}",
    }
    return write(folder / "whole.gguf", values).read_bytes()


def parse(data: bytes, *, window: int = 4096) -> None:
    read_header(lambda offset, count: data[offset : offset + count], len(data), window=window)


@pytest.mark.parametrize("window", [16, 100, 1 << 20])
def test_what_it_says(whole: bytes, window: int) -> None:
    header = read_header(lambda offset, count: whole[offset : offset + count], len(whole), window=window)
    assert (header.architecture, header.name, header.context_length, header.layers) == (
        "llama",
        "M\u00fcller",
        4096,
        2,
    )
    assert (header.chat_template, header.vocabulary, header.quantization) == ("{{ messages }}", 300, "Q8_0")
    assert header.metadata["llama.rope.freq_base"] == 10000.0
    assert header.metadata["llama.attention.head_count_kv"] == (2, 4)
    assert header.metadata["tokenizer.ggml.add_bos_token"] is True
    assert header.lengths["tokenizer.ggml.scores"] == MAX_NUMBERS + 1
    assert "tokenizer.ggml.scores" not in header.metadata
    assert header.parameters == 256 * 8 + 256
    assert [(tensor.name, tensor.shape, tensor.type, tensor.size) for tensor in header.tensors] == [
        ("token_embd.weight", (256, 8), "Q8_0", 256 * 8 // 32 * 34),
        ("output_norm.weight", (256,), "F32", 1024),
    ]
    assert header.data_offset + header.tensors[1].offset + 1024 == len(whole)


def test_it_agrees_with_the_gguf_package(folder: Path) -> None:
    path = many_experts(folder / "moe.gguf", layers=3)
    ours, theirs = read_file(path), gguf.GGUFReader(path)
    assert [(t.name, t.shape, t.type, ours.data_offset + t.offset, t.size) for t in ours.tensors] == [
        (t.name, tuple(int(n) for n in t.shape), t.tensor_type.name, t.data_offset, t.n_bytes)
        for t in theirs.tensors
    ]


def test_the_whole_vocabulary_is_stepped_over_in_little_memory(folder: Path) -> None:
    path = large_vocabulary(folder / "vocabulary.gguf")
    tracemalloc.start()
    header = read_file(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (header.vocabulary, header.lengths["tokenizer.ggml.merges"]) == (151_936, 151_936)
    assert peak < 4 << 20
    assert read_file(path) is header


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", {"general.name": "one"})
    assert read_file(path).name == "one"
    write(path, {"general.name": "other"})
    assert read_file(path).name == "other"


# Split models


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("m.gguf", ["m.gguf"]),
        ("a/m-00002-of-00003.gguf", [f"a/m-0000{part}-of-00003.gguf" for part in (1, 2, 3)]),
        ("m-1-of-3.gguf", ["m-1-of-3.gguf"]),
    ],
)
def test_part_names(name: str, parts: list[str]) -> None:
    assert part_names(name) == parts


def split(folder: Path, *, claims: int = 2, tensors: int = 3) -> Path:
    first = folder / "m-00001-of-00002.gguf"
    common = {"split.count": claims, "split.tensors.count": tensors}
    write(first, {**common, "split.no": 0, "general.name": "split"})
    write(folder / "m-00002-of-00002.gguf", {**common, "split.no": 1}, [("last.weight", (256, 4), Q4_K)])
    return first


def test_a_split_model(tmp_path: Path) -> None:
    header = read_model(split(tmp_path))
    assert header.name == "split"
    assert [tensor.name for tensor in header.tensors] == [
        "token_embd.weight",
        "output_norm.weight",
        "last.weight",
    ]
    assert header.size == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_split_models_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(HeaderError, match="its parts have 3 tensors; 4 were expected"):
        read_model(split(tmp_path, tensors=4))
    with pytest.raises(HeaderError, match="is one of 3 parts, and 2 are there"):
        read_model(split(tmp_path, claims=3))
    first = split(tmp_path)
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(b"GGUF")
    with pytest.raises(HeaderError, match=r"m-00002-of-00002\.gguf: is a truncated GGUF file"):
        read_model(first)
    with pytest.raises(HeaderError, match="is one of 2 parts, and 1 are there"):
        read_model(first.rename(tmp_path / "alone.gguf"))


# Broken files

ONE_PAIR = string(b"k") + struct.pack("<I", 4) + struct.pack("<I", 1)


def tensor(
    name: bytes = b"t",
    shape: tuple[int, ...] = (32,),
    kind: int = 0,
    offset: int = 0,
    dimensions: int | None = None,
) -> bytes:
    count = len(shape) if dimensions is None else dimensions
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", count, *shape, kind, offset)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a GGUF file"),
        (b"GG", "is not a GGUF file"),
        (b"GGUF", "is a truncated GGUF file"),
        (b"PK\x03\x04" + bytes(100), "is not a GGUF file"),
        (raw(version=1), "is of GGUF version 1;"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is a big-endian GGUF file"),
        (raw(tensors=2**63), "claims 9,223,372,036,854,775,808 tensors"),
        (raw(pairs=2**40), "claims 1,099,511,627,776 metadata keys"),
        (raw(pairs=1, rest=struct.pack("<Q", 2**63) + bytes(40)), "bytes for a metadata key"),
        (raw(pairs=1, rest=string(b"k") + struct.pack("<IQ", 8, 2**50) + bytes(9)), "bytes for k"),
        (
            raw(pairs=1, rest=string(b"k") + struct.pack("<I", 77) + bytes(9)),
            "'k' has a value of the unknown type 77",
        ),
        (raw(pairs=2, rest=ONE_PAIR * 2), "the metadata key 'k' comes twice"),
        (
            raw(pairs=1, rest=string(b"k") + struct.pack("<IIQ", 9, 9, 1) + bytes(99)),
            "'k' has a value of the unknown type 9",
        ),
        (raw(pairs=1, rest=string(b"k") + struct.pack("<IIQ", 9, 4, 2**61)), "elements in 'k'"),
        (raw(pairs=1, rest=string(b"k") + struct.pack("<IIQ", 9, 8, 2**61)), "strings in 'k'"),
        (
            raw(pairs=1, rest=string(b"k") + struct.pack("<IIQQ", 9, 8, 2, 2**64 - 9) + bytes(99)),
            "its header goes on past its",
        ),
        (
            raw(pairs=1, rest=string(b"general.alignment") + struct.pack("<II", 4, 0)),
            "general.alignment: expected a power of two, got 0",
        ),
        (raw(tensors=1, rest=tensor(shape=(1,) * 5) + bytes(99)), "tensor 't' has 5 dimensions"),
        (raw(tensors=1, rest=tensor(dimensions=2**31) + bytes(99)), "dimensions"),
        (raw(tensors=1, rest=tensor(kind=4) + bytes(200)), "of the type 4, which this version does not know"),
        (raw(tensors=1, rest=tensor(shape=(2**32, 2**32)) + bytes(200)), "impossible shape"),
        (raw(tensors=1, rest=tensor(shape=(0,)) + bytes(200)), "impossible shape"),
        (raw(tensors=1, rest=tensor(shape=(33,), kind=8) + bytes(200)), "no multiple of Q8_0's blocks of 32"),
        (raw(tensors=1, rest=tensor(offset=1) + bytes(200)), "is not aligned to 32 bytes"),
        (raw(tensors=2, rest=tensor() * 2 + bytes(400)), "two of its tensors have the same name"),
        (raw(tensors=1, rest=tensor() + bytes(50)), "is a truncated GGUF file"),
        (raw(tensors=1, rest=tensor(offset=2**62) + bytes(200)), "is a truncated GGUF file"),
    ],
)
def test_broken_files(data: bytes, message: str) -> None:
    with pytest.raises(HeaderError) as caught:
        parse(data)
    assert message in str(caught.value)


def test_a_file_of_zeros_is_given_up_early(tmp_path: Path) -> None:
    """Sixteen gigabytes (a hole) of strings without a character."""
    path = tmp_path / "zeros.gguf"
    path.write_bytes(raw(pairs=1, rest=string(b"k") + struct.pack("<IIQ", 9, 8, 2**23)))
    with path.open("r+b") as file:
        file.truncate(2**34)
    with pytest.raises(HeaderError, match="its arrays have more than"):
        read_file(path)


def test_a_truncated_file_is_told_wherever_it_ends(whole: bytes) -> None:
    for length in [*range(0, 600, 7), *range(600, len(whole), 997), len(whole) - 1]:
        with pytest.raises(HeaderError, match=r"truncated|not a GGUF file"):
            parse(whole[:length])


def test_a_file_that_shrinks_while_it_is_read(whole: bytes) -> None:
    with pytest.raises(HeaderError, match="became shorter"):
        read_header(lambda offset, _: whole[offset : offset + 10], len(whole))


@settings(max_examples=examples(300))
@given(
    st.lists(
        st.tuples(st.integers(0, 1500), st.binary(min_size=1, max_size=9), st.booleans()),
        min_size=1,
        max_size=6,
    )
)
def test_mutated_files_are_read_or_refused(whole: bytes, changes: list[tuple[int, bytes, bool]]) -> None:
    data = whole
    for at, new, insert in changes:
        data = data[:at] + new + data[at if insert else at + len(new) :]
    with suppress(HeaderError):
        parse(data, window=64)


@settings(max_examples=examples(200))
@given(st.integers(0, 3), st.integers(0, 3), st.binary(max_size=300))
def test_noise_is_read_or_refused(tensors: int, pairs: int, noise: bytes) -> None:
    with suppress(HeaderError):
        parse(raw(tensors=tensors, pairs=pairs, rest=noise), window=32)


def test_shapes_of_the_helper_are_real(tmp_path: Path) -> None:
    tensors = [*SMALL, ("blk.0.x", (512, 3, 2), Q4_K), ("blk.0.y", (7,), F32)]
    header = read_file(write(tmp_path / "m.gguf", {}, tensors))
    assert [tensor.shape for tensor in header.tensors] == [shape for _, shape, _ in tensors]
