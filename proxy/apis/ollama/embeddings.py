"""Ollama's embeddings: `/api/embed` for clients and of daemons, the older `/api/embeddings` for clients."""

from typing import Any

import msgspec

from agents.events import AnswerFailed
from proxy.apis.answer_json import UnreadableError, count, reader, seconds
from proxy.apis.durations import keep_alive, keep_alive_field
from proxy.apis.embeddings import Dimensions, Embed, Embeddings, Tokens, Vector, texts_only
from proxy.apis.fields import Json, decode, encode, unknown
from proxy.apis.server_errors import unreadable


class _Body(msgspec.Struct, kw_only=True):
    model: str
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class _EmbedBody(_Body, kw_only=True):
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: Dimensions | None = None


class _EmbeddingsBody(_Body, kw_only=True):
    prompt: str | None = None


def decode_embed(body: bytes) -> Embed:
    """Read a body of `/api/embed`. Raises `FieldError`."""
    wire = decode(body, _EmbedBody)
    inputs: list[str | Tokens] = (
        [wire.input] if isinstance(wire.input, str) and wire.input else [*(wire.input or [])]
    )
    return Embed(
        model=wire.model,
        inputs=inputs,
        dimensions=wire.dimensions or None,
        truncate=wire.truncate is not False,
        unchanged=bool(inputs),
        keep_alive=keep_alive(wire.keep_alive),
        extra={**unknown(body, _EmbedBody), **(wire.options or {})},
    )


def decode_embeddings(body: bytes) -> Embed:
    """Read a body of the older `/api/embeddings`. Raises `FieldError`."""
    wire = decode(body, _EmbeddingsBody)
    return Embed(
        model=wire.model,
        inputs=[wire.prompt] if wire.prompt else [],
        truncate=True,
        unchanged=bool(wire.prompt),
        keep_alive=keep_alive(wire.keep_alive),
        extra={**unknown(body, _EmbeddingsBody), **(wire.options or {})},
    )


def encode_request(request: Embed) -> bytes:
    """Write a body for Ollama's `/api/embed`. Raises `FieldError`.

    The body has no `dimensions`: the daemon answers with whole vectors, so that `embeddings.shortened` knows
    how long they are.
    """
    texts_only(request, "Ollama")
    body: Json = {"model": request.model, "input": request.inputs, "truncate": request.truncate}
    if request.keep_alive is not None:
        body["keep_alive"] = keep_alive_field(request.keep_alive)
    return encode(body)


class _Answer(msgspec.Struct):
    embeddings: list[Vector]
    prompt_eval_count: Any = 0
    total_duration: Any = 0
    load_duration: Any = 0


_read_answer = reader(_Answer)


def decode_answer(body: bytes) -> Embeddings | AnswerFailed:
    """Read a daemon's answer to `/api/embed`; return a failure if it cannot be read."""
    try:
        answer = _read_answer(body)
    except UnreadableError as error:
        return unreadable(error)
    return Embeddings(
        answer.embeddings,
        count(answer.prompt_eval_count),
        seconds(answer.total_duration, 1e9),
        seconds(answer.load_duration, 1e9),
    )


def encode_answer(answer: Embeddings, model: str, *, seconds: float = 0.0, load: float = 0.0) -> Json:
    """Return the answer to `/api/embed`.

    `seconds` and `load` are the durations of the request and of the loading, in seconds. They are used if the
    server reports none.
    """
    counters = {
        "total_duration": round((answer.total_seconds or seconds) * 1e9),
        "load_duration": round((answer.load_seconds or load) * 1e9),
        "prompt_eval_count": answer.prompt,
    }
    return {"model": model, "embeddings": answer.vectors, **counters}


def encode_legacy_answer(answer: Embeddings) -> Json:
    """Return the answer to `/api/embeddings`."""
    return {"embedding": answer.vectors[0] if answer.vectors else []}
