"""The context of `/api/generate`."""

import json
from typing import Any

import pytest

from agents.chat import Chat, Message
from proxy.apis.ollama.context import Turn, read_context, turns_of, write_context
from proxy.apis.ollama.request import decode_generate


def asked(**fields: Any) -> Chat:
    chat = decode_generate(json.dumps({"model": "m", "prompt": "And?", **fields}).encode())
    assert isinstance(chat, Chat)
    return chat


def test_a_model_remembers_what_was_said() -> None:
    first = asked(prompt="Grüße", system="Be brief.")
    context = write_context(first.echo["turns"], "Hallo")
    assert all(0 <= number < 256 for number in context)
    second = asked(context=context, system="Be long.")
    assert second.messages == [
        Message("system", "Be long."),
        Message("user", "Grüße"),
        Message("assistant", "Hallo"),
        Message("user", "And?"),
    ]
    assert second.ignored == []
    third = read_context(write_context(second.echo["turns"], "Yes."))
    assert third is not None
    assert [turn.text for turn in turns_of(third)] == ["Grüße", "Hallo", "And?", "Yes."]


@pytest.mark.parametrize("context", [[1, 2, 3], [128006, 882, 128007], [-1], list(b"{}"), list(b"[1]")])
def test_a_context_of_a_daemon_means_nothing_here(context: list[int]) -> None:
    assert read_context(context) is None
    chat = asked(context=context)
    assert (chat.ignored, len(chat.messages)) == (["context"], 1)


def test_nobody_puts_words_into_the_mouth_of_the_system() -> None:
    assert read_context(list(b'[["system","x"],["user","y"]]')) == [Message("user", "y")]
    assert write_context([Turn("user", "y")], "z") == list(b'[["user","y"],["assistant","z"]]')
