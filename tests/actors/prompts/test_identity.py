"""Identities: which servers can use each other's prompts."""

import os
from pathlib import Path

import pytest

from actors.prompts.identity import SAMPLE_BYTES, SAMPLES, cache_identity

FLAGS = ["--model", "/m.gguf", "--port", "8100", "--parallel", "4", "--kv-unified", "--ctx-size", "8192"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    return path


@pytest.mark.parametrize(
    ("flags", "same"),
    [
        ([*FLAGS, "--ctx-size", "16384"], True),
        ([*FLAGS, "--port=9000"], True),
        ([*FLAGS, "--gpu-layers", "10", "--threads", "2"], True),
        ([*FLAGS, "--cache-type-k", "q8_0"], False),
        ([*FLAGS, "--flash-attn", "on"], False),
        ([*FLAGS, "--rope-freq-scale", "0.5"], False),
        ([*FLAGS, "--swa-full"], False),
        ([*FLAGS, "--lora", "/adapter.gguf"], False),
        ([*FLAGS, "--chat-template", "chatml"], False),
    ],
)
def test_what_changes_the_cache_counts(model: Path, flags: list[str], same: bool) -> None:
    before, after = (cache_identity("b1", one, [model]) for one in (FLAGS, flags))
    assert (before == after) is same


def test_another_build_counts(model: Path) -> None:
    assert cache_identity("b1", FLAGS, [model]) != cache_identity("b2", FLAGS, [model])


def test_an_adapter_is_looked_at(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.gguf"
    for flags in ([*FLAGS, "--lora", str(adapter)], [*FLAGS, f"--lora={adapter}"]):
        adapter.write_bytes(b"one")
        before = cache_identity("b1", flags, [model])
        adapter.write_bytes(b"two")
        assert cache_identity("b1", flags, [model]) != before


def test_a_large_file_with_another_middle(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    path.write_bytes(bytes(SAMPLES * SAMPLE_BYTES * 2))
    os.utime(path, (1, 1))
    before = cache_identity("b1", FLAGS, [path])
    assert cache_identity("b1", FLAGS, [path]) == before
    with path.open("r+b") as file:
        file.seek((SAMPLES * 2 - 1) * SAMPLE_BYTES)
        file.write(b"x" * SAMPLE_BYTES)
    os.utime(path, (1, 1))
    assert cache_identity("b1", FLAGS, [path]) != before


def test_all_parts_of_a_split_model_count(tmp_path: Path) -> None:
    first, second = (tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2))
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    before = cache_identity("b1", FLAGS, [first])
    second.write_bytes(b"new")
    assert cache_identity("b1", FLAGS, [first]) != before


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        cache_identity("b1", FLAGS, [tmp_path / "none.gguf"])
