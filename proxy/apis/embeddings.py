"""Embeddings, whatever API asks for them or gives them."""

import math
from typing import Annotated, Any

import msgspec

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


def shortened(answer: Embeddings, dimensions: int | None) -> Embeddings:
    """The answer with vectors of at most so many dimensions, of length 1 again, as Ollama shortens them."""
    if dimensions is None:
        return answer
    vectors = [v if len(v) <= dimensions else _normalized(v[:dimensions]) for v in answer.vectors]
    return msgspec.structs.replace(answer, vectors=vectors)


def _normalized(vector: Vector) -> Vector:
    length = math.hypot(*vector) or 1.0
    return [value / length for value in vector]
