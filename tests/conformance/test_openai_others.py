"""OpenAI's APIs beside chat and responses, by OpenAI's client for Python: embeddings, completions, models."""

import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model

from tests.conformance.samples import HELLO, idle
from tests.conformance.serving import Backend
from tests.conformance.strict import as_sent, check
from tests.gateway import Gateway, until

CLIENT = "openai"
feature = pytest.mark.feature


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def _length(vector: list[float]) -> float:
    return math.hypot(*vector)


@feature("embeddings")
@pytest.mark.parametrize("form", [openai.omit, "float"], ids=["base64", "float"])
def test_embeddings(client: openai.OpenAI, backend: Backend, form: Any) -> None:
    answer = client.embeddings.create(
        model=backend.embeds, input=["a llama", "a container"], encoding_format=form
    )
    checked = check(CreateEmbeddingResponse, as_sent(answer))
    assert [entry.index for entry in checked.data] == [0, 1]
    assert [_length(entry.embedding) for entry in checked.data] == pytest.approx([1, 1], abs=1e-3)
    assert checked.usage.prompt_tokens == checked.usage.total_tokens > 0


@feature("embeddings")
def test_the_two_encodings_agree(client: openai.OpenAI, backend: Backend) -> None:
    packed = client.embeddings.create(model=backend.embeds, input="a llama").data[0].embedding
    plain = client.embeddings.create(model=backend.embeds, input="a llama", encoding_format="float")
    assert packed == pytest.approx(plain.data[0].embedding, abs=1e-6)
    nothing: Any = {"encoding_format": None, "dimensions": None, "user": None}
    raw = client.post(
        "/embeddings", cast_to=object, body={"model": backend.embeds, "input": "a llama", **nothing}
    )
    assert raw["data"][0]["embedding"] == pytest.approx(packed, abs=1e-6)  # type: ignore[index]


@feature("embeddings: dimensions")
def test_dimensions(client: openai.OpenAI, backend: Backend) -> None:
    forms: Any = (openai.omit, "float")
    for form in forms:
        answer = client.embeddings.create(
            model=backend.embeds,
            input=["a llama", "b"],
            dimensions=4,
            encoding_format=form,
        )
        assert [len(entry.embedding) for entry in answer.data] == [4, 4]
        assert [_length(entry.embedding) for entry in answer.data] == pytest.approx([1, 1], abs=1e-3)


@feature("embeddings: dimensions")
@pytest.mark.parametrize("dimensions", [0, -1, 1_000_000, "few"])
def test_dimensions_that_cannot_be(client: openai.OpenAI, backend: Backend, dimensions: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=backend.embeds, input="a llama", dimensions=dimensions)
    assert caught.value.param == "dimensions"


@feature("embeddings: long inputs")
def test_an_input_of_more_than_512_tokens(client: openai.OpenAI, backend: Backend) -> None:
    assert client.embeddings.create(model=backend.embeds, input="llama " * 1500).data[0].embedding


@feature("embeddings: errors")
@pytest.mark.parametrize("given", [[], 7, [{"text": "x"}], None], ids=str)
def test_inputs_that_cannot_be(client: openai.OpenAI, backend: Backend, given: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=backend.embeds, input=given)
    assert str(caught.value.param).startswith("input")
    assert caught.value.type == "invalid_request_error"


@feature("embeddings: errors")
def test_a_form_that_cannot_be(client: openai.OpenAI, backend: Backend) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=backend.embeds, input="x", encoding_format="hex")  # type: ignore[arg-type]
    assert caught.value.param == "encoding_format"


@feature("embeddings: errors")
def test_a_model_that_does_not_embed(client: openai.OpenAI, backend: Backend) -> None:
    if backend.name == "llama.cpp":
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model=backend.talks, input="x")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="gpt-9", input="x")


@feature("embeddings: errors")
def test_a_model_that_only_embeds(client: openai.OpenAI, gateway: Gateway, streamed: bool) -> None:
    """The stand-in's model for embeddings talks too."""
    common: Any = {"model": "demo-embed", "stream": streamed}
    asks: list[tuple[Any, Any]] = [
        (client.chat.completions.create, {"messages": HELLO}),
        (client.completions.create, {"prompt": "hello"}),
        (client.responses.create, {"input": "hello"}),
    ]
    for ask, given in asks:
        with pytest.raises(openai.BadRequestError, match="does not support text generation") as caught:
            ask(**common, **given)
        assert (caught.value.code, caught.value.param) == ("not_supported", "model")
    for path in ("/v1/messages", "/api/chat"):
        answer = gateway.client.post(path, json={**common, "max_tokens": 9, "messages": HELLO})
        assert answer.status_code == 400
        assert "does not support text generation" in answer.text


def _completion(part: Completion) -> Completion:
    data = as_sent(part)
    for choice in data["choices"]:  # OpenAI sends null before the end too, against its own type
        choice["finish_reason"] = choice["finish_reason"] or "length"
    checked: Completion = check(Completion, data)
    return checked


@feature("completions")
def test_completions(client: openai.OpenAI, backend: Backend, streamed: bool) -> None:
    answer: Any = client.completions.create(
        model=backend.talks, prompt="A llama is", max_tokens=4, temperature=0, stream=streamed
    )
    parts = [_completion(part) for part in (answer if streamed else [answer])]
    assert "".join(part.choices[0].text for part in parts)
    assert parts[-1].choices[0].finish_reason == "length"


@feature("completions: cancellation")
def test_a_stream_that_is_closed_frees_its_place(client: openai.OpenAI, gateway: Gateway) -> None:
    events = client.completions.create(model="demo", prompt="A llama is", stream=True, max_tokens=4000)
    assert next(iter(events)).choices
    events.close()
    until(lambda: idle(gateway, "demo"), "the place is free again")


@feature("models")
def test_models(client: openai.OpenAI, backend: Backend) -> None:
    raw: Any = client.get("/models", cast_to=object)
    assert raw["object"] == "list"
    listed = {entry.id: as_sent(entry) for entry in client.models.list()}
    for model in (backend.talks, backend.embeds):
        (name,) = {model, f"{model}:latest"} & set(listed)
        official = {key: listed[name][key] for key in ("id", "object", "created", "owned_by")}
        check(Model, official)
        assert client.models.retrieve(model).id == name


@feature("models")
def test_a_model_that_is_not_there(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


@feature("errors")
def test_what_is_not_there(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.list()
    assert caught.value.type == "invalid_request_error"


@feature("errors")
def test_a_body_that_is_no_json(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post(
            "/chat/completions",
            cast_to=object,
            content=b"{no",
            options={"headers": {"Content-Type": "application/json"}},
        )
    assert caught.value.type == "invalid_request_error"
