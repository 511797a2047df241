"""The events of the log: as the sources write them, and as docs/logs.md documents them."""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from agents.rag.indexing.ingest import IngestProgress, IngestReport

CHECKOUT = Path(__file__).resolve().parents[1]
PAGE = CHECKOUT / "docs" / "logs.md"

EVERYWHERE = {"event", "level", "timestamp", "exception", "stack", "agent", "request_id"}
"""Fields that the page describes once: of all lines, of errors, and of what agents do."""

UNPACKED: dict[str, Iterable[str]] = {
    "ingested": IngestReport.__struct_fields__,
    "ingesting": IngestProgress.__struct_fields__,
    "works again": ("model", "file", "folder", "cure"),
    "request": ("prompt_tokens", "cached_tokens", "completion_tokens"),
}
"""Fields of `**something` that the sources do not spell out."""

TROUBLE = "agents/rag/trouble.py"
"""Has the call for the events that `Trouble(event, **fields)` names elsewhere."""

_LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error"}
_LEVELS |= {"exception": "error", "critical": "critical"}
_ROW = re.compile(r"\| `([^`]+)` \| ([a-z, ]+) \| (.*?) \| (.*) \|")


class Event(msgspec.Struct):
    """An event, with all its levels and fields."""

    levels: set[str] = set()
    fields: set[str] = set()
    words: str = "..."
    place: str = ""

    @property
    def row(self) -> list[str]:
        """The cells of its row that are held to the sources."""
        return [", ".join(sorted(self.levels)), ", ".join(f"`{field}`" for field in sorted(self.fields))]


@cache
def documented() -> dict[str, Event]:
    """Return what the page says, by event."""
    rows = [_ROW.fullmatch(line) for line in PAGE.read_text().splitlines()]
    events: dict[str, Event] = {}
    for row in filter(None, rows):
        assert row[1] not in events, f"{row[1]!r} has two rows"
        assert row[4].strip(), f"{row[1]!r} has no words"
        events[row[1]] = Event(set(row[2].split(", ")), set(re.findall(r"`([^`]+)`", row[3])), row[4])
    return events


def undocumented(lines: Iterable[dict[str, Any]]) -> list[str]:
    """Return what the page does not have of the lines of a log. Agents may have events of their own."""
    events = documented()
    found = []
    for line in lines:
        event = events.get(line["event"])
        if event is None:
            found += [] if "agent" in line else [line["event"]]
        elif extra := line.keys() - event.fields - EVERYWHERE:
            found.append(f"{line['event']}: {', '.join(sorted(extra))}")
        elif line["level"] not in event.levels:
            found.append(f"{line['event']}: {line['level']}")
    return found


@cache
def written() -> dict[str, Event]:
    """Return what the sources write, by event."""
    events: dict[str, Event] = {}
    for top in ("actors", "agents", "proxy"):
        for file in sorted((CHECKOUT / top).rglob("*.py")):
            for name, levels, fields in _calls(file):
                event = events.setdefault(name, Event())
                event.levels |= levels
                event.fields |= fields - EVERYWHERE
                event.place = str(file.relative_to(CHECKOUT))
    return events


def _calls(file: Path) -> Iterator[tuple[str, set[str], set[str]]]:
    text = file.read_text()
    if "log" not in text and "Trouble(" not in text:
        return
    tree = ast.parse(text)
    bound = _bound(tree)
    for function in [tree, *ast.walk(tree)]:
        if not isinstance(function, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in _own_nodes(function):
            if isinstance(node, ast.Dict) and (told := _literal_event(node)) is not None:
                yield told
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id == "Trouble":
                levels = {"warning"}
                extra = {"reason"}
            elif levels := _levels(node.func, function):
                extra = bound.get(ast.unparse(_logger(node.func)), set())
            else:
                continue
            name = node.args[0] if node.args else None
            place = f"{file.relative_to(CHECKOUT)}:{node.lineno}"
            if place.startswith(TROUBLE) and not isinstance(name, ast.Constant):
                continue
            assert isinstance(name, ast.Constant), f"{place}: the event's name is no literal text"
            yield str(name.value), levels, _fields(node, function, str(name.value), place) | extra


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Walk a function, or a module, without the functions in it."""
    for child in ast.iter_child_nodes(function):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield child
        yield from _own_nodes(child)


def _logger(function: ast.expr) -> ast.expr:
    """The logger of a call: `log` of `log.info`, and of `getattr(log, level)`."""
    return function.args[0] if isinstance(function, ast.Call) else function.value  # type: ignore[attr-defined]


def _levels(called: ast.expr, function: ast.AST) -> set[str]:
    """The levels of a call to a logger; none for another call."""
    if isinstance(called, ast.Attribute) and _is_logger(called.value):
        return {_LEVELS[called.attr]} if called.attr in _LEVELS else set()
    if isinstance(called, ast.Call) and ast.unparse(called.func) == "getattr" and _is_logger(called.args[0]):
        level = called.args[1]
        values = [level]
        if isinstance(level, ast.Name):
            values = _assigned(function, level.id)
        constants = [node for value in values for node in ast.walk(value) if isinstance(node, ast.Constant)]
        return {_LEVELS[str(node.value)] for node in constants if node.value in _LEVELS}
    return set()


def _is_logger(value: ast.expr) -> bool:
    return ast.unparse(value).rpartition(".")[2].lstrip("_") == "log"


def _assigned(function: ast.AST, name: str) -> list[ast.expr]:
    """The values that a function gives to a variable."""
    found: list[ast.expr] = []
    for node in _own_nodes(function):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                found.append(node.value)
    return found


def _fields(call: ast.Call, function: ast.AST, event: str, place: str) -> set[str]:
    fields = {keyword.arg for keyword in call.keywords if keyword.arg is not None} - {"exc_info"}
    for keyword in call.keywords:
        if keyword.arg is None:
            spelled = _spelled_out(keyword.value, function)
            assert spelled or event in UNPACKED, f"{place}: add the fields of {event!r} to UNPACKED"
            fields |= spelled | set(UNPACKED.get(event, ()))
    return fields


def _spelled_out(value: ast.expr, function: ast.AST) -> set[str]:
    """The keys that a function puts into a dict before it is unpacked."""
    if not isinstance(value, ast.Name):
        return set()
    keys = {
        key.value
        for assigned in _assigned(function, value.id)
        if isinstance(assigned, ast.Dict)
        for key in assigned.keys
        if isinstance(key, ast.Constant)
    }
    for node in _own_nodes(function):
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Name)
            and node.value.id == value.id
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.slice, ast.Constant)
        ):
            keys.add(node.slice.value)
    return {str(key) for key in keys}


def _bound(tree: ast.AST) -> dict[str, set[str]]:
    """The fields that a file binds to each of its loggers."""
    bound: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Attribute) and called.attr == "bind" and _is_logger(called.value):
                fields = {keyword.arg for keyword in node.value.keywords if keyword.arg is not None}
                bound |= {ast.unparse(target): fields for target in node.targets}
    return bound


def _literal_event(node: ast.Dict) -> tuple[str, set[str], set[str]] | None:
    """A line that the log makes itself: `{"event": ..., ...}`."""
    keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
    if "event" not in keys:
        return None
    value = node.values[keys.index("event")]
    if not isinstance(value, ast.Constant):
        return None
    level = node.values[keys.index("level")] if "level" in keys else None
    levels = {str(level.value)} if isinstance(level, ast.Constant) else {"warning"}
    return str(value.value), levels, {str(key) for key in keys}
