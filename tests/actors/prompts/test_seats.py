"""Seats: a key never gets another one's prompt, and a conversation goes where its prompt is."""

from hypothesis import given
from hypothesis import strategies as st

from actors.prompts.chain import Chain
from actors.prompts.seats import Seats


def chain(*words: str) -> Chain:
    digests = tuple("/".join(words[: n + 1]) for n in range(len(words)))
    return Chain(("", *digests), tuple(range(len(words) + 1)))


def ask(seats: Seats, client: str, *words: str) -> tuple[int, bool]:
    """A request that is over at once."""
    taken = seats.take(client, chain(*words))
    assert taken is not None
    seats.leave(taken[0])
    return taken


def test_a_conversation_goes_where_its_prompt_is() -> None:
    seats = Seats(range(3))
    first, second = ask(seats, "alice", "a"), ask(seats, "alice", "b")
    assert first[0] != second[0], "a slot is free"
    assert ask(seats, "alice", "a", "more") == (first[0], False)
    assert ask(seats, "alice", "b", "more") == (second[0], False)
    third = ask(seats, "alice", "c")
    assert {first[0], second[0], third[0]} == {0, 1, 2}
    assert ask(seats, "alice", "d")[0] == first[0], "the one that was used the longest ago"


def test_another_keys_slot_is_strange() -> None:
    seats = Seats([0])
    assert ask(seats, "alice", "a") == (0, True)
    assert ask(seats, "alice", "a") == (0, False)
    assert ask(seats, "bob", "a") == (0, True)
    assert ask(seats, "alice", "a") == (0, True)


def test_all_slots_in_use() -> None:
    seats = Seats([0])
    assert seats.take("alice", None) == (0, True)
    assert seats.take("alice", None) is None
    seats.leave(0)
    assert seats.take("alice", None) == (0, False)


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.sampled_from("xyz"), max_size=3), st.booleans())),
)
def test_what_is_used_is_always_the_keys_own(slots: int, requests: list[tuple[str, list[str], bool]]) -> None:
    seats, owner, held = Seats(range(slots)), dict[int, str](), list[int]()
    for client, words, stays in requests:
        taken = seats.take(client, chain(*words))
        if taken is None:
            assert len(held) == slots
            seats.leave(held.pop(0))
            continue
        slot, strange = taken
        assert slot not in held
        assert strange or owner[slot] == client
        owner[slot] = client
        held.append(slot)
        if not stays:
            seats.leave(held.pop())
