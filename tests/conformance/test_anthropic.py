"""Anthropic's API, by Anthropic's client for Python."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import pytest
from anthropic.types import Message, MessageTokensCount, ModelInfo, RawMessageStreamEvent
from pydantic import BaseModel

from tests.conformance.anthropic_samples import (
    BAD,
    GET_TIME,
    GET_WEATHER,
    HISTORIES,
    MEDIA,
    RESULT,
    TEXT,
    USE,
    turns,
)
from tests.conformance.samples import HELLO, WEATHER, Call, Said, idle
from tests.conformance.serving import Backend
from tests.conformance.strict import as_sent, check, check_event
from tests.gateway import Gateway, until

CLIENT = "anthropic"
feature = pytest.mark.feature
DELTAS = {"text": "text_delta", "thinking": "thinking_delta", "tool_use": "input_json_delta"}
PIECES = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


class Messages:
    """Asks in one way, and holds all that comes against Anthropic's types."""

    def __init__(self, client: anthropic.Anthropic, streamed: bool) -> None:
        self.client = client
        self.streamed = streamed

    def ask(self, model: str, messages: Any = HELLO, **fields: Any) -> Said:
        """The answer, whichever way it came."""
        body = {"temperature": 0, **fields.pop("extra_body", {})}
        fields = {"max_tokens": 100, "extra_body": body, **fields}
        if not self.streamed:
            # Without a timeout the client computes one of the limit, whatever that is.
            whole = self.client.messages.create(model=model, messages=messages, timeout=60, **fields)
            return said_in(check(Message, as_sent(whole)))
        events = self.client.messages.create(model=model, messages=messages, stream=True, **fields)
        return _join([check_event(RawMessageStreamEvent, event) for event in events])


def said_in(message: Message) -> Said:
    """The texts and calls of a message."""
    said = Said(usage=message.usage, ended=message.stop_reason or "")
    assert (message.stop_sequence is not None) is (said.ended == "stop_sequence")
    for block in message.content:
        if block.type == "text":
            said.text += block.text
        elif block.type == "thinking":
            assert not said.text, "it thought after it spoke"
            assert isinstance(block.signature, str)
            said.reasoning += block.thinking
        elif block.type == "tool_use":
            assert isinstance(block.input, dict)
            said.calls.append(Call(block.id, block.name, json.dumps(block.input)))
        else:
            raise AssertionError(f"unexpected: {block}")
    return said


def _join(events: list[Any]) -> Said:
    first, *middle, delta, last = events
    assert (first.type, delta.type, last.type) == ("message_start", "message_delta", "message_stop")
    assert first.message.content == []
    assert first.message.stop_reason is None
    assert first.message.usage.input_tokens >= 0
    said = Said(usage=delta.usage, ended=delta.delta.stop_reason)
    assert (delta.delta.stop_sequence is not None) is (said.ended == "stop_sequence")
    blocks: list[tuple[Any, str]] = []
    is_open = False
    for event in middle:
        if event.type == "content_block_start":
            assert not is_open, "the block before is still open"
            assert event.index == len(blocks)
            blocks.append((event.content_block, ""))
            is_open = True
        else:
            assert is_open
            assert event.index == len(blocks) - 1
            block, text = blocks[-1]
            if event.type == "content_block_stop":
                is_open = False
            elif event.delta.type != "signature_delta":
                assert event.delta.type == DELTAS[block.type]
                blocks[-1] = (block, text + getattr(event.delta, PIECES[event.delta.type]))
    assert not is_open
    for block, text in blocks:
        if block.type == "text":
            assert block.text == ""
            said.text += text
        elif block.type == "thinking":
            assert not said.text, "it thought after it spoke"
            said.reasoning += text
        else:
            assert block.input == {}
            said.calls.append(Call(block.id, block.name, text or "{}"))
    return said


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture
def messages(client: anthropic.Anthropic, streamed: bool) -> Messages:
    return Messages(client, streamed)


@feature("text")
def test_text(messages: Messages, backend: Backend) -> None:
    said = messages.ask(backend.talks)
    assert said.text
    assert said.ended == "end_turn"


@feature("text")
def test_the_librarys_stream(client: anthropic.Anthropic, backend: Backend) -> None:
    with client.messages.stream(model=backend.talks, max_tokens=100, messages=HELLO) as events:
        text = "".join(events.text_stream)
        final = events.get_final_message()
    assert text
    assert "".join(block.text for block in final.content if block.type == "text") == text


@feature("text")
def test_beta_of_the_library(client: anthropic.Anthropic, backend: Backend) -> None:
    answer = client.beta.messages.create(
        model=backend.talks, max_tokens=9, messages=HELLO, betas=["interleaved-thinking-2025-05-14"]
    )
    assert answer.content[0].type == "text"


@feature("usage")
def test_usage(messages: Messages, backend: Backend) -> None:
    usage = messages.ask(backend.talks).usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) > 0
    assert usage.output_tokens > 0


@feature("usage")
def test_request_id(client: anthropic.Anthropic, backend: Backend) -> None:
    answer = client.messages.create(model=backend.talks, max_tokens=5, messages=HELLO)
    assert answer._request_id


@feature("limits")
def test_length(messages: Messages, backend: Backend) -> None:
    said = messages.ask(backend.talks, max_tokens=2)
    assert said.ended == "max_tokens"
    assert said.usage.output_tokens == 2


@feature("limits")
def test_stop_sequence(messages: Messages, backend: Backend) -> None:
    whole = messages.ask(backend.talks).text
    word = whole.split()[3]
    said = messages.ask(backend.talks, stop_sequences=["no such words", word])
    assert said.text == whole.partition(word)[0]
    assert said.ended == "stop_sequence"


@feature("history")
@pytest.mark.parametrize("history", HISTORIES)
def test_history(messages: Messages, backend: Backend, history: str) -> None:
    assert messages.ask(backend.talks, HISTORIES[history], max_tokens=10).ended


@feature("fields that a local model has no use for")
def test_fields_of_the_official_api(messages: Messages, backend: Backend) -> None:
    said = messages.ask(
        backend.talks,
        max_tokens=10,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        metadata={"user_id": "me"},
        service_tier="auto",
        output_config={"effort": "low"},
        thinking={"type": "disabled"},
        extra_body={"top_p": 0.9, "top_k": 5, "context_management": {"edits": []}},
        extra_headers={"anthropic-beta": "context-management-2025-06-27"},
    )
    assert said.text


@feature("tools")
def test_tool_call_and_its_result(messages: Messages, backend: Backend) -> None:
    said = messages.ask(backend.talks, WEATHER, tools=[GET_WEATHER])
    assert said.ended == "tool_use"
    (call,) = said.calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    use = {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}
    result = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": [{"type": "text", "text": "20 degrees"}],
    }
    history = [*WEATHER, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    final = messages.ask(backend.talks, history, tools=[GET_WEATHER])
    assert final.text
    assert final.ended == "end_turn"


@feature("tools: choice")
@pytest.mark.parametrize("choice", ["none", "auto", "any"])
def test_tool_choice(messages: Messages, backend: Backend, choice: str) -> None:
    given = HELLO if choice == "any" else WEATHER
    said = messages.ask(backend.talks, given, tools=[GET_WEATHER], tool_choice={"type": choice})
    assert bool(said.calls) is (choice != "none")


@feature("tools: choice")
def test_a_named_tool_is_called_and_no_other(messages: Messages, backend: Backend) -> None:
    named = {"type": "tool", "name": "get_time", "disable_parallel_tool_use": True}
    said = messages.ask(backend.talks, WEATHER, tools=[GET_WEATHER, GET_TIME], tool_choice=named)
    assert [call.name for call in said.calls] == ["get_time"]


@feature("tools: of the server")
def test_a_tool_of_the_server_is_left_out(messages: Messages, backend: Backend) -> None:
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 1}
    said = messages.ask(backend.talks, WEATHER, tools=[search, GET_WEATHER])
    assert [call.name for call in said.calls] == ["get_weather"]


class Person(BaseModel):
    """What an answer is to be."""

    name: str
    age: int
    mood: Literal["good", "bad"]


@feature("structured output")
def test_structured_output(messages: Messages, backend: Backend) -> None:
    schema = Person.model_json_schema()
    said = messages.ask(
        backend.talks, output_config={"format": {"type": "json_schema", "schema": schema}}, max_tokens=200
    )
    Person.model_validate_json(said.text)


@feature("structured output")
def test_structured_output_by_the_librarys_helper(client: anthropic.Anthropic, backend: Backend) -> None:
    answer = client.messages.parse(
        model=backend.talks,
        max_tokens=200,
        messages=HELLO,
        output_format=Person,
        extra_body={"temperature": 0},
    )
    assert isinstance(answer.parsed_output, Person)


@feature("reasoning")
@pytest.mark.parametrize("thinking", ["enabled", "adaptive"])
def test_thinking(messages: Messages, backend: Backend, thinking: str) -> None:
    wanted: Any = {"type": thinking} | ({"budget_tokens": 1024} if thinking == "enabled" else {})
    said = messages.ask(backend.reasons, thinking=wanted, max_tokens=2000)
    assert said.reasoning
    assert said.text


@feature("reasoning")
def test_thinking_is_off_unless_wanted(messages: Messages, backend: Backend) -> None:
    said = messages.ask(backend.reasons, thinking={"type": "disabled"}, max_tokens=300)
    assert said.text
    assert not said.reasoning


@feature("reasoning")
def test_thinking_of_a_model_that_does_not(messages: Messages, backend: Backend) -> None:
    wanted = {"type": "enabled", "budget_tokens": 1024}
    assert messages.ask(backend.talks, thinking=wanted, max_tokens=2000).text


@feature("images and documents refused by a model that takes none")
@pytest.mark.parametrize("kind", MEDIA)
@pytest.mark.parametrize("inside", ["message", "tool result"])
def test_media_are_refused(messages: Messages, backend: Backend, kind: str, inside: str) -> None:
    part = MEDIA[kind]
    history = [{"role": "user", "content": [TEXT, part]}]
    if inside == "tool result":
        history = turns([USE], [RESULT | {"content": [part]}])
        if kind == "pdf":  # an agent works on with it, so the model is told instead
            assert messages.ask(backend.talks, history).ended
            return
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        messages.ask(backend.talks, history)


@feature("errors")
@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_a_bad_request(messages: Messages, backend: Backend, case: str) -> None:
    fields, named = BAD[case]
    with pytest.raises(anthropic.BadRequestError, match=named) as caught:
        messages.ask(backend.talks, **fields)
    _is_written_right(caught.value, "invalid_request_error")


def _is_written_right(error: anthropic.APIStatusError, kind: str) -> None:
    body: Any = error.body
    assert set(body) <= {"type", "error", "request_id"}
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert error.request_id
    assert body["request_id"] == error.request_id


@feature("errors")
def test_unknown_model(messages: Messages) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        messages.ask("claude-9")
    _is_written_right(caught.value, "not_found_error")


@feature("errors")
def test_too_long_a_prompt(messages: Messages) -> None:
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long") as caught:
        messages.ask("demo-short", [{"role": "user", "content": "llama " * 2000}])
    _is_written_right(caught.value, "invalid_request_error")


@feature("errors")
def test_what_is_not_there(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.batches.list()
    _is_written_right(caught.value, "not_found_error")


@feature("counting tokens")
def test_count_tokens(client: anthropic.Anthropic, backend: Backend) -> None:
    def count(given: Any, **fields: Any) -> int:
        counted = client.messages.count_tokens(model=backend.talks, messages=given, **fields)
        return int(check(MessageTokensCount, as_sent(counted)).input_tokens)

    short = count(HELLO)
    assert 0 < short < count(HELLO * 5)
    assert short < count(HELLO, system="You are a llama that answers.")
    assert short < count(HELLO, tools=[GET_WEATHER])


@feature("counting tokens")
def test_counting_errors(client: anthropic.Anthropic, backend: Backend) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="claude-9", messages=HELLO)
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        client.messages.count_tokens(model=backend.talks, messages=[])


@feature("models")
def test_models(client: anthropic.Anthropic, backend: Backend) -> None:
    page = client.models.list(limit=100)
    assert not page.has_more
    entries = {check(ModelInfo, as_sent(entry)).id: entry for entry in page}
    (name,) = {backend.talks, f"{backend.talks}:latest"} & set(entries)
    assert check(ModelInfo, as_sent(client.models.retrieve(name))).id == name
    assert (page.first_id, page.last_id) == (next(iter(entries)), list(entries)[-1])


@feature("models")
def test_models_by_the_page(client: anthropic.Anthropic) -> None:
    everything = [entry.id for entry in client.models.list(limit=100)]
    assert [entry.id for entry in client.models.list(limit=2)] == everything


@feature("models")
def test_a_model_that_is_not_there(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.models.retrieve("claude-9")
    _is_written_right(caught.value, "not_found_error")


@feature("cancellation")
def test_a_stream_that_is_closed_frees_its_place(
    client: anthropic.Anthropic, gateway: Gateway, backend: Backend
) -> None:
    forever: Any = [{"role": "user", "content": "forever " * 2000 if backend.name == "Ollama" else "forever"}]
    events = client.messages.create(model=backend.talks, max_tokens=4000, messages=forever, stream=True)
    assert [next(events).type for _ in range(3)]
    events.close()
    until(lambda: idle(gateway, backend.talks), "the place is free again")


@feature("without waiting")
async def test_async(gateway: Gateway, backend: Backend) -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=gateway.url, api_key="none", max_retries=0) as client,
        client.messages.stream(model=backend.talks, max_tokens=9, messages=HELLO) as events,
    ):
        assert await events.get_final_text()
