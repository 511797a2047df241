"""The schema of config.yaml: all settings with their types, defaults and limits.

`config.yaml` in the checkout documents every key in place; a test holds the two together.
"""

import re
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from yarl import URL

from actors.model_names import HubName

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1_000_000_000)]
Patience = Annotated[float, msgspec.Meta(gt=0, le=1_000_000_000)]
"""Seconds, more than 0."""
Strategy = Literal["single-gpu-preferred", "distribute"]
Runtime = Literal["auto", "llama-server", "embedded", "docker"]
Secret = Annotated[str, msgspec.Meta(extra={"secret": True})]
"""A text that is never shown: not by `run.py check`, not in errors."""
FilePath = Annotated[str, msgspec.Meta(extra={"path": True})]
"""A path. A relative one starts in the configuration file's folder; `~` is the user's home."""
LogLevel = Literal["debug", "info", "warning", "error"]
LoadingState = Literal["none", "comments", "reasoning"]
"""How a stream tells its client what it waits for."""

BUILTIN = "builtin:"
BUILTIN_MODELS = ("demo", "demo-reasoning", "demo-embed")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections. Unknown keys are errors."""


class Log(Section, frozen=True, kw_only=True):
    """How the gateway logs."""

    level: LogLevel = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Tls(Section, frozen=True, kw_only=True):
    """The certificate with its chain, and its key, both in PEM. None: plain HTTP."""

    certificate: FilePath | None = None
    key: FilePath | None = None

    @property
    def enabled(self) -> bool:
        """Whether clients speak TLS."""
        return self.certificate is not None


class Server(Section, frozen=True, kw_only=True):
    """The front door."""

    host: str = "127.0.0.1"
    port: Port = 8000
    tls: Tls = Tls()
    base_path: str = ""
    open: bool = False
    allowed_origins: list[str] = []
    allowed_hosts: list[str] = []
    max_body_mb: Count = 64
    write_timeout: Seconds = 60.0
    keepalive_interval: Seconds = 10.0
    loading_state: LoadingState = "comments"
    drain_timeout: Seconds = 30.0
    keep_responses: Seconds = 0.0
    list_aliases: bool = False
    reload_on_change: bool = False
    log: Log = Log()

    @property
    def scheme(self) -> Literal["http", "https"]:
        """The scheme of the gateway's URLs."""
        return "https" if self.tls.enabled else "http"


class KeySettings(Section, frozen=True, kw_only=True):
    """An API key: its secret, in the file or in one of its own, its rights and its limits.

    None: no limit. `expires` is a date, or a date and a time, in UTC by default.
    """

    secret: Secret | None = None
    secret_file: FilePath | None = None
    models: list[str] = msgspec.field(default_factory=lambda: ["*"])
    agents: list[str] = msgspec.field(default_factory=lambda: ["*"])
    concurrent: Count | None = None
    per_minute: Count | None = None
    tokens_per_day: Count | None = None
    weight: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 1.0
    expires: str | None = None
    admin: bool = False


class CaptureSettings(Section, frozen=True, kw_only=True):
    """Which requests are captured, as globs of their models or keys; without any, none."""

    models: list[str] = []
    keys: list[str] = []
    failures_only: bool = False
    max_mb: Annotated[float, msgspec.Meta(gt=0, le=64)] = 1.0
    keep_days: Annotated[float, msgspec.Meta(gt=0, le=36_500)] = 7.0
    max_total_mb: Count = 1024


class UsageSettings(Section, frozen=True, kw_only=True):
    """The ledger of usage."""

    keep_days: Annotated[float, msgspec.Meta(ge=0, le=36_500)] = 90.0
    captures: CaptureSettings = CaptureSettings()


class DockerSettings(Section, frozen=True, kw_only=True):
    """The engine and the containers of `runtime: docker`."""

    host: str | None = None
    name: str | None = None
    network: str | None = None
    gpus: Literal["auto", "nvidia", "cdi"] = "auto"
    mounts: list[FilePath] = []
    memory_limit: Annotated[float, msgspec.Meta(gt=0)] | None = None


class PromptSettings(Section, frozen=True, kw_only=True):
    """What models have read: GiB of the disk for what is saved when they stop, and hours without use.

    `memory`: GiB of the host's memory in which each server keeps prompts while it runs; None: as it does.
    """

    disk: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 16.0
    memory: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    keep: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 24.0


class ServerPool(Section, frozen=True, kw_only=True):
    """How model servers are run, and how requests wait for them."""

    size: Annotated[int, msgspec.Meta(ge=0)] = 4
    host: str = "127.0.0.1"
    port_start: Port = 8100
    gpu_layers: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    request_timeout: Seconds = 600.0
    health_timeout: Patience = 120.0
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
    retry_delay: Patience = 1.0
    retry_delay_max: Patience = 60.0
    stop_timeout: Patience = 10.0
    prompts: PromptSettings = PromptSettings()


class RequestSettings(Section, frozen=True, kw_only=True):
    """Parameters of requests: given where the client gives none, always set, or taken out.

    `strip` has names, or dotted names of fields inside. `actors.config.parameters` says what they may be.
    """

    default: dict[str, Any] = {}
    set: dict[str, Any] = {}
    strip: list[str] = []


class Preset(Section, frozen=True, kw_only=True):
    """A model under another name, with other parameters of requests, on the same server."""

    request: RequestSettings = RequestSettings()
    description: str = ""
    hidden: bool = False


class ModelSettings(Section, frozen=True, kw_only=True):
    """The settings of a model, whatever serves it."""

    aliases: list[str] = []
    priority: Annotated[int, msgspec.Meta(ge=-10, le=10)] = 0
    never_evict: bool = False
    idle_timeout: Seconds | None = None
    preload: bool = False
    request: RequestSettings = RequestSettings()
    presets: dict[str, Preset] = {}
    description: str = ""
    hidden: bool = False
    loading_state: LoadingState | None = None

    def named_presets(self, name: str) -> dict[str, Preset]:
        """Return the presets by their whole names, given the model's own."""
        return {f"{name}:{preset}": settings for preset, settings in self.presets.items()}


class Model(ModelSettings, frozen=True, kw_only=True):
    """One model of `llama_cpp.models`."""

    path: str | None = None
    repo: str | None = None
    variant: str | None = None
    revision: str = "main"
    mmproj: str | None = None
    ctx_size: Annotated[int, msgspec.Meta(ge=0)] | None = None
    parallel: Count = 4
    embeddings: bool | None = None
    reranking: bool | None = None
    gpu_layers: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    longer_context: bool = False
    prompts: bool = True
    isolate: bool = False
    devices: list[int | str] = []
    tensor_split: list[Annotated[float, msgspec.Meta(ge=0)]] = []
    runtime: Runtime | None = None
    image: str | None = None
    command: str | list[str] | None = None
    arguments: list[str] = []
    agents: list[str] = []

    @property
    def hub_name(self) -> HubName | None:
        """The model's name on the hub; None for a file."""
        return HubName(self.repo, self.variant) if self.repo is not None else None


class LlamaCpp(Section, frozen=True, kw_only=True):
    """The models that llama.cpp serves."""

    models: dict[str, Model] = {}

    def find(self, name: str) -> Model | None:
        """Return the name and settings of the model with this name or alias."""
        for known, model in self.models.items():
            if name in (known, *model.aliases):
                return model
        return None


class OllamaModel(ModelSettings, frozen=True, kw_only=True):
    """One model of `ollama.models`."""

    model: str | None = None
    daemon: str | None = None
    ctx_size: Count | None = None
    parallel: Count | None = None


class Ollama(Section, frozen=True, kw_only=True):
    """The Ollama daemons, and which of their models are served."""

    host: str | None = None
    port: Port = 11434
    daemons: dict[str, str] = {}
    timeout: Patience = 10.0
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
    """Return a daemon's address. `host` may already be an address, or contain a port, as in `OLLAMA_HOST`."""
    if "://" in host or re.search(r"[^:]:\d+$|\]:\d+$", host):
        return host
    return f"http://{authority(host, port)}"


def authority(host: str, port: int) -> str:
    """Return host and port as in a URL: IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def daemon_address(url: str) -> tuple[str, int]:
    """Split an Ollama daemon's address. Raises `ValueError` if it is not of the form http://host[:port]."""
    wrong = f"{url!r} is no address of an Ollama daemon: expected http://host[:port]"
    try:
        base = URL(url if "://" in url else f"http://{url}")
        port = base.explicit_port
    except ValueError as error:
        raise ValueError(wrong) from error
    if base.scheme != "http" or not base.host or base.path != "/" or base.query_string or base.user:
        raise ValueError(wrong)
    # Ollama's own clients read OLLAMA_HOST like this.
    return base.host, port or (80 if "://" in url else 11434)


class HubSettings(Section, frozen=True, kw_only=True):
    """The hub: where models named by repository come from, and which ones a request may name."""

    allow: list[str] = []
    endpoint: str | None = None
    token: Secret | None = None
    offline: bool = False
    cache_dir: FilePath | None = None
    max_disk: Annotated[float, msgspec.Meta(gt=0)] | None = None
    grace: Seconds = 300.0


class GpuSettings(Section, frozen=True, kw_only=True):
    """The GPUs of this machine. Some keys have an older second name."""

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
        """Whether the gateway places models on GPUs."""
        return self.enabled and self.enable_gpu_monitoring

    @property
    def strategy(self) -> Strategy:
        """The strategy in effect, by either of its names."""
        return self.gpu_allocation_strategy or self.allocation_strategy

    @property
    def without_gpu(self) -> Literal["cpu", "queue", "fail"]:
        """The policy for a model that cannot run on a GPU, by either of its names."""
        return self.on_no_gpu or ("cpu" if self.cpu_fallback else "fail")


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration.

    `agents` is a list of names, or of mappings from a name to its options, or one such mapping; what they
    mean is for `agents.host.settings` to say.
    """

    server: Server = Server()
    keys: dict[str, KeySettings] = {}
    usage: UsageSettings = UsageSettings()
    server_pool: ServerPool = ServerPool()
    llama_cpp: LlamaCpp = LlamaCpp()
    hub: HubSettings = HubSettings()
    agents: list[str | dict[str, Any]] | dict[str, Any] = []
    agent_folders: list[FilePath] = []
    agent_data: FilePath | None = None
    skip_broken_agents: bool = False
    gpu: GpuSettings = GpuSettings()
    ollama: Ollama = Ollama()


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
