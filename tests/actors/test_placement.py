"""Where models go, by the memory that they will take."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.memory.predict import Settings, predict
from actors.memory.shape import Shape
from actors.placement import MIB, RUNTIME, layers_of, place
from tests.actors.memory.zoo import MODELS, model

GIB = 1 << 30


@cache
def shape(name: str) -> Shape:
    return Shape(model(name))


@pytest.mark.parametrize(
    ("name", "free", "how", "gpus"),
    [
        ("llama8b", [24], "one GPU", (0,)),
        ("llama8b", [80, 8, 24], "one GPU", (1,)),
        ("llama70b", [24, 24], "split", (0, 1)),
        ("llama70b", [24, 8, 24, 40], "split", (0, 3)),
        ("llama70b", [16, 16, 16], "split", (0, 1, 2)),
        ("llama70b", [24], "partial", (0,)),
        ("qwen3moe-30b", [12], "experts on host", (0,)),
        ("qwen3moe-30b", [1.8], "partial", (0,)),
        ("llama8b", [0.6], "host", ()),
        ("llama8b", [], "host", ()),
    ],
)
def test_the_order(name: str, free: list[float], how: str, gpus: tuple[int, ...]) -> None:
    placement = place(shape(name), Settings(context=8192), [int(gib * GIB) for gib in free])
    assert (placement.how, placement.gpus) == (how, gpus)


def test_a_byte_less_is_too_little() -> None:
    needed = predict(shape("llama8b"), Settings(), [1]).gpus[0].total + RUNTIME
    assert place(shape("llama8b"), Settings(), [needed]).how == "one GPU"
    assert place(shape("llama8b"), Settings(), [needed - 1]).how == "partial"
    assert place(shape("llama8b"), Settings(), [needed], headroom=1).how == "partial"


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(MODELS)),
    free=st.lists(st.integers(0, 100 * GIB), max_size=4),
    asked=st.builds(
        Settings,
        context=st.sampled_from([2048, 32768]),
        parallel=st.integers(1, 4),
        unified=st.booleans(),
        flash_attention=st.booleans(),
    ),
)
def test_nothing_is_overcommitted(name: str, free: list[int], asked: Settings) -> None:
    known = shape(name)
    placement = place(known, asked, free)
    used = placement.prediction.gpus
    assert len(used) == len(placement.gpus) == len(set(placement.gpus))
    for gpu, usage in zip(placement.gpus, used, strict=True):
        assert usage.total + RUNTIME <= free[gpu]
    layers = [layers_of(placement, gpu) for gpu in range(-1, len(placement.gpus))]
    assert sum(layers) == known.layers + 1
    assert (placement.how == "host") == (not placement.gpus)
    # What it decided is what llama.cpp is told.
    told = predict(known, placement.settings, [free[gpu] for gpu in placement.gpus])
    assert [usage.total for usage in told.gpus] == [usage.total for usage in used]


@pytest.mark.parametrize(
    ("name", "free", "arguments"),
    [
        ("llama8b", [24], "--fit off --gpu-layers 999"),
        ("llama8b", [], "--fit off --gpu-layers 0"),
        ("llama8b", [3], "--fit off --gpu-layers 15"),
        (
            "qwen3moe-30b",
            [12],
            r"--fit off --gpu-layers 999 --override-tensor \.ffn_(up|down|gate)_exps=CPU",
        ),
        ("llama70b", [24, 24], "--fit off --gpu-layers 999 --split-mode layer --tensor-split 0.5000,0.5000"),
    ],
)
def test_what_llama_server_is_told(name: str, free: list[int], arguments: str) -> None:
    placement = place(shape(name), Settings(), [gib * GIB for gib in free])
    assert " ".join(placement.arguments) == arguments


def test_more_room_never_means_fewer_layers() -> None:
    before: Any = -1
    for mib in range(600, 9000, 300):
        placement = place(shape("llama8b"), Settings(), [mib * MIB])
        now = sum(device != -1 for device in placement.prediction.layers)
        assert now >= before
        before = now
    assert before == 33
