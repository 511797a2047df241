"""The settings: their types, defaults and limits, and how config.yaml becomes them.

`config.yaml` in the checkout documents every key in place; a test holds the two together.
"""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import yaml
from yarl import URL

from actors.errors import ConfigError
from actors.hub.names import HubName, parse_name

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Strategy = Literal["single-gpu-preferred", "distribute"]
Runtime = Literal["auto", "llama-server", "embedded", "docker"]
LogLevel = Literal["debug", "info", "warning", "error"]

BUILTIN = "builtin:"
BUILTIN_MODELS = ("demo", "demo-embed")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all the sections."""


class Log(Section, frozen=True, kw_only=True):
    """How the gateway logs."""

    level: LogLevel = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Server(Section, frozen=True, kw_only=True):
    """The front door."""

    host: str = "127.0.0.1"
    port: Port = 8000
    max_body_mb: Count = 64
    write_timeout: Seconds = 60.0
    keepalive_interval: Seconds = 10.0
    drain_timeout: Seconds = 30.0
    log: Log = Log()


class DockerSettings(Section, frozen=True, kw_only=True):
    """The engine and the containers of `runtime: docker`."""

    host: str | None = None
    name: str | None = None
    network: str | None = None
    gpus: Literal["auto", "nvidia", "cdi"] = "auto"
    mounts: list[str] = []
    memory_limit: Annotated[float, msgspec.Meta(gt=0)] | None = None


class ServerPool(Section, frozen=True, kw_only=True):
    """How model servers are run, and how requests wait for them."""

    size: Annotated[int, msgspec.Meta(ge=0)] = 4
    host: str = "127.0.0.1"
    port_start: Port = 8100
    gpu_layers: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    request_timeout: Seconds = 600.0
    health_timeout: Annotated[float, msgspec.Meta(gt=0)] = 120.0
    runtime: Runtime = "auto"
    command: str | list[str] | None = None
    arguments: list[str] = []
    image: str | None = None
    docker: DockerSettings = DockerSettings()
    queue_size: Count = 256
    queue_timeout: Seconds = 600.0
    min_residency: Seconds = 0.0
    patience: Seconds = 10.0
    idle_timeout: Seconds = 0.0
    load_grace: Seconds = 30.0
    retry_delay: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    retry_delay_max: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    stop_timeout: Annotated[float, msgspec.Meta(gt=0)] = 10.0


class Model(Section, frozen=True, kw_only=True):
    """One model of `llama_cpp.models`."""

    path: str | None = None
    repo: str | None = None
    variant: str | None = None
    revision: str = "main"
    mmproj: str | None = None
    aliases: list[str] = []
    ctx_size: Annotated[int, msgspec.Meta(ge=0)] | None = None
    parallel: Count = 4
    embeddings: bool = False
    reranking: bool = False
    gpu_layers: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    longer_context: bool = False
    devices: list[int | str] = []
    tensor_split: list[Annotated[float, msgspec.Meta(ge=0)]] = []
    priority: Annotated[int, msgspec.Meta(ge=-10, le=10)] = 0
    never_evict: bool = False
    runtime: Runtime | None = None
    image: str | None = None
    command: str | list[str] | None = None
    arguments: list[str] = []
    agents: list[str] = []

    @property
    def hub_name(self) -> HubName | None:
        """What it is called on the hub; None for one that is a file."""
        return HubName(self.repo, self.variant) if self.repo is not None else None


class LlamaCpp(Section, frozen=True, kw_only=True):
    """The models that llama.cpp serves."""

    models: dict[str, Model] = {}

    def find(self, name: str) -> Model | None:
        """The model of this name or alias."""
        for known, model in self.models.items():
            if name in (known, *model.aliases):
                return model
        return None


class OllamaModel(Section, frozen=True, kw_only=True):
    """One model of `ollama.models`."""

    model: str | None = None
    daemon: str | None = None
    aliases: list[str] = []
    ctx_size: Count | None = None
    parallel: Count | None = None
    priority: Annotated[int, msgspec.Meta(ge=-10, le=10)] = 0
    never_evict: bool = False


class Ollama(Section, frozen=True, kw_only=True):
    """The Ollama daemons, and which of their models are served."""

    host: str | None = None
    port: Port = 11434
    daemons: dict[str, str] = {}
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    discover: bool = True
    pull: bool = False
    parallel: Count = 1
    elsewhere: list[str] = []
    models: dict[str, OllamaModel] = {}

    @property
    def addresses(self) -> dict[str, str]:
        """Where each daemon listens, by its name."""
        single = {} if self.host is None else {"ollama": address_of(self.host, self.port)}
        return single | self.daemons


def address_of(host: str, port: int) -> str:
    """A daemon's address; `host` may be one already, or have a port, as in `OLLAMA_HOST`."""
    if "://" in host or re.search(r"[^:]:\d+$|\]:\d+$", host):
        return host
    return f"http://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"http://{host}:{port}"


def daemon_address(url: str) -> tuple[str, int]:
    """Host and port of an Ollama daemon's address. Raises `ValueError` for what is not http://host[:port]."""
    base = URL(url if "://" in url else f"http://{url}")
    if base.scheme != "http" or not base.host or base.path != "/" or base.query_string or base.user:
        raise ValueError(f"{url!r} is no address of an Ollama daemon: expected http://host[:port]")
    # As Ollama's own clients read OLLAMA_HOST.
    return base.host, base.explicit_port or (80 if "://" in url else 11434)


class HubSettings(Section, frozen=True, kw_only=True):
    """Where models that are named by repository come from, and who may name them."""

    allow: list[str] = []
    endpoint: str | None = None
    token: str | None = None
    offline: bool = False
    cache_dir: str | None = None
    max_disk: Annotated[float, msgspec.Meta(gt=0)] | None = None
    grace: Seconds = 300.0


class GpuSettings(Section, frozen=True, kw_only=True):
    """The GPUs of this machine. Some keys have two names, of which the second is older."""

    enabled: bool = True
    enable_gpu_monitoring: bool = True
    monitoring_interval: Seconds = 5.0
    allocation_strategy: Strategy = "single-gpu-preferred"
    gpu_allocation_strategy: Strategy | None = None
    partial_offload: Literal["last", "first", "never"] = "last"
    headroom: Annotated[int, msgspec.Meta(ge=0)] = 0
    cpu_fallback: bool = True
    on_no_gpu: Literal["cpu", "queue", "fail"] | None = None
    dry_run: bool = True

    @property
    def managed(self) -> bool:
        """Whether models are placed on GPUs by the gateway."""
        return self.enabled and self.enable_gpu_monitoring

    @property
    def strategy(self) -> Strategy:
        """The one that counts."""
        return self.gpu_allocation_strategy or self.allocation_strategy

    @property
    def without_gpu(self) -> Literal["cpu", "queue", "fail"]:
        """What becomes of a model that cannot run on a GPU."""
        return self.on_no_gpu or ("cpu" if self.cpu_fallback else "fail")


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration.

    `agents` is a list of names, or of mappings from a name to its options, or one such mapping; what they
    mean is for `agents.settings` to say.
    """

    server: Server = Server()
    server_pool: ServerPool = ServerPool()
    llama_cpp: LlamaCpp = LlamaCpp()
    hub: HubSettings = HubSettings()
    agents: list[str | dict[str, Any]] | dict[str, Any] = []
    agent_folders: list[str] = []
    agent_data: str | None = None
    skip_broken_agents: bool = False
    gpu: GpuSettings = GpuSettings()
    ollama: Ollama = Ollama()


def load_config(path: Path) -> Config:
    """Read a configuration file. Raises `ConfigError`, which names the file and each faulty key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    try:
        return parse_config({} if data is None else data, folder=path.parent.resolve())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(data: object, *, folder: Path, environment: dict[str, str] | None = None) -> Config:
    """Make a `Config` of plain data. Paths of models are taken relative to `folder`."""
    expanded = _expand(data, "", dict(os.environ) if environment is None else environment)
    if unknown := list(_unknown_keys(Config, expanded, "")):
        raise ConfigError("; ".join(unknown))
    try:
        config = msgspec.convert(expanded, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(_readable(error)) from error
    _check(config)
    models = {name: _absolute(model, folder) for name, model in config.llama_cpp.models.items()}
    return msgspec.structs.replace(
        config,
        llama_cpp=LlamaCpp(models=models),
        agent_folders=[_absolute_path(path, folder) for path in config.agent_folders],
        agent_data=config.agent_data and _absolute_path(config.agent_data, folder),
    )


def _check(config: Config) -> None:
    _check_docker(config.server_pool.docker)
    taken: dict[str, str] = {}
    for name, model in config.llama_cpp.models.items():
        where = f"llama_cpp.models.{name}"
        _check_model(where, model)
        _take(taken, where, name, model.aliases)
    _check_ollama(config.ollama, taken)


def _check_docker(settings: DockerSettings) -> None:
    where = "server_pool.docker"
    if settings.host is not None and not re.match(r"(unix|tcp|https?|ssh|npipe)://.", settings.host):
        raise ConfigError(f"{where}.host: expected unix:///path or tcp://host:port, got {settings.host!r}")
    if settings.network is not None and not re.fullmatch(r"(?!(?:host|none)$)[\w][\w.-]*", settings.network):
        raise ConfigError(
            f"{where}.network: expected the name of a network that the gateway is on too, "
            f"got {settings.network!r}"
        )
    for path in settings.mounts:
        if not Path(path).is_absolute():
            raise ConfigError(f"{where}.mounts: expected absolute paths, got {path!r}")


def _check_ollama(ollama: Ollama, taken: dict[str, str]) -> None:
    for daemon, url in ollama.addresses.items():
        try:
            daemon_address(url)
        except ValueError as error:
            where = f"ollama.daemons.{daemon}" if daemon in ollama.daemons else "ollama.host"
            raise ConfigError(f"{where}: {error}") from None
    for daemon in ollama.elsewhere:
        if daemon not in ollama.addresses:
            known = _list(ollama.addresses)
            raise ConfigError(f"ollama.elsewhere: no daemon {daemon!r}; there are: {known}")
    entries: dict[tuple[str, str], str] = {}
    for name, served in ollama.models.items():
        where = f"ollama.models.{name}"
        if not ollama.addresses:
            raise ConfigError(f"{where}: no daemon is configured (ollama.host or ollama.daemons)")
        if served.daemon is not None and served.daemon not in ollama.addresses:
            known = _list(ollama.addresses)
            raise ConfigError(f"{where}.daemon: no daemon {served.daemon!r}; there are: {known}")
        _take(taken, where, name, served.aliases)
        pair = (served.daemon or next(iter(ollama.addresses)), served.model or name)
        if pair in entries:
            # The daemon would load it anew for each of them in turn.
            raise ConfigError(f"{where}: {pair[1]!r} of daemon {pair[0]!r} is already {entries[pair]}")
        entries[pair] = where


def _take(taken: dict[str, str], where: str, name: str, aliases: list[str]) -> None:
    if not name or name != name.strip():
        raise ConfigError(f"{where}: a model needs a name without surrounding space")
    for other in (name, *aliases):
        if other in taken:
            raise ConfigError(f"{where}: the name {other!r} is already that of {taken[other]}")
        taken[other] = where


def _check_model(where: str, model: Model) -> None:
    if (model.path is None) == (model.repo is None):
        raise ConfigError(f"{where}: expected either a path or a repo")
    if model.variant is not None and model.repo is None:
        raise ConfigError(f"{where}.variant: goes with repo, not with path")
    if model.repo is not None and parse_name(f"{model.repo}:{model.variant or 'x'}") is None:
        raise ConfigError(
            f"{where}.repo: expected a repository as org/name, and a variant that is a quantisation, "
            f"a file's name or a glob; got {model.repo!r} and {model.variant!r}"
        )
    if not re.fullmatch(r"\w[\w.-]*", model.revision):
        raise ConfigError(f"{where}.revision: expected a branch, a tag or a commit, got {model.revision!r}")
    if model.path is not None and model.path.startswith(BUILTIN):
        builtin = model.path.removeprefix(BUILTIN)
        if builtin not in BUILTIN_MODELS:
            known = _list(BUILTIN_MODELS)
            raise ConfigError(f"{where}.path: no built-in model {builtin!r}; there are {known}")
    if model.tensor_split and len(model.tensor_split) != len(model.devices):
        raise ConfigError(
            f"{where}.tensor_split: expected a share for each of its devices, "
            f"got {len(model.tensor_split)} for {len(model.devices)}"
        )
    if model.tensor_split and not sum(model.tensor_split):
        raise ConfigError(f"{where}.tensor_split: at least one share must be above 0")
    if len({str(device) for device in model.devices}) != len(model.devices):
        raise ConfigError(f"{where}.devices: a device is named twice")
    if model.embeddings and model.reranking:
        raise ConfigError(f"{where}: a server gives embeddings or reranks, not both")


def _absolute(model: Model, folder: Path) -> Model:
    def resolve(path: str | None) -> str | None:
        if path is None or path.startswith(BUILTIN):
            return path
        return _absolute_path(path, folder)

    if model.repo is not None:
        return model
    return msgspec.structs.replace(model, path=resolve(model.path), mmproj=resolve(model.mmproj))


def _absolute_path(path: str, folder: Path) -> str:
    return str(folder / Path(path).expanduser())


_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def _expand(value: Any, path: str, environment: dict[str, str]) -> Any:
    """Replace `${NAME}` and `${NAME:-default}`; alone it may be a number, a truth value or null."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{path or 'the top level'}: expected text as a key, got {key!r}")
        return {key: _expand(item, f"{path}.{key}".lstrip("."), environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, f"{path}[{index}]", environment) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        found = environment.get(match[1], match[2])
        if found is None:
            raise ConfigError(f"{path}: the environment variable {match[1]} is not set")
        return found

    expanded = _REFERENCE.sub(look_up, value)
    if _REFERENCE.fullmatch(value):
        if expanded == "null":
            return None
        scalar = yaml.safe_load(expanded) if expanded else ""
        return scalar if isinstance(scalar, bool | int | float) else expanded
    return expanded


def _unknown_keys(kind: Any, data: object, path: str) -> Any:
    """Yield a line for every key that no section has. `kind` is a section's type."""
    if not isinstance(data, dict):
        return
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in data.items():
        where = f"{path}.{key}".lstrip(".")
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {_list(fields)}"
            yield f"{where}: unknown key; {hint}"
            continue
        field = fields[key]
        if isinstance(field, type) and issubclass(field, Section):
            yield from _unknown_keys(field, value, where)
        elif get_origin(field) is dict and isinstance(value, dict):
            item = get_args(field)[1]
            if isinstance(item, type) and issubclass(item, Section):
                for name, inner in value.items():
                    yield from _unknown_keys(item, inner, f"{where}.{name}")


def _readable(error: msgspec.ValidationError) -> str:
    message, _, path = str(error).partition(" - at `$")
    place = path.rstrip("`").lstrip(".").replace("[...]", ".*") or "the top level"
    return f"{place}: {message[:1].lower()}{message[1:].replace('`', '')}"


def _list(names: Any) -> str:
    return ", ".join(sorted(names))


def documented_keys(kind: Any = Config, path: str = "") -> list[str]:
    """Every key that may be set, as dotted paths; `*` stands for a model's name."""
    keys: list[str] = []
    for field in msgspec.structs.fields(kind):
        where = f"{path}.{field.name}".lstrip(".")
        keys.append(where)
        kinds = get_args(field.type) if get_origin(field.type) is Union else (field.type,)
        for inner in kinds:
            if isinstance(inner, type) and issubclass(inner, Section):
                keys.extend(documented_keys(inner, where))
            elif get_origin(inner) is dict and issubclass(get_args(inner)[1] or object, Section):
                keys.extend(documented_keys(get_args(inner)[1], f"{where}.*"))
    return keys
