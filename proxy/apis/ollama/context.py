"""The `context` of `/api/generate`: numbers that a client sends again, so that its model remembers.

A daemon's are the tokens of the conversation. Here they are the bytes of its turns as JSON, which mean the
same to every model server, and no client looks into them.
"""

from collections.abc import Sequence

import msgspec

from agents.chat import Message
from proxy.apis.answer_json import UnreadableError, reader


class Turn(msgspec.Struct, array_like=True):
    """What the user or the model said."""

    role: str
    text: str


_read_turns = reader(list[Turn])


def read_context(numbers: Sequence[int]) -> list[Message] | None:
    """Return the turns in a context; None if it is one of a daemon."""
    try:
        turns = _read_turns(bytes(numbers))
    except (UnreadableError, ValueError):  # of numbers that are no bytes
        return None
    return [Message(turn.role, turn.text) for turn in turns if turn.role in ("user", "assistant")]


def write_context(turns: Sequence[Turn], answer: str) -> list[int]:
    """Return the context after an answer to these turns."""
    return list(msgspec.json.encode([*turns, Turn("assistant", answer)]))


def turns_of(messages: Sequence[Message]) -> list[Turn]:
    """Return the turns that a context can hold."""
    return [Turn(one.role, one.text) for one in messages if one.role in ("user", "assistant")]
