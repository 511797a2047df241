"""OpenAI's chat API, by OpenAI's client for Python."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from tests.conformance.samples import HELLO, JPEG, PNG, WAV, WEATHER, Call, Said, idle, tool
from tests.conformance.serving import Backend
from tests.conformance.strict import as_sent, check
from tests.gateway import Gateway, until

CLIENT = "openai"
feature = pytest.mark.feature
GET_WEATHER: Any = {"type": "function", "function": tool("get_weather")}
GET_TIME: Any = {"type": "function", "function": tool("get_time")}


class Chat:
    """Asks in one way, and holds all that comes against OpenAI's types."""

    def __init__(self, client: openai.OpenAI, streamed: bool) -> None:
        self.client = client
        self.streamed = streamed

    def ask(self, model: str, messages: Any = HELLO, **fields: Any) -> Said:
        """The answer, whichever way it came."""
        fields = {"temperature": 0, "max_tokens": 100, **fields}
        if not self.streamed:
            whole = self.client.chat.completions.create(model=model, messages=messages, **fields)
            return self._read(check(ChatCompletion, as_sent(whole)))
        events = self.client.chat.completions.create(
            model=model, messages=messages, stream=True, stream_options={"include_usage": True}, **fields
        )
        return self._join([check(ChatCompletionChunk, as_sent(event)) for event in events])

    @staticmethod
    def _read(answer: ChatCompletion) -> Said:
        (choice,) = answer.choices
        message = choice.message
        calls = []
        for call in message.tool_calls or []:
            assert call.type == "function"
            calls.append(Call(call.id, call.function.name, call.function.arguments))
        assert message.content or calls or getattr(message, "reasoning_content", None)
        return Said(
            text=message.content or "",
            reasoning=getattr(message, "reasoning_content", None) or "",
            calls=calls,
            ended=choice.finish_reason,
            usage=answer.usage,
        )

    @staticmethod
    def _join(chunks: list[ChatCompletionChunk]) -> Said:
        *parts, last = chunks
        assert len({(chunk.id, chunk.model) for chunk in chunks}) == 1
        # llama.cpp writes the present second into each chunk, OpenAI the same one into all.
        assert sorted(chunks, key=lambda chunk: chunk.created) == chunks
        assert last.choices == []
        assert last.usage is not None
        said = Said(usage=last.usage)
        assert parts[0].choices[0].delta.role == "assistant"
        for part in parts:
            assert part.usage is None
            (choice,) = part.choices
            assert not said.ended
            said.text += choice.delta.content or ""
            said.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            for delta in choice.delta.tool_calls or []:
                assert delta.function is not None
                if delta.index == len(said.calls):
                    assert delta.type == "function"
                    said.calls.append(Call(delta.id or "", delta.function.name or "", ""))
                said.calls[delta.index].arguments += delta.function.arguments or ""
            said.ended = choice.finish_reason or ""
        return said


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture
def chat(client: openai.OpenAI, streamed: bool) -> Chat:
    return Chat(client, streamed)


@feature("text")
def test_text(chat: Chat, backend: Backend) -> None:
    said = chat.ask(backend.talks)
    assert said.text
    assert said.ended == "stop"
    assert said.calls == []


@feature("usage")
def test_usage(chat: Chat, backend: Backend) -> None:
    usage = chat.ask(backend.talks).usage
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@feature("usage")
def test_a_stream_has_no_usage_unasked(client: openai.OpenAI, backend: Backend) -> None:
    events = client.chat.completions.create(model=backend.talks, messages=HELLO, max_tokens=3, stream=True)
    assert all(event.usage is None and event.choices for event in events)


@feature("limits")
@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_length(chat: Chat, backend: Backend, limit: str) -> None:
    said = chat.ask(backend.talks, **{"max_tokens": openai.omit, limit: 2})
    assert said.ended == "length"
    assert said.usage.completion_tokens == 2


@feature("limits")
def test_stop(chat: Chat, backend: Backend) -> None:
    whole = chat.ask(backend.talks).text
    word = whole.split()[3]
    said = chat.ask(backend.talks, stop=[word])
    assert said.ended == "stop"
    assert said.text == whole.partition(word)[0]


@feature("messages")
@pytest.mark.parametrize(
    "before",
    [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes?"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": "Yes?", "refusal": None, "name": "one"},
    ],
    ids=["system", "developer", "parts", "assistant", "refusal", "named"],
)
def test_messages(chat: Chat, backend: Backend, before: Any) -> None:
    hello = {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}
    assert chat.ask(backend.talks, [before, hello], max_tokens=5).text


@feature("fields that a local model has no use for")
def test_fields_of_the_official_api(chat: Chat, backend: Backend) -> None:
    said = chat.ask(
        backend.talks,
        max_tokens=5,
        metadata={"a": "b"},
        store=False,
        user="me",
        service_tier="auto",
        prompt_cache_key="one",
        safety_identifier="me",
        verbosity="low",
        parallel_tool_calls=True,
        tools=[GET_TIME],
        seed=1,
        frequency_penalty=0.1,
        presence_penalty=0.1,
        top_p=0.9,
        n=1,
        logit_bias={},
        modalities=["text"],
    )
    assert said.text


@feature("log probabilities")
def test_logprobs(client: openai.OpenAI, gateway: Gateway) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=HELLO, max_tokens=3, logprobs=True, top_logprobs=2
    )
    tokens = check(ChatCompletion, as_sent(answer)).choices[0].logprobs.content
    assert [len(token.top_logprobs) for token in tokens] == [2, 2, 2]


@feature("tools")
def test_tool_call_and_its_result(chat: Chat, backend: Backend) -> None:
    said = chat.ask(backend.talks, WEATHER, tools=[GET_WEATHER])
    assert said.ended == "tool_calls"
    (call,) = said.calls
    assert call.id
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    turn = {"role": "assistant", "content": None, "tool_calls": [_call(call)]}
    result = {"role": "tool", "tool_call_id": call.id, "content": [{"type": "text", "text": "20 degrees"}]}
    final = chat.ask(backend.talks, [*WEATHER, turn, result], tools=[GET_WEATHER])
    assert final.text
    assert final.ended == "stop"


def _call(call: Call) -> Any:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


@feature("tools: choice")
@pytest.mark.parametrize("choice", ["none", "auto", "required"])
def test_tool_choice(chat: Chat, backend: Backend, choice: str) -> None:
    messages = HELLO if choice == "required" else WEATHER
    said = chat.ask(backend.talks, messages, tools=[GET_WEATHER], tool_choice=choice)
    assert bool(said.calls) is (choice != "none")


@feature("tools: choice")
def test_a_named_tool_is_called_and_no_other(chat: Chat, backend: Backend) -> None:
    named: Any = {"type": "function", "function": {"name": "get_time"}}
    said = chat.ask(backend.talks, WEATHER, tools=[GET_WEATHER, GET_TIME], tool_choice=named)
    assert [call.name for call in said.calls] == ["get_time"]
    json.loads(said.calls[0].arguments)


@feature("tools: choice")
def test_allowed_tools(chat: Chat, backend: Backend) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_time"}}]}
    choice: Any = {"type": "allowed_tools", "allowed_tools": allowed}
    said = chat.ask(backend.talks, WEATHER, tools=[GET_WEATHER, GET_TIME], tool_choice=choice)
    assert [call.name for call in said.calls] == ["get_time"]


@feature("tools")
def test_strict_tools_by_the_librarys_helper(client: openai.OpenAI, backend: Backend) -> None:
    class GetWeather(BaseModel):
        """The weather."""

        city: str

    with client.chat.completions.stream(
        model=backend.talks, messages=WEATHER, tools=[openai.pydantic_function_tool(GetWeather)]
    ) as events:
        final = events.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, GetWeather)


class Person(BaseModel):
    """What an answer is to be."""

    name: str
    age: int
    mood: Literal["good", "bad"]


@feature("structured output")
def test_structured_output_by_the_librarys_helper(client: openai.OpenAI, backend: Backend) -> None:
    answer = client.chat.completions.parse(
        model=backend.talks, messages=HELLO, response_format=Person, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, Person)
    with client.chat.completions.stream(
        model=backend.talks, messages=HELLO, response_format=Person, temperature=0
    ) as events:
        assert isinstance(events.get_final_completion().choices[0].message.parsed, Person)


@feature("structured output")
@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
def test_structured_output(chat: Chat, backend: Backend, kind: str) -> None:
    form: Any = {"type": kind}
    if kind == "json_schema":
        form["json_schema"] = {"name": "person", "strict": True, "schema": Person.model_json_schema()}
    said = chat.ask(backend.talks, response_format=form, max_tokens=200)
    if kind == "json_schema" or said.ended == "stop":
        assert isinstance(json.loads(said.text), dict)
    else:  # a tiny model may not find an end by itself
        assert said.text.lstrip().startswith("{")


@feature("reasoning")
@pytest.mark.parametrize("effort", [openai.omit, "low", "high"])
def test_reasoning(chat: Chat, backend: Backend, effort: Any) -> None:
    said = chat.ask(backend.reasons, reasoning_effort=effort, max_tokens=200)
    assert said.reasoning
    assert said.text
    assert "<think>" not in said.text


@feature("reasoning")
def test_reasoning_can_be_switched_off(chat: Chat, backend: Backend) -> None:
    said = chat.ask(backend.reasons, reasoning_effort="none", max_tokens=200)
    assert said.text
    assert not said.reasoning


@feature("reasoning")
def test_effort_for_a_model_that_does_not_reason(chat: Chat, backend: Backend) -> None:
    assert chat.ask(backend.talks, reasoning_effort="medium", max_tokens=5).text


@feature("reasoning")
def test_reasoning_in_the_history(chat: Chat, backend: Backend) -> None:
    turn = {"role": "assistant", "content": "Yes?", "reasoning_content": "Somebody is here."}
    assert chat.ask(backend.reasons, [*HELLO, turn, *HELLO], max_tokens=200).text


@feature("images and audio refused by a model that takes none")
@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "image_url", "image_url": {"url": JPEG, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://images.invalid/1.png"}},
        {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}},
    ],
    ids=["png", "jpeg", "link", "audio"],
)
def test_media_are_refused(chat: Chat, backend: Backend, part: Any) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "hello"}, part]}]
    with pytest.raises(openai.BadRequestError) as caught:
        chat.ask(backend.talks, messages)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code
    assert str(caught.value.param).startswith("messages")


BAD: dict[str, tuple[Any, str | None, str]] = {
    "no messages": ({"messages": []}, None, "messages"),
    "no role": ({"messages": [{"content": "hello"}]}, None, "messages"),
    "no such role": ({"messages": [{"role": "king", "content": "hello"}]}, None, "messages"),
    "no content": ({"messages": [{"role": "user"}]}, None, "messages"),
    "a number as content": ({"messages": [{"role": "user", "content": 7}]}, None, "messages"),
    "an unknown part": ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, None, "messages"),
    "a part without text": (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        None,
        "messages",
    ),
    "a result of no call": ({"messages": [*HELLO, {"role": "tool", "content": "1"}]}, None, "messages"),
    "a tool without a name": ({"tools": [{"type": "function", "function": {}}]}, None, "tools"),
    "a tool without a function": ({"tools": [{"type": "function"}]}, None, "tools"),
    "a schema that is none": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}]},
        None,
        "tools",
    ),
    "tools that are no list": ({"tools": "all"}, None, "tools"),
    "a choice of no tool": (
        {"tools": [GET_TIME], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
        None,
        "tool_choice",
    ),
    "a choice without tools": ({"tool_choice": "required"}, None, "tool_choice"),
    "a warm temperature": ({"temperature": "warm"}, None, "temperature"),
    "a limit in words": ({"max_tokens": "many"}, None, "max_tokens"),
    "a form without a schema": ({"response_format": {"type": "json_schema"}}, None, "response_format"),
    "a form of no kind": ({"response_format": {"type": "poem"}}, None, "response_format"),
}


@feature("errors")
@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_a_bad_request(chat: Chat, backend: Backend, case: str) -> None:
    fields, code, param = BAD[case]
    with pytest.raises(openai.BadRequestError) as caught:
        chat.ask(backend.talks, **fields)
    assert caught.value.type == "invalid_request_error"
    assert str(caught.value.param).startswith(param)
    assert code is None or caught.value.code == code
    assert caught.value.request_id


@feature("errors")
@pytest.mark.parametrize("model", ["gpt-9", "no/such:model"])
def test_unknown_model(chat: Chat, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        chat.ask(model)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.type == "invalid_request_error"


@feature("errors")
def test_too_long_a_prompt(chat: Chat) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat.ask("demo-short", [{"role": "user", "content": "llama " * 2000}])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert caught.value.type == "invalid_request_error"


@feature("cancellation")
def test_a_stream_that_is_closed_frees_its_place(
    client: openai.OpenAI, gateway: Gateway, backend: Backend
) -> None:
    forever: Any = [{"role": "user", "content": "forever " * 2000 if backend.name == "Ollama" else "forever"}]
    events = client.chat.completions.create(model=backend.talks, messages=forever, stream=True)
    assert [next(events).choices for _ in range(3)]
    events.close()
    until(lambda: idle(gateway, backend.talks), "the place is free again")


@feature("without waiting")
async def test_async(gateway: Gateway, backend: Backend) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        whole = await client.chat.completions.create(model=backend.talks, messages=HELLO, max_tokens=5)
        assert check(ChatCompletion, as_sent(whole)).choices[0].message.content
        events = await client.chat.completions.create(
            model=backend.talks, messages=HELLO, max_tokens=5, stream=True
        )
        assert [check(ChatCompletionChunk, as_sent(event)) async for event in events]
