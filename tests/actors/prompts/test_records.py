"""Records: whose prompt is in a slot."""

import msgspec

from actors.prompts.chain import Chain
from actors.prompts.records import KEPT, Record, Records


def chain(*words: str) -> Chain:
    digests = tuple("/".join(words[: n + 1]) for n in range(len(words)))
    return Chain(digests, tuple(range(1, len(words) + 1)))


def record(*words: str, tokens: int = 100, client: str = "", at: float = 0.0) -> Record:
    return Record(client=client, chain=chain("", *words), tokens=tokens, prompt=tokens - 10, at=at)


def test_a_slot_is_known_by_its_tokens() -> None:
    records = Records()
    records.add(record("a", tokens=100))
    records.add(record("b", tokens=200))
    for tokens, words in ((100, "a"), (99, "a"), (200, "b"), (199, "b")):
        found = records.of_slot(0, tokens)
        assert found is not None
        assert found.chain == chain("", words)
    assert records.of_slot(0, 98) is None
    assert records.of_slot(0, 101) is None


def test_a_slot_of_one_of_two_keys_is_nobodys() -> None:
    records = Records()
    records.add(record("a", client="alice"))
    records.add(record("b", client="bob"))
    assert records.of_slot(0, 100) is None
    records.add(record("c", client="bob", tokens=50))
    found = records.of_slot(0, 50)
    assert found is not None
    assert found.client == "bob"


def test_a_conversation_replaces_what_it_continues() -> None:
    records = Records()
    records.add(record("a", tokens=100))
    records.add(record("a", "b", tokens=200))
    assert records.of_slot(0, 100) is None
    found = records.of_slot(0, 200)
    assert found is not None
    assert found.turns == 2
    records.add(record("a", "b", tokens=210))
    again = records.of_slot(0, 210)
    assert again is not None
    assert again.turns == 2, "the same request again is no turn"
    records.add(record("a", "b", "c", client="bob", tokens=300))
    other = records.of_slot(0, 300)
    assert other is not None
    assert other.turns == 1, "another key's"


def test_what_the_server_has_read() -> None:
    records = Records()
    records.add(record("a", "b", tokens=110))
    assert records.known(chain("", "a", "b", "c")) == 100
    assert 0 < records.known(chain("", "a", "x")) < 100
    assert records.known(chain("", "x")) == 0
    found = records.of_slot(0, 110)
    assert found is not None
    records.forget(found)
    assert records.known(chain("", "a", "b", "c")) == 0


def test_only_so_many_are_remembered() -> None:
    records = Records()
    for number in range(KEPT + 10):
        records.add(record(str(number), tokens=10 * number + 100))
    assert records.of_slot(0, 100) is None
    assert records.of_slot(0, 10 * (KEPT + 9) + 100) is not None


def test_a_request_that_was_given_a_slot_is_in_no_other() -> None:
    records = Records()
    for slot, client in enumerate(("alice", "bob")):
        records.add(msgspec.structs.replace(record("a", client=client), slot=slot))
    for slot, client in enumerate(("alice", "bob")):
        found = records.of_slot(slot, 100)
        assert found is not None
        assert found.client == client
    assert records.of_slot(2, 100) is None
