"""What a waiting client is told."""

import pytest

from actors.scheduler.lifecycle import State
from actors.scheduler.model_states import ModelSpec, Outlook
from proxy.access.keys import Rights
from proxy.answers.call import as_told_to


@pytest.mark.parametrize(
    ("rights", "hidden", "named"),
    [
        (Rights(), False, "'big'"),
        (Rights(), True, "another model"),
        (Rights(models=("small",)), False, "another model"),
        (Rights(models=("small", "large")), False, "'big'"),
    ],
)
def test_models_that_no_list_shows_are_not_named(rights: Rights, hidden: bool, named: str) -> None:
    outlook = Outlook(
        model="small",
        state=State.FETCHED,
        position=1,
        seconds=3.0,
        why="'big' would have to make room, and will in 3.0 s",
        others=(ModelSpec(name="big", aliases=("large",), hidden=hidden),),
    )
    told = as_told_to(lambda *names: rights.may_use_model(names), outlook)
    assert told.why == f"{named} would have to make room, and will in 3.0 s"
