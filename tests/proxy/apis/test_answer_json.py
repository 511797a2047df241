"""JSON of model servers: whatever it is, it is read or refused with one exception."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.apis.answer_json import UnreadableError, count, read_object, reader, seconds


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1]",
        b"{}{}",
        b'{"a":"\xff"}',
        b'{"\xff":1}',
        b'{"a":"\\ud800"}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 6000 + b"}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_cannot_be_read(data: bytes) -> None:
    with pytest.raises(UnreadableError):
        read_object(data)


@given(st.binary(max_size=50))
def test_nothing_else_is_raised(data: bytes) -> None:
    for kind in (object, dict[str, msgspec.Raw], int, list[float]):
        try:
            reader(kind)(data)
        except UnreadableError:
            continue


@pytest.mark.parametrize("value", [-1, True, None, "5", 5.0, 2**53, 10**400, float("nan"), [5], {}])
def test_what_is_no_count_is_none(value: object) -> None:
    assert count(value) == 0


@pytest.mark.parametrize("value", [-1, True, None, "5", 10**400, float("nan"), float("inf"), -0.5, [5], {}])
def test_what_is_no_duration_is_none(value: object) -> None:
    assert seconds(value, 1e3) == 0


def test_counts_and_durations() -> None:
    assert count(5) == 5
    assert (seconds(1500, 1e3), seconds(1.5, 1e3), seconds(10**18, 1e9)) == (1.5, 0.0015, 1e9)
