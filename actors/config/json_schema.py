"""The JSON schema of config.yaml, by which editors complete and check it: `run.py check --schema`.

It accepts what the gateway accepts: `${NAME}` in place of any value, and nothing in place of a list or a
mapping. The descriptions are the comments of the config.yaml that documents every key.
"""

import re
from pathlib import Path
from typing import Any

import msgspec

from actors.config.schema import Config, documented_keys

DOCUMENTED = Path(__file__).parents[2] / "config.yaml"
"""The file that documents every key."""

_REFERENCE = {"type": "string", "pattern": r"\$\{[A-Za-z_]"}
_EXAMPLE = re.compile(r"^    # (?= *[\w-]+:(?: |$))", re.MULTILINE)
_KEY = re.compile(r"^( *)([\w-]+):(?: .*?)?(?: +# (.*))?$")
_MORE = re.compile(r"^ *# (.*)$")


def json_schema() -> dict[str, Any]:
    """Return the schema. Blocking."""
    schema = msgspec.json.schema(Config)
    definitions = schema["$defs"]
    for definition in definitions.values():
        definition["properties"] = {name: _lenient(found) for name, found in definition["properties"].items()}
    for key, text in descriptions(DOCUMENTED.read_text(encoding="utf-8")).items():
        _property(definitions, key)["description"] = text
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _lenient(found: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a value that may also be a reference or, for a list or a mapping, nothing."""
    own = {key: value for key, value in found.items() if key != "default"}
    for part in ("items", "additionalProperties"):
        if isinstance(own.get(part), dict):
            own[part] = _lenient(own[part])
    kinds = own.pop("anyOf", [own])
    is_container = any("$ref" in kind or kind.get("type") in ("array", "object") for kind in kinds)
    ways = [*kinds, _REFERENCE, *([{"type": "null"}] if is_container else [])]
    default = {"default": found["default"]} if "default" in found and "$ref" not in found else {}
    return {"anyOf": ways, **default}


def _property(definitions: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the schema of a documented key; `*` stands for any name."""
    found: dict[str, Any] = {"anyOf": [{"$ref": "#/$defs/Config"}]}
    for step in key.split("."):
        inside = found.get("additionalProperties", found)
        for kind in (inside, *inside.get("anyOf", ())):
            reference = kind.get("$ref", "").rpartition("/")[2]
            if step == "*" and "additionalProperties" in kind:
                found = kind["additionalProperties"]
                break
            if reference and step in definitions[reference]["properties"]:
                found = definitions[reference]["properties"][step]
                break
    return found


def descriptions(text: str) -> dict[str, str]:
    """Return the comments of the documented keys, by their dotted paths, in the text of config.yaml."""
    known = set(documented_keys())
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    latest, column = "", -1
    for line in _EXAMPLE.sub("    ", text).splitlines():
        if (key := _KEY.match(line)) is not None and not line.lstrip().startswith("#"):
            indent = len(key[1])
            above = [(depth, name) for depth, name in above if depth < indent] + [(indent, key[2])]
            latest = _documented([name for _, name in above], known)
            column = line.find(" # ")
            if key[3] and latest:
                found[latest] = key[3]  # the last one is that of the example with every key
        elif (more := _MORE.match(line)) is not None and latest in found and line.find("#") == column + 1:
            found[latest] += f" {more[1]}"
        else:
            latest = ""
    return found


def _documented(path: list[str], known: set[str]) -> str:
    """Return a path with `*` for the names of models and keys; empty if it is no documented key."""
    names = ""
    for step in path:
        plain, any_name = (f"{names}.{one}".lstrip(".") for one in (step, "*"))
        is_any = any(key.startswith(f"{any_name}.") for key in known)
        names = any_name if is_any and plain not in known else plain
    return names if names in known else ""
