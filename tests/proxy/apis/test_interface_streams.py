"""Streams however they are cut, round trips, and what no server should send."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.events import (
    Answer,
    AnswerCollector,
    AnswerFailed,
    AnswerStarted,
    Done,
    Event,
    Finish,
    Logprobs,
    Reason,
    Reasoning,
    Text,
    ToolCallDelta,
    Usage,
    replayed,
)
from proxy.apis.anthropic import answer as anthropic_answer
from proxy.apis.interface import Decoder, Encoder
from proxy.apis.llama_cpp import server as llama_server
from proxy.apis.ollama import answer as ollama_answer
from proxy.apis.ollama import server as ollama_server
from proxy.apis.openai import answer as openai_answer
from proxy.wire.sse import BUFFER_LIMIT, EventTooLongError
from tests.proxy.apis.anthropic.official import message_of, whole_message
from tests.proxy.apis.transcripts import CREATED, ID, MODEL, NOW, TRANSCRIPTS, Transcript, ndjson, sse
from tests.proxy.wire.test_http1 import CUTS, pieces

DECODERS: dict[str, Callable[[], Decoder]] = {
    "llama": llama_server.Decoder,
    "ollama": lambda: ollama_server.Decoder(ID),
}
EACH = pytest.mark.parametrize("server", DECODERS)


def stream_of(transcript: Transcript, server: str, end: str) -> bytes:
    data = sse(transcript.llama) if server == "llama" else ndjson(transcript.ollama)
    return data.replace(b"\n", end.encode())


def decoded(decoder: Decoder, parts: list[bytes]) -> list[Event]:
    events = [event for part in parts for event in decoder.feed(part)]
    return events + decoder.end()


@EACH
@given(transcript=st.sampled_from(TRANSCRIPTS), cuts=CUTS, end=st.sampled_from(["\n", "\r\n"]))
def test_any_cut_gives_the_same_events(
    server: str, transcript: Transcript, cuts: list[int], end: str
) -> None:
    whole = decoded(DECODERS[server](), [stream_of(transcript, server, "\n")])
    assert decoded(DECODERS[server](), pieces(stream_of(transcript, server, end), cuts)) == whole
    assert isinstance(whole[-1], Done | AnswerFailed)


TEXTS = st.text(min_size=1, max_size=20)
TOKENS = st.lists(st.builds(lambda text: {"token": text, "logprob": -0.5}, TEXTS), min_size=1, max_size=3)
PIECES = st.one_of(
    st.builds(Text, TEXTS),
    st.builds(Reasoning, TEXTS),
    st.tuples(st.builds(Logprobs, TOKENS), st.builds(Text, TEXTS)),
)
ARGUMENTS = st.dictionaries(
    st.text(max_size=5), st.one_of(st.none(), st.integers(0, 2**60), TEXTS), max_size=3
)
CALLS = st.lists(st.tuples(TEXTS, ARGUMENTS), max_size=3)
EIGHTHS = st.integers(0, 2**20).map(lambda n: n / 8)
FAILURES = st.builds(AnswerFailed, st.just(500), TEXTS, st.just("server_error"))


@st.composite
def streams(draw: st.DrawFn, *, cached: bool) -> list[Event]:
    """The events of an answer that may be an error's. Calls come whole, after the rest."""
    events: list[Event] = [AnswerStarted(ID, MODEL, CREATED)]
    for piece in draw(st.lists(PIECES, max_size=6)):
        events += piece if isinstance(piece, tuple) else [piece]
    if draw(st.integers(0, 4)) == 0:
        return [*events, draw(FAILURES)]
    calls = draw(CALLS)
    for index, (name, arguments) in enumerate(calls):
        text = msgspec.json.encode(arguments).decode()
        events.append(ToolCallDelta(index, f"call{index}", name, text))
    reason: Reason = draw(st.sampled_from(["length", "tool_calls" if calls else "stop"]))
    usage = Usage(
        draw(st.integers(100, 200)),
        draw(st.integers(0, 100)),
        draw(st.integers(0, 100)) if cached else 0,
        prompt_seconds=draw(EIGHTHS),
        completion_seconds=draw(EIGHTHS),
    )
    return [*events, Finish(reason), usage, Done()]


@given(streams(cached=True))
def test_openai_round_trip(said: list[Event]) -> None:
    encoder = openai_answer.Encoder(include_usage=True)
    assert decoded(llama_server.Decoder(), [encoder.encode(event, NOW) for event in said]) == said


@given(streams(cached=False))
def test_ollama_round_trip(said: list[Event]) -> None:
    for api in ("chat", "generate"):
        encoder = ollama_answer.Encoder(MODEL, api=api, started=NOW)
        again = decoded(ollama_server.Decoder(ID), [encoder.encode(event, NOW) for event in said])
        if len(said) > 2 or isinstance(said[-1], Done):
            # A stream that fails before its first piece has no line to begin with.
            assert again == said


@given(streams(cached=False))
def test_nothing_is_lost_from_one_to_the_other(said: list[Event]) -> None:
    to_openai = openai_answer.Encoder(include_usage=True)
    once = decoded(llama_server.Decoder(), [to_openai.encode(event, NOW) for event in said])
    to_ollama = ollama_answer.Encoder(MODEL, started=NOW)
    lines = [to_ollama.encode(event, NOW) for event in once]
    assert b"".join(lines).count(b'"done":true') == isinstance(said[-1], Done)
    if len(said) > 2 or isinstance(said[-1], Done):
        assert decoded(ollama_server.Decoder(ID), lines) == said


@given(streams(cached=True))
def test_anthropic_stream_is_its_answer(said: list[Event]) -> None:
    encoder = anthropic_answer.Encoder()
    data = b"".join(encoder.encode(event, NOW) for event in said)
    collector = AnswerCollector()
    for event in said:
        collector.feed(event)
    if collector.failure is not None:
        assert data.endswith(b"}\n\n")
        assert b"message_stop" not in data
        return
    message = message_of(data)
    expected = whole_message(msgspec.json.encode(anthropic_answer.encode_answer(collector.answer())))
    texts = {"text": "", "thinking": ""}
    for block in message.content:
        if block.type in texts:
            texts[block.type] += getattr(block, block.type)
    assert texts == {"text": collector.answer().text, "thinking": collector.answer().reasoning}
    calls = [[block for block in m.content if block.type == "tool_use"] for m in (message, expected)]
    assert calls[0] == calls[1]
    assert message.model_copy(update={"content": []}) == expected.model_copy(update={"content": []})


@EACH
def test_a_stream_that_just_ends_is_a_failure(server: str) -> None:
    data = stream_of(TRANSCRIPTS[0], server, "\n")
    cut = data[: data.rfind(b'"stop"')].rpartition(b"\n")[0] + b"\n"
    events = decoded(DECODERS[server](), [cut])
    assert isinstance(failure := events[-1], AnswerFailed)
    assert (failure.status, failure.code) == (502, "upstream_error")
    assert failure.message.startswith("the model server's answer ended in the middle, without ")


@EACH
def test_nothing_comes_after_the_end(server: str) -> None:
    data = stream_of(TRANSCRIPTS[0], server, "\n")
    assert decoded(DECODERS[server](), [data, data]) == decoded(DECODERS[server](), [data])


def test_encoders_say_nothing_after_the_end() -> None:
    said: list[Event] = [AnswerStarted(ID, MODEL, CREATED), AnswerFailed(500, "x"), Text("y"), Done()]
    for encoder in (openai_answer.Encoder(), ollama_answer.Encoder(MODEL), anthropic_answer.Encoder()):
        frames = [encoder.encode(event, NOW) for event in said]
        assert frames[1]
        assert not any(frames[2:])


@EACH
def test_an_endless_line_is_refused(server: str) -> None:
    decoder = DECODERS[server]()
    piece = b"x" * (1 << 20)
    for _ in range(BUFFER_LIMIT // len(piece)):
        decoder.feed(piece)
    with pytest.raises(EventTooLongError):
        decoder.feed(b"x")


def test_an_ollama_line_too_long_by_its_last_piece_is_refused() -> None:
    decoder = ollama_server.Decoder()
    decoder.feed(b"{}\n" + b"x" * BUFFER_LIMIT)
    with pytest.raises(EventTooLongError):
        decoder.feed(b"x")


def test_a_last_line_without_its_end_is_read() -> None:
    assert isinstance(decoded(ollama_server.Decoder(), [b'{"done":true}'])[-1], Done)


def test_the_same_call_told_twice_is_one() -> None:
    call = '"content":"","tool_calls":[{"id":"a","function":{"name":"f","arguments":{}}}]'
    line = f'{{"message":{{"role":"assistant",{call}}},"done":false}}'
    calls = [
        e for e in decoded(ollama_server.Decoder(), [ndjson([line, line])]) if isinstance(e, ToolCallDelta)
    ]
    assert len(calls) == 1


def test_calls_without_ids_get_some() -> None:
    call = '{"function":{"name":"f","arguments":{}}}'
    line = (
        f'{{"message":{{"role":"assistant","tool_calls":[{call},{call}]}},"done":true,"done_reason":"stop"}}'
    )
    events = decoded(ollama_server.Decoder("x"), [ndjson([line])])
    assert [e.id for e in events if isinstance(e, ToolCallDelta)] == ["call_x_0", "call_x_1"]
    assert Finish("tool_calls") in events


def of_llama(*data: object, end: bytes = b"") -> list[Event]:
    wire = b"".join(b"data: " + msgspec.json.encode(one) + b"\n\n" for one in data)
    return decoded(llama_server.Decoder(), [wire + end])


def choice(**fields: object) -> dict[str, object]:
    return {"choices": [{"index": 0, **fields}]}


LAST = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("data", "end"),
    [
        ([choice(delta={"content": "x"})], b""),
        ([choice(delta={"content": "x"}), {"choices": [], "usage": {}}], b""),
        ([{"choices": []}, {"choices": []}], LAST),
        ([{"choices": [{"index": 1, "delta": {"content": "x"}, "finish_reason": "stop"}]}], LAST),
        ([], LAST),
        ([], b""),
        ([], b": ping\n\n"),
        ([choice(delta={"content": "x"})], b'error: {"message":"out of luck"}\n\n'),
        ([choice(delta={"content": "x"})], b'data: {"choices":['),
    ],
)
def test_half_a_stream_of_llama_cpp_is_a_failure(data: list[object], end: bytes) -> None:
    events = of_llama(*data, end=end)
    assert isinstance(events[-1], AnswerFailed)
    assert Done() not in events


def test_a_finish_reason_is_an_end() -> None:
    said = [choice(delta={"content": "x"}), choice(finish_reason="stop")]
    assert of_llama(*said)[-1] == Done()
    assert of_llama(*said, {"choices": [], "usage": {"prompt_tokens": 1}})[-1] == Done()


def test_tool_calls_are_numbered_in_the_order_of_their_beginnings() -> None:
    """Whoever keeps them in a list would need one as long as the largest index."""
    indexes = [999_999_999, 7, 999_999_999, -5]
    deltas = [choice(delta={"tool_calls": [{"index": index, "id": "i"}]}) for index in indexes]
    events = of_llama(*deltas, end=LAST)
    assert [event.index for event in events if isinstance(event, ToolCallDelta)] == [0, 1, 0, 2]


@pytest.mark.parametrize("value", [-1, "5", 5.5, None, True, 2**60, 10**300, [5], {}])
def test_a_count_that_cannot_be_is_none(value: object) -> None:
    details = {"cached_tokens": value}
    usage = {"prompt_tokens": value, "completion_tokens": 2, "prompt_tokens_details": details}
    timings = {"prompt_n": value, "cache_n": value, "predicted_n": 2, "prompt_ms": "x"}
    last = {"done": True, "prompt_eval_count": value, "eval_count": 2, "eval_duration": "x"}
    streams = [
        of_llama(choice(finish_reason="stop"), {"choices": [], "usage": usage}),
        of_llama(choice(finish_reason="stop"), {"choices": [], "timings": timings}),
        decoded(ollama_server.Decoder(), [msgspec.json.encode(last)]),
    ]
    for events in streams:
        assert [event for event in events if isinstance(event, Usage)] == [Usage(0, 2)]
        assert events[-1] == Done()


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.just(2**80),
        st.floats(allow_nan=False),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


def nodes(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value, as its container and its key there."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in pairs for place in ((value, key), *nodes(inner))]


@EACH
@given(data=st.data())
def test_nothing_that_a_server_sends_raises(server: str, data: st.DataObject) -> None:
    transcript = data.draw(st.sampled_from(TRANSCRIPTS))
    texts = transcript.llama if server == "llama" else transcript.ollama
    values = [json.loads(text) for text in texts if text != "[DONE]"]
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(nodes(values)))
        container[key] = data.draw(VALUES)
    sent = [json.dumps(value) for value in values]
    wire = (sse(sent) if server == "llama" else ndjson(sent)) + data.draw(st.binary(max_size=20))
    events = decoded(DECODERS[server](), [wire])
    assert isinstance(events[-1], Done | AnswerFailed)
    collector = AnswerCollector()
    for encoder in (
        openai_answer.Encoder(include_usage=True),
        ollama_answer.Encoder(MODEL),
        anthropic_answer.Encoder(),
    ):
        for event in events:
            encoder.encode(event, NOW)
            collector.feed(event)
    for answer in (openai_answer.encode_answer, anthropic_answer.encode_answer):
        msgspec.json.encode(answer(collector.answer()))


@pytest.mark.parametrize(
    ("encoder", "whole"),
    [
        (openai_answer.Encoder(), openai_answer.encode_answer),
        (anthropic_answer.Encoder(), anthropic_answer.encode_answer),
        (ollama_answer.Encoder("m"), lambda answer: ollama_answer.Encoder("m").encode_answer(answer, 0.0)),
    ],
)
def test_fields_that_agents_add_are_in_the_event_that_says_why_it_ended(
    encoder: Encoder, whole: Callable[[Answer], Any]
) -> None:
    said = Answer(id="i", model="m", text="hi", extra={"citations": [1], "model": "never replaces"})
    lines = b"".join(encoder.encode(event, 0.0) for event in replayed(said)).splitlines()
    bodies = [json.loads(line.removeprefix(b"data: ")) for line in lines if b"citations" in line]
    assert [body["citations"] for body in bodies] == [[1]]
    ends = (b'"finish_reason":"stop"', b'"stop_reason":"end_turn"', b'"done_reason":"stop"')
    assert all(any(end in line for end in ends) for line in lines if b"citations" in line)
    assert all(b"never" not in line for line in lines)
    body = whole(said)
    assert (body["citations"], body["model"]) == ([1], "m")
