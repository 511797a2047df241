"""Which answers are the same, and when a vote is decided."""

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from agents.chat import ToolCall
from agents.events import Answer
from agents.parallel.voting import ballot, is_decided, normalised, winner


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("42", " 42.\n", True),
        ("**Paris**", "paris", True),
        ("The answer is:\n\n 7", "the  answer is: 7", True),
        ("`x = 1`", "x = 1", True),
        ("ﬁne", "fine", True),
        ("STRASSE", "straße", True),
        ("Yes!", "yes", True),
        ("1.5", "15", False),
        ("-1", "1", False),
        ("yes", "no", False),
        ("a b", "ab", False),
    ],
)
def test_what_makes_no_difference(one: str, other: str, same: bool) -> None:
    assert (normalised(one) == normalised(other)) is same


@given(st.text())
def test_what_is_normal_stays_so(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


@pytest.mark.parametrize(
    ("text", "pattern", "expected"),
    [
        ("Let me think. Answer: 7. No, answer: 8.", r"(?i)answer: (\d+)", "8"),
        ("I take B", "[A-D]", "b"),
        ("nothing of it", r"answer: (\d+)", "nothing of it"),
    ],
)
def test_the_part_that_is_voted_on(text: str, pattern: str, expected: str) -> None:
    assert ballot(Answer(text=text), regex.compile(pattern)) == expected


def test_tool_calls_vote_by_what_they_call() -> None:
    def called(arguments: str, name: str = "f", ident: str = "1") -> str:
        return ballot(Answer(text="so", tool_calls=[ToolCall(ident, name, arguments)]))

    assert called('{"a":1,"b":2}') == called('{ "b": 2, "a": 1 }', ident="2")
    assert called("") == called("{}")
    assert called('{"a":1}') != called('{"a":2}')
    assert called("{}") != called("{}", name="g")
    assert called("{broken") != called("{}")


@pytest.mark.parametrize(
    ("ballots", "expected"),
    [(["a"], (0, 1)), (["a", "b", "b"], (1, 2)), (["b", "a", "a", "b"], (0, 2)), (["x", "y", "z"], (0, 1))],
)
def test_who_wins(ballots: list[str], expected: tuple[int, int]) -> None:
    assert winner(ballots) == expected


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), st.integers(0, 9))
def test_a_decided_vote_is_never_overturned(ballots: list[str], given: int) -> None:
    given = 1 + given % len(ballots)
    if is_decided(ballots[:given], len(ballots)):
        assert ballots[winner(ballots)[0]] == ballots[winner(ballots[:given])[0]]
    elif given == len(ballots):
        counts = sorted((ballots.count(choice) for choice in set(ballots)), reverse=True)
        assert len(counts) > 1, "an undecided end is a tie"
        assert counts[0] == counts[1]
