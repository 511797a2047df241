"""Responses and their streams, held to the types of OpenAI's own client: nothing missing, nothing more."""

import json
from collections.abc import Iterable
from typing import Any

from openai import BaseModel
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

Json = dict[str, Any]

_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_FURTHER = {"custom_tool_call": {"status"}}
"""Fields that these types lack and OpenAI's answers have: Vercel's client needs them."""


def events_of(stream: bytes) -> list[Json]:
    """The events of a stream, each under its own name, numbered from 0, and valid."""
    events = []
    for frame in stream.decode().split("\n\n")[:-1]:
        name, _, data = frame.partition("\n")
        event: Json = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        known = _EVENTS.validate_json(json.dumps(event), strict=True)
        assert known.type == event["type"]
        _check(known)
    return events


def check_response(response: Json) -> None:
    """A whole response is valid."""
    _check(Response.model_validate_json(json.dumps(response), strict=True))


def check_stream(events: Iterable[Json]) -> Json:
    """The events of a whole stream fit together. Returns the response at its end."""
    first, *middle, last = events
    begin = [first["type"].removeprefix("response.")]
    while middle and middle[0]["type"] in ("response.queued", "response.in_progress"):
        begin.append(middle.pop(0)["type"].removeprefix("response."))
    assert begin in (["created", "in_progress"], ["created", "queued", "in_progress"])
    items: dict[int, Json] = {}
    done: dict[int, Json] = {}
    for event in middle:
        kind, index = event["type"], event["output_index"]
        if kind == "response.output_item.added":
            assert index not in items
            items[index] = event["item"]
        elif kind == "response.output_item.done":
            assert event["item"]["id"] == items[index]["id"]
            done[index] = event["item"]
        else:
            assert event["item_id"] == items[index]["id"]
            assert index not in done
            _grow(items[index], event)
    response: Json = last["response"]
    check_response(response)
    assert response["id"] == first["response"]["id"]
    assert last["type"] == f"response.{response['status']}"
    assert [done[index] for index in range(len(items))] == response["output"]
    for index, item in items.items():
        whole = {"status": "", "action": 0, "encrypted_content": ""}
        assert {**item, **whole} == {**done[index], **whole}
    return response


def _grow(item: Json, event: Json) -> None:
    kind = event["type"]
    if kind in ("response.content_part.added", "response.reasoning_summary_part.added"):
        parts = item["summary" if "summary" in kind else "content"]
        assert len(parts) == event.get("content_index", event.get("summary_index"))
        parts.append(event["part"])
    elif kind.endswith("_part.done"):
        parts = item["summary" if "summary" in kind else "content"]
        parts[event.get("content_index", event.get("summary_index"))] = event["part"]
    elif "function_call_arguments" in kind or "custom_tool_call_input" in kind:
        field = "arguments" if "arguments" in kind else "input"
        if kind.endswith("delta"):
            item[field] += event["delta"]
        assert item[field] == event.get(field, item[field])
    else:
        part = item["summary" if "summary" in kind else "content"][-1]
        if kind.endswith("delta"):
            part["text"] += event["delta"]
        assert part["text"] == event.get("text", part["text"])


def _check(value: Any) -> None:
    """Nothing in it is unknown to its type."""
    if isinstance(value, BaseModel):
        more = set(value.model_extra or {})
        assert not more - _FURTHER.get(getattr(value, "type", ""), set()), (value, more)
        for name in type(value).model_fields:
            _check(getattr(value, name))
    elif isinstance(value, list):
        for one in value:
            _check(one)
