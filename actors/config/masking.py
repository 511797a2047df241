"""Hides the secrets of the settings wherever they are shown. Pure.

A field of the schema that is a secret says so in its type (`actors.config.schema.Secret`). Beyond those:
options and variables whose names look like it, the argument of such a flag, and passwords in addresses.
"""

import itertools
import re
import shlex
from collections.abc import Iterable
from typing import Annotated, Any, get_args, get_origin

import msgspec

MASK = "***"
SHORTEST = 4
"""Least characters of a secret that is searched inside other text; shorter ones occur in ordinary words."""
_SHOWN = 60

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET_WORDS = {
    *("token", "tokens", "secret", "secrets", "password", "passwords", "passwd", "pass", "pw", "pwd"),
    *("passphrase", "credential", "credentials", "apikey", "apikeys", "auth", "authorization", "bearer"),
    *("cookie", "pat", "pin", "signature", "hft"),
}
_KEYS = {"key", "keys"}
_OTHER_WORDS = {"max", "min", "num", "count", "limit", "budget", "size", "length"}
"""Of a secret's name that is none: max_tokens."""
_PLACES = {"file", "path", "dir", "folder", "sock", "socket"}
_WORKING_DIRECTORY = "PWD"
# Bounded, because texts of any length are looked through.
_USER_INFO = re.compile(r"(?<![\w+.-])([A-Za-z][\w+.-]{0,30}://)[^/?#\s'\"]*@")
_FLAG = re.compile(r"--?([A-Za-z][\w-]*)")
_ASSIGNED = re.compile(r"((?:--?)?[A-Za-z_][\w-]*)=.+", re.DOTALL)
_WORD = re.compile(r"(?<![\w-])(--?[A-Za-z][\w-]{0,60})(=|\s+)(\"[^\"]*\"|'[^']*'|\S+)")
# A variable, or a part of an address; in quotes of its own up to their end.
_VARIABLE = re.compile(
    r"(?<![\w-])(?P<quote>['\"])?(?P<name>[A-Za-z_][\w.-]{0,60})="
    r"(?(quote)(?:(?!(?P=quote)).)+|(?:\"[^\"]*\"|'[^']*'|[^\s&;'\"]+))"
)


def looks_secret(name: str) -> bool:
    """Whether a variable, option or flag of this name holds a secret: HF_TOKEN, api-key, PGPASSWORD."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or name == _WORKING_DIRECTORY or words[-1] in _PLACES or _OTHER_WORDS.intersection(words):
        return False
    if words[-1] in _KEYS:
        return True
    return any(word in _SECRET_WORDS or word.endswith(("password", "token")) for word in words) or any(
        word in _KEYS and before in ("api", "access", "private") for before, word in itertools.pairwise(words)
    )


def is_secret(hint: Any) -> bool:
    """Whether a field of this type is a secret."""
    if get_origin(hint) is Annotated:
        metas = [meta for meta in hint.__metadata__ if isinstance(meta, msgspec.Meta)]
        if any((meta.extra or {}).get("secret") for meta in metas):
            return True
    return any(is_secret(inner) for inner in get_args(hint))


def mask_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text without passwords in addresses, arguments of secret flags, and these `secrets`."""
    for secret in sorted(secrets, key=len, reverse=True):
        if text == secret:
            return MASK
        if len(secret) >= SHORTEST:
            text = text.replace(secret, MASK)
    text = _USER_INFO.sub(rf"\1{MASK}@", text)
    text = _WORD.sub(lambda m: f"{m[1]}{m[2]}{MASK}" if looks_secret(m[1]) else m[0], text)
    return _VARIABLE.sub(
        lambda m: f"{m['quote'] or ''}{m['name']}={MASK}" if looks_secret(m["name"]) else m[0], text
    )


def mask_command(words: Iterable[str]) -> str:
    """Return a command's words as they may be shown; see `mask_text`."""
    return shlex.join(_masked_list(words, ())).replace(f"'{MASK}'", MASK)


def masked(value: Any, secrets: Iterable[str] = ()) -> Any:
    """Return settings, or a part of them, as plain data that may be shown."""
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(type(value))
        return {
            field.encode_name: _hidden(found) if is_secret(field.type) else masked(found, secrets)
            for field in fields
            for found in [getattr(value, field.name)]
        }
    if isinstance(value, dict):
        return {
            mask_text(str(key), secrets): _hidden(item) if looks_secret(str(key)) else masked(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return _masked_list(value, secrets)
    return mask_text(str(value), secrets) if isinstance(value, str) else value


def secrets_of(value: Any) -> set[str]:
    """Return the values of all fields that the schema marks as secret."""
    if isinstance(value, msgspec.Struct):
        found: set[str] = set()
        for field in msgspec.structs.fields(type(value)):
            own = getattr(value, field.name)
            found |= _texts(own) if is_secret(field.type) else secrets_of(own)
        return found
    if isinstance(value, dict):
        return set().union(*map(secrets_of, value.values()))
    return set()


def _texts(value: Any) -> set[str]:
    if isinstance(value, str):
        return {str(value)} if value else set()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return set().union(*map(_texts, items))


def _hidden(value: Any) -> Any:
    """Hide every text in a value; numbers are limits, not secrets."""
    if isinstance(value, dict):
        return {key: _hidden(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(item) for item in value]
    return MASK if isinstance(value, str) and value else value


def _masked_list(items: Iterable[Any], secrets: Iterable[str]) -> list[Any]:
    """Mask a list; the item after a secret flag is hidden too."""
    found: list[Any] = []
    hides = False
    for item in items:
        text = item if isinstance(item, str) else ""
        assigned = _ASSIGNED.fullmatch(text)
        if hides:
            found.append(_hidden(item))
        elif assigned is not None and looks_secret(assigned[1]):
            found.append(f"{assigned[1]}={MASK}")
        else:
            found.append(masked(item, secrets))
        flag = _FLAG.fullmatch(text)
        hides = flag is not None and looks_secret(flag[1])
    return found


def shown(value: Any) -> str:
    """Show a value in an error: containers by their kind, long texts cut."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return "nothing (null)" if value is None else str(value).lower()
    try:
        text = repr(mask_text(value)) if isinstance(value, str) else str(value)
    except ValueError:  # a number with more digits than Python converts to text
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
