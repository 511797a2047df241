"""Requests that refer to kept responses, lists of items, and streams of responses that are whole."""

import json
from typing import Any

import pytest

from agents.events import AnswerStarted, Done, Event, Finish, Reasoning, Text, ToolCallDelta
from proxy.apis.fields import FieldError
from proxy.apis.interface import AnswerContext
from proxy.apis.responses.answer import Encoder
from proxy.apis.responses.kept import (
    TOKEN,
    input_of,
    listed,
    page,
    references,
    refers,
    resolved,
    response_of,
    stream_of,
    with_input,
)
from proxy.apis.responses.request import decode_request
from tests.openai_types import check_stream, events_of

Json = dict[str, Any]
TOKEN_OF = "ab" * (TOKEN // 2)
ITEMS: list[Json] = [{"id": f"msg_{number}"} for number in range(5)]


def test_the_input_of_a_body() -> None:
    assert input_of(b'{"model": "m", "input": "hello"}') == [{"role": "user", "content": "hello"}]
    assert input_of(b'{"input": [{"a": 1}], "x": 1}') == [{"a": 1}]
    assert input_of(b"{}") == []
    body = with_input(b'{"model":"m","big":1e400,"input":"x"}', [{"a": 1}])
    assert body == b'{"model":"m","big":1e400,"input":[{"a":1}]}'


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('"hello"', False),
        ("null", False),
        ('[{"role": "user", "content": "x"}, {"type": "reasoning", "id": "rs_1"}]', False),
        ('[{"type": "item_reference", "id": "msg_1"}]', True),
        ('[{"id": "msg_1"}]', True),
        ('[{"id": "msg_1", "role": null, "type": null}]', False),
        ('[{"type": {}, "role": []}]', False),
    ],
)
def test_whether_a_request_refers_to_items(given: str, expected: bool) -> None:
    assert refers(f'{{"model": "m", "input": {given}}}'.encode()) == expected


def test_references_are_resolved_in_their_places() -> None:
    items: list[Json] = [
        {"type": "item_reference", "id": f"msg_{TOKEN_OF}00"},
        {"id": "rs_unknown"},
        {"id": "msg_1", "role": "user", "content": "a"},
        {"type": "item_reference", "id": 3},
    ]
    assert references(items) == [f"msg_{TOKEN_OF}00", "rs_unknown"]
    assert response_of(references(items)[0]) == f"resp_{TOKEN_OF}"
    known = {f"msg_{TOKEN_OF}00": {"type": "message", "role": "assistant", "content": []}}
    assert resolved(items, known) == [known[f"msg_{TOKEN_OF}00"], *items[1:]]


def test_listed_items_have_all_that_clients_look_for() -> None:
    user, answer, call, own = listed(
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", "id": None},
            {"type": "function_call_output", "call_id": "c", "output": "d"},
            {"type": "message", "id": "msg_own", "role": "user", "content": [], "status": "incomplete"},
        ],
        "t",
    )
    assert user["content"] == [{"type": "input_text", "text": "a"}]
    assert answer["content"] == [{"type": "output_text", "text": "b", "annotations": []}]
    assert (user["id"], answer["id"], call["id"]) == ("msg_t0000", "msg_t0001", "fco_t0002")
    assert (user["type"], user["status"]) == ("message", "completed")
    assert (own["id"], own["status"]) == ("msg_own", "incomplete")


@pytest.mark.parametrize(
    ("query", "numbers", "more"),
    [
        ({}, [4, 3, 2, 1, 0], False),
        ({"order": "asc"}, [0, 1, 2, 3, 4], False),
        ({"order": "asc", "limit": "2"}, [0, 1], True),
        ({"order": "asc", "limit": "2", "after": "msg_1"}, [2, 3], True),
        ({"limit": "2", "after": "msg_2"}, [1, 0], False),
        ({"after": "msg_0"}, [], False),
    ],
)
def test_pages(query: dict[str, str], numbers: list[int], more: bool) -> None:
    found = page(ITEMS, query)
    assert [item["id"] for item in found["data"]] == [f"msg_{number}" for number in numbers]
    assert found["has_more"] == more
    assert found["last_id"] == (f"msg_{numbers[-1]}" if numbers else None)


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"order": "up"}, {"after": "msg_9"}]
)
def test_pages_that_there_are_not(query: dict[str, str]) -> None:
    with pytest.raises(FieldError) as caught:
        page(ITEMS, query)
    assert caught.value.field == next(iter(query))


CALL = [ToolCallDelta(0, "c1", "f"), ToolCallDelta(0, arguments='{"a": 1}')]


@pytest.mark.parametrize(
    "events",
    [
        [Text("Hel"), Text("lo")],
        [Reasoning("Let me"), Text("x")],
        [Text("x"), *CALL],
        [],
    ],
)
@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"reasoning": {"summary": "auto"}}, {"include": ["reasoning.encrypted_content"]}],
)
def test_a_stream_of_a_whole_response(events: list[Event], reason: Any, fields: Json) -> None:
    chat = decode_request(json.dumps({"model": "demo", "input": "x", **fields}).encode())
    context = AnswerContext(
        model="demo", request_id="r", started=1.0, load_seconds=0.0, token=TOKEN_OF, echo=chat.echo
    )
    encoder = Encoder(context)
    for event in (AnswerStarted("i", "m", 5), *events, Finish(reason), Done()):
        encoder.encode(event, 9)
    frames = stream_of(encoder.response, -1)
    assert check_stream(events_of(b"".join(frames))) == encoder.response
    assert stream_of(encoder.response, 1) == frames[2:]
    (last,) = stream_of(encoder.response, 99)
    assert b'"sequence_number":100,' in last
