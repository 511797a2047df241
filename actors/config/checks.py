"""Checks across fields that are each valid: pairs of fields, names, addresses. Pure."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from actors.config.document import Path
from actors.config.key_secrets import KEY_NAME, checked_secret, parse_expiry
from actors.config.masking import mask_text, shown
from actors.config.parameters import faults_of
from actors.config.schema import (
    BUILTIN,
    BUILTIN_MODELS,
    Config,
    DockerSettings,
    HubSettings,
    KeySettings,
    Model,
    ModelSettings,
    Ollama,
    Runtime,
    Server,
    daemon_address,
)
from actors.errors import Fault
from actors.model_names import parse_name, tag_of


def check(config: Config) -> list[Fault]:
    """Return all faults of the configuration."""
    checks = _Checks(config)
    checks.server(config.server)
    checks.keys(config.keys)
    checks.docker(config.server_pool.docker)
    if config.server_pool.port_start + max(0, config.server_pool.size - 1) > MAX_PORT:
        checks.add(
            ("server_pool", "port_start"),
            f"there are not {config.server_pool.size} ports (server_pool.size) from "
            f"{config.server_pool.port_start} to {MAX_PORT}",
        )
    pool = config.server_pool
    if pool.retry_delay > pool.retry_delay_max:
        checks.add(("server_pool", "retry_delay"), "is more than retry_delay_max")
    checks.arguments(("server_pool", "arguments"), pool.arguments)
    for name, model in config.llama_cpp.models.items():
        place = ("llama_cpp", "models", name)
        checks.model(place, model, pool.runtime)
        checks.arguments((*place, "arguments"), model.arguments)
        checks.common(place, name, model)
    checks.ollama(config.ollama, config.server)
    checks.hub(config.hub)
    return checks.faults


MAX_PORT = 65535

_ORIGIN = re.compile(r"\*|null|[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/?#@,\\]*")
_HOST = re.compile(
    r"\*|(\*\.)?[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*\.?|\[[0-9a-fA-F:.]+\]|[0-9a-fA-F]*:[0-9a-fA-F:.]+"
)
_BASE_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")
_WEB_ADDRESS = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?", re.IGNORECASE)

_PRESET = re.compile(r"\w[\w.-]{0,63}", re.ASCII)
_SIZE = re.compile(r"\d+(\.\d+)?(x\d+(\.\d+)?)?[bm]", re.IGNORECASE)
"""A number of parameters, such as 8b, which is a usual tag of Ollama's models."""

_OWN_FLAGS = {
    **dict.fromkeys(("-m", "--model"), "path or repo"),
    "--host": "server_pool.host",
    "--port": "server_pool.port_start",
}


class _Checks:
    """Collects the faults."""

    def __init__(self, config: Config) -> None:
        self.faults: list[Fault] = []
        self._taken: dict[str, tuple[str, Path, Path]] = {}
        self._implied = {
            *(alike(str(model.hub_name)) for model in config.llama_cpp.models.values() if model.variant),
            *(alike(model.model or name) for name, model in config.ollama.models.items()),
        }
        """Names by which models are known without being configured so."""

    def add(self, path: Path, message: str, *about: str, also: Path | None = None) -> None:
        """Add a fault."""
        self.faults.append(Fault(path, message, also, about))

    def server(self, server: Server) -> None:
        for index, origin in enumerate(server.allowed_origins):
            if not _ORIGIN.fullmatch(origin):
                message = (
                    "expected an origin without a path, such as https://chat.example.org, "
                    f"http://localhost:* or *, got {origin!r}"
                )
                self.add(("server", "allowed_origins", index), message)
        for index, host in enumerate(server.allowed_hosts):
            if not _HOST.fullmatch(host):
                message = (
                    "expected a name or an address without a port, such as llm.example.org, "
                    f"*.example.org or *, got {host!r}"
                )
                self.add(("server", "allowed_hosts", index), message)

        if (server.tls.certificate is None) != (server.tls.key is None):
            self.add(("server", "tls"), "expected both a certificate and a key", "certificate", "key")
        if server.base_path and not _BASE_PATH.fullmatch(server.base_path):
            message = f"expected a path without a slash at its end, such as /llm, got {server.base_path!r}"
            self.add(("server", "base_path"), message)

    def arguments(self, place: Path, arguments: list[str]) -> None:
        """Refuse arguments that only the gateway may give, such as the server's address."""
        for index, word in enumerate(arguments):
            flag = word.partition("=")[0]
            if (instead := _OWN_FLAGS.get(flag)) is not None:
                self.add((*place, index), f"{flag} is given by the gateway; use {instead}")

    def keys(self, keys: Mapping[str, KeySettings]) -> None:
        for name, key in keys.items():
            place = ("keys", name)
            if not KEY_NAME.fullmatch(name):
                self.add(
                    place, f"a key's name has letters, digits and . _ @ - (64 at most), got {shown(name)}"
                )
            if (key.secret is None) == (key.secret_file is None):
                self.add(place, "expected either a secret or a secret_file", "secret", "secret_file")
            elif key.secret is not None:
                try:
                    checked_secret(key.secret)
                except ValueError as error:
                    self.add((*place, "secret"), str(error))
            if key.expires is not None:
                try:
                    parse_expiry(key.expires)
                except ValueError as error:
                    self.add((*place, "expires"), str(error))

    def docker(self, settings: DockerSettings) -> None:
        place = ("server_pool", "docker")
        if settings.host is not None and not re.match(r"(unix|tcp|https?|ssh|npipe)://.", settings.host):
            got = shown(settings.host)
            self.add((*place, "host"), f"expected unix:///path or tcp://host:port, got {got}")
        network = settings.network
        if network is not None and not re.fullmatch(r"(?!(?:host|none)$)[\w][\w.-]*", network):
            self.add(
                (*place, "network"),
                f"expected the name of a network that the gateway is on too, got {network!r}",
            )

    def hub(self, hub: HubSettings) -> None:
        if hub.endpoint is not None and not _WEB_ADDRESS.fullmatch(hub.endpoint):
            message = f"expected an address such as https://hub.example.org, got {shown(hub.endpoint)}"
            self.add(("hub", "endpoint"), message)

    def ollama(self, ollama: Ollama, server: Server) -> None:
        addresses = ollama.addresses
        for daemon, url in addresses.items():
            inside = ("daemons", daemon) if daemon in ollama.daemons else ("host",)
            try:
                host, port = daemon_address(url)
            except ValueError as error:
                self.add(("ollama", *inside), mask_text(str(error)))
            else:
                itself = port == server.port and host in (server.host, "localhost", "127.0.0.1", "::1")
                if itself and daemon not in ollama.elsewhere:
                    self.add(("ollama", *inside), "this is the gateway itself (server.port)")
        for index, daemon in enumerate(ollama.elsewhere):
            if daemon not in addresses:
                message = f"no daemon {daemon!r}; there are: {_list(addresses)}"
                self.add(("ollama", "elsewhere", index), message)
        entries: dict[tuple[str, str], Path] = {}
        for name, served in ollama.models.items():
            place = ("ollama", "models", name)
            self.common(place, name, served)
            if not addresses:
                self.add(place, "no daemon is configured (ollama.host or ollama.daemons)", "daemon")
                continue
            if served.daemon is not None and served.daemon not in addresses:
                message = f"no daemon {served.daemon!r}; there are: {_list(addresses)}"
                self.add((*place, "daemon"), message)
            pair = (served.daemon or next(iter(addresses)), alike(served.model or name))
            if pair in entries:
                # The daemon would load the model again for each of them in turn.
                message = f"{served.model or name!r} of daemon {pair[0]!r} is already"
                self.add(place, message, "daemon", "model", also=entries[pair])
            entries.setdefault(pair, place)

    def common(self, place: Path, name: str, model: ModelSettings) -> None:
        """Check the settings that every kind of model has."""
        self.names(place, name, model.aliases)
        self.faults += faults_of(model.request, (*place, "request"))
        for preset, settings in model.presets.items():
            path = (*place, "presets", preset)
            self.faults += faults_of(settings.request, (*path, "request"))
            if not _PRESET.fullmatch(preset):
                self.add(path, f"a preset's name has letters, digits and . _ - (64 at most), got {preset!r}")
            elif (tag_of(preset) or "").casefold() == preset.casefold():
                self.add(path, f"{preset!r} is the name of a quantisation")
            elif _SIZE.fullmatch(preset):
                self.add(path, f"{preset!r} is a tag of Ollama's models")
            elif alike(full := f"{name}:{preset}") in self._implied:
                self.add(path, f"{full!r} is already the name of a model on the hub or in a daemon")
            else:
                self.names(path, full, [])

    def names(self, place: Path, name: str, aliases: list[str]) -> None:
        """Check a model's names: each must be usable in paths and commands, and belong to no other model."""
        for own, path in [(name, place), *((a, (*place, "aliases", n)) for n, a in enumerate(aliases))]:
            if fault := _faulty_name(own):
                self.add(path, fault, "name")
                continue
            key = alike(own)
            other, owner, other_path = self._taken.setdefault(key, (own, place, path))
            if other_path == path or (owner == place and other != own):
                continue
            if other == own:
                self.add(path, f"the name {own!r} is already that of", "name", also=other_path)
            else:
                message = f"the name {own!r} can be mistaken for {other!r}, that of"
                self.add(path, message, "name", also=other_path)

    def model(self, place: Path, model: Model, runtime: Runtime) -> None:
        if (model.path is None) == (model.repo is None):
            self.add(place, "expected either a path or a repo", "path", "repo")
        if model.variant is not None and model.path is not None:
            self.add((*place, "variant"), "goes with repo, not with path")
        if model.repo is not None and parse_name(f"{model.repo}:{model.variant or 'x'}") is None:
            self.add(
                (*place, "repo"),
                "expected a repository as org/name, and a variant that is a quantisation, "
                f"a file's name or a glob; got {model.repo!r} and {model.variant!r}",
            )
        if not re.fullmatch(r"\w[\w.-]*", model.revision):
            self.add((*place, "revision"), f"expected a branch, a tag or a commit, got {model.revision!r}")
        if model.path is not None and model.path.startswith(BUILTIN):
            builtin = model.path.removeprefix(BUILTIN)
            if builtin not in BUILTIN_MODELS:
                message = f"no built-in model {builtin!r}; there are {_list(BUILTIN_MODELS)}"
                self.add((*place, "path"), message)
        if model.embeddings and model.reranking:
            self.add(place, "a server gives embeddings or reranks, not both", "embeddings", "reranking")
        if model.isolate and (model.runtime or runtime) == "docker":
            self.add((*place, "isolate"), "is not possible for a model in a container")
        self._devices(place, model)

    def _devices(self, place: Path, model: Model) -> None:
        if model.tensor_split and len(model.tensor_split) != len(model.devices):
            self.add(
                (*place, "tensor_split"),
                f"expected a share for each of its devices, "
                f"got {len(model.tensor_split)} for {len(model.devices)}",
            )
        if model.tensor_split and not sum(model.tensor_split):
            self.add((*place, "tensor_split"), "at least one share must be above 0")
        if len({str(device) for device in model.devices}) != len(model.devices):
            self.add((*place, "devices"), "a device is named twice")


def alike(name: str) -> str:
    """Return a key that is equal for names that people, and Ollama, take for the same."""
    return unicodedata.normalize("NFKC", name).casefold().removesuffix(":latest")


def _faulty_name(name: str) -> str | None:
    """Say what is wrong with a model's name: it must fit into a path of `/upstream`, a log and a terminal."""
    if not name.strip():
        return f"a model needs a name, got {name!r}"
    if name != name.strip():
        return f"a model needs a name without surrounding space, got {name!r}"
    if not name.isprintable():
        return f"a name has no control characters and no space but the plain one, got {name!r}"
    if len(name) > MOST_CHARACTERS:
        return f"a name has at most {MOST_CHARACTERS} characters, this one has {len(name)}"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return f"a name is a part of paths (/upstream/NAME/...): no '//', '.' or '..' in it, got {name!r}"
    if any(character in name for character in "?#%\\"):
        return f"a name is a part of paths (/upstream/NAME/...): none of ? # % \\ in it, got {name!r}"
    return None


MOST_CHARACTERS = 300


def _list(names: Any) -> str:
    return ", ".join(sorted(names))
