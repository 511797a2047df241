"""The `context` of `/api/generate`: numbers that a client sends back, so that the model remembers.

A daemon writes the tokens of the conversation. The gateway writes the bytes of the turns as JSON instead:
they mean the same for every model server, and clients do not interpret them.
"""

from collections.abc import Sequence

import msgspec

from agents.chat import Message
from proxy.apis.answer_json import UnreadableError, reader


class Turn(msgspec.Struct, array_like=True):
    """A text of the user or of the model."""

    role: str
    text: str


_read_turns = reader(list[Turn])


def read_context(numbers: Sequence[int]) -> list[Message] | None:
    """Return the turns in a context; None if a daemon wrote it."""
    try:
        turns = _read_turns(bytes(numbers))
    except (UnreadableError, ValueError):  # ValueError: a number is not a byte
        return None
    return [Message(turn.role, turn.text) for turn in turns if turn.role in ("user", "assistant")]


def write_context(turns: Sequence[Turn], answer: str) -> list[int]:
    """Return the context after an answer to these turns."""
    return list(msgspec.json.encode([*turns, Turn("assistant", answer)]))


def turns_of(messages: Sequence[Message]) -> list[Turn]:
    """Return the turns that a context can hold."""
    return [Turn(one.role, one.text) for one in messages if one.role in ("user", "assistant")]
