"""Golden streams through decoder and encoder, and the whole answers made of them."""

import json
from typing import Any

import msgspec
import pytest

from agents import events
from agents.events import AnswerCollector, AnswerStarted, Event
from proxy.apis.anthropic import answer as anthropic_answer
from proxy.apis.interface import Decoder, Encoder
from proxy.apis.llama_cpp import server as llama_server
from proxy.apis.ollama import answer as ollama_answer
from proxy.apis.ollama import server as ollama_server
from proxy.apis.openai import answer as openai_answer
from proxy.apis.openai.stream import ChatAssembler
from proxy.wire.sse import EventSplitter
from tests.proxy.apis.anthropic.official import message_of, whole_message
from tests.proxy.apis.transcripts import (
    CREATED,
    ID,
    MODEL,
    NOW,
    STARTED,
    TRANSCRIPTS,
    Transcript,
    ndjson,
    parsed,
    read_sse,
    sse,
)

ALL = pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda transcript: transcript.name)
COMPLETE = pytest.mark.parametrize(
    "transcript",
    [transcript for transcript in TRANSCRIPTS if "error" not in transcript.name],
    ids=lambda transcript: transcript.name,
)


def decoded(decoder: Decoder, data: bytes) -> list[Event]:
    """All the events of a stream."""
    return [*decoder.feed(data), *decoder.end()]


def encoded(encoder: Encoder, said: list[Event]) -> bytes:
    """All the bytes that say them."""
    return b"".join(encoder.encode(event, NOW) for event in said)


def collected(said: list[Event]) -> events.Answer:
    """The whole answer."""
    collector = AnswerCollector()
    for event in said:
        collector.feed(event)
    assert collector.complete
    return collector.answer()


def from_ollama(transcript: Transcript) -> list[Event]:
    return decoded(ollama_server.Decoder(ID), ndjson(transcript.ollama))


def from_llama(transcript: Transcript) -> list[Event]:
    return decoded(llama_server.Decoder(), sse(transcript.llama))


@ALL
def test_llama_to_ollama(transcript: Transcript) -> None:
    encoder = ollama_answer.Encoder(MODEL, started=STARTED)
    lines = encoded(encoder, from_llama(transcript)).decode().splitlines()
    counted = dict.fromkeys(("load_duration", "prompt_eval_duration", "eval_duration"), 0)
    expected = [counted | line if line.get("done") else line for line in parsed(transcript.to_ollama)]
    assert [json.loads(line) for line in lines] == expected


@ALL
def test_ollama_to_openai(transcript: Transcript) -> None:
    got = read_sse(encoded(openai_answer.Encoder(include_usage=True), from_ollama(transcript)))
    for event in got:
        if isinstance(event, dict) and event.get("choices"):
            assert event.pop("usage") is None
    assert got == parsed(transcript.openai)


@ALL
def test_ollama_to_anthropic(transcript: Transcript) -> None:
    encoder = anthropic_answer.Encoder(request_id="r")
    assert read_sse(encoded(encoder, from_ollama(transcript))) == parsed(transcript.anthropic)


def test_usage_only_if_asked_for() -> None:
    got = read_sse(encoded(openai_answer.Encoder(), from_ollama(TRANSCRIPTS[0])))
    assert got == [event for event in parsed(TRANSCRIPTS[0].openai) if event == "[DONE]" or event["choices"]]


@COMPLETE
def test_both_servers_say_the_same(transcript: Transcript) -> None:
    mine, theirs = collected(from_llama(transcript)), collected(from_ollama(transcript))
    assert mine.text == theirs.text
    assert mine.reasoning == theirs.reasoning
    assert [(call.id, call.name) for call in mine.tool_calls] == [
        (call.id, call.name) for call in theirs.tool_calls
    ]
    assert (mine.reason, mine.logprobs) == (theirs.reason, theirs.logprobs)
    assert (mine.usage.prompt, mine.usage.completion) == (theirs.usage.prompt, theirs.usage.completion)


def assembled(assembler: Any, data: bytes) -> Any:
    for event in EventSplitter().feed(data):
        assembler.feed(event)
    return assembler.result()


@COMPLETE
def test_whole_answers_are_what_the_streams_say(transcript: Transcript) -> None:
    said = from_ollama(transcript)
    answer = collected(said)
    chat = assembled(ChatAssembler(), encoded(openai_answer.Encoder(include_usage=True), said))
    (choice,) = chat["choices"]
    choice.setdefault("logprobs", None)
    choice["message"]["content"] = choice["message"]["content"] or (None if answer.tool_calls else "")
    assert json.loads(json.dumps(chat)) == round_trip(openai_answer.encode_answer(answer))
    message = message_of(encoded(anthropic_answer.Encoder(), said))
    assert message == whole_message(msgspec.json.encode(anthropic_answer.encode_answer(answer)))


def round_trip(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


@COMPLETE
@pytest.mark.parametrize("api", ["chat", "generate"])
def test_whole_answers_for_ollama(transcript: Transcript, api: Any) -> None:
    answer = collected(from_llama(transcript))
    whole = ollama_answer.Encoder(MODEL, api=api, started=STARTED).encode_answer(answer, NOW)
    said = decoded(ollama_server.Decoder(ID), msgspec.json.encode(whole))
    assert said[0] == AnswerStarted(ID, MODEL, CREATED)
    again = collected(said)
    assert (again.text, again.reasoning, again.reason) == (answer.text, answer.reasoning, answer.reason)
    assert [call.id for call in again.tool_calls] == [call.id for call in answer.tool_calls]
    assert again.usage.completion_seconds == answer.usage.completion_seconds


def test_generate_says_response() -> None:
    encoder = ollama_answer.Encoder(MODEL, api="generate", started=STARTED, load_seconds=0.5, turns=[])
    first, second, *_, last = encoded(encoder, from_llama(TRANSCRIPTS[1])).decode().splitlines()
    at = '"created_at":"2025-08-04T08:52:19.250000Z"'
    assert first == f'{{"model":"demo",{at},"response":"","thinking":"Hm","done":false}}'
    assert second == f'{{"model":"demo",{at},"response":"So","done":false}}'
    assert json.loads(last) == {
        "model": MODEL,
        "created_at": "2025-08-04T08:52:19.250000Z",
        "response": "",
        "done": True,
        "done_reason": "length",
        "total_duration": 1_250_000_000,
        "load_duration": 500_000_000,
        "prompt_eval_count": 9,
        "prompt_eval_duration": 0,
        "eval_count": 2,
        "eval_duration": 0,
        "context": list(b'[["assistant","So"]]'),
    }


def test_load_answers() -> None:
    assert ollama_answer.encode_load("chat", "load", MODEL, NOW) == {
        "model": MODEL,
        "created_at": "2025-08-04T08:52:19.250000Z",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "load",
    }
    assert ollama_answer.encode_load("generate", "unload", MODEL, NOW)["response"] == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        (' {"a":\n1}', {"a": 1}),
        ('{"a":', {"_invalid_json": '{"a":'}),
        ("[1]", {"_invalid_json": "[1]"}),
    ],
)
def test_arguments_that_are_no_object_are_kept_as_text(arguments: str, expected: Any) -> None:
    encoder = ollama_answer.Encoder(MODEL)
    said: list[Event] = [
        events.ToolCallDelta(0, "a", "f", arguments),
        events.Finish("tool_calls"),
        events.Done(),
    ]
    first, last = encoded(encoder, said).decode().splitlines()
    assert json.loads(first)["message"]["tool_calls"][0]["function"]["arguments"] == expected
    assert json.loads(last)["done"]


def test_infill_events_are_read() -> None:
    said = decoded(
        llama_server.Decoder(),
        sse(
            [
                '{"index":0,"content":"x = ","tokens":[1],"stop":false,"id_slot":0}',
                '{"index":0,"content":"1","tokens":[],"stop":true,"stop_type":"limit","model":"m",'
                '"timings":{"prompt_n":5,"cache_n":2,"prompt_ms":7,"predicted_n":3,"predicted_ms":9}}',
            ]
        ),
    )
    assert said[1:] == [
        events.Text("x = "),
        events.Text("1"),
        events.Finish("length"),
        events.Usage(7, 3, 2, prompt_seconds=0.007, completion_seconds=0.009),
        events.Done(),
    ]
