"""JSON of model servers, pure: whatever is wrong with it raises one exception."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

DURATION_LIMIT = 1e19
"""In whatever unit; 300 years in nanoseconds."""

COUNT_LIMIT = 2**53
"""Above any count of tokens; JSON readers of clients are exact up to here."""


class UnreadableError(ValueError):
    """What a model server sent cannot be read. The message says why."""


def reader(kind: type[T]) -> Callable[[bytes | msgspec.Raw], T]:
    """A function that decodes JSON as `kind`. It raises `UnreadableError` and nothing else."""
    decode = msgspec.json.Decoder(kind).decode

    def read(data: bytes | msgspec.Raw) -> T:
        try:
            return decode(data)
        except RecursionError:
            raise UnreadableError("its JSON is nested too deeply") from None
        except ValueError as error:  # msgspec's own, of text that is not UTF-8, of numbers without end
            raise UnreadableError(str(error)[:200]) from None

    return read


read_object = reader(dict[str, Any])
"""A JSON object, with whatever is in it."""

read_any = reader(Any)
"""Any JSON."""


def count(value: Any) -> int:
    """A count of tokens; 0 for what cannot be one."""
    return value if type(value) is int and 0 <= value < COUNT_LIMIT else 0


def seconds(value: Any, per_second: float) -> float:
    """A duration in units of which a second has so many; 0 for what cannot be one."""
    if type(value) not in (int, float) or not 0 <= value < DURATION_LIMIT:
        return 0.0
    return value / per_second if math.isfinite(value) else 0.0
