"""Slash commands: what is one, what is none, and what is left of the message."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.chat import Chat, Message
from agents.host.commands import AgentCall, parse_commands, parse_name, search_in_json, take_commands

KNOWN = {"rag", "parallel"}


@pytest.mark.parametrize(
    ("text", "names", "rest"),
    [
        ("/rag Tell me", ["rag"], "Tell me"),
        ("/rag /parallel Tell me about /rag", ["rag", "parallel"], "Tell me about /rag"),
        ("  /rag\n\n  indented", ["rag"], "indented"),
        ("/rag", ["rag"], ""),
        ("/rag/parallel x", [], "/rag/parallel x"),
        ("/etc/hosts", [], "/etc/hosts"),
        ("/unknown /rag x", [], "/unknown /rag x"),
        ("/rag /etc/hosts", ["rag"], "/etc/hosts"),
        ("/rag, please", [], "/rag, please"),
        ("/ragged x", [], "/ragged x"),
        ("/RAG x", [], "/RAG x"),
        ("tell /rag x", [], "tell /rag x"),
        ("  no command  ", [], "  no command  "),
        ("/", [], "/"),
        ("", [], ""),
        ("/rag /rag x", ["rag", "rag"], "x"),
    ],
)
def test_messages(text: str, names: list[str], rest: str) -> None:
    calls, left = parse_commands(text, KNOWN)
    assert ([call.agent for call in calls], left) == (names, rest)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/rag:papers x", [AgentCall("rag", "papers")]),
        ("/rag:a:b,c x", [AgentCall("rag", "a:b,c")]),
        ("/rag: x", [AgentCall("rag")]),
        ("/parallel:vote /rag:papers x", [AgentCall("parallel", "vote"), AgentCall("rag", "papers")]),
    ],
)
def test_arguments(text: str, expected: list[AgentCall]) -> None:
    assert parse_commands(text, KNOWN) == (expected, "x")


def test_names_in_fields() -> None:
    assert parse_name(" rag ") == parse_name("/rag") == AgentCall("rag")
    assert parse_name("rag:papers") == AgentCall("rag", "papers")


@given(st.text(alphabet=" \n/:ragplex", max_size=40))
def test_what_is_left_is_an_end_of_the_message_and_has_no_command(text: str) -> None:
    calls, rest = parse_commands(text, KNOWN)
    assert text.endswith(rest)
    assert parse_commands(rest, KNOWN) == ([], rest)
    assert (rest == text) == (not calls) or not text


@given(st.lists(st.sampled_from(sorted(KNOWN)), max_size=5), st.text())
def test_any_message_behind_commands_is_left_as_it_is(names: list[str], text: str) -> None:
    message = "".join(f"/{name} " for name in names) + "Q" + text
    calls, rest = parse_commands(message, KNOWN)
    assert ([call.agent for call in calls], rest) == (names, "Q" + text)


@given(st.text(alphabet=' \t\n\xa0\x0c/ragx:\\"', max_size=12), st.booleans())
def test_no_command_is_overlooked_in_json(text: str, ascii_only: bool) -> None:
    body = json.dumps({"content": text}, ensure_ascii=ascii_only).encode()
    for slashes in (body, body.replace(b"/", rb"\/"), body.replace(b"/", rb"\u002f")):
        if parse_commands(text, KNOWN)[0]:
            assert search_in_json(KNOWN)(slashes)


def test_only_the_last_user_message_commands_but_no_message_shows_a_command() -> None:
    chat = Chat(
        model="m",
        messages=[
            Message("system", "/rag stays"),
            Message("user", "/rag first"),
            Message("assistant", "/rag said"),
            Message("user", "/parallel second"),
            Message("tool", "/rag result"),
        ],
    )
    calls, left = take_commands(chat, KNOWN)
    assert calls == [AgentCall("parallel")]
    assert [message.text for message in left.messages] == [
        "/rag stays",
        "first",
        "/rag said",
        "second",
        "/rag result",
    ]


def test_earlier_commands_are_not_carried_out_again() -> None:
    chat = Chat(model="m", messages=[Message("user", "/rag first"), Message("user", "second")])
    calls, left = take_commands(chat, KNOWN)
    assert (calls, left.messages[0].text) == ([], "first")


def test_a_request_without_commands_is_the_same_object() -> None:
    chat = Chat(model="m", messages=[Message("user", "x")])
    assert take_commands(chat, KNOWN)[1] is chat
