"""What a JSON text holds is counted as a decoder would, wherever it is cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.door import json_bounds
from proxy.door.json_bounds import MOST_CONTAINERS, MOST_LEVELS, Bounds, BoundsError

VALUES = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('ab"\\[]{},:\n€')),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)


def containers(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(containers, value.values()))
    return 1 + sum(map(containers, value)) if isinstance(value, list) else 0


def strings(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(strings, value.values()))
    return sum(map(strings, value)) if isinstance(value, list) else isinstance(value, str)


@given(VALUES, st.integers(1, 9), st.booleans())
def test_strings_are_left_out_wherever_the_text_is_cut(value: Any, size: int, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    bounds = Bounds()
    for start in range(0, len(text), size):
        bounds.feed(text[start : start + size])
    bounds.end()
    assert (bounds._containers, bounds._quotes) == (containers(value), 2 * strings(value))


def measure(text: bytes) -> None:
    bounds = Bounds()
    bounds.feed(text)
    bounds.end()


def test_what_is_too_much() -> None:
    measure(b"[" + b"{}," * (MOST_CONTAINERS - 2) + b"{}]")
    with pytest.raises(BoundsError, match="objects and arrays"):
        measure(b"[" + b"{}," * MOST_CONTAINERS + b"{}]")
    with pytest.raises(BoundsError, match="fields"):
        measure(b"{" + b'"a":1,' * (json_bounds.MOST_STRINGS + 1) + b"}")
    with pytest.raises(BoundsError, match="texts"):
        measure(b"[" + b'"",' * json_bounds.MOST_STRINGS + b'"a"]')
    with pytest.raises(BoundsError, match="values"):
        measure(b"[" + b"1," * (json_bounds.MOST_VALUES + 1) + b"1]")


@pytest.mark.parametrize(("opens", "closes"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_what_is_too_deep(opens: bytes, closes: bytes) -> None:
    levels = opens.count(b"[") + opens.count(b"{")
    fits = MOST_LEVELS // levels
    measure(opens * fits + b"1" + closes * fits)
    with pytest.raises(BoundsError, match="levels"):
        measure(opens * (2 * MOST_LEVELS + 2) + b"1" + closes * (2 * MOST_LEVELS + 2))
