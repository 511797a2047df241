"""Vectors and ranking by models that say themselves what they are for, on real servers."""

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from tests.encoder_files import WIDTH, write_encoder
from tests.gateway import Gateway, running

CONTEXT = 1024
LONG, TOO_LONG = "a " * 1000, "b " * 5000
ONE_THREAD = ["--threads", "1"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, cache: str, real_server: None) -> Iterator[Gateway]:
    """With models of which the settings say nothing but where they are."""
    folder = tmp_path_factory.mktemp("encoders")
    paths = {
        "bert": write_encoder(folder / "bert.gguf", context=CONTEXT),
        "ranker": write_encoder(folder / "ranker.gguf", context=CONTEXT, pooling="rank"),
        "short": write_encoder(folder / "short.gguf", context=CONTEXT),
    }
    models: dict[str, Any] = {
        name: {"path": str(path), "arguments": ONE_THREAD} for name, path in paths.items()
    }
    models["short"] |= {"ctx_size": 256, "parallel": 2}
    in_parts = [*ONE_THREAD, "--pooling", "last"]
    models["last"] = {"path": "builtin:demo-embed", "ctx_size": 512, "arguments": in_parts}
    config = {
        "llama_cpp": {"models": models},
        "server_pool": {"size": 4},
        "agents": [{"rag": {"embed_model": "short"}}],
        "agent_data": str(folder / "agents"),
    }
    with running(config, folder, XDG_CACHE_HOME=cache) as started:
        yield started


@pytest.fixture
def gpt(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def post(gateway: Gateway, path: str, **body: Any) -> tuple[int, Any]:
    answer = gateway.client.post(path, json=body)
    return answer.status_code, answer.json()


def test_a_text_longer_than_512_tokens(gpt: openai.OpenAI, gateway: Gateway) -> None:
    answer = gpt.embeddings.create(model="bert", input=[LONG, "a"])
    assert len(answer.data[0].embedding) == WIDTH
    assert answer.usage.prompt_tokens == 1000 + 1 + 4
    command = gateway.wait_for("server starts", model="bert")["command"]
    assert "--ctx-size 1024 --batch-size 1024 --ubatch-size 1024 " in command
    assert "--cache-ram 0 --ctx-checkpoints 0 --embeddings" in command, "a text is no conversation"
    assert gateway.wait_for("server starts", model="bert")["predicted"]["host"]["kv"] == 0


def test_a_text_longer_than_the_context(gpt: openai.OpenAI, gateway: Gateway) -> None:
    with pytest.raises(openai.BadRequestError, match="5002 tokens, and the model reads 1024") as caught:
        gpt.embeddings.create(model="bert", input=["a", TOO_LONG])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
    whole = gpt.embeddings.create(model="bert", input="b " * (CONTEXT - 2))
    cut = gpt.embeddings.create(model="bert", input=TOO_LONG, extra_body={"truncate": True})
    assert cut.usage.prompt_tokens == whole.usage.prompt_tokens == CONTEXT
    assert cut.data[0].embedding == pytest.approx(whole.data[0].embedding, abs=1e-5)
    status, answer = post(gateway, "/api/embed", model="bert", input=["a", TOO_LONG])
    assert (status, answer["prompt_eval_count"]) == (200, 3 + CONTEXT)
    assert answer["embeddings"][1] == pytest.approx(whole.data[0].embedding, abs=1e-5)
    status, answer = post(gateway, "/api/embed", model="bert", input=TOO_LONG, truncate=False)
    assert (status, answer) == (400, {"error": "the input length exceeds the context length"})
    assert post(gateway, "/api/embeddings", model="bert", prompt=TOO_LONG)[0] == 200


def test_the_context_of_the_settings_is_that_of_a_text(gpt: openai.OpenAI) -> None:
    assert gpt.embeddings.create(model="short", input="a " * 254).usage.prompt_tokens == 256
    with pytest.raises(openai.BadRequestError, match="257 tokens, and the model reads 256"):
        gpt.embeddings.create(model="short", input="a " * 255)


@pytest.mark.parametrize("truncate", [False, True])
def test_texts_that_are_too_long_together_only(gateway: Gateway, truncate: bool) -> None:
    texts = [f"{word} " * 400 for word in ("llama", "docker", "grass", "llama")]
    status, answer = post(gateway, "/v1/embeddings", model="last", input=texts, truncate=truncate)
    assert (status, len(answer["data"])) == (200, 4)
    assert answer["usage"]["prompt_tokens"] > 1600
    first, other, _, same = (item["embedding"] for item in answer["data"])
    assert first == pytest.approx(same, abs=1e-3)
    assert first != pytest.approx(other, abs=1e-3)
    command = gateway.wait_for("server starts", model="last")["command"]
    assert "--kv-unified" in command
    assert "batch-size" not in command


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ("a b", [4]),
        ("", [2]),
        (["a", ""], [3, 2]),
        ([5, 6, 7], [3]),
        ([[5, 6], [7]], [2, 1]),
        ([[5, 6], "a"], [2, 3]),
        (["a"] * 300, [3] * 300),
    ],
)
def test_texts_and_tokens(gateway: Gateway, given: Any, tokens: list[int], truncate: bool) -> None:
    fields = {"truncate": True} if truncate else {}  # whose answer the gateway writes
    status, answer = post(gateway, "/v1/embeddings", model="bert", input=given, **fields)
    assert status == 200
    assert [item["index"] for item in answer["data"]] == list(range(len(tokens)))
    assert answer["usage"] == {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
    assert gateway.wait_for("request", path="/v1/embeddings", prompt_tokens=sum(tokens))


@pytest.mark.parametrize("dimensions", [None, 16])
@pytest.mark.parametrize("encoding", ["float", "base64", None, ...])
def test_encodings(gateway: Gateway, encoding: Any, dimensions: int | None) -> None:
    fields = {} if encoding is ... else {"encoding_format": encoding}
    status, answer = post(
        gateway, "/v1/embeddings", model="bert", input="a b", dimensions=dimensions, **fields
    )
    assert status == 200
    vector = answer["data"][0]["embedding"]
    assert isinstance(vector, str) == (encoding == "base64")
    numbers = np.frombuffer(base64.b64decode(vector), np.float32) if encoding == "base64" else vector
    assert len(numbers) == (dimensions or WIDTH)
    assert np.linalg.norm(numbers) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": None}, "input"),
        ({"input": [999_999]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": "a", "dimensions": WIDTH + 1}, "dimensions"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": "8"}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "truncate": "END"}, "truncate"),
    ],
)
def test_what_is_wrong_is_a_400_that_names_it(gateway: Gateway, fields: dict[str, Any], param: str) -> None:
    status, answer = post(gateway, "/v1/embeddings", model="bert", **fields)
    assert (status, answer["error"]["param"]) == (400, param)
    assert answer["error"]["type"] == "invalid_request_error"


def test_every_passage_of_a_japanese_document_gets_its_vector(gateway: Gateway) -> None:
    """Of more tokens than the model reads: a passage has 1,200 characters."""
    text = "".join(f"{number} 日本語の長文章検索。" * 120 + "\n\n" for number in range(6))
    document = {"name": "a.md", "text": text}
    status, answer = post(gateway, "/v1/agents/rag/documents", documents=[document])
    assert (status, answer["pending"], answer["refused"]) == (200, 0, {})
    (collection,) = gateway.client.get("/v1/agents/rag/collections").json()["collections"]
    assert collection["chunks"] == collection["vectors"] == answer["embedded"] > 6


def test_ranking(gateway: Gateway) -> None:
    status, answer = post(gateway, "/v1/rerank", model="ranker", query="a", documents=[LONG, "b"])
    assert status == 200
    assert {found["index"] for found in answer["results"]} == {0, 1}
    status, answer = post(gateway, "/v1/rerank", model="ranker", query="a", documents=["b", TOO_LONG])
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert answer["error"]["param"] == "documents"
    status, answer = post(gateway, "/v1/rerank", model="ranker", query="a", documents=[])
    assert (status, answer["error"]["param"]) == (400, "documents")
    status, answer = post(gateway, "/v1/rerank", model="bert", query="a", documents=["b"])
    assert (status, answer["error"]["message"]) == (400, "this model does not support reranking.")
    assert "--reranking" in gateway.wait_for("server starts", model="ranker")["command"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings", "/api/embed", "/api/embeddings"])
@pytest.mark.parametrize("more", [{}, {"dimensions": 2}, {"encoding_format": "base64"}])
def test_a_ranking_model_gives_no_vectors(gateway: Gateway, path: str, more: dict[str, Any]) -> None:
    """llama.cpp reads them from behind the only number that there is."""
    status, answer = post(gateway, path, model="ranker", input="a", prompt="a", **more)
    assert status == 400
    assert "this model does not support embeddings: it ranks texts" in str(answer["error"])
    if not path.startswith("/api"):
        assert (answer["error"]["code"], answer["error"]["param"]) == ("not_supported", "model")


def test_what_a_model_is_for_is_listed(gateway: Gateway) -> None:
    listed = gateway.client.get("/api/tags").json()["models"]
    assert {model["name"]: model["capabilities"] for model in listed} == {
        "bert:latest": ["embedding"],
        "ranker:latest": ["rerank"],
        "short:latest": ["embedding"],
        "last:latest": ["embedding"],
    }
