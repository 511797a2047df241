"""Answers that end because the model repeats itself."""

import json
from typing import Any

import pytest

from agents.events import Done, Finish, Usage
from proxy.apis.assemble import UnfinishedError
from proxy.apis.ollama.repetition import missing_line
from proxy.apis.ollama.server import Decoder
from proxy.apis.ollama.stream import LineAssembler
from proxy.wire.sse import ServerSentEvent


def line(text: str, kind: str = "message") -> bytes:
    said: Any = {"message": {"role": "assistant", "content": text}}
    if kind != "message":
        said = {"response": "", kind: text} if kind == "thinking" else {kind: text}
    return json.dumps({"model": "m", "created_at": "2026-01-01T00:00:00Z", **said, "done": False}).encode()


REPEATED = {
    "a word": [line("So")] + [line(" again")] * 31,
    "white space": [line(text) for text in ["\n", " \n", "\t"] * 11],
    "a thought": [line("hm", "thinking")] * 31,
    "a completion": [line("x", "response")] * 31,
}
CUT = {
    "too few": [line(" again")] * 30,
    "something else at last": [line(" again")] * 40 + [line(".")],
    "nothing": [],
}


@pytest.mark.parametrize("lines", REPEATED.values(), ids=REPEATED)
def test_a_repetition_is_an_end(lines: list[bytes]) -> None:
    last = json.loads(missing_line(lines))
    assert (last["model"], last["done"], last["done_reason"]) == ("m", True, "stop")
    assert ("message" in last) == ("message" in json.loads(lines[0]))
    decoder = Decoder("x")
    events = [event for text in lines for event in decoder.feed(text + b"\n")] + decoder.end()
    assert events[-3:] == [Finish("stop"), Usage(completion=len(lines)), Done()]
    assembler = LineAssembler()
    for text in lines:
        assembler.feed(ServerSentEvent("", text))
    whole = assembler.result()
    assert (whole["done"], whole["done_reason"]) == (True, "stop")
    assert whole.get("message", whole)["content" if "message" in whole else "response"] or "thinking" in whole


@pytest.mark.parametrize("lines", CUT.values(), ids=CUT)
def test_anything_else_is_cut_off(lines: list[bytes]) -> None:
    assert missing_line(lines) == b""
    decoder = Decoder("x")
    events = [event for text in lines for event in decoder.feed(text + b"\n")] + decoder.end()
    assert Done() not in events
    assembler = LineAssembler()
    for text in lines:
        assembler.feed(ServerSentEvent("", text))
    with pytest.raises(UnfinishedError):
        assembler.result()


def test_lines_that_cannot_be_read_are_no_end() -> None:
    assert missing_line([b"{no json", *REPEATED["a word"]]) == b""
