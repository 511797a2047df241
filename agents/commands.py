"""Slash commands: how a user names agents at the start of a message. Pure."""

import re
from collections.abc import Container

import msgspec

from agents.chat import Chat

_COMMAND = re.compile(r"\s*/([a-z][a-z0-9_-]*)(?::(\S*))?(?=\s|\Z)\s*")
NAME = re.compile(r"[a-z][a-z0-9_-]*")
"""Of an agent."""


class Asked(msgspec.Struct, frozen=True):
    """An agent that was asked for, and with what: `/parallel:vote` is `Asked("parallel", "vote")`."""

    agent: str
    argument: str = ""


def parse_name(text: str) -> Asked:
    """What a field or a header asks for: `name` or `name:argument`."""
    name, _, argument = text.strip().removeprefix("/").partition(":")
    return Asked(name, argument)


def parse_commands(text: str, known: Container[str]) -> tuple[list[Asked], str]:
    """The commands that a message begins with, in order, and the message without them.

    It ends with the first word that is none of `known`'s: a user may write of /etc/hosts. A message without
    a command keeps its exact text.
    """
    calls: list[Asked] = []
    position = 0
    while (found := _COMMAND.match(text, position)) and found[1] in known:
        calls.append(Asked(found[1], found[2] or ""))
        position = found.end()
    return calls, text[position:]


def take_commands(chat: Chat, known: Container[str]) -> tuple[list[Asked], Chat]:
    """The commands of the last user message, and the conversation without any.

    Those of earlier turns were carried out then; a client sends them again, and the model must see the same
    text as before, or its server could not use what it kept of the conversation.
    """
    calls: list[Asked] = []
    messages = list(chat.messages)
    for index, message in enumerate(messages):
        if message.role == "user":
            calls, rest = parse_commands(message.text, known)
            if calls:
                messages[index] = msgspec.structs.replace(message, text=rest)
    return calls, msgspec.structs.replace(chat, messages=messages) if messages != chat.messages else chat
