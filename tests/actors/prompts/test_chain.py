"""Chains: which prompts begin alike."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.prompts.chain import Chain, chain_of

MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=20)}),
    min_size=1,
    max_size=6,
)


def chain(messages: Any, **fields: Any) -> Chain:
    found = chain_of(json.dumps({"messages": messages, **fields}).encode())
    assert found is not None
    return found


@given(MESSAGES, MESSAGES)
def test_a_conversation_that_goes_on_begins_with_what_was_before(first: Any, more: Any) -> None:
    before, after = chain(first), chain(first + more)
    assert after.extends(before)
    assert after.shared(before) == 1.0
    assert not before.extends(after)
    assert before.shared(after) < 1.0


@given(MESSAGES, MESSAGES, st.data())
def test_what_follows_a_change_is_not_shared(messages: Any, more: Any, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(messages) - 1))
    changed = [dict(message) for message in messages]
    changed[at]["content"] += "!"
    before, after = chain(messages + more), chain(changed + more)
    assert not after.extends(before)
    assert after.shared(before) < 1.0
    assert (after.shared(before) == 0.0) == (at == 0)


@pytest.mark.parametrize("field", ["tools", "response_format", "chat_template_kwargs"])
def test_what_comes_before_the_messages_counts(field: str) -> None:
    messages = [{"role": "user", "content": "hello"}]
    plain, other = chain(messages), chain(messages, **{field: {"a": 1}})
    assert other.shared(plain) == 0.0


def test_two_parts_are_not_taken_for_one() -> None:
    assert chain(["ab", "c"]).digests[-1] != chain(["a", "bc"]).digests[-1]


def test_a_text_without_messages() -> None:
    found = chain_of(b'{"prompt": "once upon a time"}')
    assert found is not None
    assert found.extends(found)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"messages": []}',
        b'{"messages": "x"}',
        b'{"messages": ["x"], "lora": [{"id": 0, "scale": 1}]}',
        b'{"messages": ["x"], "cache_prompt": false}',
        b'{"messages": ["x"], "n": 2}',
        b'{"messages": ["x"], "n_cmpl": 2}',
        b'{"messages": ["\xff"]}x',
    ],
)
def test_what_cannot_be_used_again_has_no_chain(body: bytes) -> None:
    assert chain_of(body) is None
