"""Slash commands: names of agents at the start of a message. Pure."""

import re
from collections.abc import Callable, Container, Iterable

import msgspec

from actors.errors import UNREADABLE
from agents.chat import Chat

_COMMAND = re.compile(r"[ \t\r\n]*/([a-z][a-z0-9_-]*)(?::(\S*))?(?=\s|\Z)\s*")
NAME = re.compile(r"[a-z][a-z0-9_-]*")
"""The form of an agent's name."""


MOST_COMMANDS = 32
"""Most commands in a message; further ones are text."""

_START = 64 * 1024
"""Number of leading bytes in which commands are searched before a message is decoded."""

_FIELD_IN_JSON = b'"agents"'
_COMMAND_IN_JSON = rb'"(?:[ \t\r\n]|\\[nrt]|\\u00(?:0[9aAdD]|20))*(?:\\?/|\\u002[fF])(?:%s)(?![a-z0-9_-])'


def search_in_json(names: Iterable[str]) -> Callable[[bytes], bool]:
    """Return a function that finds every JSON body which names agents, by the field or by a command.

    Code has thousands of quotation marks, with which the pattern of a command begins, but hardly ever a slash
    with an agent's name: without one, or an escaped slash, the pattern is not searched.
    """
    known = b"|".join(re.escape(name.encode()) for name in sorted(names))
    command = re.compile(_COMMAND_IN_JSON % known)
    slash = re.compile(rb"/(?:%s)(?![a-z0-9_-])" % known)

    def search(body: bytes) -> bool:
        if _FIELD_IN_JSON in body:
            return True
        may_command = slash.search(body) is not None or rb"\u002" in body
        return may_command and command.search(body) is not None

    return search


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
    """Return the start of a message's first text."""
    raw = bytes(memoryview(content)[:1])
    if raw != b"[":
        return _start(content)
    try:
        parts = msgspec.json.decode(content, type=list[_Part])
    except (ValueError, RecursionError):
        return ""
    return next((text for part in parts if (text := _start(part.text))), "")


def _start(string: msgspec.Raw) -> str:
    """Decode only the start of a JSON string, since 50 MB take long. Empty for any other value."""
    view = memoryview(string)
    cuts = [bytes(view)] if len(view) <= _START else [bytes(view[: _START - n]) + b'"' for n in range(12)]
    for cut in cuts:  # a cut that is not inside an escape or a character
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
    """Split a message into its leading commands, in order, and the rest.

    The first word that is not a command in `known` ends the commands, since a message may begin with
    /etc/hosts. A message without a command keeps its exact text.
    """
    calls: list[AgentCall] = []
    position = 0
    while (found := _COMMAND.match(text, position)) and found[1] in known and len(calls) < MOST_COMMANDS:
        calls.append(AgentCall(found[1], found[2] or ""))
        position = found.end()
    return calls, text[position:]


def take_commands(chat: Chat, known: Container[str]) -> tuple[list[AgentCall], Chat]:
    """Return the commands of the last user message, and the conversation without commands.

    Commands of earlier turns were carried out then, but clients send them again. They are removed, so that
    the model sees the same text as before and its server can use the cached prompt.
    """
    calls: list[AgentCall] = []
    messages = list(chat.messages)
    for index, message in enumerate(messages):
        if message.role == "user":
            calls, rest = parse_commands(message.text, known)
            if calls:
                messages[index] = msgspec.structs.replace(message, text=rest)
    return calls, msgspec.structs.replace(chat, messages=messages) if messages != chat.messages else chat
