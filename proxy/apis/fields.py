"""Decodes JSON bodies into typed structs. An error names the field at fault."""

from typing import Any, TypeVar

import msgspec

from actors.errors import UNREADABLE, located

Json = dict[str, Any]
T = TypeVar("T")

encode = msgspec.json.Encoder().encode


class FieldError(ValueError):
    """An invalid request. `field` is a path like `messages[0].content`; None: the whole body.

    `code` is OpenAI's code for the error.
    """

    def __init__(self, field: str | None, message: str, code: str | None = None) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.code = code or ("missing_required_parameter" if message == "is missing" else "invalid_value")


class NotJsonError(FieldError):
    """A body, or a part of one, is not valid JSON."""

    def __init__(self, message: str) -> None:
        super().__init__(None, message, "invalid_json")


def decode(body: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Decode a body. Raises `FieldError`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        message, path = located(error)
        if missing := message.partition(" missing required field ")[2]:
            field = f"{path}.{missing}" if path else missing
            raise FieldError(field, message, "missing_required_parameter") from None
        code = "invalid_type" if message.startswith("Expected ") and ", got " in message else "invalid_value"
        raise FieldError(path or None, message, code) from None
    except RecursionError:
        raise NotJsonError("the body's JSON is nested too deeply") from None
    except ValueError as error:  # msgspec's errors, text that is not UTF-8, numbers of too many digits
        raise NotJsonError(f"the body is not valid JSON: {error}") from None


def unknown(body: bytes | msgspec.Raw, kind: type[msgspec.Struct]) -> Json:
    """Return the fields of a JSON object that `kind` does not have. Raises `FieldError`."""
    known = kind.__struct_encode_fields__
    values = decode(body, dict[str, msgspec.Raw])
    return {name: decode(value, object) for name, value in values.items() if name not in known}


def present(**fields: Any) -> Json:
    """Return the fields that are neither None nor empty."""
    return {name: value for name, value in fields.items() if value is not None and value not in ("", [], {})}


def call_arguments(text: str, field: str) -> str:
    """Return the arguments of a call in the history, `{}` for a blank text.

    Raises `FieldError` unless they are a JSON object or blank.
    """
    check_arguments(text, field)
    return text if text.strip() else "{}"


def check_arguments(text: str, field: str) -> None:
    """Raise `FieldError` unless a call's arguments are a JSON object or a blank text."""
    try:
        if text.strip():
            msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        raise FieldError(f"{field}.function.arguments", "is not a JSON object") from None


def object_text(text: str) -> str | None:
    """Return a JSON object's text without white space, `{}` for a blank text; None for anything else."""
    if not text.strip():
        return "{}"
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return msgspec.json.format(text, indent=-1)
    except UNREADABLE:
        return None
