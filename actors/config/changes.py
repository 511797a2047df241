"""The difference of two configurations, and what it takes to apply it. Pure.

Most settings are applied while the gateway runs. Those with which a model's server was started replace that
server. The others, such as addresses and folders, wait for a restart of the gateway.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from actors.config.document import Path
from actors.config.fields import plain
from actors.config.masking import masked
from actors.config.schema import Config, Model, ModelSettings, Ollama, OllamaModel, Section, ServerPool

AT_ONCE = "at once"
NEEDS_RESTART = "needs a restart of the gateway"

RELOADED = {
    *(("server", name) for name in ("open", "allowed_origins", "allowed_hosts", "max_body_mb")),
    *(("server", name) for name in ("write_timeout", "keepalive_interval", "loading_state", "drain_timeout")),
    *(("server", name) for name in ("keep_responses", "list_aliases", "reload_on_change")),
    ("server", "log", "level"),
    *((name,) for name in ("keys", "usage", "server_pool", "llama_cpp", "hub", "gpu", "ollama")),
    *((name,) for name in ("agents", "agent_folders", "skip_broken_agents")),
}
"""Settings that a running gateway takes, with all below them."""

NOT_RELOADED = {
    *(("server_pool", "docker", name) for name in ("host", "name")),
    ("server_pool", "prompts"),
    ("hub", "cache_dir"),
    *(("gpu", name) for name in ("enabled", "enable_gpu_monitoring")),
}
"""Settings below those that wait for a restart all the same."""

_UNKNOWN_TO_THE_SERVER = {*ModelSettings.__struct_fields__, "agents"}
"""Settings of a model that its server does not have."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A setting that differs, by its dotted path. A value is None where there is none; secrets are masked."""

    path: str
    old: Any = msgspec.field(name="from")
    new: Any = msgspec.field(name="to")
    effect: str


class CurrentConfig:
    """The configuration in effect, for parts that read a setting when they need it. A reload replaces it."""

    __slots__ = ("config",)

    def __init__(self, config: Config) -> None:
        self.config = config


def is_reloaded(path: Path) -> bool:
    """Whether a running gateway takes a change of this setting."""
    above = {path[:length] for length in range(1, len(path) + 1)}
    return not above & NOT_RELOADED and bool(above & RELOADED)


def applicable(present: Config, wanted: Config) -> Config:
    """Return `wanted` with the present values of the settings that wait for a restart."""
    found: Config = _applicable(present, wanted, ())
    return found


def _applicable(present: Any, wanted: Any, path: Path) -> Any:
    if not isinstance(wanted, Section):
        return wanted if is_reloaded(path) else present
    pairs = {name: (getattr(present, name), getattr(wanted, name)) for name in wanted.__struct_fields__}
    found = {name: _applicable(old, new, (*path, name)) for name, (old, new) in pairs.items()}
    return msgspec.structs.replace(wanted, **found)


def launch_of(config: Config, name: str) -> Any:
    """Return all that a configured model's server depends on; while it is equal, the server can stay."""
    if (model := config.llama_cpp.models.get(name)) is not None:
        return launch(config.server_pool, model)
    return launch_in_daemon(config.ollama, name, config.ollama.models[name])


def launch(pool: ServerPool, model: Model) -> Any:
    """Return all that the server of a llama.cpp model depends on."""
    runtime = model.runtime or pool.runtime
    inside = runtime == "docker"
    own = {
        name: getattr(model, name) for name in model.__struct_fields__ if name not in _UNKNOWN_TO_THE_SERVER
    }
    own["runtime"] = runtime
    own["arguments"] = [*pool.arguments, *model.arguments]
    own["gpu_layers"] = pool.gpu_layers if model.gpu_layers is None else model.gpu_layers
    # The pool's command is for where the pool's runtime runs: on this machine, or inside the image.
    own["command"] = model.command or (pool.command if inside == (pool.runtime == "docker") else None)
    own["image"] = (model.image or pool.image) if inside else None
    return own, pool.host, pool.port_start, pool.docker if inside else None


def launch_in_daemon(ollama: Ollama, name: str, model: OllamaModel) -> Any:
    """Return all that a loaded model of an Ollama daemon depends on."""
    daemon = model.daemon or next(iter(ollama.addresses), "")
    where = daemon, ollama.addresses.get(daemon), daemon in ollama.elsewhere
    return where, model.model or name, model.ctx_size


def changes(present: Config, wanted: Config, secrets: Iterable[str] = ()) -> list[Change]:
    """List the settings that differ, and the effect of applying each."""
    old, new = _plain(present, secrets), _plain(wanted, secrets)
    found = [
        Change(path=".".join(map(str, path)), old=was, new=becomes, effect=_effect(path, present, wanted))
        for path, was, becomes in _differences(old, new, ())
    ]
    orders = [list(_agents(config)) for config in (present, wanted)]
    if orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]):
        found.append(Change(path="agents", old=orders[0], new=orders[1], effect=AT_ONCE))
    return found


class _Shown(msgspec.Struct, frozen=True):
    """A value as plain data, and as it may be shown."""

    value: Any = None
    text: Any = None

    def parts(self) -> Mapping[Any, "_Shown"]:
        """Return the parts of a mapping by their keys."""
        pairs = zip(self.value.items(), self.text.values(), strict=True)
        return {key: _Shown(value, text) for (key, value), text in pairs}


def _plain(config: Config, secrets: Iterable[str]) -> _Shown:
    whole = msgspec.structs.replace(config, agents=_agents(config))
    return _Shown(msgspec.to_builtins(whole), masked(whole, secrets))


def _agents(config: Config) -> dict[str, Any]:
    """Return the options of the agents by name, whatever form the section has."""
    entries = [config.agents] if isinstance(config.agents, dict) else config.agents
    named: dict[str, Any] = {}
    for entry in plain(entries):
        named |= entry if isinstance(entry, dict) else {entry: None}
    return named


def _differences(old: _Shown, new: _Shown, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    """Yield each setting that differs; one that only one of them has is not taken apart."""
    if not (isinstance(old.value, dict) and isinstance(new.value, dict)):
        if old.value != new.value:
            yield path, old.text, new.text
        return
    before, after = old.parts(), new.parts()
    for key in dict.fromkeys((*before, *after)):
        yield from _differences(before.get(key, _Shown()), after.get(key, _Shown()), (*path, key))


def _effect(path: Path, present: Config, wanted: Config) -> str:
    """Say what it takes to apply this one difference."""
    if not is_reloaded(path):
        return NEEDS_RESTART
    match path:
        case ("llama_cpp" | "ollama" as section, "models", name):
            stays = name in getattr(wanted, section).models
            return AT_ONCE if stays else f"stops model {name}"
        case ("llama_cpp" | "ollama" as section, "models", name, field, *_):
            old, new = (getattr(config, section) for config in (present, wanted))
            one = _with(old.models[str(name)], new.models[str(name)], [field])
            other = msgspec.structs.replace(old, models={**old.models, name: one})
            return _restarts(present, msgspec.structs.replace(present, **{section: other}), [str(name)])
        case ("ollama", field, *_):
            ollama = _with(present.ollama, wanted.ollama, [field])
            return _restarts(present, msgspec.structs.replace(present, ollama=ollama), present.ollama.models)
        case ("server_pool", *fields):
            pool = _with(present.server_pool, wanted.server_pool, fields)
            other = msgspec.structs.replace(present, server_pool=pool)
            return _restarts(present, other, present.llama_cpp.models)
        case _:
            pass
    return AT_ONCE


def _with(present: Section, wanted: Section, path: Sequence[Any]) -> Section:
    """Return the present settings with the one at this path as it is wanted."""
    name, *below = path
    old, new = getattr(present, name), getattr(wanted, name)
    value = _with(old, new, below) if below and isinstance(new, Section) else new
    return msgspec.structs.replace(present, **{name: value})


def _restarts(present: Config, wanted: Config, models: Iterable[str]) -> str:
    """Say which of these models get a new server."""
    changed = [name for name in models if launch_of(present, name) != launch_of(wanted, name)]
    if not changed:
        return AT_ONCE
    return f"restarts {'model' if len(changed) == 1 else 'models'} {', '.join(changed)}"
