"""What a model is for, by its header, its settings and its flags."""

from functools import partial
from typing import Any

import msgspec
import pytest

from actors.memory.gguf import Header, Tensor
from actors.memory.prediction.settings import LoadSettings
from actors.memory.purpose import LONGEST_TEXT, SHORTEST_TEXT, Purpose, for_purpose, longest_text, purpose_of


def header(architecture: str, **metadata: Any) -> Header:
    own = {f"{architecture}.{key}": value for key, value in metadata.items()}
    return Header(
        version=3,
        size=0,
        data_offset=0,
        metadata={"general.architecture": architecture, **own},
        lengths={},
        tensors=(),
    )


CAUSAL = {"attention.causal": False}
EMBEDS, RANKS = ("--embeddings",), ("--reranking",)
MEAN = (*EMBEDS, "--pooling", "mean")
WRITES = Purpose()
cached = partial(Purpose, cached=True)


@pytest.mark.parametrize(
    ("architecture", "metadata", "told", "words", "expected"),
    [
        ("llama", {}, {}, "", WRITES),
        ("llama", {"pooling_type": 0}, {}, "", WRITES),
        ("llama", {"pooling_type": 99}, {}, "", WRITES),
        ("llama", {"pooling_type": "cls"}, {}, "", WRITES),
        # The header says it.
        ("bert", {"pooling_type": 2}, {}, "", Purpose(pooling="cls", whole=True, flags=EMBEDS)),
        ("bert", {}, {}, "", Purpose(pooling="mean", whole=True, flags=MEAN)),
        ("bert", {"pooling_type": 4}, {}, "", Purpose(pooling="rank", whole=True, flags=RANKS)),
        ("modern-bert", {"pooling_type": 1}, {}, "", Purpose(pooling="mean", whole=True, flags=EMBEDS)),
        ("gemma-embedding", {"pooling_type": 1}, {}, "", Purpose(pooling="mean", whole=True, flags=EMBEDS)),
        (
            "llama",
            {"pooling_type": 1},
            {},
            "",
            cached(pooling="mean", whole=True, flags=EMBEDS),
        ),
        # With a cache, the last token says it all: a text is read in parts.
        ("qwen3", {"pooling_type": 3}, {}, "", cached(pooling="last", flags=EMBEDS)),
        ("qwen3", {"pooling_type": 4}, {}, "", cached(pooling="rank", flags=RANKS)),
        (
            "qwen3",
            {"pooling_type": 4, **CAUSAL},
            {},
            "",
            cached(pooling="rank", whole=True, flags=RANKS),
        ),
        ("bert", {"pooling_type": 3}, {}, "", Purpose(pooling="last", whole=True, flags=EMBEDS)),
        # Settings count more than the header.
        ("llama", {"pooling_type": 1}, {"embeds": False}, "", WRITES),
        ("llama", {}, {"embeds": True}, "", cached(pooling="mean", whole=True, flags=MEAN)),
        (
            "bert",
            {"pooling_type": 4},
            {"ranks": False},
            "",
            Purpose(pooling="mean", whole=True, flags=MEAN),
        ),
        ("bert", {"pooling_type": 2}, {"ranks": True}, "", Purpose(pooling="rank", whole=True, flags=RANKS)),
        (
            "bert",
            {"pooling_type": 4},
            {"embeds": True},
            "",
            Purpose(pooling="mean", whole=True, flags=MEAN),
        ),
        # So do flags, which are not given twice.
        (
            "llama",
            {},
            {},
            "--embedding",
            cached(pooling="mean", whole=True, flags=("--pooling", "mean")),
        ),
        ("llama", {}, {}, "--embeddings --pooling last", cached(pooling="last")),
        (
            "llama",
            {},
            {"embeds": True},
            "--pooling=cls",
            cached(pooling="cls", whole=True, flags=EMBEDS),
        ),
        ("bert", {"pooling_type": 2}, {}, "--rerank", Purpose(pooling="rank", whole=True)),
        (
            "qwen3",
            {"pooling_type": 3},
            {},
            "--pooling mean",
            cached(pooling="mean", whole=True, flags=EMBEDS),
        ),
    ],
)
def test_purpose(
    architecture: str, metadata: dict[str, Any], told: dict[str, bool], words: str, expected: Purpose
) -> None:
    assert purpose_of(header(architecture, **metadata), words.split(), **told) == expected


WHOLE, IN_PARTS = Purpose(pooling="cls", whole=True), Purpose(pooling="last", cached=True)
CACHED = Purpose(pooling="mean", whole=True, cached=True)
GIVEN = LoadSettings(context=32768, parallel=4, unified=True)


@pytest.mark.parametrize(
    ("purpose", "words", "limit", "longest", "expected"),
    [
        (WRITES, "", 32768, LONGEST_TEXT, {}),
        (IN_PARTS, "", 32768, LONGEST_TEXT, {"pooling": "last", "outputs": 0}),
        (WHOLE, "", 512, None, {"pooling": "cls", "outputs": 0, "input_limit": 512}),
        (WHOLE, "", None, None, {"pooling": "cls", "outputs": 0, "input_limit": 32768}),
        (
            WHOLE,
            "",
            32768,
            LONGEST_TEXT,
            {"pooling": "cls", "outputs": 0, "context": LONGEST_TEXT, "input_limit": LONGEST_TEXT},
        ),
        (
            CACHED,
            "",
            4096,
            None,
            {"pooling": "mean", "outputs": 0, "input_limit": 4096, "parallel": 1, "unified": False},
        ),
        (CACHED, "-np 4", 4096, None, {"pooling": "mean", "outputs": 0, "input_limit": 4096}),
        (WHOLE, "-ub 256", 512, None, {"pooling": "cls", "outputs": 0}),
        (WHOLE, "-b 2048", 8192, None, {"pooling": "cls", "outputs": 0, "input_limit": 2048}),
    ],
)
def test_settings_for_a_purpose(
    purpose: Purpose, words: str, limit: int | None, longest: int | None, expected: dict[str, Any]
) -> None:
    found = for_purpose(GIVEN, purpose, words.split(), limit=limit, longest=longest)
    assert found == msgspec.structs.replace(GIVEN, **expected)


@pytest.mark.parametrize(
    ("vocabulary", "gib", "expected"),
    [
        (250_002, 64, LONGEST_TEXT),
        (250_002, 16, 4096),
        (250_002, 8, 2048),
        (250_002, 1, SHORTEST_TEXT),
        (30_522, 8, LONGEST_TEXT),
        (30_522, 0, SHORTEST_TEXT),
    ],
)
def test_the_longest_text_by_main_memory(vocabulary: int, gib: int, expected: int) -> None:
    known = header("bert")
    table = Tensor("token_embd.weight", (1024, vocabulary), "Q8_0", 0, 0)
    assert longest_text(msgspec.structs.replace(known, tensors=(table,)), gib << 30) == expected
