"""Embeddings: `/api/embed`, `/api/embeddings` and `/v1/embeddings`, each into each."""

import base64
import math
from array import array
from typing import Annotated, Any, Literal

import msgspec

from agents.events import AnswerFailed
from proxy.apis.answer_json import UnreadableError, count, reader, seconds
from proxy.apis.failures import unreadable
from proxy.apis.fields import FieldError, Json, decode, encode, present, unknown
from proxy.apis.ollama.durations import keep_alive, keep_alive_field

Vector = list[float]
Dimensions = Annotated[int, msgspec.Meta(ge=0)]


class Embed(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants embedded; no `inputs` ask Ollama to load the model. `keep_alive` is in seconds."""

    model: str
    inputs: list[str]
    dimensions: int | None = None
    truncate: bool | None = None
    keep_alive: float | None = None
    base64: bool = False
    extra: dict[str, Any] = {}


class Embeddings(msgspec.Struct, frozen=True):
    """A vector for each input. Durations are in seconds, 0 where unknown."""

    vectors: list[Vector]
    prompt: int = 0
    total_seconds: float = 0.0
    load_seconds: float = 0.0


class _OllamaBody(msgspec.Struct, kw_only=True):
    model: str
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class _EmbedBody(_OllamaBody, kw_only=True):
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: Dimensions | None = None


class _EmbeddingsBody(_OllamaBody, kw_only=True):
    prompt: str | None = None


class _OpenAiBody(msgspec.Struct, kw_only=True):
    model: str
    input: str | list[str | int | list[int]]
    dimensions: Dimensions | None = None
    encoding_format: Literal["float", "base64"] | None = None
    truncate: bool | None = None
    keep_alive: Any = None


# Requests


def decode_embed(body: bytes) -> Embed:
    """Read a body of `/api/embed`. Raises `FieldError`."""
    wire = decode(body, _EmbedBody)
    return Embed(
        model=wire.model,
        inputs=[wire.input] if isinstance(wire.input, str) and wire.input else list(wire.input or []),
        dimensions=wire.dimensions or None,
        truncate=wire.truncate,
        keep_alive=keep_alive(wire.keep_alive),
        extra={**unknown(body, _EmbedBody), **(wire.options or {})},
    )


def decode_embeddings(body: bytes) -> Embed:
    """Read a body of the older `/api/embeddings`. Raises `FieldError`."""
    wire = decode(body, _EmbeddingsBody)
    return Embed(
        model=wire.model,
        inputs=[wire.prompt] if wire.prompt else [],
        keep_alive=keep_alive(wire.keep_alive),
        extra={**unknown(body, _EmbeddingsBody), **(wire.options or {})},
    )


def decode_openai(body: bytes) -> Embed:
    """Read a body of `/v1/embeddings`. Raises `FieldError`, also for tokens: they are a model's own."""
    wire = decode(body, _OpenAiBody)
    inputs: list[str] = []
    for index, item in enumerate([wire.input] if isinstance(wire.input, str) else wire.input):
        if not isinstance(item, str):
            raise FieldError(f"input[{index}]", "tokens are not supported for this model, send text")
        inputs.append(item)
    if not inputs:
        raise FieldError("input", "is empty")
    return Embed(
        model=wire.model,
        inputs=inputs,
        dimensions=wire.dimensions or None,
        truncate=wire.truncate,
        keep_alive=keep_alive(wire.keep_alive),
        base64=wire.encoding_format == "base64",
        extra=unknown(body, _OpenAiBody),
    )


def encode_openai(request: Embed) -> bytes:
    """Write a body for llama.cpp's `/v1/embeddings`. It gives whole vectors: see `shortened`."""
    return encode(
        {**request.extra, "model": request.model, "input": request.inputs, "encoding_format": "float"}
    )


def encode_ollama(request: Embed) -> bytes:
    """Write a body for Ollama's `/api/embed`."""
    body: Json = {
        "model": request.model,
        "input": request.inputs,
        **present(truncate=request.truncate, dimensions=request.dimensions),
    }
    if request.keep_alive is not None:
        body["keep_alive"] = keep_alive_field(request.keep_alive)
    return encode(body)


# Answers


class _OpenAiVector(msgspec.Struct):
    embedding: Vector | str
    index: int = 0


class _OpenAiUsage(msgspec.Struct):
    prompt_tokens: Any = 0


class _OpenAiAnswer(msgspec.Struct):
    data: list[_OpenAiVector]
    usage: _OpenAiUsage | None = None


class _OllamaAnswer(msgspec.Struct):
    embeddings: list[Vector]
    prompt_eval_count: Any = 0
    total_duration: Any = 0
    load_duration: Any = 0


_read_openai = reader(_OpenAiAnswer)
_read_ollama = reader(_OllamaAnswer)


def decode_openai_answer(body: bytes) -> Embeddings | AnswerFailed:
    """Read a server's `/v1/embeddings`; what cannot be read is a failure."""
    try:
        answer = _read_openai(body)
        vectors = [_floats(item.embedding) for item in sorted(answer.data, key=lambda item: item.index)]
    except ValueError as error:  # of base64 too
        return unreadable(error)
    return Embeddings(vectors, count(answer.usage.prompt_tokens) if answer.usage else 0)


def decode_ollama_answer(body: bytes) -> Embeddings | AnswerFailed:
    """Read a server's `/api/embed`; what cannot be read is a failure."""
    try:
        answer = _read_ollama(body)
    except UnreadableError as error:
        return unreadable(error)
    return Embeddings(
        answer.embeddings,
        count(answer.prompt_eval_count),
        seconds(answer.total_duration, 1e9),
        seconds(answer.load_duration, 1e9),
    )


def shortened(answer: Embeddings, dimensions: int | None) -> Embeddings:
    """The answer with vectors of at most so many dimensions, of length 1 again, as Ollama shortens them."""
    if dimensions is None:
        return answer
    vectors = [v if len(v) <= dimensions else _normalized(v[:dimensions]) for v in answer.vectors]
    return msgspec.structs.replace(answer, vectors=vectors)


def _normalized(vector: Vector) -> Vector:
    length = math.hypot(*vector) or 1.0
    return [value / length for value in vector]


def encode_ollama_answer(answer: Embeddings, model: str, *, seconds: float = 0.0, load: float = 0.0) -> Json:
    """The answer to `/api/embed`. `seconds` and `load` count where the server tells no durations."""
    counters = present(
        total_duration=round((answer.total_seconds or seconds) * 1e9) or None,
        load_duration=round((answer.load_seconds or load) * 1e9) or None,
        prompt_eval_count=answer.prompt or None,
    )
    return {"model": model, "embeddings": answer.vectors, **counters}


def encode_ollama_legacy_answer(answer: Embeddings) -> Json:
    """The answer to `/api/embeddings`."""
    return {"embedding": answer.vectors[0] if answer.vectors else []}


def encode_openai_answer(answer: Embeddings, request: Embed) -> Json:
    """The answer to `/v1/embeddings`, in the format that was asked for."""
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _base64(vector) if request.base64 else vector,
            }
            for index, vector in enumerate(answer.vectors)
        ],
        "model": request.model,
        "usage": {"prompt_tokens": answer.prompt, "total_tokens": answer.prompt},
    }


# `array` has the machine's byte order, which is little-endian wherever llama.cpp runs.


def _base64(vector: Vector) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()


def _floats(embedding: Vector | str) -> Vector:
    return (
        embedding
        if isinstance(embedding, list)
        else list(array("f", base64.b64decode(embedding, validate=True)))
    )
