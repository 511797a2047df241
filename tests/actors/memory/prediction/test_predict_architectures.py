"""Predictions for many architectures, against what llama.cpp allocated for them."""

import statistics
from collections.abc import Iterator
from functools import cache

import pytest

from actors.memory.prediction.architectures import MODELLED, NEARLY_MODELLED
from tests.actors.memory.headers import MIB, loads, names, predicted, shape
from tests.actors.memory.loads import Load

ESTIMATED = frozenset(["minimax-m3", "rwkv7"])
"""Architectures whose graph is not modelled."""

LOOSE = {("nemotron-nano-9b-v2", 2.0), ("kimi-linear-48b", 0.6)}
"""Models that are not exact in one of their loads on several GPUs: by at most so many percent too high."""


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
    return shape(name).architecture in MODELLED


def is_exact(name: str) -> bool:
    return is_modelled(name) and shape(name).architecture not in NEARLY_MODELLED


EXACT = [name for name in names() if is_exact(name)]
KNOWN = [*EXACT, *(name for name in names() if shape(name).architecture in NEARLY_MODELLED)]


def test_all_models_are_of_known_architectures_or_listed() -> None:
    assert {shape(name).architecture for name in names()} - MODELLED - NEARLY_MODELLED == ESTIMATED


@pytest.mark.parametrize("name", EXACT)
def test_whole_it_is_exact(name: str) -> None:
    found = errors(name, whole=True)
    assert found
    most = dict(LOOSE).get(name, 0.5)
    for percent, mib, load in found:
        assert -0.5 < percent < most, load
        assert mib > -16, load
    assert sum(percent >= 0.5 for percent, _, _ in found) == (name in dict(LOOSE))
    assert statistics.median(abs(percent) for percent, _, _ in found) < 0.05


@pytest.mark.parametrize("name", KNOWN)
def test_partly_offloaded_it_is_a_bound(name: str) -> None:
    for percent, mib, load in errors(name, whole=False):
        assert percent > -1, load
        assert percent < 30 or mib < 64, load


def test_partly_offloaded_the_bound_is_close() -> None:
    found = [error for name in KNOWN for error in errors(name, whole=False)]
    loose = [load for percent, mib, load in found if percent > 10 and mib > 64]
    assert len(found) > 240
    assert len(loose) <= 11, "most of them have experts on the host beside two GPUs"


def test_certainties() -> None:
    for load in loads():
        expected = "exact" if load.is_whole and is_exact(load.model) else "bound"
        if load.model not in KNOWN:
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
