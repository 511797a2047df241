"""Resolves references to stored responses, lists their items in pages, and replays their streams."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from actors.scheduler.loading import MARK, without_lines
from proxy.apis.fields import FieldError, Json, decode, encode
from proxy.apis.responses.items import kind_of
from proxy.apis.responses.output import Item, Message, Thought, frame
from proxy.apis.responses.response import sealed

PAGE = 20
LONGEST_PAGE = 100

_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}


class _Referring(msgspec.Struct):
    input: str | list[Json] | None = None


class _Item(msgspec.Struct):
    """The fields that distinguish a reference from an item. Others may be large, and are not decoded."""

    type: Any = None
    role: Any = msgspec.UNSET


class _Looked(msgspec.Struct):
    input: str | list[_Item] | None = None


def refers(body: bytes) -> bool:
    """Whether a request refers to stored items. Raises `FieldError`."""
    given = decode(body, _Looked).input
    return isinstance(given, list) and any(
        item.type == "item_reference" or (item.type is None and item.role is msgspec.UNSET) for item in given
    )


def to_keep(response: Json) -> Json:
    """Return a response without what the gateway told its client meanwhile, which is no part of a history."""
    output = [_without_lines(item) for item in response.get("output") or []]
    return {**response, "output": [item for item in output if item is not None]}


def _without_lines(item: Json) -> Json | None:
    """Return an item without the gateway's lines; None if it has nothing else."""
    parts = item.get("summary") or item.get("content") or []
    if item.get("type") != "reasoning" or not parts or not parts[0]["text"].startswith(MARK):
        return item
    if not (text := without_lines(parts[0]["text"])):
        return None
    field = "summary" if item.get("summary") else "content"
    item = {**item, field: [{**parts[0], "text": text}]}
    return item | {"encrypted_content": sealed(text)} if "encrypted_content" in item else item


def input_of(body: bytes) -> list[Json]:
    """Return the items of a request; a text becomes a user's message. Raises `FieldError`."""
    given = decode(body, _Referring).input
    return [{"role": "user", "content": given}] if isinstance(given, str) else given or []


def references(items: list[Json]) -> list[str]:
    """Return the ids of the stored items that a request refers to."""
    return [
        item["id"] for item in items if kind_of(item) == "item_reference" and isinstance(item.get("id"), str)
    ]


def response_of(item_id: str) -> str:
    """Return the id of an item's response. After their prefixes, both ids begin with the same letters."""
    return "resp_" + item_id.partition("_")[2][:TOKEN]


TOKEN = 32
"""Number of letters of the token that all ids of one response contain."""


def resolved(items: list[Json], known: Mapping[str, Json]) -> list[Json]:
    """Return the items with references replaced by the `known` items; unknown references stay."""
    return [
        known.get(str(item.get("id")), item) if kind_of(item) == "item_reference" else item for item in items
    ]


def with_input(body: bytes, items: list[Json]) -> bytes:
    """Return the body with these items as its input. All other fields keep their exact bytes."""
    fields = decode(body, dict[str, msgspec.Raw])
    return encode({**fields, "input": items})


def listed(items: list[Json], token: str) -> list[Json]:
    """Return input items as lists show them: each with an id, a type and a status."""
    return [_listed(item, f"{token}{index:04x}") for index, item in enumerate(items)]


def _listed(item: Json, token: str) -> Json:
    kind = str(kind_of(item))
    given = {name: value for name, value in item.items() if value is not None}
    whole = {"id": f"{_PREFIXES.get(kind, 'item')}_{token}", "status": "completed", **given, "type": kind}
    if kind == "message" and isinstance(item.get("content"), str):
        is_answer = item.get("role") == "assistant"
        part: Json = {"type": "output_text" if is_answer else "input_text", "text": item["content"]}
        whole["content"] = [part | {"annotations": []} if is_answer else part]
    return whole


def page(items: list[Json], query: Mapping[str, str]) -> Json:
    """Return one page: at most `limit` items after `after`, the newest first unless `order` is "asc".

    Raises `FieldError`.
    """
    order, after = query.get("order", "desc"), query.get("after")
    try:
        limit = int(query.get("limit", PAGE))
    except ValueError:
        limit = 0
    if not 1 <= limit <= LONGEST_PAGE:
        raise FieldError("limit", f"must be a number from 1 to {LONGEST_PAGE}")
    if order not in ("asc", "desc"):
        raise FieldError("order", "must be asc or desc")
    ordered = items if order == "asc" else items[::-1]
    ids: list[Any] = [item.get("id") for item in ordered]
    if after is not None and after not in ids:
        raise FieldError("after", f"there is no item {after[:100]!r}")
    start = ids.index(after) + 1 if after is not None else 0
    shown = ordered[start : start + limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": start + limit < len(ordered),
    }


# Streams of complete responses


def frames_in(data: bytes) -> list[bytes]:
    """Return the events in the bytes of a stream."""
    return [frame + b"\n\n" for frame in data.split(b"\n\n") if frame]


def stream_of(response: Json, after: int) -> list[bytes]:
    """Return the events of a complete response with a sequence number above `after`.

    The last event is always included. The numbers differ from those of the original stream, whose texts
    were in more pieces.
    """
    status = response["status"]
    begun = {**response, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    events: list[tuple[str, Json]] = [
        (f"response.{kind}", {"response": begun | {"error": None, "incomplete_details": None}})
        for kind in ("created", "in_progress")
    ]
    for index, item in enumerate(response["output"]):
        events += _events_of(item, index)
    if status in ("completed", "incomplete", "failed"):
        events.append((f"response.{status}", {"response": response}))
    last = len(events) - 1
    return [
        frame(kind, max(number, after + 1) if number == last else number, fields)
        for number, (kind, fields) in enumerate(events)
        if number > after or number == last
    ]


def _events_of(item: Json, index: int) -> Iterator[tuple[str, Json]]:
    grown: Item | None = None
    match item["type"]:
        case "message":
            grown = Message(item["id"], index)
            text = item["content"][0]
            delta = ("response.output_text.delta", grown.add(text["text"], text["logprobs"]), text["text"])
        case "reasoning":
            parts = item["summary"] or item["content"]
            sealed = "encrypted_content" in item
            grown = Thought(item["id"], index, is_summary=bool(item["summary"]), is_sealed=sealed)
            delta = (grown.delta, grown.add(parts[0]["text"]), parts[0]["text"])
        case _:
            yield "response.output_item.added", {"output_index": index, "item": item}
            yield "response.output_item.done", {"output_index": index, "item": item}
            return
    kind, fields, text = delta
    yield from grown.begin()
    yield kind, {**fields, "delta": text}
    yield from grown.end(item["status"])
