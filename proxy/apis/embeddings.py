"""The canonical request for embeddings and its answer, between the APIs of clients and of servers."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from proxy.apis.fields import FieldError

Vector = list[float]
Dimensions = Annotated[int, msgspec.Meta(ge=0)]


Tokens = list[Any]
"""One text as a list of tokens, which may contain strings."""


class Embed(msgspec.Struct, frozen=True, kw_only=True):
    """A request for embeddings. Without `inputs` Ollama only loads the model. `keep_alive` is in seconds.

    `truncate`: a text that is too long is cut, not refused. `unchanged`: a server that speaks the client's
    API can answer the body unchanged.
    """

    model: str
    inputs: Sequence[str | Tokens]
    dimensions: int | None = None
    truncate: bool = False
    unchanged: bool = False
    keep_alive: float | None = None
    base64: bool = False
    extra: dict[str, Any] = {}


class Embeddings(msgspec.Struct, frozen=True):
    """A vector for each input. `prompt` is the number of tokens. Durations are in seconds, 0 if unknown."""

    vectors: list[Vector]
    prompt: int = 0
    total_seconds: float = 0.0
    load_seconds: float = 0.0


def shortened(answer: Embeddings, dimensions: int | None) -> Embeddings:
    """Return the answer with vectors cut to `dimensions` numbers and normalized to length 1.

    Raises `FieldError` if the model's vectors have fewer.
    """
    if dimensions is None:
        return answer
    there_are = min(map(len, answer.vectors), default=dimensions)
    if there_are < dimensions:
        raise FieldError("dimensions", f"{dimensions} are more than the {there_are} of the model's vectors")
    vectors = [v if len(v) == dimensions else _normalized(v[:dimensions]) for v in answer.vectors]
    return msgspec.structs.replace(answer, vectors=vectors)


def texts_only(request: Embed, server: str) -> None:
    """Raise `FieldError` for inputs given as tokens, which this kind of server does not take."""
    for index, item in enumerate(request.inputs):
        if not isinstance(item, str):
            field = "input" if len(request.inputs) == 1 else f"input[{index}]"
            raise FieldError(field, f"the model is served by {server}, which takes no tokens; send text")


def cut(tokens: Tokens, limit: int, frame: Tokens) -> Tokens:
    """Return a text's tokens, cut to `limit`.

    `frame` has the tokens that the model puts around an empty text: those at the end are kept.
    """
    if len(tokens) <= limit:
        return tokens
    most = min(len(frame), limit)
    last = next((count for count in range(most, 0, -1) if tokens[-count:] == frame[-count:]), 0)
    return [*tokens[: limit - last], *tokens[len(tokens) - last :]]


def _normalized(vector: Vector) -> Vector:
    length = math.hypot(*vector) or 1.0
    return [value / length for value in vector]
