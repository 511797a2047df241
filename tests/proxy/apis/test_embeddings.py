"""Embeddings between Ollama's two endpoints and OpenAI's."""

import base64
import json
import math
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.events import AnswerFailed
from proxy.apis.embeddings import Embed, Embeddings, cut, shortened
from proxy.apis.fields import FieldError
from proxy.apis.llama_cpp import embeddings as llama
from proxy.apis.ollama import embeddings as ollama
from proxy.apis.openai import embeddings as openai


def body(**value: Any) -> bytes:
    return json.dumps({"model": "m", **value}).encode()


@pytest.mark.parametrize(
    ("given_input", "inputs"), [("x", ["x"]), (["x", ""], ["x", ""]), ("", []), ([], []), (None, [])]
)
def test_ollama_to_openai(given_input: Any, inputs: list[str]) -> None:
    request = ollama.decode_embed(body(input=given_input, dimensions=0, keep_alive="5m"))
    expected = Embed(model="m", inputs=[*inputs], truncate=True, unchanged=bool(inputs), keep_alive=300.0)
    assert request == expected
    sent = json.loads(llama.encode_request(request))
    assert sent == {"model": "m", "input": inputs, "encoding_format": "float"}


def test_the_older_endpoint() -> None:
    request = ollama.decode_embeddings(body(prompt="x", options={"num_ctx": 5}))
    assert request == Embed(model="m", inputs=["x"], truncate=True, unchanged=True, extra={"num_ctx": 5})
    assert ollama.encode_legacy_answer(Embeddings([[0.5, 1.0]])) == {"embedding": [0.5, 1.0]}
    assert ollama.encode_legacy_answer(Embeddings([])) == {"embedding": []}


def test_openai_to_ollama() -> None:
    request = openai.decode_request(body(input=["x", "y"], dimensions=2, keep_alive=-1, user="u"))
    assert json.loads(ollama.encode_request(request)) == {
        "model": "m",
        "input": ["x", "y"],
        "truncate": False,
        "keep_alive": -1,
    }


ANSWER = Embeddings([[0.25, -1.5], [3.0, 0.1]], 7)


def test_answers() -> None:
    said = openai.encode_answer(ANSWER, Embed(model="m", inputs=[]))
    assert said == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.25, -1.5]},
            {"object": "embedding", "index": 1, "embedding": [3.0, 0.1]},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    answered = ollama.encode_answer(ANSWER, "m", seconds=1.5)
    assert answered == {
        "model": "m",
        "embeddings": ANSWER.vectors,
        "total_duration": 1_500_000_000,
        "load_duration": 0,
        "prompt_eval_count": 7,
    }
    nothing = {"total_duration": 0, "load_duration": 0, "prompt_eval_count": 0}
    assert ollama.encode_answer(Embeddings([]), "m") == {"model": "m", "embeddings": [], **nothing}
    said["data"].reverse()
    assert llama.decode_answer(msgspec.json.encode(said)) == ANSWER
    assert ollama.decode_answer(msgspec.json.encode({**answered, "load_duration": 5})) == Embeddings(
        ANSWER.vectors, 7, 1.5, 5e-9
    )


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5), min_size=1, max_size=3)
)
def test_base64(vectors: list[list[float]]) -> None:
    request = openai.decode_request(body(input="x", encoding_format="base64"))
    answer = openai.encode_answer(Embeddings(vectors), request)
    packed = base64.b64decode(answer["data"][0]["embedding"])
    assert list(struct.unpack(f"<{len(vectors[0])}f", packed)) == vectors[0]
    assert llama.decode_answer(msgspec.json.encode(answer)) == Embeddings(vectors)


def test_shortened_vectors_have_length_one() -> None:
    short = shortened(Embeddings([[3.0, 4.0, 9.0], [1.0, 2.0], [0.0, 0.0, 0.0]]), 2)
    assert short.vectors == [[0.6, 0.8], [1.0, 2.0], [0.0, 0.0]]
    assert math.isclose(math.hypot(*short.vectors[0]), 1)
    assert shortened(ANSWER, None) is ANSWER
    assert shortened(Embeddings([]), 9) == Embeddings([])
    with pytest.raises(FieldError, match="dimensions: 3 are more than the 2 of the model's vectors"):
        shortened(ANSWER, 3)


@pytest.mark.parametrize(
    ("given_input", "inputs"),
    [
        ("x", ["x"]),
        ("", [""]),
        (["x", ""], ["x", ""]),
        ([1, 2], [[1, 2]]),
        ([1, "x"], [[1, "x"]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([[1, 2], "x"], [[1, 2], "x"]),
    ],
)
def test_texts_and_tokens(given_input: Any, inputs: list[Any]) -> None:
    request = openai.decode_request(body(input=given_input))
    assert request.inputs == inputs
    assert json.loads(llama.encode_request(request))["input"] == inputs


@pytest.mark.parametrize(
    ("given_input", "field"), [([1, 2], "input"), ([[1]], "input"), (["x", [1]], "input[1]")]
)
def test_ollama_takes_no_tokens(given_input: Any, field: str) -> None:
    with pytest.raises(FieldError, match="Ollama, which takes no tokens; send text") as caught:
        ollama.encode_request(openai.decode_request(body(input=given_input)))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("fields", "unchanged"),
    [
        ({}, True),
        ({"encoding_format": "base64", "truncate": False, "dimensions": None, "user": "u"}, True),
        ({"encoding_format": None}, False),  # llama.cpp takes it for an error
        ({"dimensions": 5}, False),
        ({"truncate": True}, False),
    ],
)
def test_what_llama_cpp_does_itself(fields: dict[str, Any], unchanged: bool) -> None:
    assert openai.decode_request(body(input="x", **fields)).unchanged is unchanged


@pytest.mark.parametrize(
    ("tokens", "frame", "expected"),
    [
        ([1, 2, 3], [], [1, 2, 3]),
        ([1, 2, 3, 4, 5], [], [1, 2, 3, 4]),
        ([101, 7, 8, 9, 102], [101, 102], [101, 7, 8, 102]),
        ([101, 7, 8, 9, 10], [101], [101, 7, 8, 9]),
        ([7, 8, 9, 10, 102], [102], [7, 8, 9, 102]),
        ([7, 8, 9, 10, 11], [101, 102], [7, 8, 9, 10]),
        ([1, 2, 7, 8, 9, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]),
    ],
)
def test_a_cut_text_ends_as_the_model_ends_texts(
    tokens: list[int], frame: list[int], expected: list[int]
) -> None:
    assert cut(tokens, 4, frame) == expected


@pytest.mark.parametrize(
    ("decode", "value", "field"),
    [
        (ollama.decode_embed, {"input": 5}, "input"),
        (ollama.decode_embed, {"input": [5]}, "input[0]"),
        (ollama.decode_embed, {"input": "x", "dimensions": -1}, "dimensions"),
        (ollama.decode_embed, {"input": "x", "keep_alive": "x"}, "keep_alive"),
        (ollama.decode_embeddings, {"prompt": []}, "prompt"),
        (openai.decode_request, {}, "input"),
        (openai.decode_request, {"input": []}, "input"),
        (openai.decode_request, {"input": 5}, "input"),
        (openai.decode_request, {"input": "x", "dimensions": 0}, "dimensions"),
        (openai.decode_request, {"input": "x", "truncate": "END"}, "truncate"),
        (openai.decode_request, {"input": "x", "encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_what_is_wrong_is_named(decode: Any, value: Any, field: str) -> None:
    with pytest.raises(FieldError) as caught:
        decode(body(**value))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"data":[{"embedding":"!"}]}',
        b'{"data":[{"embedding":"AAA="}]}',
        b'{"embeddings":[["x"]]}',
    ],
)
def test_answers_that_cannot_be_read(data: bytes) -> None:
    for decode in (llama.decode_answer, ollama.decode_answer):
        failure = decode(data)
        assert isinstance(failure, AnswerFailed)
        assert failure.status == 502
