"""Reads and writes Ollama's `keep_alive`: seconds, or a duration in Go's form."""

import math
import re
from typing import Any

from proxy.apis.fields import FieldError

_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([^0-9.]*)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST = (2**63 - 1) / 1e9
_GO_TYPES = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}"}


def keep_alive(value: Any) -> float | None:
    """Return the seconds of a request's `keep_alive`, None if it is absent. Raises `FieldError`."""
    try:
        return None if value is None else parse_keep_alive(value)
    except ValueError as error:
        raise FieldError("keep_alive", str(error)) from None


def parse_keep_alive(value: Any) -> float:
    """Return the seconds of a decoded `keep_alive`, infinite for a negative one.

    A number is in seconds, a text is a Go duration ("5m", "1h30m"). Raises ValueError with Ollama's message.
    """
    match value:
        case str():
            seconds = parse_duration(value)
        case bool() | list() | dict() | None:
            raise ValueError(f"Unsupported type: '{_GO_TYPES.get(type(value), '<nil>')}'")
        case _:
            seconds = value
    return float(seconds) if 0 <= seconds < _LONGEST else math.inf


def parse_duration(text: str) -> float:
    """Return the seconds of a Go duration. Raises ValueError with Go's message."""
    rest = text[1:] if text.startswith(("+", "-")) else text
    if rest == "0":
        return 0.0
    seconds, end = 0.0, 0
    while match := _PART.match(rest, end):
        number, unit = match.groups()
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _UNITS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        seconds += float(number) * _UNITS[unit]
        end = match.end()
    if not end or end != len(rest) or seconds > _LONGEST:
        raise ValueError(f'time: invalid duration "{text}"')
    return -seconds if text.startswith("-") else seconds


def keep_alive_field(seconds: float) -> float | int:
    """Return `seconds` as Ollama's `keep_alive`; -1 for infinite."""
    if math.isinf(seconds):
        return -1
    return int(seconds) if seconds == int(seconds) else seconds
