"""Answers that are whole although they look like none: what an honest model server may send. `ALL` by name.

A path that a table of events lacks gets an ordinary answer.
"""

from collections.abc import Callable

from tests.attack.streams import (
    DONE,
    GOOD,
    USAGE,
    chat_event,
    chunks,
    event,
    head,
    text_event,
)

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"

_ROLE = chat_event({"role": "assistant", "content": None})
_CALL = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_USAGE_EVENT = event({"choices": [], "usage": USAGE})


TABLES: dict[str, dict[str, list[bytes]]] = {
    "tools-only": {
        CHAT: [_ROLE, chat_event({"tool_calls": [_CALL]}), chat_event({}, "tool_calls"), DONE],
    },
    "nothing-said": {
        CHAT: [_ROLE, chat_event({}, "stop"), DONE],
        TEXT: [text_event("", "stop"), DONE],
        "/completion": [event({"content": "", "stop": True})],
    },
    "one-event": {
        CHAT: [chat_event({"role": "assistant", "content": "x"}, "stop"), DONE],
        TEXT: [text_event("x", "stop"), DONE],
    },
    "usage-after-the-end": {
        CHAT: [*GOOD[CHAT][:-1], _USAGE_EVENT, DONE],
        TEXT: [*GOOD[TEXT][:-1], _USAGE_EVENT, DONE],
    },
}

_FRAMINGS: dict[str, Callable[[list[bytes]], bytes]] = {
    "pings-before": lambda events: head() + chunks([b":\n\n", b": ping\n\n", *events]),
    "pings-between": lambda events: head() + chunks([x for one in events for x in (b": p\n\n", one)]),
    "returns": lambda events: head() + chunks([one.replace(b"\n", b"\r") for one in events]),
    "ids": lambda events: head() + chunks([b"id: 1\nretry: 5\n" + one for one in events]),
    "one-chunk": lambda events: head() + chunks([b"".join(events)]),
    "open-end": lambda events: head("Connection: close", chunked=False) + b"".join(events),
    "no-last-newline": lambda events: head() + chunks([*events[:-1], events[-1].rstrip(b"\n")]),
    "trailer": lambda events: head("Trailer: X") + chunks(events, end=b"0\r\nX: y\r\n\r\n"),
    "early-hints": lambda events: b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + head() + chunks(events),
}


def _of_table(table: dict[str, list[bytes]]) -> Callable[[str], bytes]:
    return lambda path: head() + chunks(table.get(path, GOOD[path]))


def _framed(frame: Callable[[list[bytes]], bytes]) -> Callable[[str], bytes]:
    return lambda path: frame(GOOD[path])


ALL: dict[str, Callable[[str], bytes]] = {
    **{name: _of_table(table) for name, table in TABLES.items()},
    **{name: _framed(frame) for name, frame in _FRAMINGS.items()},
}
