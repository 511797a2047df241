"""Answers made of literal events."""

import json
from typing import Any

from proxy.apis.assemble import Assembler
from proxy.wire.sse import EventSplitter


def assembled(assembler: Assembler, *events: dict[str, Any] | str) -> dict[str, Any]:
    """The whole answer."""
    text = "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events)
    for event in EventSplitter().feed(text.encode()):
        assembler.feed(event)
    return assembler.result()


def chunk(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """An event of OpenAI's chat."""
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
