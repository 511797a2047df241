"""Slash commands: how a user names agents at the start of a message. Pure."""

import re
from collections.abc import Container, Iterable

import msgspec

from actors.errors import UNREADABLE
from agents.chat import Chat

_COMMAND = re.compile(r"[ \t\r\n]*/([a-z][a-z0-9_-]*)(?::(\S*))?(?=\s|\Z)\s*")
NAME = re.compile(r"[a-z][a-z0-9_-]*")
"""Of an agent."""


MOST_COMMANDS = 32
"""More are text: nobody means them, and each costs its time."""

_START = 64 * 1024
"""Bytes of a message in which its commands are looked for before it is decoded."""

_IN_JSON = (
    rb'"(?:agents"|(?:[ \t\r\n]|\\[nrt]|\\u00(?:0[9aAdD]|20))*'
    rb"(?:\\?/|\\u002[fF])(?:%s)(?![a-z0-9_-]))"
)


def pattern_in_json(names: Iterable[str]) -> re.Pattern[bytes]:
    """What a JSON body has, however it is escaped, if it names agents: the field, or a text with a command.

    It begins with a quotation mark, by which it is found at the speed of `memchr`.
    """
    return re.compile(_IN_JSON % b"|".join(re.escape(name.encode()) for name in sorted(names)))


class _Part(msgspec.Struct):
    text: msgspec.Raw = msgspec.Raw(b'""')


class _Turn(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw(b"null")


class _Glance(msgspec.Struct):
    agents: msgspec.Raw | None = None
    messages: list[msgspec.Raw] = []


def asks_for_agents(body: bytes, known: Container[str]) -> bool:
    """Whether a chat's body has the field, or a command at the start of its last user message."""
    try:
        glance = msgspec.json.decode(body, type=_Glance)
    except UNREADABLE:
        return False
    if glance.agents is not None:
        return True
    for raw in reversed(glance.messages):
        try:
            turn = msgspec.json.decode(raw, type=_Turn)
        except UNREADABLE:
            continue
        if turn.role == "user":
            return bool(parse_commands(_first_text(turn.content), known)[0])
    return False


def _first_text(content: msgspec.Raw) -> str:
    """The start of the first text of a message that has one."""
    raw = bytes(memoryview(content)[:1])
    if raw != b"[":
        return _start(content)
    try:
        parts = msgspec.json.decode(content, type=list[_Part])
    except (ValueError, RecursionError):
        return ""
    return next((text for part in parts if (text := _start(part.text))), "")


def _start(string: msgspec.Raw) -> str:
    """The start of a JSON string, where commands are; to decode 50 MB takes long. Empty for another value."""
    view = memoryview(string)
    cuts = [bytes(view)] if len(view) <= _START else [bytes(view[: _START - n]) + b'"' for n in range(12)]
    for cut in cuts:  # one that is no part of an escape or of a character
        try:
            return msgspec.json.decode(cut, type=str)
        except (ValueError, RecursionError):
            continue
    return ""


class AgentCall(msgspec.Struct, frozen=True):
    """An agent that a request calls: `/parallel:vote` is `AgentCall("parallel", "vote")`."""

    agent: str
    argument: str = ""


def parse_name(text: str) -> AgentCall:
    """Read an entry of a field or a header: `name` or `name:argument`."""
    name, _, argument = text.strip().removeprefix("/").partition(":")
    return AgentCall(name, argument)


def parse_commands(text: str, known: Container[str]) -> tuple[list[AgentCall], str]:
    """The commands that a message begins with, in order, and the message without them.

    The first word that is not a command of `known` ends them: a user may write of /etc/hosts. A message
    without a command keeps its exact text.
    """
    calls: list[AgentCall] = []
    position = 0
    while (found := _COMMAND.match(text, position)) and found[1] in known and len(calls) < MOST_COMMANDS:
        calls.append(AgentCall(found[1], found[2] or ""))
        position = found.end()
    return calls, text[position:]


def take_commands(chat: Chat, known: Container[str]) -> tuple[list[AgentCall], Chat]:
    """The commands of the last user message, and the conversation without any.

    Those of earlier turns were carried out then; a client sends them again, and the model must see the same
    text as before, or its server could not use what it kept of the conversation.
    """
    calls: list[AgentCall] = []
    messages = list(chat.messages)
    for index, message in enumerate(messages):
        if message.role == "user":
            calls, rest = parse_commands(message.text, known)
            if calls:
                messages[index] = msgspec.structs.replace(message, text=rest)
    return calls, msgspec.structs.replace(chat, messages=messages) if messages != chat.messages else chat
