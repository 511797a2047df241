"""YAML text as plain data whose mappings and lists know their lines; several such texts as one. Pure.

PyYAML only parses into events. Its own loader is not used, because it takes the last of duplicate keys in
silence, forgets the lines, and expands aliases without a limit.
"""

from typing import Any, NamedTuple

import yaml

from actors.config.masking import shown
from actors.errors import ConfigError, Fault

MOST_VALUES = 100_000
"""Most values of a document. An alias counts each time it is used; a long text counts as several values."""
LONG = 64
"""Characters of a text that count as one value."""
MOST_LEVELS = 100

MERGE = "tag:yaml.org,2002:merge"
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float")}
_TEXT = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "timestamp", "value")}
_CONTAINERS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq")}

Path = tuple[str | int, ...]


class Line(int):
    """A line of a file, from 1. A plain number is a line of the main file."""

    file: str

    def __new__(cls, number: int, file: str) -> "Line":
        """Make a line of this file."""
        made = super().__new__(cls, number)
        made.file = file
        return made


def file_of(line: int) -> str | None:
    """Return the file of a line; None for the main file."""
    return line.file if isinstance(line, Line) else None


class Mapping(dict[Any, Any]):
    """A mapping; `lines` has the line of each key, from 1. `size` is the number of values, all levels."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[Any, int] = {}
        self.size = 1


class Sequence(list[Any]):
    """A list; `lines` has the line of each item, from 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []
        self.size = 1


class Quoted(str):
    """Text in quotes or in a block: it stays text, whatever it looks like."""

    __slots__ = ()


class ConfigDocument(NamedTuple):
    """The data of a YAML text, and the faults that did not prevent reading it."""

    data: Any
    faults: list[tuple[int, Fault]]
    """The faults, each with its line."""


def read_document(text: str) -> ConfigDocument:
    """Read one YAML document. Raises `ConfigError`, with the line, if it cannot be read."""
    builder = None
    try:
        builder = _Builder(text)
        return ConfigDocument(builder.document(), builder.faults)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"the character U+{int(error.character):04X} is not allowed in YAML"
        raise ConfigError(f"line {line}: {message}") from None
    except yaml.MarkedYAMLError as error:
        # Without PyYAML's snippet of the text, which may show a secret.
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        what = ", ".join(filter(None, [error.context, error.problem]))
        if mark is not None and text[mark.index - 1 : mark.index + 1] == "${":
            what += '; between { } and [ ] a reference needs quotes, as "${NAME}"'
        raise ConfigError(f"{where}is not YAML: {what}") from None
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError):
        # PyYAML's own, for example of an escape that no character has. The text could be in the message.
        where = "" if builder is None else f"line {builder.line}: "
        raise ConfigError(f"{where}is not YAML: PyYAML cannot read it") from None


def place(data: Any, file: str) -> None:
    """Note that these lines are those of a file."""
    if isinstance(data, Mapping):
        data.lines = {key: Line(line, file) for key, line in data.lines.items()}
    elif isinstance(data, Sequence):
        data.lines = [Line(line, file) for line in data.lines]
    for item in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        place(item, file)


def merge(
    first: Mapping, second: Mapping, faults: list[tuple[int, Fault]], *, main: str, path: Path = ()
) -> Mapping:
    """Return the keys of both, with mappings merged likewise.

    What is set to two values is a fault; an empty value is none. `main` is the name of the main file.
    """
    found = Mapping()
    found.size = first.size + second.size
    found.update(first)
    found.lines = dict(first.lines)
    for key, value in second.items():
        before, line = found.get(key), second.lines[key]
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            found[key] = merge(before, value, faults, main=main, path=(*path, key))
        elif _is_empty(before):
            found[key], found.lines[key] = value, line
        elif not _is_empty(value) and (type(before), before) != (type(value), value):
            other = found.lines[key]
            where = f"{file_of(other) or main}:{other}"
            faults.append((line, Fault((*path, key), f"is set to another value in {where}")))
    return found


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, dict | list) and not value)


def line_of(data: Any, path: Path) -> int | None:
    """Return the line of a key, or of the nearest key above it; None if no line is known.

    An item of a list may be named by its index, its value, or a key that it has.
    """
    line: int | None = None
    for step in path:
        if isinstance(data, list) and isinstance(step, str):
            index = next((n for n, item in enumerate(data) if _is_called(item, step)), None)
            if index is None:
                break
            line = getattr(data, "lines", {index: line})[index]
            data = data[index]
            if not isinstance(data, dict):
                break
        try:
            line = data.lines[step]
            data = data[step]
        except (AttributeError, LookupError, TypeError):
            break
    return line


def _is_called(item: Any, name: str) -> bool:
    return bool(item == name) or (isinstance(item, dict) and name in item)


class _Builder:
    """Builds data from PyYAML's events."""

    def __init__(self, text: str) -> None:
        self._loader: Any = yaml.SafeLoader(text)  # PyYAML's methods have no types
        self._anchors: dict[str, Any] = {}
        self._unfinished: set[str] = set()
        self._values = 0
        self.faults: list[tuple[int, Fault]] = []

    @property
    def line(self) -> int:
        """The line of the latest event."""
        return int(self._loader.get_mark().line) + 1

    def document(self) -> Any:
        loader = self._loader
        loader.get_event()  # the stream's start
        if loader.check_event(yaml.StreamEndEvent):
            return None
        loader.get_event()
        data = self._value((), 0)
        loader.get_event()
        if not loader.check_event(yaml.StreamEndEvent):
            line = loader.peek_event().start_mark.line + 1
            raise ConfigError(f"line {line}: a second document begins; expected one")
        return data

    def _value(self, path: Path, depth: int) -> Any:
        event = self._loader.get_event()
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        self._count(1, event)
        if depth > MOST_LEVELS:
            raise ConfigError(f"{_line(event)}more than {MOST_LEVELS} levels of lists and mappings")
        if event.anchor is not None:
            self._unfinished.add(event.anchor)
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, path)
        else:
            if event.tag is not None and event.tag not in _CONTAINERS and event.tag != "!":
                self._fault(event, path, f"the YAML tag {event.tag} has no meaning here")
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            value = self._mapping(path, depth) if is_mapping else self._sequence(path, depth)
        if event.anchor is not None:
            self._unfinished.discard(event.anchor)
            self._anchors[event.anchor] = value
        return value

    def _alias(self, event: Any) -> Any:
        if event.anchor in self._unfinished:
            raise ConfigError(f"{_line(event)}the alias *{event.anchor} is a part of what it stands for")
        if event.anchor not in self._anchors:
            raise ConfigError(f"{_line(event)}there is no anchor &{event.anchor} before the alias")
        value = self._anchors[event.anchor]
        self._count(_size(value), event)
        return value

    def _count(self, values: int, event: Any) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            raise ConfigError(f"{_line(event)}more than {MOST_VALUES:,} values, with those of aliases")

    def _sequence(self, path: Path, depth: int) -> Sequence:
        found = Sequence()
        while not self._loader.check_event(yaml.SequenceEndEvent):
            found.lines.append(self._loader.peek_event().start_mark.line + 1)
            item = self._value((*path, len(found)), depth + 1)
            found.append(item)
            found.size += _size(item)
        self._loader.get_event()
        return found

    def _mapping(self, path: Path, depth: int) -> Mapping:
        found = Mapping()
        merged: list[Any] = []
        while not self._loader.check_event(yaml.MappingEndEvent):
            event = self._loader.peek_event()
            line = event.start_mark.line + 1
            merges = isinstance(event, yaml.ScalarEvent) and self._tag(event) == MERGE
            key = self._value(path, depth + 1)
            if merges:
                key = "<<"
            elif isinstance(key, dict | list):
                self._fault(event, path, "expected text as a key, got a list or a mapping")
                self._value(path, depth + 1)
                continue
            value = self._value((*path, key), depth + 1)
            if key in found.lines:
                message = (
                    f"the key {shown(key)} is there twice: in line {found.lines[key]} and in line {line}"
                )
                self.faults.append((line, Fault((*path, key), message)))
                continue
            found.lines[key] = line
            if merges:
                merged += [(event, part) for part in (value if isinstance(value, list) else [value])]
                continue
            found[key] = value
            found.size += _size(value)
        self._loader.get_event()
        for event, part in merged:
            self._merge(found, part, event, path)
        return found

    def _merge(self, found: Mapping, part: Any, event: Any, path: Path) -> None:
        """Add the keys of a YAML merge (`<<`) that the mapping does not have itself."""
        if not isinstance(part, Mapping):
            self._fault(event, path, "<<: expected a mapping, or a list of mappings")
            return
        for key, value in part.items():
            if key not in found:
                found[key] = value
                found.lines[key] = part.lines[key]
                found.size += _size(value)

    def _tag(self, event: Any) -> str:
        if event.tag is not None and event.tag != "!":
            return str(event.tag)
        return str(self._loader.resolve(yaml.ScalarNode, event.value, event.implicit))

    def _scalar(self, event: Any, path: Path) -> Any:
        tag, text = self._tag(event), event.value
        if tag in _PLAIN and "${" not in text:
            kind = tag.rpartition(":")[2]
            node = yaml.ScalarNode(tag, text, event.start_mark, event.end_mark)
            try:
                return getattr(self._loader, f"construct_yaml_{kind}")(node)
            except (ValueError, LookupError, yaml.YAMLError):
                self._fault(event, path, f"{shown(text)} cannot be read as {kind}")
                return None
        if tag not in _TEXT | _PLAIN and tag != MERGE:
            self._fault(event, path, f"the YAML tag {tag} has no meaning here")
        return text if event.style is None and event.tag is None else Quoted(text)

    def _fault(self, event: Any, path: Path, message: str) -> None:
        self.faults.append((event.start_mark.line + 1, Fault(path, message)))


def _size(value: Any) -> int:
    return 1 + len(value) // LONG if isinstance(value, str) else getattr(value, "size", 1)


def _line(event: Any) -> str:
    return f"line {event.start_mark.line + 1}: "
