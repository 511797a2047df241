"""Decodes JSON of model servers. Any fault in it raises `UnreadableError`. Pure."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

DURATION_LIMIT = 1e19
"""The upper limit of a duration, in any unit: 300 years in nanoseconds."""

COUNT_LIMIT = 2**53
"""The upper limit of a number of tokens. JSON parsers of clients are exact up to this integer."""


class UnreadableError(ValueError):
    """The model server's data cannot be read. The message says why."""


def reader(kind: type[T]) -> Callable[[bytes | msgspec.Raw], T]:
    """Return a function that decodes JSON as `kind`. It raises nothing but `UnreadableError`."""
    decode = msgspec.json.Decoder(kind).decode

    def read(data: bytes | msgspec.Raw) -> T:
        try:
            return decode(data)
        except RecursionError:
            raise UnreadableError("its JSON is nested too deeply") from None
        except ValueError as error:  # msgspec's errors, text that is not UTF-8, numbers of too many digits
            raise UnreadableError(str(error)[:200]) from None

    return read


read_object = reader(dict[str, Any])
"""Reads a JSON object with any fields."""

read_any = reader(Any)
"""Reads any JSON value."""


def count(value: Any) -> int:
    """Return a number of tokens; 0 for an impossible value."""
    return value if type(value) is int and 0 <= value < COUNT_LIMIT else 0


def seconds(value: Any, per_second: float) -> float:
    """Return a duration in seconds, given in units of which a second has `per_second`; 0 if impossible."""
    if type(value) not in (int, float) or not 0 <= value < DURATION_LIMIT:
        return 0.0
    return value / per_second if math.isfinite(value) else 0.0
