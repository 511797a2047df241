"""Cleans every string in a JSON value, or in a JSON text, which stays valid JSON."""

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

from actors.errors import UNREADABLE

Clean = Callable[[str], str]

# The arguments of a call may be cut off, so the last string may lack its end.
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)("|\\?\Z)|-?\d[\d.eE+-]*', re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


LARGE = 10**12
"""Numbers of 13 digits and more may be personal, such as card, account or telephone numbers."""


def clean_value(value: Any, clean: Clean) -> Any:
    """Clean a value's strings, including field names, and large numbers, which become strings on a match."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int | float) and abs(value) >= LARGE:
        written = json.dumps(value)
        return value if (shown := clean(written)) == written else shown
    if isinstance(value, list):
        if _are_small_numbers(value):
            return value
        return [clean_value(item, clean) for item in value]
    if isinstance(value, dict):
        return {clean(name): clean_value(item, clean) for name, item in value.items()}
    return value


def _are_small_numbers(values: list[Any]) -> bool:
    """Whether a list has nothing to clean: checking a million tokens one by one would take a second."""
    return set(map(type, values)) in _NUMBERS and min(values) > -LARGE and max(values) < LARGE


_NUMBERS = ({int}, {float}, {int, float})


def clean_text(text: str, clean: Clean) -> str:
    """Clean the strings of a JSON text, without their escapes. Everything else stays unchanged.

    A number that matches becomes a string. A text that is not JSON is also cleaned as a whole.
    """

    def token(match: re.Match[str]) -> str:
        if match[1] is None:
            shown = clean(match[0])
            return match[0] if shown == match[0] else json.dumps(shown, ensure_ascii=False)
        original = _unescaped(match[1])
        shown = clean(original)
        if shown == original:
            return match[0]
        return json.dumps(shown, ensure_ascii=False)[: None if match[2] == '"' else -1]

    result = _TOKEN.sub(token, text)
    return result if _is_json(text) else clean(result)


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _plain(found[2]), text)
    # Two escapes may form one character.
    return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _plain(letter: str) -> str:
    return _SHORT.get(letter, letter)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except UNREADABLE:
        return False
    return True
