"""Writes requests for embeddings to a llama.cpp server, and reads its answers."""

import base64
from array import array
from typing import Any

import msgspec

from agents.events import AnswerFailed
from proxy.apis.answer_json import count, reader
from proxy.apis.embeddings import Embed, Embeddings, Tokens, Vector
from proxy.apis.fields import encode
from proxy.apis.server_errors import unreadable


def encode_request(request: Embed) -> bytes:
    """Write a body for llama.cpp's `/v1/embeddings`, without `dimensions`: see `embeddings.shortened`."""
    return encode(
        {**request.extra, "model": request.model, "input": request.inputs, "encoding_format": "float"}
    )


def encode_tokenize(text: str | Tokens) -> bytes:
    """Write a body for llama.cpp's `/tokenize`, which tokenizes a text as for an embedding."""
    return encode({"content": text, "add_special": True})


class _Tokenized(msgspec.Struct):
    tokens: list[int]


_read_tokenized = reader(_Tokenized)


def decode_tokenized(body: bytes) -> list[int]:
    """Read a server's answer to `/tokenize`. Raises `UnreadableError`."""
    return _read_tokenized(body).tokens


class _Vector(msgspec.Struct):
    embedding: Vector | str
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: Any = 0


class _Answer(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage | None = None


_read_answer = reader(_Answer)


def decode_answer(body: bytes) -> Embeddings | AnswerFailed:
    """Read a server's answer to `/v1/embeddings`; return a failure if it cannot be read."""
    try:
        answer = _read_answer(body)
        vectors = [_floats(item.embedding) for item in sorted(answer.data, key=lambda item: item.index)]
    except ValueError as error:  # also raised for invalid base64
        return unreadable(error)
    return Embeddings(vectors, count(answer.usage.prompt_tokens) if answer.usage else 0)


def _floats(embedding: Vector | str) -> Vector:
    return (
        embedding
        if isinstance(embedding, list)
        else list(array("f", base64.b64decode(embedding, validate=True)))
    )
