"""OpenAI's responses API, by OpenAI's client for Python."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from tests.conformance.responses_samples import BAD, BUILT_IN, GET_TIME, GET_WEATHER, HISTORIES, MESSAGE
from tests.conformance.samples import PNG, WAV, Call, Said, idle
from tests.conformance.serving import Backend
from tests.conformance.strict import as_sent, check, check_event
from tests.gateway import Gateway, until

CLIENT = "openai"
feature = pytest.mark.feature
WEATHER = "How is the weather in Paris?"


class Responses:
    """Asks in one way, and holds all that comes against OpenAI's types."""

    def __init__(self, client: openai.OpenAI, streamed: bool) -> None:
        self.client = client
        self.streamed = streamed

    def create(self, model: str, given: Any = "hello", **fields: Any) -> Response:
        """The whole response, whichever way it came."""
        fields = {"temperature": 0, "max_output_tokens": 100, **fields}
        if not self.streamed:
            whole = self.client.responses.create(model=model, input=given, **fields)
            response: Response = check(Response, as_sent(whole))
            return response
        events = self.client.responses.create(model=model, input=given, stream=True, **fields)
        return _last([check_event(ResponseStreamEvent, event) for event in events])

    def ask(self, model: str, given: Any = "hello", **fields: Any) -> Said:
        """What was said in it."""
        return said_in(self.create(model, given, **fields))


def said_in(response: Response) -> Said:
    """The texts and calls of a response."""
    said = Said(usage=response.usage, ended=response.status or "")
    for item in response.output:
        if item.type == "message":
            assert item.role == "assistant"
            said.text += "".join(part.text for part in item.content if part.type == "output_text")
        elif item.type == "function_call":
            said.calls.append(Call(item.call_id, item.name, item.arguments))
        elif item.type == "reasoning":
            assert not said.text, "it reasoned after it spoke"
            said.reasoning += "".join(part.text for part in item.summary)
            said.reasoning += "".join(part.text for part in item.content or [])
        else:
            raise AssertionError(f"unexpected: {item}")
    return said


def _last(events: list[Any]) -> Response:
    """The response of the last event, after a look at the order of all and at the sum of the deltas."""
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:2] == ["created", "in_progress"]
    assert kinds[-1] in ("completed", "incomplete")
    assert events[0].response.status == "in_progress"
    assert {event.response.id for event in events if hasattr(event, "response")} == {events[-1].response.id}
    done: list[Any] = []
    item_id, open_parts, text = "", 0, ""
    for event, kind in zip(events[2:-1], kinds[2:-1], strict=True):
        assert event.output_index == len(done)
        if kind == "output_item.added":
            assert not item_id, "the item before is still open"
            item_id = event.item.id
            assert item_id
        elif kind == "output_item.done":
            assert event.item.id == item_id
            assert not open_parts
            done.append(event.item)
            item_id = ""
        else:
            assert event.item_id == item_id
        if kind.endswith("part.added"):
            open_parts, text = open_parts + 1, ""
        elif kind.endswith("part.done"):
            open_parts -= 1
        elif kind.endswith(".delta"):
            text += event.delta
        elif kind.endswith(".done") and kind != "output_item.done":
            assert text == (event.arguments if kind.startswith("function") else event.text)
            text = ""
    assert not item_id
    response: Response = events[-1].response
    assert as_sent(response)["output"] == [as_sent(item) for item in done]
    return response


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture
def responses(client: openai.OpenAI, streamed: bool) -> Responses:
    return Responses(client, streamed)


@feature("responses: text")
def test_text(responses: Responses, backend: Backend) -> None:
    response = responses.create(backend.talks)
    assert response.output_text
    assert response.status == "completed"
    assert response.error is None
    assert response.incomplete_details is None
    assert response.model == backend.talks


@feature("responses: text")
def test_the_librarys_stream(client: openai.OpenAI, backend: Backend) -> None:
    with client.responses.stream(model=backend.talks, input="hello", temperature=0) as events:
        deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        final = events.get_final_response()
    assert deltas
    assert final.output_text == deltas


@feature("responses: usage")
def test_usage(responses: Responses, backend: Backend) -> None:
    usage = responses.create(backend.talks).usage
    assert usage is not None
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens == 0


@feature("responses: limits")
def test_length(responses: Responses, backend: Backend) -> None:
    response = responses.create(backend.talks, max_output_tokens=16)
    if response.status == "incomplete" or backend.talks == "demo":  # others may have less to say
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"


@feature("responses: fields are echoed")
def test_echo(responses: Responses, backend: Backend) -> None:
    response = responses.create(
        backend.talks,
        instructions="Be brief.",
        metadata={"a": "b"},
        parallel_tool_calls=False,
        truncation="auto",
        top_p=0.9,
        tools=[GET_TIME],
        tool_choice="none",
        max_output_tokens=50,
        store=False,
        user="me",
        prompt_cache_key="one",
        text={"verbosity": "low"},
        include=["reasoning.encrypted_content"],
    )
    assert response.instructions == "Be brief."
    assert response.metadata == {"a": "b"}
    assert response.parallel_tool_calls is False
    assert response.truncation == "auto"
    assert response.top_p == 0.9
    assert response.temperature == 0
    assert response.tool_choice == "none"
    assert [entry.name for entry in response.tools if entry.type == "function"] == ["get_time"]
    assert response.max_output_tokens == 50


@feature("responses: fields are echoed")
def test_nulls_are_as_nothing(responses: Responses, backend: Backend) -> None:
    nulls = ("instructions", "metadata", "tools", "tool_choice", "reasoning", "text", "previous_response_id")
    assert responses.ask(backend.talks, **dict.fromkeys(nulls)).text


@feature("responses: history")
@pytest.mark.parametrize("history", HISTORIES)
def test_history(responses: Responses, backend: Backend, history: str) -> None:
    assert responses.ask(backend.talks, [*HISTORIES[history], MESSAGE], max_output_tokens=16).text


@feature("responses: history")
def test_an_output_can_be_the_next_input(responses: Responses, backend: Backend) -> None:
    first = responses.create(backend.reasons, max_output_tokens=300)
    again = [MESSAGE, *(as_sent(item) for item in first.output), MESSAGE]
    assert responses.ask(backend.reasons, again, max_output_tokens=300).text


@feature("responses: tools")
def test_tool_call_and_its_result(responses: Responses, backend: Backend) -> None:
    said = responses.ask(backend.talks, WEATHER, tools=[GET_WEATHER])
    assert said.ended == "completed"
    (call,) = said.calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    turn = {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
    result = {"type": "function_call_output", "call_id": call.id, "output": "20 degrees"}
    history = [{"role": "user", "content": WEATHER}, turn, result]
    assert responses.ask(backend.talks, history, tools=[GET_WEATHER]).text


@feature("responses: tools, choice")
@pytest.mark.parametrize("choice", ["none", "auto", "required"])
def test_tool_choice(responses: Responses, backend: Backend, choice: str) -> None:
    given = "hello" if choice == "required" else WEATHER
    said = responses.ask(backend.talks, given, tools=[GET_WEATHER], tool_choice=choice)
    assert bool(said.calls) is (choice != "none")


@feature("responses: tools, choice")
@pytest.mark.parametrize("kind", ["function", "allowed_tools"])
def test_a_named_tool_is_called_and_no_other(responses: Responses, backend: Backend, kind: str) -> None:
    named: Any = {"type": "function", "name": "get_time"}
    if kind == "allowed_tools":
        named = {"type": "allowed_tools", "mode": "required", "tools": [named]}
    said = responses.ask(backend.talks, WEATHER, tools=[GET_WEATHER, GET_TIME], tool_choice=named)
    assert [call.name for call in said.calls] == ["get_time"]


@feature("responses: built-in tools")
@pytest.mark.parametrize("built_in", BUILT_IN, ids=lambda built_in: built_in["type"])
def test_a_built_in_tool_is_left_out(responses: Responses, backend: Backend, built_in: Any) -> None:
    said = responses.ask(backend.talks, WEATHER, tools=[built_in, GET_WEATHER])
    assert [call.name for call in said.calls] == ["get_weather"]


@feature("responses: built-in tools")
def test_a_built_in_tool_that_is_forced_is_refused(responses: Responses, backend: Backend) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        responses.ask(backend.talks, tools=BUILT_IN[:1], tool_choice={"type": "web_search"})
    assert caught.value.type == "invalid_request_error"
    assert str(caught.value.param).startswith("tool")


class Person(BaseModel):
    """What an answer is to be."""

    name: str
    age: int
    mood: Literal["good", "bad"]


@feature("responses: structured output")
def test_structured_output_by_the_librarys_helper(client: openai.OpenAI, backend: Backend) -> None:
    whole = client.responses.parse(model=backend.talks, input="hello", text_format=Person, temperature=0)
    assert isinstance(whole.output_parsed, Person)
    with client.responses.stream(
        model=backend.talks, input="hello", text_format=Person, temperature=0
    ) as events:
        assert isinstance(events.get_final_response().output_parsed, Person)


@feature("responses: structured output")
@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
def test_structured_output(responses: Responses, backend: Backend, kind: str) -> None:
    form: Any = {"type": kind}
    if kind == "json_schema":
        form |= {"name": "person", "strict": True, "schema": Person.model_json_schema()}
    said = responses.ask(backend.talks, text={"format": form}, max_output_tokens=200)
    if kind == "json_schema" or said.ended == "completed":
        assert isinstance(json.loads(said.text), dict)
    else:  # a tiny model may not find an end by itself
        assert said.text.lstrip().startswith("{")


@feature("responses: reasoning")
@pytest.mark.parametrize("reasoning", [{}, {"effort": "low"}, {"effort": "high", "summary": "auto"}], ids=str)
def test_reasoning(responses: Responses, backend: Backend, reasoning: Any) -> None:
    response = responses.create(backend.reasons, reasoning=reasoning or openai.omit, max_output_tokens=300)
    said = said_in(response)
    assert said.reasoning
    assert said.text
    assert [item.type for item in response.output] == ["reasoning", "message"]


@feature("responses: reasoning")
def test_effort_for_a_model_that_does_not_reason(responses: Responses, backend: Backend) -> None:
    assert responses.ask(backend.talks, reasoning={"effort": "medium"}).text


@feature("responses: images and audio refused by a model that takes none")
@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": PNG, "detail": "auto"},
        {"type": "input_image", "file_id": "file_1", "detail": "auto"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
        {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}},
    ],
    ids=["image", "image by id", "file", "audio"],
)
def test_media_are_refused(responses: Responses, backend: Backend, part: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        responses.ask(backend.talks, [{"role": "user", "content": [part]}])
    assert caught.value.type == "invalid_request_error"
    assert str(caught.value.param).startswith("input")


@feature("responses: errors")
@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_a_bad_request(responses: Responses, backend: Backend, case: str) -> None:
    fields, param = BAD[case]
    with pytest.raises(openai.BadRequestError) as caught:
        responses.ask(backend.talks, **fields)
    assert caught.value.type == "invalid_request_error"
    assert str(caught.value.param).startswith(param)
    assert caught.value.request_id


@feature("responses: errors")
def test_unknown_model(responses: Responses) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        responses.ask("gpt-9")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@feature("responses: errors")
def test_too_long_a_prompt(responses: Responses) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        responses.ask("demo-short", "llama " * 2000)
    assert caught.value.code == "context_length_exceeded"


@feature("responses: counting tokens")
def test_input_tokens(client: openai.OpenAI, backend: Backend) -> None:
    short = client.responses.input_tokens.count(model=backend.talks, input="hello")
    long = client.responses.input_tokens.count(model=backend.talks, input="hello " * 50, tools=[GET_WEATHER])
    assert short.object == "response.input_tokens"
    assert 0 < short.input_tokens < long.input_tokens


@feature("responses: kept ones")
def test_a_kept_response_can_be_read_and_deleted(
    responses: Responses, client: openai.OpenAI, backend: Backend
) -> None:
    response = responses.create(backend.talks, store=True)
    assert as_sent(check(Response, as_sent(client.responses.retrieve(response.id)))) == as_sent(response)
    items = client.responses.input_items.list(response.id).data
    assert [check(type(item), as_sent(item)).type for item in items] == ["message"]
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


@feature("responses: kept ones")
def test_a_conversation_goes_on(responses: Responses, backend: Backend) -> None:
    first = responses.create(backend.talks, WEATHER, tools=[GET_WEATHER], store=True)
    (call,) = said_in(first).calls
    result = {"type": "function_call_output", "call_id": call.id, "output": "20 degrees"}
    second = responses.create(backend.talks, [result], tools=[GET_WEATHER], previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert second.output_text


@feature("responses: kept ones")
def test_in_the_background(client: openai.OpenAI, backend: Backend) -> None:
    begun = client.responses.create(model=backend.talks, input="hello", background=True, temperature=0)
    assert check(Response, as_sent(begun)).status in ("queued", "in_progress", "completed")
    done = until(lambda: _ended(client.responses.retrieve(begun.id)), "the answer is there")
    assert check(Response, as_sent(done)).status == "completed"
    assert done.output_text


def _ended(response: Response) -> Response | None:
    return None if response.status in ("queued", "in_progress") else response


@feature("responses: kept ones")
@pytest.mark.parametrize("call", ["retrieve", "delete", "cancel", "input_items"])
def test_what_is_not_kept_is_not_found(client: openai.OpenAI, backend: Backend, call: str) -> None:
    unkept = client.responses.create(model=backend.talks, input="hello", store=False, max_output_tokens=16)
    ask = client.responses.input_items.list if call == "input_items" else getattr(client.responses, call)
    with pytest.raises(openai.NotFoundError):
        ask(unkept.id)


@feature("responses: cancellation")
def test_a_stream_that_is_closed_frees_its_place(
    client: openai.OpenAI, gateway: Gateway, backend: Backend
) -> None:
    forever = "forever " * 2000 if backend.name == "Ollama" else "forever"
    events = client.responses.create(model=backend.talks, input=forever, stream=True)
    assert [next(events).type for _ in range(3)]
    events.close()
    until(lambda: idle(gateway, backend.talks), "the place is free again")


@feature("responses: without waiting")
async def test_async(gateway: Gateway, backend: Backend) -> None:
    async with (
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
        client.responses.stream(model=backend.talks, input="hello") as events,
    ):
        assert [event async for event in events]
