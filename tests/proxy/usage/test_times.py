"""Times as people write them."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage.times import parse_time

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1970-01-02", 86_400),
        ("1970-01-02T01:00", 90_000),
        ("1970-01-02T01:00+01:00", 86_400),
        ("1970-01-02T00:00:00Z", 86_400),
        ("86400", 86_400),
        ("86400.5", 86_400.5),
        ("7d", NOW - 7 * 86_400),
        ("24h", NOW - 86_400),
        ("30m", NOW - 1800),
    ],
)
def test_what_is_a_time(text: str, time: float) -> None:
    assert parse_time(text, NOW) == time


@pytest.mark.parametrize("text", ["", "yesterday", "-1", "7w", "1e9", "2027-13-01", "nan"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time such as"):
        parse_time(text, NOW)


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9990, 1, 1)))
def test_what_python_writes_is_read(moment: datetime) -> None:
    time = moment.replace(tzinfo=UTC).timestamp()
    assert parse_time(moment.isoformat(), NOW) == time
    assert parse_time(moment.isoformat(" "), NOW) == time
