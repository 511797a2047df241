"""How long a context llama.cpp gives each slot, and the flags with which it is longer."""

import re
from typing import Any

import msgspec
import pytest

from actors.memory.context import check_context, slot_limit, stretching_flags
from actors.memory.gguf import Header, Tensor
from actors.memory.prediction.settings import LoadSettings
from tests.actors.memory.zoo import model


def header(**metadata: Any) -> Header:
    """Of a model that was trained for 4,096 tokens, unless the metadata say more."""
    found = model("qwen3-8b")
    more = {f"{found.architecture}.{key.replace('__', '.')}": value for key, value in metadata.items()}
    return msgspec.structs.replace(
        found, metadata={**found.metadata, f"{found.architecture}.context_length": 4096, **more}
    )


YARN = {
    "context_length": 16384,
    "rope__scaling__type": "yarn",
    "rope__scaling__factor": 4.0,
    "rope__scaling__original_context_length": 4096,
}


@pytest.mark.parametrize(
    ("metadata", "flags", "limit"),
    [
        # As the embedded server, build 11549, tells of the built-in model in `/props`.
        ({}, "", 4096),
        ({}, "--rope-scaling yarn", 4096),
        ({}, "--rope-scaling yarn --rope-freq-scale 0.25", 16384),
        ({}, "--rope-scaling yarn --rope-freq-scale 0.25 --yarn-orig-ctx 16384", 65536),
        ({}, "--rope-scaling linear --rope-freq-scale 0.25", 4096),
        ({}, "--rope-scaling none --rope-freq-scale 0.25", 4096),
        ({}, "--rope-freq-base 1000000", 4096),
        # As its source has it.
        ({}, "--rope-scaling yarn --rope-scale 4", 16384),
        ({}, "--rope-scaling=yarn --rope-freq-scale 0.5 --rope-scale=4", 16384),
        ({}, "--override-kv a.b=int:1,qwen3.context_length=int:9000", 9000),
        ({}, "--override-kv qwen3.context_length=str:9000", 4096),
        (YARN, "", 16384),
        (YARN, "--rope-scale 4", 16384),
        (YARN, "--rope-scale 8", 32768),
        (YARN, "--rope-scaling linear --rope-scale 8", 16384),
        ({"context_length": None}, "", None),
    ],
)
def test_the_limit_of_a_slot(metadata: dict[str, Any], flags: str, limit: int | None) -> None:
    assert slot_limit(header(**metadata), flags.split()) == limit


@pytest.mark.parametrize(
    "flags", ["--rope-scale 0", "--rope-scale x", "--rope-scale", "--rope-freq-scale nan"]
)
def test_flags_that_mean_nothing(flags: str) -> None:
    with pytest.raises(ValueError, match=f"^{flags.split(maxsplit=1)[0]}: expected a number above 0"):
        slot_limit(header(rope__scaling__type="yarn"), flags.split())


@pytest.mark.parametrize("context", [4097, 5000, 8192, 12288, 16384, 65536, 1_000_000, 12_345_678])
@pytest.mark.parametrize("metadata", [{}, YARN, {"context_length": 786432}])
def test_with_its_flags_a_slot_has_all_of_the_context(metadata: dict[str, Any], context: int) -> None:
    settings = LoadSettings(context=context, parallel=2, unified=True)
    flags = stretching_flags(header(**metadata), settings, [])
    limit = slot_limit(header(**metadata), flags)
    assert limit is not None
    assert limit >= context
    assert bool(flags) == (context > header(**metadata).context_length)  # type: ignore[operator]


def test_what_needs_no_stretching_gets_none() -> None:
    assert stretching_flags(header(), LoadSettings(context=8192, parallel=2), []) == [], "4,096 for each"
    own = ["--rope-scaling", "yarn", "--rope-scale", "2"]
    assert stretching_flags(header(), LoadSettings(context=65536), own) == [], "the user knows better"


def test_learned_positions_cannot_be_stretched() -> None:
    row = Tensor(name="position_embd.weight", shape=(8, 4096), type="F32", offset=0, size=1)
    learned = msgspec.structs.replace(header(), tensors=(row,))
    with pytest.raises(ValueError, match=r"learned positions for 4,096 tokens, and there can be no more"):
        stretching_flags(learned, LoadSettings(context=4097), [])


@pytest.mark.parametrize(
    ("settings", "flags", "message"),
    [
        (LoadSettings(context=4096), "", None),
        (LoadSettings(context=8192, parallel=2, unified=True), "", None),
        (LoadSettings(context=8192), "--rope-scaling yarn --rope-scale 2", None),
        (
            LoadSettings(context=5000),
            "",
            "a context of 5,000 tokens is more than the 4,096 that the model",
        ),
        (
            LoadSettings(context=8193, parallel=2, unified=True),
            "",
            "a context of 8,193 tokens, 4,096 for each of 2 slots, is more than the 4,096 that the model was",
        ),
        (
            LoadSettings(context=8192),
            "--rope-scaling linear --rope-scale 2",
            "that llama.cpp gives a slot",
        ),
        (
            LoadSettings(context=8193),
            "--rope-scaling yarn --rope-scale 2",
            "more than the 8,192 that llama.cpp",
        ),
    ],
)
def test_a_context_that_no_slot_could_use(settings: LoadSettings, flags: str, message: str | None) -> None:
    if message is None:
        check_context(header(), settings, flags.split())
    else:
        with pytest.raises(ValueError, match=re.escape(message)):
            check_context(header(), settings, flags.split())
