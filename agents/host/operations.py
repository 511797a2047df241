"""Operations, the HTTP endpoints of agents: finds the methods of a class that are marked as such."""

import inspect
import re

import msgspec

from agents.api import Agent


class Operation(msgspec.Struct, frozen=True):
    """An agent's method that is called by an HTTP verb and a path. `pattern` parses the path's parameters."""

    method: str
    path: str
    description: str
    function: str
    pattern: re.Pattern[str]


def operations_of(kind: type[Agent]) -> list[Operation]:
    """Return the operations of an agent's class, in the order of their paths."""
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


def operations_at(kind: type[Agent], path: str) -> list[tuple[Operation, dict[str, str]]]:
    """The operations of an agent's class that a path names, each with the parameters in the path."""
    return [
        (operation, found.groupdict())
        for operation in operations_of(kind)
        if (found := operation.pattern.fullmatch(path.strip("/")))
    ]
