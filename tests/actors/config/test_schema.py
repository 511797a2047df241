"""The settings, config.yaml, and what is said about a wrong one."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from actors.config.file import load_config, parse_config
from actors.config.schema import Config, HubSettings, Model, ServerPool, daemon_address, documented_keys
from actors.errors import ConfigError
from agents.host.discovery import load_agents, sources
from agents.host.host import describe_agent
from agents.llm import Budget
from tests.gateway import CHECKOUT

HERE = Path("/folder")
SHIPPED = CHECKOUT / "config.yaml"


def test_the_shipped_file_documents_every_key_and_no_other() -> None:
    text = SHIPPED.read_text()
    words = set(re.findall(r"^[ #]*(?:- )?([a-z_]+):(?: |$)", text, re.MULTILINE))
    names = {key.rpartition(".")[2] for key in documented_keys()}
    for name, source in sources([]).items():
        names |= {name, *describe_agent(name, source.load())["options"]}
    names |= set(Budget.__struct_fields__)
    examples = {"alice", "coder", "demo", "high", "models", "qwen"}
    assert names - words == {"vram"}, "not in config.yaml; vram has no options"
    assert words - names - examples == set(), "in config.yaml only"


def test_the_shipped_file_states_the_defaults() -> None:
    config = load_config(SHIPPED)
    defaults = Config()
    assert (config.server, config.server_pool) == (defaults.server, defaults.server_pool)
    assert (config.hub, config.gpu) == (defaults.hub, defaults.gpu)
    assert set(config.llama_cpp.models) == {"demo", "demo-reasoning", "demo-embed"}
    data = yaml.safe_load(SHIPPED.read_text())
    assert set(data["server_pool"]) == set(ServerPool.__struct_fields__), "each is shown with its default"
    assert set(data["hub"]) == set(HubSettings.__struct_fields__), "each is shown with its default"


def test_the_examples_of_the_shipped_file_can_be_used(tmp_path: Path) -> None:
    text = SHIPPED.read_text().replace("\nagents: []", "").replace("  models: {}\n", "  models:\n")
    text = text.replace("\nkeys: {}\n", "\nkeys:\n").replace("${ALICE_KEY}", "sixteen-of-these")
    text = re.sub(r"^    # (?= *[\w-]+:(?: |$))", "    ", text, flags=re.MULTILINE)
    text = re.sub(r"^# (?=agents:$|  - |   +\w+: )", "", text, flags=re.MULTILINE)
    text = re.sub(r"^  host: null(?= +# a daemon)", "  host: x", text, flags=re.MULTILINE)
    path = tmp_path / "config.yaml"
    path.write_text(text)
    config = load_config(path)
    assert set(config.llama_cpp.models) == {"demo", "demo-reasoning", "demo-embed", "llama-7b", "qwen"}
    assert set(config.ollama.models) == {"coder"}
    assert set(config.keys) == {"alice"}
    names = {agent.name for agent in load_agents(config, tmp_path)[0]}
    assert names == {"guard", "rag", "cache", "parallel", "vram"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"servr": {}}, "servr: unknown key; did you mean 'server'?"),
        ({"server": {"log": {"levle": "info"}}}, "server.log.levle: unknown key; did you mean 'level'?"),
        ({"llama_cpp": {"models": {"a:b": {"pth": "x"}}}}, "llama_cpp.models.a:b.pth: unknown key"),
        ({"server": {"qqq": 1}}, "server.qqq: unknown key; there are: allowed_hosts, allowed_origins, base"),
        ({"server": {"tls": {"key": "k.pem"}}}, "server.tls: expected both a certificate and a key"),
        ({"server": {"base_path": "llm"}}, "server.base_path: expected a path without a slash at its end"),
        ({"server": {"base_path": "/llm/"}}, "server.base_path: expected a path without a slash at its end"),
        ({"server": {"base_path": "/"}}, "server.base_path: expected a path without a slash at its end"),
        ({"server": {"base_path": "/a/../b"}}, "server.base_path: expected a path without a slash"),
        ({"server": {"base_path": "/%41"}}, "server.base_path: expected a path without a slash"),
        ({"server": {"port": "x"}}, "server.port: expected a whole number from 0 to 65535, got 'x'"),
        ({"server": {"port": 70000}}, "server.port: expected a whole number from 0 to 65535, got 70000"),
        ({"server": 5}, "server: expected a mapping, got 5"),
        ({"server_pool": {"size": -1}}, "server_pool.size: expected a whole number, 0 or more, got -1"),
        (
            {"gpu": {"allocation_strategy": "best"}},
            "gpu.allocation_strategy: expected one of distribute, single-gpu-preferred",
        ),
        ({"gpu": {"on_no_gpu": "panic"}}, "gpu.on_no_gpu: expected one of cpu, fail, queue, got 'panic'"),
        (
            {"server_pool": {"runtime": "podman"}},
            "server_pool.runtime: expected one of auto, docker,",
        ),
        (
            {"server_pool": {"docker": {"host": "/run/x"}}},
            "server_pool.docker.host: expected unix:///path or",
        ),
        (
            {"server_pool": {"docker": {"network": "host"}}},
            "server_pool.docker.network: expected the name of",
        ),
        (
            {"server_pool": {"docker": {"gpu": "x"}}},
            "server_pool.docker.gpu: unknown key; did you mean 'gpus'",
        ),
        ({"server_pool": {"arguments": "-fa"}}, "server_pool.arguments: expected a list, got '-fa'"),
        ([], "the top level: expected a mapping, got a list"),
        ({5: {}}, "[5]: expected text as a key, got 5; put it in quotes"),
        (
            {"hub": {"endpoint": "ftp://x"}},
            "hub.endpoint: expected an address such as https://hub.example.org",
        ),
        (
            {"hub": {"endpoint": "hub.lan"}},
            "hub.endpoint: expected an address such as https://hub.example.org",
        ),
        ({"ollama": {"host": "x:99999"}}, "ollama.host: 'x:99999' is no address of an Ollama daemon"),
        ({"ollama": {"host": "https://x"}}, "ollama.host: 'https://x' is no address of an Ollama daemon"),
        ({"ollama": {"daemons": {"a": "http://x/y"}}}, "ollama.daemons.a: 'http://x/y' is no address"),
        ({"ollama": {"elsewhere": ["b"]}}, "ollama.elsewhere[0]: no daemon 'b'"),
        ({"ollama": {"models": {"m": {}}}}, "ollama.models.m: no daemon is configured"),
        (
            {"ollama": {"host": "x", "models": {"m": {"daemon": "y"}}}},
            "ollama.models.m.daemon: no daemon 'y'; there are: ollama",
        ),
        (
            {"ollama": {"host": "x", "models": {"m": {}}}, "llama_cpp": {"models": {"m": {"path": "p"}}}},
            "ollama.models.m: the name 'm' is already that of llama_cpp.models.m",
        ),
        ({"agents": [5]}, "agents[0]: expected text or a mapping, got 5"),
        ({"gpu": {"monitoring": 1}}, "gpu.monitoring: unknown key; did you mean 'monitoring_interval'?"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(data: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(data, folder=HERE)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"a": {}}, "llama_cpp.models.a: expected either a path or a repo"),
        ({"a": {"path": "x", "repo": "y"}}, "expected either a path or a repo"),
        ({"a": {"path": "x", "variant": "Q4"}}, "llama_cpp.models.a.variant: goes with repo"),
        ({"a": {"path": "builtin:x"}}, "no built-in model 'x'; there are demo, demo-embed, demo-reasoning"),
        ({"a": {"path": "x", "embeddings": True, "reranking": True}}, "gives embeddings or reranks"),
        ({" a": {"path": "x"}}, "without surrounding space"),
        (
            {"a": {"path": "x"}, "b": {"path": "x", "aliases": ["a"]}},
            "'a' is already that of llama_cpp.models.a",
        ),
        (
            {"a": {"path": "x", "devices": [0, 1], "tensor_split": [1]}},
            "a.tensor_split: expected a share for each of its devices, got 1 for 2",
        ),
        ({"a": {"path": "x", "devices": [0], "tensor_split": [0]}}, "at least one share must be above 0"),
        ({"a": {"path": "x", "devices": [0, "0"]}}, "a.devices: a device is named twice"),
    ],
)
def test_models_that_make_no_sense(models: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"llama_cpp": {"models": models}}, folder=HERE)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ({}, (True, "single-gpu-preferred", "cpu")),
        ({"enabled": False}, (False, "single-gpu-preferred", "cpu")),
        ({"enable_gpu_monitoring": False}, (False, "single-gpu-preferred", "cpu")),
        ({"allocation_strategy": "distribute"}, (True, "distribute", "cpu")),
        ({"gpu_allocation_strategy": "distribute"}, (True, "distribute", "cpu")),
        ({"cpu_fallback": False}, (True, "single-gpu-preferred", "fail")),
        ({"cpu_fallback": False, "on_no_gpu": "queue"}, (True, "single-gpu-preferred", "queue")),
    ],
)
def test_keys_of_the_gpus_with_two_names(gpu: Any, expected: tuple[bool, str, str]) -> None:
    found = parse_config({"gpu": gpu}, folder=HERE).gpu
    assert (found.managed, found.strategy, found.without_gpu) == expected


def test_references_to_the_environment() -> None:
    data = {"server": {"port": "${PORT}", "host": "${HOST:-::1}"}, "server_pool": {"command": "${BIN}/x -y"}}
    config = parse_config(data, folder=HERE, environment={"PORT": "99", "BIN": "/opt"})
    assert (config.server.port, config.server.host) == (99, "::1")
    assert config.server_pool.command == "/opt/x -y"
    none = {"hub": {"token": "${TOKEN:-null}"}, "server_pool": {"image": "${IMAGE:-null}"}}
    config = parse_config(none, folder=HERE, environment={"IMAGE": "null and void"})
    assert (config.hub.token, config.server_pool.image) == (None, "null and void")
    with pytest.raises(ConfigError, match=r"server.port: the environment variable PORT is not set"):
        parse_config(data, folder=HERE, environment={})


def test_paths_are_relative_to_the_file() -> None:
    models = {
        "a": {"path": "m/a.gguf", "mmproj": "/abs.gguf"},
        "b": {"path": "builtin:demo"},
        "c": {"repo": "x/y"},
    }
    found = parse_config({"llama_cpp": {"models": models}}, folder=HERE).llama_cpp.models
    assert (found["a"].path, found["a"].mmproj) == ("/folder/m/a.gguf", "/abs.gguf")
    assert (found["b"].path, found["c"].path) == ("builtin:demo", None)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    with pytest.raises(ConfigError, match=r"c.yaml: cannot be read"):
        load_config(path)
    path.write_text("a: [")
    with pytest.raises(ConfigError, match=r"c.yaml: line 1, column 5: is not YAML"):
        load_config(path)
    path.write_text("")
    assert load_config(path) == Config()


def test_a_models_settings_are_those_of_config_yaml() -> None:
    text = SHIPPED.read_text()
    assert all(f" {name}:" in text for name in Model.__struct_fields__)
    assert msgspec.to_builtins(Config())["agents"] == []


@pytest.mark.parametrize(
    ("settings", "addresses"),
    [
        ({}, {}),
        ({"host": "127.0.0.1"}, {"ollama": "http://127.0.0.1:11434"}),
        ({"host": "h", "port": 1}, {"ollama": "http://h:1"}),
        ({"host": "h:2", "port": 1}, {"ollama": "h:2"}),
        ({"host": "::1"}, {"ollama": "http://[::1]:11434"}),
        ({"host": "[::1]:7"}, {"ollama": "[::1]:7"}),
        (
            {"host": "h", "daemons": {"t": "http://t:1"}},
            {"ollama": "http://h:11434", "t": "http://t:1"},
        ),
    ],
)
def test_addresses_of_daemons(settings: Any, addresses: dict[str, str]) -> None:
    ollama = parse_config({"ollama": settings}, folder=HERE).ollama
    assert ollama.addresses == addresses
    assert all(daemon_address(url)[1] for url in addresses.values())
