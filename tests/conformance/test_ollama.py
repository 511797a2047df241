"""Ollama's API, by Ollama's client for Python."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import ollama
import pytest
from pydantic import BaseModel

from tests.conformance.samples import HELLO, IMAGE, WEATHER, Call, Said, idle, tool
from tests.conformance.serving import Backend
from tests.conformance.strict import check
from tests.gateway import Gateway, until

CLIENT = "ollama"
feature = pytest.mark.feature
GET_WEATHER: Any = {"type": "function", "function": tool("get_weather")}
COUNTS = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)
STEADY: Any = {"temperature": 0, "num_predict": 100}


class Kept(httpx.BaseTransport):
    """Keeps the bytes of the last answer: Ollama's client drops the fields that it does not know."""

    def __init__(self) -> None:
        self._inner = httpx.HTTPTransport()
        self.data = b""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Ask, and keep what comes while it passes."""
        self.data = b""
        answer = self._inner.handle_request(request)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=_Teed(self, answer.stream))

    def close(self) -> None:
        """Of the connections."""
        self._inner.close()

    def lines(self) -> list[Any]:
        """The JSON values of the last answer."""
        return [json.loads(line) for line in self.data.splitlines() if line]


class _Teed(httpx.SyncByteStream):
    def __init__(self, kept: Kept, stream: Any) -> None:
        self._kept = kept
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        for data in self._stream:
            self._kept.data += data
            yield data

    def close(self) -> None:
        self._stream.close()


class Asking:
    """Asks in one way, and holds all that comes against Ollama's types."""

    def __init__(self, client: ollama.Client, kept: Kept, streamed: bool) -> None:
        self.client = client
        self.kept = kept
        self.streamed = streamed

    def chat(self, model: str, messages: Any = HELLO, **fields: Any) -> Said:
        """The answer to a chat, whichever way it came."""
        fields = {"options": STEADY, **fields}
        answer: Any = self.client.chat(model, messages, stream=self.streamed, **fields)  # type: ignore[call-overload]
        if self.streamed:
            list(answer)
        parts = self._read(ollama.ChatResponse, model)
        said = Said(usage=parts[-1], ended=parts[-1].done_reason)
        for part in parts:
            assert part.message.role == "assistant"
            assert part.message.content is not None
            said.text += part.message.content
            said.reasoning += part.message.thinking or ""
            for call in part.message.tool_calls or []:
                said.calls.append(Call("", call.function.name, json.dumps(call.function.arguments)))
        return said

    def generate(self, model: str, prompt: str, **fields: Any) -> Said:
        """The answer to a prompt, whichever way it came."""
        fields = {"options": STEADY, **fields}
        answer: Any = self.client.generate(model, prompt, stream=self.streamed, **fields)  # type: ignore[call-overload]
        if self.streamed:
            list(answer)
        parts = self._read(ollama.GenerateResponse, model)
        said = Said(usage=parts[-1], ended=parts[-1].done_reason)
        said.text = "".join(part.response for part in parts)
        said.reasoning = "".join(part.thinking or "" for part in parts)
        return said

    def _read(self, kind: Any, model: str) -> list[Any]:
        raw = self.kept.lines()
        for line in raw:  # what the client's type goes without, and Ollama itself sends
            for call in line.get("message", {}).get("tool_calls", []):
                call.pop("id", None)
                call["function"].pop("index", None)
        parts = [check(kind, line) for line in raw]
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
        assert {part.model for part in parts} == {model}
        assert all(part.created_at for part in parts)
        assert all(getattr(parts[-1], count) for count in COUNTS if count != "load_duration")
        assert parts[-1].load_duration is not None
        return parts


@pytest.fixture(scope="module")
def kept() -> Kept:
    return Kept()


@pytest.fixture(scope="module")
def client(gateway: Gateway, kept: Kept) -> Iterator[ollama.Client]:
    with ollama.Client(host=gateway.url, transport=kept) as opened:
        yield opened


@pytest.fixture
def asking(client: ollama.Client, kept: Kept, streamed: bool) -> Asking:
    return Asking(client, kept, streamed)


@feature("text")
def test_chat(asking: Asking, backend: Backend) -> None:
    said = asking.chat(backend.talks)
    assert said.text
    assert said.ended == "stop"


@feature("text")
def test_generate(asking: Asking, backend: Backend) -> None:
    said = asking.generate(backend.talks, "hello")
    assert said.text
    assert said.ended == "stop"


@feature("text: the tokens of a conversation")
def test_context_of_generate(asking: Asking, backend: Backend) -> None:
    context = asking.generate(backend.talks, "hello").usage.context
    assert context
    assert asking.generate(backend.talks, "hello", context=context).text


@feature("limits")
def test_length(asking: Asking, backend: Backend) -> None:
    said = asking.chat(backend.talks, options={"num_predict": 2})
    assert said.ended == "length"
    assert said.usage.eval_count == 2


@feature("limits")
def test_stop(asking: Asking, backend: Backend) -> None:
    whole = asking.chat(backend.talks).text
    word = whole.split()[3]
    said = asking.chat(backend.talks, options={**STEADY, "stop": [word]})
    assert said.text == whole.partition(word)[0]
    assert said.ended == "stop"


@feature("limits")
@pytest.mark.parametrize("model", ["demo"])
def test_repeating_is_a_stop(asking: Asking, model: str) -> None:
    options = {"temperature": 0, "num_predict": 30, "repeat_last_n": 64, "repeat_penalty": 1.1, "num_keep": 4}
    assert asking.chat(model, options=options).ended in ("stop", "length")


@feature("tools")
def test_tool_call_and_its_result(asking: Asking, backend: Backend) -> None:
    said = asking.chat(backend.talks, WEATHER, tools=[GET_WEATHER])
    assert said.ended == "stop"
    (call,) = said.calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    turn = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": call.name, "arguments": json.loads(call.arguments)}}],
    }
    result = {"role": "tool", "tool_name": call.name, "content": "20 degrees"}
    assert asking.chat(backend.talks, [*WEATHER, turn, result], tools=[GET_WEATHER]).text


@feature("tools")
def test_a_function_of_python_is_a_tool(asking: Asking, backend: Backend) -> None:
    def get_weather(city: str) -> str:
        """Get the weather.

        Args:
            city: The name of the city.
        """
        return city

    assert [call.name for call in asking.chat(backend.talks, WEATHER, tools=[get_weather]).calls] == [
        "get_weather"
    ]


class Person(BaseModel):
    """What an answer is to be."""

    name: str
    age: int
    mood: Literal["good", "bad"]


@feature("structured output")
def test_structured_output(asking: Asking, backend: Backend) -> None:
    schema = Person.model_json_schema()
    Person.model_validate_json(asking.chat(backend.talks, format=schema).text)
    Person.model_validate_json(asking.generate(backend.talks, "hello", format=schema).text)


@feature("structured output")
def test_json(asking: Asking, backend: Backend) -> None:
    assert asking.chat(backend.talks, format="json").text.lstrip().startswith("{")


@feature("reasoning")
@pytest.mark.parametrize("think", [None, True, "low", "high"], ids=str)
def test_thinking(asking: Asking, backend: Backend, think: Any) -> None:
    said = asking.chat(backend.reasons, think=think, options={**STEADY, "num_predict": 300})
    assert said.reasoning
    assert said.text
    assert "<think>" not in said.text


@feature("reasoning")
def test_thinking_by_generate(asking: Asking, backend: Backend) -> None:
    said = asking.generate(backend.reasons, "hello", think=True, options={**STEADY, "num_predict": 300})
    assert said.reasoning
    assert said.text


@feature("reasoning")
def test_thinking_can_be_switched_off(asking: Asking, backend: Backend) -> None:
    said = asking.chat(backend.reasons, think=False, options={**STEADY, "num_predict": 300})
    assert said.text
    assert not said.reasoning


@feature("reasoning")
def test_a_model_that_does_not_think_says_so(asking: Asking, backend: Backend) -> None:
    with pytest.raises(ollama.ResponseError, match="does not support thinking") as caught:
        asking.chat(backend.talks, think=True)
    assert caught.value.status_code == 400


@feature("images refused by a model that takes none")
def test_images_are_refused(asking: Asking, backend: Backend) -> None:
    with pytest.raises(ollama.ResponseError, match="image") as caught:
        asking.chat(backend.talks, [{"role": "user", "content": "hello", "images": [IMAGE]}])
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="image") as caught:
        asking.generate(backend.talks, "hello", images=[IMAGE])
    assert caught.value.status_code == 400


@feature("insertion refused by a model that cannot")
def test_insertion_is_refused(asking: Asking, backend: Backend) -> None:
    with pytest.raises(ollama.ResponseError, match="does not support insert") as caught:
        asking.generate(backend.talks, "def f(", suffix="return 1")
    assert caught.value.status_code == 400


BAD: dict[str, Any] = {
    "messages that are no list": {"messages": "hello"},
    "tools that are no list": {"tools": "all"},
    "a form of no kind": {"format": "yaml"},
    "an odd duration": {"keep_alive": "300"},
    "an odd thought": {"think": "deep"},
}


@feature("errors")
@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_a_bad_request(gateway: Gateway, backend: Backend, streamed: bool, case: str) -> None:
    body = {"model": backend.talks, "messages": HELLO, "stream": streamed, **BAD[case]}
    answer = gateway.client.post("/api/chat", json=body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert isinstance(answer.json()["error"], str)


@feature("errors")
@pytest.mark.parametrize("case", ["role", "temperature", "tool"])
def test_a_mistake_that_ollama_would_not_mind(gateway: Gateway, streamed: bool, case: str) -> None:
    """For a model of llama.cpp the gateway reads more than Ollama does."""
    fields: Any = {
        "role": {"messages": [{"content": "hello"}]},
        "temperature": {"options": {"temperature": "warm"}},
        "tool": {"tools": [{"type": "function", "function": {}}]},
    }[case]
    answer = gateway.client.post(
        "/api/chat", json={"model": "demo", "messages": HELLO, "stream": streamed, **fields}
    )
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)


@feature("errors")
def test_unknown_model(asking: Asking) -> None:
    with pytest.raises(ollama.ResponseError, match="not found") as caught:
        asking.chat("nope")
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="not found") as caught:
        asking.generate("nope", "hello")
    assert caught.value.status_code == 404


@feature("errors")
def test_unknown_models_elsewhere(client: ollama.Client) -> None:
    for ask in (client.show, client.delete, lambda name: client.embed(name, "x")):
        with pytest.raises(ollama.ResponseError, match="not found") as caught:
            ask("nope")
        assert caught.value.status_code == 404


@feature("embeddings")
def test_embed(client: ollama.Client, kept: Kept, backend: Backend) -> None:
    client.embed(backend.embeds, ["a llama", "a container"])
    answer = check(ollama.EmbedResponse, kept.lines()[0])
    assert len(answer.embeddings) == 2
    assert answer.total_duration
    assert answer.load_duration is not None
    assert answer.prompt_eval_count
    one = client.embed(backend.embeds, "a llama")
    assert list(one.embeddings[0]) == pytest.approx(list(answer.embeddings[0]), abs=1e-3)
    assert sum(value * value for value in one.embeddings[0]) == pytest.approx(1, abs=1e-3)
    old = client.embeddings(backend.embeds, "a llama")
    assert list(old.embedding) == pytest.approx(list(one.embeddings[0]), abs=1e-3)


@feature("embeddings: dimensions")
def test_dimensions(client: ollama.Client, backend: Backend) -> None:
    (vector,) = client.embed(backend.embeds, "a llama", dimensions=4).embeddings
    assert len(vector) == 4
    assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-3)


@feature("embeddings: long inputs")
def test_a_long_input_is_cut_unless_it_may_not_be(client: ollama.Client, backend: Backend) -> None:
    assert client.embed(backend.embeds, "llama " * 20_000).embeddings[0]
    if backend.name != "Ollama":  # the stand-in has no limit
        with pytest.raises(ollama.ResponseError) as caught:
            client.embed(backend.embeds, "llama " * 20_000, truncate=False)
        assert caught.value.status_code == 400


@feature("models")
def test_list(client: ollama.Client, kept: Kept, backend: Backend) -> None:
    listed = {entry.model for entry in client.list().models}
    assert {f"{backend.talks}:latest", f"{backend.embeds}:latest"} <= listed
    for entry in kept.lines()[0]["models"]:
        assert {"name", "model", "modified_at", "size", "digest", "details"} <= set(entry)
        assert len(entry["digest"]) == 64
        assert {"format", "family", "families", "parameter_size", "quantization_level"} <= set(
            entry["details"]
        )


@feature("models")
def test_ps(client: ollama.Client, kept: Kept, backend: Backend) -> None:
    client.chat(backend.talks, HELLO, options={"num_predict": 2})
    entries = {entry.model: entry for entry in client.ps().models}
    entry = entries[f"{backend.talks}:latest"]
    assert entry.expires_at is not None
    assert entry.context_length
    assert entry.digest
    assert entry.size is not None
    assert entry.size_vram is not None


@feature("models")
@pytest.mark.parametrize("verbose", [False, True], ids=["short", "verbose"])
def test_show(client: ollama.Client, gateway: Gateway, backend: Backend, verbose: bool) -> None:
    shown: Any = gateway.client.post("/api/show", json={"model": backend.talks, "verbose": verbose}).json()
    assert {"details", "model_info", "capabilities", "modified_at"} <= set(shown)
    assert {"completion", "tools"} <= set(shown["capabilities"])
    family = shown["details"]["family"]
    assert shown["model_info"][f"{family}.context_length"]
    assert client.show(backend.reasons).capabilities
    assert "thinking" in (client.show(backend.reasons).capabilities or [])
    assert "embedding" in (client.show(backend.embeds).capabilities or []) or backend.name == "Ollama"


@feature("models")
def test_unloading(client: ollama.Client, backend: Backend) -> None:
    assert client.generate(backend.embeds.removesuffix("-embed"), "", keep_alive=-1).done_reason == "load"
    assert client.generate(backend.talks, "", keep_alive=0).done_reason == "unload"
    until(lambda: f"{backend.talks}:latest" not in [entry.model for entry in client.ps().models], "unloaded")


@feature("cancellation")
def test_a_stream_that_is_closed_frees_its_place(
    client: ollama.Client, gateway: Gateway, backend: Backend
) -> None:
    forever: Any = [{"role": "user", "content": "forever " * 2000 if backend.name == "Ollama" else "forever"}]
    events = client.chat(backend.talks, forever, stream=True)
    assert [next(events).message for _ in range(3)]
    events.close()  # type: ignore[attr-defined]
    until(lambda: idle(gateway, backend.talks), "the place is free again")


@feature("without waiting")
async def test_async(gateway: Gateway, backend: Backend) -> None:
    async with ollama.AsyncClient(host=gateway.url) as client:
        parts = [part async for part in await client.chat(backend.talks, HELLO, stream=True, options=STEADY)]
    assert parts[-1].done
