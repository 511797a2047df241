"""Predictions for many architectures, against what llama.cpp allocated for them."""

import statistics
from collections.abc import Iterator
from functools import cache

import pytest

from actors.memory.predict import MODELLED
from tests.actors.memory.headers import MIB, loads, names, predicted, shape
from tests.actors.memory.loads import Load

ESTIMATED = frozenset(
    [
        "granitehybrid",
        "cohere2",
        "deepseek32",
        "falcon-h1",
        "gemma3n",
        "glm-dsa",
        "glm4moe",
        "kimi-linear",
        "lfm2moe",
        "llama4",
        "minimax-m3",
        "mistral4",
        "nemotron_h",
        "rwkv7",
    ]
)
"""Architectures whose graph is not modelled."""


@cache
def errors(name: str, *, whole: bool) -> tuple[tuple[float, float, Load], ...]:
    """Of each GPU: in percent, in MiB, and where."""
    return tuple(_errors(name, whole=whole))


def _errors(name: str, *, whole: bool) -> Iterator[tuple[float, float, Load]]:
    for load in loads():
        if load.model == name and load.is_whole == whole:
            for ours, theirs in zip(predicted(load).gpus, load.loaded, strict=True):
                off = ours.total - sum(theirs)
                yield (100 * off / sum(theirs) if sum(theirs) else 0.0, off / MIB, load)


def is_modelled(name: str) -> bool:
    """Those with inputs for each layer are not."""
    return shape(name).architecture in MODELLED and not shape(name).beside


KNOWN = [name for name in names() if is_modelled(name)]


def test_all_models_are_of_known_architectures_or_listed() -> None:
    assert {shape(name).architecture for name in names()} - MODELLED == ESTIMATED


@pytest.mark.parametrize("name", KNOWN)
def test_whole_it_is_exact(name: str) -> None:
    found = errors(name, whole=True)
    assert found
    for percent, mib, load in found:
        assert abs(percent) < 0.5, load
        assert mib > -16, load
    assert statistics.median(abs(percent) for percent, _, _ in found) < 0.05


@pytest.mark.parametrize("name", KNOWN)
def test_partly_offloaded_it_is_a_bound(name: str) -> None:
    for percent, mib, load in errors(name, whole=False):
        assert percent > -1, load
        assert percent < 13 or mib < 64, load


def test_certainties() -> None:
    for load in loads():
        expected = "exact" if load.is_whole else "bound"
        if not is_modelled(load.model):
            expected = "fallback"
        assert predicted(load).certainty == expected, load


@pytest.mark.parametrize("name", names())
def test_weights_and_cache_are_exact_whatever_the_architecture(name: str) -> None:
    for load in loads():
        if load.model == name:
            for ours, (weights, kv, _) in zip(predicted(load).gpus, load.loaded, strict=True):
                assert abs(ours.weights - weights) <= 8 * 1024, load
                assert abs(ours.kv - kv) <= 128 * 1024, load  # llama.cpp pads each tensor


def test_estimates_are_rarely_too_low() -> None:
    """At most by so many percent, and by so many of the loads of a model."""
    low = {
        name: min(percent for whole in (True, False) for percent, _, _ in errors(name, whole=whole))
        for name in names()
        if name not in KNOWN
    }
    assert {name: round(percent) for name, percent in low.items() if percent < -1} == {}
