"""The lines that a waiting user reads in the reasoning of an answer."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.progress import Progress
from actors.scheduler.lifecycle import State
from actors.scheduler.loading import LoadingLines, ordinal, without_lines
from actors.scheduler.model_states import Outlook


def outlook(state: State = State.STARTING, **fields: Any) -> Outlook:
    return Outlook(model="qwen", state=state, **{"position": 1, "seconds": 40.0, "why": None, **fields})


@pytest.mark.parametrize(
    ("waits", "progress", "line"),
    [
        (outlook(loading=5.0, load_seconds=20.0), None, "loading, 25 %, about 15 s"),
        (outlook(loading=50.0, load_seconds=20.0), None, "loading, 99 %"),
        (
            outlook(loading=5.0, load_seconds=20.0, position=3),
            None,
            "loading, 25 %, 3rd in the queue, about 40 s",
        ),
        (outlook(State.READY, position=2), None, "its slots are busy, 2nd in the queue, about 40 s"),
        (outlook(State.FETCHED, why="waits for 3 GiB\nof GPU 0"), None, "waits for 3 GiB of GPU 0"),
        (outlook(State.FETCHED), None, "waiting for memory"),
        (outlook(State.DRAINING), None, "making room for another model"),
        (outlook(State.FETCHING), Progress(have=42, total=100, rate=5.0), "downloading, 42 %, about 12 s"),
        (outlook(State.FETCHING), Progress(have=0, total=0), "downloading"),
    ],
)
def test_lines(waits: Outlook, progress: Progress | None, line: str) -> None:
    assert LoadingLines().next(waits, progress, 0.0) == f"[gateway] qwen: {line}\n"


def test_there_is_a_name_for_each_state() -> None:
    for state in State:
        line = LoadingLines().next(outlook(state, load_seconds=0.0), None, 0.0)
        assert line is not None
        assert line.partition(": ")[2].strip()


def test_only_news_are_told() -> None:
    lines = LoadingLines()

    def told(now: float, **fields: Any) -> str | None:
        return lines.next(outlook(load_seconds=100.0, **fields), None, now)

    assert told(0, loading=0.0)
    assert told(1, loading=1.0) is None
    assert told(4, loading=50.0) is None, "too soon after the last line"
    assert told(6, loading=50.0)
    assert told(60, loading=55.0) is None, "too little further"
    assert told(61, loading=55.0, position=2), "another place in the queue"
    assert told(62, loading=55.0)


STATES = st.builds(
    outlook,
    st.sampled_from([State.FETCHED, State.STARTING, State.READY]),
    position=st.integers(1, 3),
    loading=st.floats(0, 200),
    load_seconds=st.just(100.0),
)


@given(st.lists(STATES, max_size=30), st.floats(0.1, 3))
def test_no_line_follows_itself(waits: list[Outlook], step: float) -> None:
    lines = LoadingLines()
    told = [line for n, one in enumerate(waits) if (line := lines.next(one, None, n * step)) is not None]
    assert all(one != other for one, other in pairwise(told))
    assert without_lines("".join(told) + "Hm.") == "Hm."


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("", ""),
        ("Hm.\n[gateway] qwen: loading\n", "Hm.\n[gateway] qwen: loading\n"),
        ("[gateway] a: loading, 5 %\n[gateway] a: loading, 50 %\n", ""),
        ("[gateway] a: loading\n\nHm.", "\nHm."),
        ("[gateway] a line of the model without an end", "[gateway] a line of the model without an end"),
    ],
)
def test_taking_them_out(text: str, rest: str) -> None:
    assert without_lines(text) == rest


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (112, "112th"), (121, "121st")],
)
def test_ordinals(number: int, text: str) -> None:
    assert ordinal(number) == text
