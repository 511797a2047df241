"""Anthropic's answers as its official client reads them, with types that are held strictly."""

from typing import Any

import anthropic.types as official
from anthropic.lib.streaming._messages import accumulate_event
from pydantic import TypeAdapter

from proxy.wire.sse import EventSplitter

_EVENT: TypeAdapter[Any] = TypeAdapter(official.RawMessageStreamEvent)
_MESSAGE: TypeAdapter[official.Message] = TypeAdapter(official.Message)


def events_of(data: bytes) -> list[Any]:
    """The events of a stream, each of its type; pings are no part of the answer."""
    frames = [frame for frame in EventSplitter().feed(data) if frame.type != "ping"]
    events = [_EVENT.validate_json(frame.data, strict=True) for frame in frames]
    assert [frame.type for frame in frames] == [event.type for event in events]
    return events


def message_of(data: bytes) -> official.Message:
    """The message that a stream says, whose blocks come one after the other."""
    snapshot: Any = None
    inputs: dict[int, bytes] = {}
    opened = -1
    is_open = False
    events = events_of(data)
    for event in events:
        if event.type == "content_block_start":
            assert (event.index, is_open) == (opened + 1, False)
            opened, is_open = event.index, True
        elif event.type in ("content_block_delta", "content_block_stop"):
            assert (event.index, is_open) == (opened, True)
            is_open = event.type == "content_block_delta"
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=inputs)
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert not is_open
    whole: dict[str, Any] = snapshot.to_dict()
    for block in whole["content"]:
        block.pop("parsed_output", None)
    return _MESSAGE.validate_python(whole)


def whole_message(data: bytes) -> official.Message:
    """A message that came as a whole."""
    return _MESSAGE.validate_json(data, strict=True)
