"""OpenAI's embeddings, read from a client and written for one."""

import base64
from array import array
from typing import Any, Literal

import msgspec

from proxy.apis.durations import keep_alive
from proxy.apis.embeddings import Dimensions, Embed, Embeddings, Vector
from proxy.apis.fields import FieldError, Json, decode, unknown


class _Body(msgspec.Struct, kw_only=True):
    model: str
    input: str | list[str | int | list[int]]
    dimensions: Dimensions | None = None
    encoding_format: Literal["float", "base64"] | None = None
    truncate: bool | None = None
    keep_alive: Any = None


def decode_request(body: bytes) -> Embed:
    """Read a body of `/v1/embeddings`. Raises `FieldError`, also for tokens: they are a model's own."""
    wire = decode(body, _Body)
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
        extra=unknown(body, _Body),
    )


def encode_answer(answer: Embeddings, request: Embed) -> Json:
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


def _base64(vector: Vector) -> str:
    # `array` has the machine's byte order, which is little-endian wherever llama.cpp runs.
    return base64.b64encode(array("f", vector).tobytes()).decode()
