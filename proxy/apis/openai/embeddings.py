"""Reads requests for OpenAI's embeddings, and writes the answers."""

import base64
from array import array
from typing import Annotated, Any, Literal

import msgspec

from proxy.apis.durations import keep_alive
from proxy.apis.embeddings import Embed, Embeddings, Vector
from proxy.apis.fields import FieldError, Json, decode, unknown


class _Body(msgspec.Struct, kw_only=True):
    model: str
    input: str | list[Any]
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | msgspec.UnsetType | None = msgspec.UNSET
    truncate: bool | None = None
    keep_alive: Any = None


def decode_request(body: bytes) -> Embed:
    """Read a body of `/v1/embeddings`. Raises `FieldError`."""
    wire = decode(body, _Body)
    if not wire.input and isinstance(wire.input, list):
        raise FieldError("input", "is empty")
    # A list that contains a number is one text, given as tokens.
    is_one = isinstance(wire.input, str) or any(isinstance(item, int) for item in wire.input)
    return Embed(
        model=wire.model,
        inputs=[wire.input] if is_one else list(wire.input),
        dimensions=wire.dimensions,
        truncate=bool(wire.truncate),
        unchanged=not wire.dimensions and not wire.truncate and wire.encoding_format is not None,
        keep_alive=keep_alive(wire.keep_alive),
        base64=wire.encoding_format == "base64",
        extra=unknown(body, _Body),
    )


def encode_answer(answer: Embeddings, request: Embed) -> Json:
    """Return the answer to `/v1/embeddings`, in the format that the client asked for."""
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
