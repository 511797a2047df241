"""Whole messages out of Anthropic's streams."""

from typing import Any

from proxy.apis.anthropic.stream import MessageAssembler
from tests.proxy.apis.assembled import assembled


def test_anthropic_blocks() -> None:
    def delta(index: int, **fields: Any) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": fields}

    def begin(index: int, **fields: Any) -> dict[str, Any]:
        return {"type": "content_block_start", "index": index, "content_block": fields}

    answer = assembled(
        MessageAssembler(),
        {"type": "message_start", "message": {"id": "m", "content": [], "usage": {"input_tokens": 3}}},
        begin(0, type="thinking", thinking=""),
        delta(0, type="thinking_delta", thinking="hm"),
        delta(0, type="signature_delta", signature="s"),
        begin(1, type="text", text=""),
        {"type": "ping"},
        delta(1, type="text_delta", text="yes"),
        begin(2, type="tool_use", id="t", name="f"),
        delta(2, type="input_json_delta", partial_json='{"a":'),
        delta(2, type="input_json_delta", partial_json="1}"),
        begin(3, type="tool_use", id="u", name="g"),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    )
    assert answer["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "yes"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "u", "name": "g", "input": {}},
    ]
    assert answer["usage"] == {"input_tokens": 3, "output_tokens": 9}
    assert answer["stop_reason"] == "tool_use"
