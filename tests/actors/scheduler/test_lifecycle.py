"""The table of a model's life."""

import itertools

import pytest

from actors.scheduler.lifecycle import TRANSITIONS, InvalidTransitionError, Life, Move, State


@pytest.mark.parametrize(("state", "move"), list(itertools.product(State, Move)))
def test_every_pair_is_in_the_table_or_raises_with_its_story(state: State, move: Move) -> None:
    life = Life("demo")
    life.state = state
    if (state, move) in TRANSITIONS:
        life.move(move)
        assert life.state is TRANSITIONS[state, move]
        assert life.epoch == (move is Move.FETCH)
        return
    life.story.append("how it came here")
    with pytest.raises(
        InvalidTransitionError, match=f"demo: no way to {move} from {state} .*how it came here"
    ):
        life.move(move)


def test_every_state_can_be_left() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State) == set(TRANSITIONS.values())
