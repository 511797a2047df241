"""`${NAME}` in the settings, replaced after the YAML is parsed, so that no value can become structure. Pure.

`${NAME:-default}` gives the default where NAME is unset or empty, as in a shell; a default may contain
references. `$${` is a literal `${`. Keys are not replaced.
"""

import re
from collections.abc import Mapping as Environment
from typing import Any, NamedTuple

from actors.config.document import Mapping, Path, Quoted, Sequence
from actors.config.masking import looks_secret, shown
from actors.errors import Fault

_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(\}|:-)")
_SPECIAL = re.compile(r"\$\$\{|\$\{|\}")
_REFERENCE = re.compile(r"(?<!\$)\$\{")
MOST_LEVELS = 20


class Substituted(str):
    """Text in which references were replaced.

    `loose`: the text was a single reference without quotes, so the field's type decides what it means.
    `given`: the value came from a variable, not from a default. `secret`: it came from a variable whose name
    looks like that of a secret.
    """

    loose: bool = False
    given: bool = False
    secret: bool = False


class _Reference(NamedTuple):
    name: str
    default: "list[str | _Reference] | None"


class _MalformedError(ValueError):
    """A reference is malformed. The message says what was expected."""


class Substitution:
    """Replaces references in data and collects the faults.

    `secrets`: values of variables that look secret.
    """

    def __init__(self, environment: Environment[str, str]) -> None:
        self._environment = environment
        self.faults: list[Fault] = []
        self.secrets: set[str] = set()

    def replaced(self, data: Any, path: Path = ()) -> Any:
        """Return the data with all references replaced; values with a fault are left out."""
        if isinstance(data, dict):
            return self._mapping(data, path)
        if isinstance(data, list):
            copy = Sequence()
            copy.lines = getattr(data, "lines", [])
            copy += [self.replaced(item, (*path, index)) for index, item in enumerate(data)]
            return copy
        if isinstance(data, str) and (fault := _unusable(data)):
            self.faults.append(Fault(path, fault))
            return None
        if isinstance(data, str) and "${" in data:
            return self._text(data, path)
        return data

    def _mapping(self, data: dict[Any, Any], path: Path) -> Mapping:
        copy = Mapping()
        copy.lines = getattr(data, "lines", {})
        for key, value in data.items():
            if not isinstance(key, str):
                advice = "; put it in quotes" if isinstance(key, bool | int | float) else ""
                self.faults.append(Fault((*path, key), f"expected text as a key, got {shown(key)}{advice}"))
            elif fault := _unusable(key):
                self.faults.append(Fault((*path, key), fault))
            elif _REFERENCE.search(key):
                self.faults.append(Fault((*path, key), "references are replaced in values, not in keys"))
            else:
                copy[key] = self.replaced(value, (*path, key))
        return copy

    def _text(self, text: str, path: Path) -> Substituted | None:
        found = Substituted("")
        try:
            parts, _ = _parse(text, 0, 0)
            pieces = [part if isinstance(part, str) else self._value(part) for part in parts]
        except _MalformedError as error:
            self.faults.append(Fault(path, str(error)))
            return None
        found = Substituted("".join(pieces))
        found.loose = not isinstance(text, Quoted) and len(parts) == 1 and isinstance(parts[0], _Reference)
        values = [piece for piece in pieces if isinstance(piece, Substituted)]
        found.given = any(value.given for value in values)
        found.secret = any(value.secret for value in values)
        self.secrets.update(str(value) for value in values if value.secret and value)
        return found

    def _value(self, reference: _Reference) -> Substituted:
        value = self._environment.get(reference.name)
        if not value and reference.default is not None:
            pieces = [part if isinstance(part, str) else self._value(part) for part in reference.default]
            found = Substituted("".join(pieces))
            found.given = any(getattr(piece, "given", False) for piece in pieces)
            found.secret = any(getattr(piece, "secret", False) for piece in pieces)
            return found
        if value is None:
            raise _MalformedError(
                f"the environment variable {reference.name} is not set; "
                f"set it, or give a default: ${{{reference.name}:-default}}"
            )
        if _unusable(value):
            raise _MalformedError(f"the environment variable {reference.name} is not UTF-8")
        found = Substituted(value)
        found.given, found.secret = True, looks_secret(reference.name)
        return found


def _unusable(text: str) -> str | None:
    """Say why no file, program or terminal could take this text; None if they can."""
    if "\0" in text:
        return "the text has a NUL character"
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "the text has half a character (a lone surrogate)"
    return None


def _parse(text: str, start: int, level: int) -> tuple[list[str | _Reference], int]:
    """Split a text, from `start` to its end or to a default's closing brace; return the parts and the end."""
    parts: list[str | _Reference] = []
    position, literal, open_braces = start, "", 0
    while match := _SPECIAL.search(text, position):
        literal += text[position : match.start()]
        position = match.end()
        if match[0] == "$${":
            literal += "${"
            open_braces += 1
        elif match[0] == "${":
            reference, position = _parse_reference(text, match.start(), level)
            parts += [literal, reference] if literal else [reference]
            literal = ""
        elif level and not open_braces:
            return parts + [literal] * bool(literal), position
        else:
            literal += "}"
            open_braces = max(0, open_braces - 1)
    if level:
        raise _MalformedError("a reference has no closing brace; write $${ for a literal ${")
    literal += text[position:]
    return parts + [literal] * bool(literal), len(text)


def _parse_reference(text: str, start: int, level: int) -> tuple[_Reference, int]:
    match = _NAME.match(text, start)
    if match is None or level == MOST_LEVELS:
        raise _MalformedError(
            "expected ${NAME} or ${NAME:-default}, of letters, digits and _; write $${ for a literal ${"
        )
    if match[2] == "}":
        return _Reference(match[1], None), match.end()
    default, end = _parse(text, match.end(), level + 1)
    return _Reference(match[1], default), end
