"""Converts plain data into the schema's structures, field by field, so that all faults are reported at once.

msgspec checks each value. On a whole structure it would stop at the first fault, and name neither the value
nor the expected type.
"""

import difflib
import math
import types
from collections.abc import Iterable
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from actors.config.document import Path, Quoted, read_document
from actors.config.environment import Substituted
from actors.config.masking import MASK, looks_secret, shown
from actors.errors import ConfigError, Fault, located

NULLS = ("", "~", "null", "Null", "NULL")
LONGEST_KEY = 100
MOST_MEANT = 1_000_000_000
_LISTS = (list, tuple, set, frozenset)
MOST = (1 << 63) - 1
_FAULTY: Any = object()


class Fields:
    """Converts data and collects `faults`. Relative paths are taken from `folder`.

    `raw`: fields of type Any keep their data unconverted, for a caller that knows their types.
    """

    def __init__(self, folder: FilePath | None = None, *, raw: bool = False) -> None:
        self._folder = folder
        self._raw = raw
        self.faults: list[Fault] = []

    def take(self, value: Any, kind: Any, path: Path = ()) -> Any:
        """Return a struct of type `kind`, with defaults for faulty fields; None if it cannot be built."""
        found = self._take(value, kind, path, secret=False)
        return None if found is _FAULTY else found

    def _take(self, value: Any, hint: Any, path: Path, *, secret: bool) -> Any:
        base, metas = _unwrapped(hint)
        extra = {key: item for meta in metas for key, item in (meta.extra or {}).items()}
        secret = secret or bool(extra.get("secret")) or (bool(path) and looks_secret(str(path[-1])))
        if isinstance(value, Substituted):
            secret = secret or value.secret
            if value.loose and base is not Any:
                value = self._settled(value, base, path, secret=secret)
                if value is _FAULTY:
                    return _FAULTY
        if base is Any:
            return value if self._raw else plain(value)
        if _is_union(base):
            return self._take_union(value, base, hint, path, secret=secret)
        if _is_section(base):
            found = self._take_struct(value, base, path, secret=secret)
        elif _is_container(base):
            found = self._take_container(value, base, path, secret=secret)
        else:
            return self._take_leaf(value, hint, path, secret=secret, is_path=bool(extra.get("path")))
        if found is not _FAULTY and any(meta.min_length or meta.max_length for meta in metas):
            self._convert(msgspec.to_builtins(found), hint, path, secret=secret)
        return found

    # Types with parts

    def _take_union(self, value: Any, base: Any, hint: Any, path: Path, *, secret: bool) -> Any:
        members = get_args(base)
        if value is None and type(None) in members:
            return None
        others = [member for member in members if member is not type(None)]
        kinds = [_unwrapped(member)[0] for member in others]
        fitting = [member for member, kind in zip(others, kinds, strict=True) if _holds(kind, value)]
        if value is None:
            fitting = [member for member, kind in zip(others, kinds, strict=True) if _is_container(kind)]
        if fitting or len(others) == 1:
            return self._take(value, (fitting or others)[0], path, secret=secret)
        return self._take_leaf(value, hint, path, secret=secret, is_path=False)

    def _take_struct(self, value: Any, kind: Any, path: Path, *, secret: bool) -> Any:
        value = {} if value is None else value
        if not isinstance(value, dict):
            return self._wrong(path, "a mapping", value, secret=secret)
        before = len(self.faults)
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        found: dict[str, Any] = {}
        for key, item in value.items():
            if key not in fields:
                self.faults.append(Fault((*path, key), f"unknown key; {_hint(key, fields)}"))
                continue
            taken = self._take(item, fields[key].type, (*path, key), secret=secret)
            if taken is not _FAULTY:
                found[fields[key].name] = taken
        missing = [key for key, field in fields.items() if field.required and field.name not in found]
        for key in missing:
            if key not in value:
                self.faults.append(Fault((*path, key), "is missing"))
        if missing:
            return _FAULTY
        try:
            return kind(**found)
        except (TypeError, ValueError) as error:  # raised by the struct's own __post_init__
            if len(self.faults) == before:
                self.faults.append(Fault(path, str(error)))
            return _FAULTY

    def _take_container(self, value: Any, base: Any, path: Path, *, secret: bool) -> Any:
        kind, arguments = get_origin(base), get_args(base)
        is_list = kind in _LISTS
        value = kind() if value is None else value
        if not isinstance(value, (list, tuple, set, frozenset) if is_list else dict):
            return self._wrong(path, "a list" if is_list else "a mapping", value, secret=secret)
        if is_list:
            items = [self._take(v, arguments[0], (*path, n), secret=secret) for n, v in enumerate(value)]
            return kind(item for item in items if item is not _FAULTY)
        if arguments[1] is Any:
            return value if self._raw else plain(value)
        assert isinstance(value, dict)
        pairs = {k: self._take(value[k], arguments[1], (*path, k), secret=secret) for k in value}
        return {key: item for key, item in pairs.items() if item is not _FAULTY}

    # Single values

    def _settled(self, value: Substituted, base: Any, path: Path, *, secret: bool) -> Any:
        """Interpret the value of a reference without quotes for a field of this type."""
        kinds = [_unwrapped(kind)[0] for kind in (get_args(base) if _is_union(base) else (base,))]
        if type(None) in kinds and value in NULLS and not (value.given and _takes_text(kinds)):
            return None
        if _takes_text(kinds):
            return Quoted(value)
        try:
            return read_document(value).data
        except ConfigError:
            return self._wrong(path, _expected(base) or "another value", value, secret=secret)

    def _take_leaf(self, value: Any, hint: Any, path: Path, *, secret: bool, is_path: bool) -> Any:
        found = self._convert(plain(value), hint, path, secret=secret)
        if isinstance(found, float) and not math.isfinite(found):
            return self._wrong(path, "a finite number", value, secret=secret)
        if isinstance(found, int) and abs(found) > MOST:
            return self._wrong(path, f"a number up to {MOST}", value, secret=secret)
        if is_path and isinstance(found, str) and self._folder is not None:
            try:
                return absolute(found, self._folder)
            except ValueError as error:
                self.faults.append(Fault(path, str(error)))
                return _FAULTY
        return found

    def _convert(self, value: Any, hint: Any, path: Path, *, secret: bool) -> Any:
        try:
            return msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            expected = _expected(hint)
            if expected is None:
                message, where = located(error)
                message = message[:1].lower() + message[1:]
                inside = f" (at {where})" if where else ""
                self.faults.append(Fault(path, "cannot be used" if secret else message + inside))
                return _FAULTY
        except (ValueError, TypeError, OverflowError, RecursionError):
            expected = _expected(hint) or "another value"
        return self._wrong(path, expected, value, secret=secret, kinds=_choices(hint))

    def _wrong(
        self, path: Path, expected: str, value: Any, *, secret: bool, kinds: Iterable[str] = ()
    ) -> Any:
        got = MASK if secret and not isinstance(value, dict | list | None) else shown(value)
        short = isinstance(value, str) and len(value) <= LONGEST_KEY
        near = difflib.get_close_matches(value, kinds, n=1) if short and not secret else []
        advice = f"; did you mean {near[0]!r}?" if near else ""
        if expected.startswith("text") and isinstance(value, bool | int | float):
            advice = "; put it in quotes"
        elif short and not near and not expected.startswith("text") and _reads_as_other(value):
            advice = "; without the quotes it is not text"
        self.faults.append(Fault(path, f"expected {expected}, got {got}{advice}"))
        return _FAULTY


def _reads_as_other(text: str) -> bool:
    """Whether YAML would read this text, without quotes, as a number, a list or the like."""
    try:
        return not isinstance(read_document(text).data, str | None)
    except ConfigError:
        return False


def plain(value: Any) -> Any:
    """Return data for a field of type Any; a reference without quotes is read as YAML would."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Substituted) and value.loose:
        try:
            scalar = read_document(value).data if value else ""
        except ConfigError:
            return str(value)
        return scalar if isinstance(scalar, bool | int | float | None) else str(value)
    return str(value) if isinstance(value, str) else value


def absolute(path: str, folder: FilePath) -> str:
    """Make a path of the settings absolute, from `folder`, with `~` expanded. Raises `ValueError`."""
    if not path or any(character in path for character in "\0\n\r"):
        raise ValueError(f"expected a path, got {path[:60]!r}")
    try:
        return str(folder / FilePath(path).expanduser())
    except RuntimeError:
        raise ValueError(f"there is no home folder of {path.split('/', maxsplit=1)[0]!r}") from None


def _hint(key: str, fields: Iterable[str]) -> str:
    near = [] if len(key) > LONGEST_KEY else difflib.get_close_matches(key, fields, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(fields))}"


def _unwrapped(hint: Any) -> tuple[Any, list[msgspec.Meta]]:
    if get_origin(hint) is Annotated:
        return hint.__origin__, [meta for meta in hint.__metadata__ if isinstance(meta, msgspec.Meta)]
    return hint, []


def _is_union(base: Any) -> bool:
    return get_origin(base) in (Union, types.UnionType)


def _is_section(base: Any) -> bool:
    """Whether the type is a struct that is always written as a mapping of its fields."""
    if not (isinstance(base, type) and issubclass(base, msgspec.Struct)):
        return False
    config = base.__struct_config__
    return not config.array_like and config.tag is None


def _is_container(base: Any) -> bool:
    if get_origin(base) is tuple:
        return get_args(base)[1:] == (...,)
    return _is_section(base) or get_origin(base) is dict or get_origin(base) in _LISTS


def _holds(base: Any, value: Any) -> bool:
    if isinstance(value, dict):
        return _is_section(base) or get_origin(base) is dict
    return isinstance(value, list) and get_origin(base) in _LISTS and _is_container(base)


def _takes_text(kinds: Iterable[Any]) -> bool:
    return any(
        kind in (str, Any)
        or (get_origin(kind) is Literal and any(isinstance(v, str) for v in get_args(kind)))
        for kind in kinds
    )


def _choices(hint: Any) -> list[str]:
    """The texts that a field accepts, if they are few."""
    base, _ = _unwrapped(hint)
    if _is_union(base):
        return [text for member in get_args(base) for text in _choices(member)]
    return [v for v in get_args(base) if isinstance(v, str)] if get_origin(base) is Literal else []


def _expected(hint: Any) -> str | None:
    """Describe a type in words; None if there are no words for it."""
    try:
        return _in_words(msgspec.inspect.type_info(hint))
    except TypeError:
        return None


def _in_words(kind: msgspec.inspect.Type) -> str | None:
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            return _in_words(inner)
        case msgspec.inspect.IntType():
            return "a whole number" + _limits(kind)
        case msgspec.inspect.FloatType():
            return "a number" + _limits(kind)
        case msgspec.inspect.StrType(pattern=None, min_length=None, max_length=None):
            return "text"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.NoneType():
            return "null"
        case msgspec.inspect.LiteralType(values=values):
            return "one of " + ", ".join(map(str, values))
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType() | msgspec.inspect.SetType():
            return "a list"
        case msgspec.inspect.DictType() | msgspec.inspect.StructType():
            return "a mapping"
        case msgspec.inspect.UnionType(types=members):
            words = [_in_words(member) for member in members]
            return " or ".join(word for word in words if word) if all(words) else None
        case _:
            return None


def _limits(kind: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> str:
    """Describe the limits of a number, except a limit that is only a technical maximum."""
    most = kind.le if kind.le is not None and kind.le < MOST_MEANT else None
    if kind.ge is not None:
        least = _number(kind.ge)
        return f" from {least} to {_number(most)}" if most is not None else f", {least} or more"
    if kind.gt is not None:
        return f" above {_number(kind.gt)}"
    return f", {_number(most)} or less" if most is not None else ""


def _number(value: float) -> str:
    return str(int(value) if value == int(value) else value)
