"""Predictions for several builds of llama.cpp, against what each of them allocated for the same models."""

import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest

from actors.memory.builds import NEWEST, TESTED, Build, build_from
from actors.memory.prediction.predict import predict
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape
from tests.actors.memory.loads import Load
from tests.actors.memory.zoo import model

MIB = 1 << 20
BUILDS = (9294, 9538, 9713, 10229, 11063, 11549)


class Drifted(Load):
    build: int


@cache
def rows() -> tuple[Drifted, ...]:
    lines = Path(__file__).with_name("builds.jsonl").read_text().splitlines()
    return tuple(msgspec.json.decode(line, type=Drifted) for line in lines)


def errors(build: int) -> Iterator[tuple[float, float, Drifted]]:
    """Of each GPU: in percent, in MiB, and where."""
    for row in rows():
        if row.build == build:
            settings = msgspec.structs.replace(row.as_settings, build=build_from(str(build)))
            found = predict(Shape(model(row.model)), settings, [size * MIB for size in row.gpus])
            assert found.certainty == "exact"
            for ours, theirs in zip(found.gpus, row.loaded, strict=True):
                off = ours.total - sum(theirs)
                yield 100 * off / sum(theirs), off / MIB, row


@pytest.mark.parametrize("build", BUILDS)
def test_each_build_is_exact(build: int) -> None:
    found = list(errors(build))
    assert len(found) > 18
    for percent, mib, row in found:
        assert -0.5 < percent < 0.7, row
        assert mib > -18.1, row
    assert statistics.median(abs(percent) for percent, _, _ in found) < 0.01
    assert sum(abs(percent) > 0.5 for percent, _, _ in found) <= 1


@pytest.mark.parametrize(
    ("version", "number", "tested"),
    [
        ("xllamacpp 2026.10.11549", 11549, True),
        ("11434", 11434, True),
        ("b9713", 9713, True),
        ("0.6.0-dev build 10229", 10229, True),
        ("9294", 9294, True),
        ("9293", 9293, False),
        ("11550", 11550, False),
        ("9400", 9400, False),  # between two builds that differ
        ("11200", 11200, False),
        ("0.6.0-dev", None, False),
        ("docker sha256:3f0c", None, False),
        ("", None, False),
    ],
)
def test_versions(version: str, number: int | None, tested: bool) -> None:
    found = build_from(version)
    assert (found.number, found.is_tested) == (number, tested)


def test_in_doubt_the_larger_figure_counts() -> None:
    shape = Shape(model("llama3.2-3b"))

    def total(build: Build) -> int:
        return predict(shape, LoadSettings(context=8192, build=build), [1]).gpus[0].total

    assert total(build_from("9400")) == total(build_from("9294")) > total(build_from("9538"))
    assert total(build_from("11200")) == total(NEWEST) > total(build_from("11063"))


def test_an_untested_build_is_a_bound() -> None:
    shape = Shape(model("llama3.2-3b"))
    for build, certainty in ((NEWEST, "exact"), (build_from("99999"), "bound"), (build_from(""), "bound")):
        assert predict(shape, LoadSettings(build=build), [1]).certainty == certainty


def test_the_rows_are_of_tested_builds() -> None:
    assert {row.build for row in rows()} == set(BUILDS) <= set(TESTED)
