"""What agents offer beside requests: which methods of a class are marked as operations."""

import inspect
import re

import msgspec

from agents.api import Agent


class Operation(msgspec.Struct, frozen=True):
    """A method of an agent that is called by a verb and a path, whose parameters `pattern` finds."""

    method: str
    path: str
    description: str
    function: str
    pattern: re.Pattern[str]


def operations_of(kind: type[Agent]) -> list[Operation]:
    """The operations of an agent's class, in the order of their paths."""
    found = []
    for name, function in inspect.getmembers(kind, inspect.iscoroutinefunction):
        if (marked := getattr(function, "_operation", None)) is not None:
            method, path = marked
            description = (inspect.getdoc(function) or "").partition("\n")[0]
            parts = [
                f"(?P<{part[1:-1]}>[^/]+)" if part.startswith("{") else re.escape(part)
                for part in path.strip("/").split("/")
            ]
            found.append(Operation(method, path, description, name, re.compile("/".join(parts))))
    return sorted(found, key=lambda one: (one.path, one.method))
