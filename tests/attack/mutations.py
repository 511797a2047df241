"""Seeded mutations of bytes and of JSON. The same seed gives the same ones."""

import json
import random
from typing import Any

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**31,
    2**63,
    2**64,
    10**400,
    -(10**30),
    1e308,
    0.1,
    "",
    "0",
    "\x00",
    "\ud800",
    "\u202e",
    "x" * 5000,
    [],
    [[]],
    [None],
    {},
    {"": {}},
)
"""Values that nobody expects, for any field."""

RAW = (
    b"1e999",
    b"-1e999",
    b"NaN",
    b"7" * 6000,
    b"0." + b"7" * 6000,
    b'"\xff\xfe"',
    b'"\\ud800"',
    b"[" * 5000,
    b"[" * 500 + b"]" * 500,
    b"tru",
    b"",
)
"""What JSON's writer would not write, as a value."""

TOKENS = (
    b"\r\n",
    b"\n\n",
    b"\r",
    b"data: ",
    b"error: ",
    b"[DONE]",
    b":",
    b",",
    b"{",
    b"]",
    b'"',
    b"\\",
    b"\x00",
    b"\xff",
)
_PLACE_BYTES = json.dumps("\u2603place\u2603").encode()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` with a few bytes cut, doubled, replaced, moved."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(data))
        end = min(len(data), start + rng.choice((0, 1, 2, 8, 64, 512)))
        match rng.randrange(6):
            case 0:
                data = data[:start] + data[end:]
            case 1:
                data = data[:end] + data[start:end] * rng.randint(1, 5) + data[end:]
            case 2:
                data = data[:start] + rng.randbytes(end - start) + data[end:]
            case 3:
                data = data[:start] + rng.choice(TOKENS) + data[end:]
            case 4:
                data = data[:start]
            case _:
                data = data[end:] + data[start:end] + data[:start]
    return data


def mutated_json(value: Any, rng: random.Random) -> bytes:
    """A JSON value of which one, or two, are another one, missing, or no JSON at all."""
    for _ in range(rng.randint(1, 2)):
        value = _with_another(value, rng, rng.choice((*ODD, "\u2603place\u2603")))
    text = json.dumps(value).encode()
    while _PLACE_BYTES in text:
        text = text.replace(_PLACE_BYTES, rng.choice(RAW), 1)
    return text


def _with_another(value: Any, rng: random.Random, other: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: part for name, part in value.items() if name != key}
        if rng.random() < 0.05:
            return {**value, f"{key}\x00": other}
        return {**value, key: _with_another(value[key], rng, other)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        index = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value * 3
        return [*value[:index], _with_another(value[index], rng, other), *value[index + 1 :]]
    return other


def in_pieces(data: bytes, rng: random.Random) -> list[bytes]:
    """`data` cut anywhere."""
    size = rng.choice((1, 7, 100, 4096, 1 << 20))
    return [data[start : start + size] for start in range(0, len(data), size)]
