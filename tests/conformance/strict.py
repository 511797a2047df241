"""An answer held against the type that a client's library declares for it.

The libraries of OpenAI and Anthropic build their objects without validation, and Ollama's drops what it does
not know. So their answers are validated here: no required field may be missing, no value may be of
another type, and each field that the type does not declare is named.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter

EXTRAS: dict[str, str] = {
    "timings": "llama.cpp's measurements of the answer",
    "reasoning_content": "reasoning on the chat API, for which OpenAI has no field",
    "data[].encoding_format": "llama.cpp's word for how it wrote an embedding",
    "ResponseFunctionCallArgumentsDoneEvent.name": "the function, which version 2 of the client needs",
    "logprobs[].id": "llama.cpp's number of a token",
    "logprobs.content[].id": "llama.cpp's number of a token",
}
"""Fields that answers have beyond the official types, by the end of their path; docs/clients.md has them."""


def check(kind: Any, data: Any) -> Any:
    """Validate `data` (as it came, JSON values) as a `kind` and return the object of that type.

    Raises `pydantic.ValidationError`, or `AssertionError` with the fields that the type does not declare.
    """
    checked = TypeAdapter(kind).validate_json(json.dumps(data), strict=True)
    unknown = sorted(set(undeclared(checked, data, getattr(kind, "__name__", ""))))
    assert not unknown, f"{kind} does not declare {unknown}; it came with {data}"
    return checked


def check_event(union: Any, event: Any) -> Any:
    """Validate an event of a stream, as a library made it, as the member of the union that it says it is."""
    assert type(event) in _members(union), f"{event} is no event of this stream"
    return check(type(event), as_sent(event))


def _members(union: Any) -> tuple[Any, ...]:
    inner = get_args(union)[0] if get_origin(union) is Annotated else union
    return get_args(inner)


def undeclared(checked: Any, data: Any, where: str = "") -> Iterator[str]:
    """The paths of fields in `data` that the types of `checked` do not declare."""
    if isinstance(checked, BaseModel) and isinstance(data, dict):
        fields = {field.alias or name: name for name, field in type(checked).model_fields.items()}
        for key, value in data.items():
            if key in fields:
                yield from undeclared(getattr(checked, fields[key]), value, f"{where}.{key}")
            elif not f"{where}.{key}".endswith(tuple(EXTRAS)):
                yield f"{where}.{key}".removeprefix(".")
    elif isinstance(checked, list | tuple) and isinstance(data, list):
        for one, given in zip(checked, data, strict=True):
            yield from undeclared(one, given, f"{where}[]")
    elif isinstance(checked, dict) and isinstance(data, dict):
        for key, value in data.items():
            yield from undeclared(checked.get(key), value, f"{where}.{key}")


def as_sent(answer: Any) -> Any:
    """The JSON that a library's object was built from."""
    return answer.model_dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)
