"""`run.py migrate`: the config.json of the first version becomes a config.yaml.

Nothing is dropped in silence. Each value is tried in the new configuration together with the values taken so
far. A value that is refused, or has no key any more, is printed with the reason and kept in the new file as a
comment. So the written file always loads.
"""

import copy
import json
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from actors.config.file import parse_config
from actors.config.masking import mask_text
from actors.config.schema import Config, documented_keys
from actors.errors import ConfigError
from actors.model_names import parse_name
from actors.terminal import complain, program, say

ELSEWHERE = {
    "llama_cpp.timeout": "server_pool.request_timeout",
    "llama_cpp.request_timeout": "server_pool.request_timeout",
    "server_pool.timeout": "server_pool.request_timeout",
    "server_pool.health_check_timeout": "server_pool.health_timeout",
    "server_pool.startup_timeout": "server_pool.health_timeout",
    "server.log_level": "server.log.level",
    "log_level": "server.log.level",
    "logging.level": "server.log.level",
    "hf_token": "hub.token",
    "models": "llama_cpp.models",
}
"""Keys that have moved, with their new places."""

GONE = {
    "llama_cpp.host": "the gateway starts the model servers itself, where server_pool.host says",
    "llama_cpp.port": "the gateway starts the model servers itself, on ports from server_pool.port_start",
    "ollama.timeout": "it was the time of a whole answer; server_pool.request_timeout limits silences now",
}
"""Keys without a successor, with the reason."""

RENAMED_AGENTS = {"gpu": "vram"}

MODEL_KEYS = {
    "repo": ("repo", "repo_id", "model_id", "hf_repo", "hf_repo_id", "model"),
    "variant": ("variant", "quant", "quantization", "filename", "file"),
    "path": ("path", "model_path"),
    "ctx_size": ("ctx_size", "n_ctx", "context_size", "context_length"),
    "parallel": ("parallel", "n_parallel", "slots"),
    "gpu_layers": ("gpu_layers", "n_gpu_layers"),
}
"""The older names of a model's keys, by the present name."""

SOURCE = {"path", "repo", "variant", "revision"}
"""The keys that identify a model; without one of them the rest of the entry is useless."""

ALL_LAYERS = 99
"""A number of GPU layers from this one on meant all layers."""

DIFFERENT = (
    "of repositories that are not listed, requests may name those in hub.allow only; any was loaded before",
    "the quantisation of a name (org/repo:Q8_0) counts; the repository's default was loaded before",
    "server_pool.request_timeout is the longest silence of a model server, not the time of a whole answer",
)


class Migration(msgspec.Struct):
    """The new file's text, the changes made, and the values left out, each by path with the reason."""

    text: str
    changed: list[str]
    left: dict[str, str]


def migrate(text: str, agents: Collection[str] = ()) -> Migration:
    """Turn the text of a config.json into that of a config.yaml. `agents` are the names of today's agents.

    Raises `ConfigError`.
    """
    try:
        old = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is not JSON: {error}") from error
    if not isinstance(old, dict):
        raise ConfigError(f"expected a JSON object, got {type(old).__name__}")
    migrator = _Migrator(agents)
    migrator.take(old, "")
    return Migration(migrator.render(old), migrator.changed, migrator.left)


class _Migrator:
    """Collects the values taken so far and the remarks about them."""

    def __init__(self, agents: Collection[str]) -> None:
        self._agents = agents
        self.new: dict[str, Any] = {}
        self.changed: list[str] = []
        self.left: dict[str, str] = {}
        self._known = {key for key in documented_keys(Config) if "*" not in key}
        self._sections = {key.rpartition(".")[0] for key in self._known} - {""}

    def take(self, old: Mapping[str, Any], section: str) -> None:
        """Take the keys of a section and of its subsections."""

        def order(key: str) -> tuple[bool, bool]:
            """Sort newer names first, since they win, and models last, since they may need other keys."""
            return f"{section}.{key}".lstrip(".") in ELSEWHERE, key == "models"

        for key in sorted(old, key=order):
            self._take_key(f"{section}.{key}".lstrip("."), old[key])

    def _take_key(self, path: str, value: Any) -> None:
        place = ELSEWHERE.get(path, path)
        if path in GONE:
            self.left[path] = GONE[path]
        elif place in ("llama_cpp.models", "ollama.models"):
            self._take_models(path, place, value)
        elif place == "agents" and isinstance(value, list):
            self._take_agents(value)
        elif isinstance(value, dict) and (path in self._sections or path in ("logging", "ollama")):
            self.take(value, path)
        elif value is None:
            self.left[path] = "it was null, which the default stands for"
        elif path.endswith("gpu_layers") and isinstance(value, int) and value >= ALL_LAYERS:
            self.changed.append(f"{path}: {value} meant all layers; by default as many as fit are on GPUs")
        elif self._offer(path, place.split("."), value) and place != path:
            self.changed.append(f"{path} is {place} now")

    def _take_agents(self, names: list[Any]) -> None:
        taken: list[Any] = []
        for name in names:
            plain = str(name).lstrip("/")
            if plain in RENAMED_AGENTS:
                self.changed.append(f"agents: {plain!r} is {RENAMED_AGENTS[plain]!r} now")
                plain = RENAMED_AGENTS[plain]
            if plain not in self._agents:
                there_are = ", ".join(sorted(self._agents))
                self.left[f"agents.{plain}"] = f"there is no such agent; there are: {there_are}"
            elif self._offer(f"agents.{plain}", ["agents"], [*taken, plain], replace=True):
                taken.append(plain)

    def _take_models(self, path: str, place: str, value: Any) -> None:
        items = list(value.items()) if isinstance(value, dict) else [(None, item) for item in _listed(value)]
        make = _llama_model if place.startswith("llama_cpp") else _ollama_model
        for number, (key, item) in enumerate(items):
            where = f"{path}.{key}" if key is not None else f"{path}[{number}]"
            try:
                name, model, changed = make(key, item)
            except ValueError as error:
                self.left[where] = str(error)
                continue
            steps = [*place.split("."), name]
            if self._offer(where, steps, {key: model.pop(key) for key in SOURCE & model.keys()}):
                for field, setting in model.items():
                    self._offer(f"{where}.{field}", [*steps, field], setting)
                self.changed += [f"{where}: {line}" for line in changed]

    def _offer(self, path: str, place: list[str], value: Any, *, replace: bool = False) -> bool:
        """Put the value in its place if the configuration stays valid; otherwise note why not."""
        *sections, key = place
        trial = copy.deepcopy(self.new)
        section = trial
        for step in sections:
            section = section.setdefault(step, {})
        if key in section and not replace:
            self.left[path] = f"{'.'.join(place)} has another value already"
            return False
        section[key] = value
        try:
            parse_config(trial, folder=Path("/"), environment={})
        except ConfigError as error:
            self.left[path] = str(error).removeprefix(f"{path}: ")
            return False
        self.new = trial
        return True

    def render(self, old: Mapping[str, Any]) -> str:
        """The new file."""
        lines = [
            "# Made by `run.py migrate`. The config.yaml of the checkout documents every key there is.",
            "#",
            "# What is different now:",
            *(f"# * {line}" for line in (*self.changed, *DIFFERENT)),
        ]
        if self.left:
            lines += ["#", "# Not carried over:"]
            lines += [f"# * {_line(path)}: {_line(why)}" for path, why in self.left.items()]
        if self.new:
            lines += ["", yaml.safe_dump(self.new, sort_keys=False, allow_unicode=True).rstrip()]
        if kept := {key: value for key, value in old.items() if self._has_left(key)}:
            dumped = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True).splitlines()
            lines += ["", "# As it was, where not everything was carried over:", *(f"# {x}" for x in dumped)]
        return "\n".join(lines) + "\n"

    def _has_left(self, key: str) -> bool:
        return any(path == key or path.startswith((f"{key}.", f"{key}[")) for path in self.left)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _line(text: str) -> str:
    """Write a value in one line, without characters that YAML forbids even in comments."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _llama_model(key: str | None, item: Any) -> tuple[str, dict[str, Any], list[str]]:
    """Read a model's entry in any of its forms: name, settings, and changes. Raises `ValueError`."""
    fields = dict(item) if isinstance(item, dict) else {"path" if _is_file(item) else "repo": item}
    own_name = fields.pop("name", None) or fields.pop("id", None) if isinstance(item, dict) else None
    model: dict[str, Any] = {}
    changed: list[str] = []
    for new, names in MODEL_KEYS.items():
        found = [name for name in names if fields.get(name) is not None]
        if found:
            model[new] = fields.pop(found[0])
            if found[0] != new:
                changed.append(f"{found[0]} is {new} now")
    model |= {name: value for name, value in fields.items() if value is not None}
    repo = model.get("repo")
    if _is_file(repo):
        model["path"] = model.pop("repo")
    elif repo is not None:
        named = parse_name(repo) if isinstance(repo, str) else None
        if named is None:
            raise ValueError(f"expected org/repo:variant or the path of a GGUF file, got {json.dumps(repo)}")
        model["repo"] = named.repo
        if named.variant is not None:
            model.setdefault("variant", named.variant)
    layers = model.get("gpu_layers")
    if isinstance(layers, int) and layers >= ALL_LAYERS:
        del model["gpu_layers"]
        changed.append(f"gpu_layers {layers} meant all layers; by default as many as fit are on GPUs")
    name = key or own_name or (repo if repo else Path(str(model.get("path", ""))).stem)
    return str(name), model, changed


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and bool(re.search(r"^[/.~]|^[A-Za-z]:[\\/]|\.gguf$|^builtin:", value))


def _ollama_model(key: str | None, item: Any) -> tuple[str, dict[str, Any], list[str]]:
    if isinstance(item, dict):
        fields = dict(item)
        return str(key or fields.pop("name", None) or fields.get("model")), fields, []
    name = key or str(item)
    return name, {} if item in (name, None) else {"model": item}, []


def migrate_file(source: Path, target: Path, agents: Collection[str]) -> int:
    """`run.py migrate`: write `target` and print the changes. Return the exit status.

    A `target` that is there already is kept beside it as `<name>.old`.
    """
    kept = ""
    try:
        migration = migrate(source.read_text(encoding="utf-8"), agents)
        if target.exists():
            old = target.with_name(f"{target.name}.old")
            if old.exists():
                raise ConfigError(f"{target} and {old} are there already; move one of them away")
            target.rename(old)
            kept = f"{target} was there already; it is {old.name} now"
        target.write_text(migration.text, encoding="utf-8")
        shutil.copymode(source, target)  # the file may hold a token
    except ConfigError as error:
        complain(f"{source}: {error}")
        return 1
    except OSError as error:
        complain(f"{error.filename or target}: {error.strerror}")
        return 1
    except UnicodeDecodeError as error:
        complain(f"{source}: is not UTF-8: {error.reason}")
        return 1
    if kept:
        say(kept)
    say(f"wrote {target}")
    for heading, lines in (
        ("Different now:", [*migration.changed, *DIFFERENT]),
        (
            "Not carried over, and kept in the file as comments:",
            [f"{p}: {w}" for p, w in migration.left.items()],
        ),
    ):
        if lines:
            say("\n".join(["", heading, *(f"  * {mask_text(_line(line))}" for line in lines)]))
    say(f"\nTry it: {program()} check --config {target}")
    return 0
