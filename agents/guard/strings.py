"""Every string in JSON, cleaned: in values, and in a text of JSON, which stays one."""

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

from actors.errors import UNREADABLE

Clean = Callable[[str], str]

# The arguments of a call may have been cut off, so the last string may lack its end.
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)("|\\?\Z)|-?\d[\d.eE+-]*', re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


LARGE = 10**12
"""A number from here on, of 13 digits, is no setting but somebody's: a card, an account, a telephone."""


def clean_value(value: Any, clean: Clean) -> Any:
    """Clean a value's strings, names of fields included, and large numbers, which become strings then."""
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
    """Whether a list has nothing to clean. To look at a million tokens one by one would take a second."""
    return set(map(type, values)) in _NUMBERS and min(values) > -LARGE and max(values) < LARGE


_NUMBERS = ({int}, {float}, {int, float})


def clean_text(text: str, clean: Clean) -> str:
    """Clean the strings of a text of JSON, as they read without their escapes. All else stays as it is.

    A number is cleaned like a string, and becomes one. What is no JSON is cleaned as a whole besides.
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
    # Two escapes may be one character.
    return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _plain(letter: str) -> str:
    return _SHORT.get(letter, letter)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except UNREADABLE:
        return False
    return True
