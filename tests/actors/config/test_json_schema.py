"""The JSON schema of config.yaml: what it accepts and describes is what the gateway does."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from actors.config.file import parse_config, read_config_file
from actors.config.json_schema import DOCUMENTED, descriptions, json_schema
from actors.config.schema import Config, documented_keys
from actors.errors import ConfigError
from tests.actors.test_build import configs
from tests.gateway import CHECKOUT

SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
EVERYTHING = {
    "server": {"port": "${PORT:-8000}", "allowed_origins": None, "tls": {"certificate": None}},
    "keys": {"alice": {"secret": "${ALICE}", "models": ["*"], "weight": 2, "admin": True}},
    "server_pool": {"command": ["a", "b"], "arguments": "${ARGUMENTS}", "docker": None, "gpu_layers": None},
    "llama_cpp": {"models": {"m": {"path": "m.gguf", "devices": [0, "GPU-1"], "tensor_split": [1, 2.5]}}},
    "agents": ["vram", {"guard": {"deny": ["x"]}}],
    "ollama": {"host": "${OLLAMA_HOST:-x}", "daemons": {"tower": "http://10.0.0.7:11434"}},
}


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


@pytest.mark.parametrize(
    "file",
    [CHECKOUT / "config.yaml", *CHECKOUT.glob("deploy/**/config.yaml")],
    ids=lambda file: str(file.relative_to(CHECKOUT)),
)
def test_our_own_files_fit(file: Path) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(file.read_text()))] == []


def test_references_and_empty_sections_fit() -> None:
    assert [error.message for error in VALIDATOR.iter_errors(EVERYTHING)] == []


@given(configs())
def test_what_is_in_effect_fits(config: Config) -> None:
    settings = read_config_file(DOCUMENTED)
    assert [error.message for error in VALIDATOR.iter_errors(settings.shown(config))] == []


@pytest.mark.parametrize(
    "data",
    [
        {"sever": {}},
        {"server": {"prot": 1}},
        {"server": {"port": 70000}},
        {"server": {"port": "8000"}},
        {"server": []},
        {"server_pool": {"runtime": "dokcer"}},
        {"llama_cpp": {"models": {"m": {"ctx_sise": 1}}}},
        {"keys": {"alice": {"weight": 0}}},
        {"hub": {"allow": "org/*"}},
        {"gpu": {"enabled": "yes"}},
    ],
    ids=str,
)
def test_what_the_gateway_refuses_does_not_fit(data: Any) -> None:
    assert list(VALIDATOR.iter_errors(data))
    with pytest.raises(ConfigError):
        parse_config(data, folder=Path("/"))


def test_the_comments_of_config_yaml_describe_the_keys() -> None:
    found = descriptions(DOCUMENTED.read_text())
    assert found["server.port"] == "0: any free port, which the log tells"
    assert found["keys.*.weight"] == "its share of turns when several keys wait for one model"
    assert found["server_pool.runtime"].endswith("| docker: a container for each model (docs/deployment.md)")
    assert found["llama_cpp.models.*.arguments"].startswith("llama-server arguments, which override")
    keys = documented_keys()
    single = {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}
    elsewhere = ("ollama.models.", "llama_cpp.models.*.presets.")  # described with llama.cpp's models
    missing = {key for key in single - set(found) if not key.startswith(elsewhere)}
    assert missing == {"agents", "llama_cpp.models.*.repo"}
    model = SCHEMA["$defs"]["Model"]["properties"]
    assert model["ctx_size"]["description"] == found["llama_cpp.models.*.ctx_size"]
    assert SCHEMA["$defs"]["KeySettings"]["properties"]["weight"]["description"] == found["keys.*.weight"]
