"""Request bodies: what is checked before a model is loaded, and the few fields the gateway sets itself.

Only the fields that every API client agrees on are typed, and loosely; everything else is the model
server's business and passes through untouched, byte for byte.
"""

from typing import TypeVar

import msgspec

from proxy.apis.fields import FieldError, NotJsonError, decode
from proxy.errors import ApiError

Object = dict[str, msgspec.Raw]
Number = float | None
Text = str | None


class ModelRequest(msgspec.Struct):
    """Any request that names a model."""

    model: str
    stream: bool | None = None

    @property
    def answers(self) -> float:
        """How many answers come in one stream."""
        return 1


class GenerationRequest(ModelRequest):
    """What the generating endpoints have in common."""

    temperature: Number = None
    top_p: Number = None
    top_k: Number = None
    max_tokens: Number = None
    seed: Number = None
    return_progress: bool | None = None
    stop: str | list[str] | None = None
    n: Number = None
    n_cmpl: Number = None
    """llama.cpp's own name, which counts more."""

    @property
    def answers(self) -> float:
        """One for each choice."""
        return self.n_cmpl or self.n or 1


R = TypeVar("R", bound=msgspec.Struct)


def parse_body(body: bytes, kind: type[R]) -> R:
    """Check a body's JSON and the fields that are typed. Raises `ApiError`."""
    try:
        return decode(body, kind)
    except NotJsonError as error:
        raise ApiError(400, str(error), code="invalid_json") from None
    except FieldError as error:
        raise ApiError(400, str(error), param=error.field) from None


def with_fields(body: bytes, fields: dict[str, bytes]) -> bytes:
    """`body` with some top-level fields set to JSON values; the rest keeps its exact bytes."""
    values = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    for name, value in fields.items():
        values[name] = msgspec.Raw(value)
    return msgspec.json.encode(values)
