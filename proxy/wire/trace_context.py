"""The trace that a request belongs to (https://www.w3.org/TR/trace-context/). Pure.

The gateway takes part in a trace as a relay: it passes both headers on unchanged and logs the trace's id.
"""

import re
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Protocol

import msgspec

_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""Later versions may add fields; version 00 has none."""
_STATE = re.compile(r"[ -~\t]{1,8000}")


class Headers(Protocol):
    """A request's headers, each of which may be there more than once."""

    def getall(self, key: str, default: Sequence[str], /) -> Sequence[str]:
        """Return all values of a header."""


class Trace(msgspec.Struct, frozen=True):
    """A trace. `headers` are those for the model server."""

    id: str
    headers: dict[str, str]


TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""The trace of the request whose agents call a model."""


def trace_of(headers: Headers) -> Trace | None:
    """Return the trace that a request names; None without one, or if the header is not valid."""
    parents = headers.getall("traceparent", ())
    if len(parents) != 1 or (found := _PARENT.fullmatch(parents[0])) is None:
        return None
    if parents[0].startswith("00") and found[2] is not None:
        return None
    passed = {"traceparent": parents[0]}
    state = ",".join(headers.getall("tracestate", ()))
    if _STATE.fullmatch(state):
        passed["tracestate"] = state
    return Trace(found[1], passed)
