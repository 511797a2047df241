"""keep_alive, as Go reads it."""

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.apis.durations import keep_alive_field, parse_keep_alive


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (300, 300.0),
        (0.5, 0.5),
        (-1, math.inf),
        (-0.5, math.inf),
        (10**300, math.inf),
        ("0", 0.0),
        ("-0", 0.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("+1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("100ms", 0.1),
        ("3us", 3e-6),
        ("3µs", 3e-6),
        ("3μs", 3e-6),
        ("3ns", 3e-9),
        ("-1m", math.inf),
        ("0s", 0.0),
    ],
)
def test_durations(value: Any, seconds: float) -> None:
    assert parse_keep_alive(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("300", 'time: missing unit in duration "300"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("1h30", 'time: missing unit in duration "1h30"'),
        ("5d", 'time: unknown unit "d" in duration "5d"'),
        ("5m ", 'time: unknown unit "m " in duration "5m "'),
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        (".s", 'time: invalid duration ".s"'),
        ("m5", 'time: invalid duration "m5"'),
        ("٣s", 'time: invalid duration "٣s"'),
        ("9999999999h", 'time: invalid duration "9999999999h"'),
        (True, "Unsupported type: 'bool'"),
        ([1], "Unsupported type: '[]interface {}'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
    ],
)
def test_what_is_none(value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_keep_alive(value)
    assert str(caught.value) == message


@given(st.text(alphabet="0123456789.+-hmsunµ ", max_size=12))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_keep_alive(text) >= 0


def test_fields() -> None:
    assert [keep_alive_field(value) for value in (0.0, 300.0, 0.5, math.inf)] == [0, 300, 0.5, -1]
