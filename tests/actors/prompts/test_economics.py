"""Economics: what is worth saving, and for how long it may be waited for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.prompts.economics import (
    BANDWIDTH,
    LIMIT,
    Candidate,
    chance,
    duration,
    worth_restoring,
    worth_saving,
)

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        slot=st.integers(0, 7),
        spares=st.floats(0, 1000),
        chance=st.floats(0, 1),
        size=st.integers(0, 1 << 36),
    ),
    max_size=8,
)


@given(CANDIDATES, st.floats(1e6, 1e10))
def test_saving_never_delays_a_stop_by_more_than_it_spares(found: list[Candidate], bandwidth: float) -> None:
    chosen = list(worth_saving(found, bandwidth))
    for one, limit in chosen:
        assert limit <= one.spares * one.chance
        assert limit <= LIMIT
        assert 2 * duration(one.size, bandwidth) < one.spares * one.chance
    assert sum(duration(one.size, bandwidth) for one, _ in chosen) <= LIMIT + 1e-6


@pytest.mark.parametrize(
    ("spares", "likely", "size", "saved"),
    [
        (60.0, 0.8, 1 << 30, True),
        (60.0, 0.8, 100 << 30, False),  # would take longer than it may
        (0.1, 0.8, 1000, False),  # read again in no time
        (60.0, 0.001, 1 << 30, False),  # will not come back
    ],
)
def test_what_is_saved(spares: float, likely: float, size: int, saved: bool) -> None:
    one = Candidate(slot=0, spares=spares, chance=likely, size=size)
    assert bool(list(worth_saving([one], BANDWIDTH))) is saved


def test_the_best_comes_first() -> None:
    small = Candidate(slot=0, spares=100, chance=0.5, size=1 << 20)
    large = Candidate(slot=1, spares=100, chance=0.5, size=2 << 30)
    assert [one.slot for one, _ in worth_saving([large, small], BANDWIDTH)] == [0, 1]
    assert [one.slot for one, _ in worth_saving([large, small], BANDWIDTH, limit=1.0)] == [0]


def test_a_conversation_is_forgotten_slowly() -> None:
    assert chance(5, 0) > chance(5, 3600) > chance(5, 7200) > 0
    assert chance(2, 0) > chance(1, 0)


def test_a_restore_must_be_faster_than_reading() -> None:
    assert worth_restoring(60.0, 1 << 30, BANDWIDTH)
    assert not worth_restoring(1.0, 1 << 30, BANDWIDTH)
