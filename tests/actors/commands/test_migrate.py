"""The first version's config.json, in all the forms that are known of it, and in none."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.commands.migrate import Migration, migrate
from actors.config.file import load_config
from actors.errors import ConfigError
from tests.e2e.test_command_line import run

SEED = {
    "server": {"host": "0.0.0.0", "port": 8080, "workers": 3},
    "server_pool": {
        "size": 2,
        "host": "localhost",
        "port_start": 9001,
        "gpu_layers": 999,
        "request_timeout": 300,
        "health_timeout": 0,
    },
    "llama_cpp": {
        "host": "localhost",
        "port": 8081,
        "timeout": 10,
        "models": {
            "small": "unsloth/Qwen3-0.6B-GGUF:Q8_0",
            "file.v2": "/models/a.gguf",
            "bad": "llama",
            "full": {"repo_id": "a/b", "quant": "Q4_K_M", "n_ctx": 4096, "n_gpu_layers": 99, "color": "red"},
        },
    },
    "agents": ["gpu", "/nobody-has-this"],
    "gpu": {"monitoring_interval": 1.5, "allocation_strategy": "round-robin", "cpu_fallback": False},
    "secret\u2028key": {"a": [1, None]},
}


def migrated(old: Any, folder: Path) -> tuple[Migration, Any]:
    """The migration, and the settings that its file gives."""
    migration = migrate(json.dumps(old), ["rag", "vram"])
    path = folder / "config.yaml"
    path.write_text(migration.text, encoding="utf-8")
    return migration, load_config(path)


def test_a_whole_one(tmp_path: Path) -> None:
    migration, config = migrated(SEED, tmp_path)
    assert (config.server.host, config.server.port) == ("0.0.0.0", 8080)
    pool = config.server_pool
    assert (pool.size, pool.host, pool.port_start, pool.request_timeout) == (2, "localhost", 9001, 300)
    assert pool.gpu_layers is None
    assert (config.gpu.monitoring_interval, config.gpu.cpu_fallback) == (1.5, False)
    assert config.agents == ["vram"]
    models = config.llama_cpp.models
    assert list(models) == ["small", "file.v2", "full"]
    assert (models["small"].repo, models["small"].variant) == ("unsloth/Qwen3-0.6B-GGUF", "Q8_0")
    assert models["file.v2"].path == "/models/a.gguf"
    full = models["full"]
    assert (full.repo, full.variant, full.ctx_size, full.gpu_layers) == ("a/b", "Q4_K_M", 4096, None)
    assert set(migration.left) == {
        "server.workers",
        "server_pool.health_timeout",
        "llama_cpp.host",
        "llama_cpp.port",
        "llama_cpp.timeout",
        "llama_cpp.models.bad",
        "llama_cpp.models.full.color",
        "agents.nobody-has-this",
        "gpu.allocation_strategy",
        "secret\u2028key",
    }
    assert any("999" in line for line in migration.changed)
    for told in (*migration.changed, "# * server.workers: unknown key", "#     bad: llama", "color: red"):
        assert told in migration.text


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (["org/a:Q8_0", "org/b", "/x/c.gguf"], ["org/a:Q8_0", "org/b", "c"]),
        ([{"name": "a", "model_path": "a.gguf"}, {"repo_id": "org/b", "filename": "b.gguf"}], ["a", "org/b"]),
        ({"a": {"model": "/x/a.gguf"}, "b": {"model": "org/b:Q8_0"}}, ["a", "b"]),
        ("org/a", ["org/a"]),
    ],
)
def test_models_in_any_form(models: Any, names: list[str], tmp_path: Path) -> None:
    for old in ({"llama_cpp": {"models": models}}, {"models": models}):
        migration, config = migrated(old, tmp_path)
        assert list(config.llama_cpp.models) == names
        assert migration.left == {}


def test_a_timeout_that_has_another_name_now(tmp_path: Path) -> None:
    migration, config = migrated({"llama_cpp": {"timeout": 45}, "log_level": "debug"}, tmp_path)
    assert (config.server_pool.request_timeout, config.server.log.level) == (45, "debug")
    assert "llama_cpp.timeout is server_pool.request_timeout now" in migration.changed


@pytest.mark.parametrize("text", ["", "[1]", "{", "3", "[" * 100_000])
def test_what_is_no_configuration(text: str) -> None:
    with pytest.raises(ConfigError):
        migrate(text)


KEYS = st.sampled_from(
    [
        "server",
        "server_pool",
        "llama_cpp",
        "ollama",
        "agents",
        "gpu",
        "models",
        "host",
        "port",
        "size",
        "name",
        "Name",
        "name:latest",
        "../x",
        "\ud800",
        "<<",
    ]
) | st.text(max_size=6)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["${HOME}", "${X:-1}", "$${HOME}", "${", "\ud800", "\0", "~nobody-here/x", "a:latest"])
)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return LEAVES | st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)


VALUES = nested(nested(nested(LEAVES)))


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_whatever_it_is_the_new_file_loads_and_has_all_of_it(old: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        migration, _ = migrated(old, Path(folder))
    for key, value in old.items():
        if key.isalnum() and value not in ({}, []):
            assert f"{key}" in migration.text


def test_the_command(tmp_path: Path) -> None:
    old = tmp_path / "config.json"
    old.write_text(json.dumps(SEED))
    old.chmod(0o600)
    (tmp_path / "config.yaml").write_text("server: {port: 1}\n")
    done = run("migrate", str(old))
    assert (done.returncode, done.stderr) == (0, "")
    assert "server.workers: unknown key" in done.stdout
    assert load_config(tmp_path / "config.yaml").server.port == 8080
    assert (tmp_path / "config.yaml").stat().st_mode & 0o777 == 0o600, "there may be a token in it"
    assert load_config(tmp_path / "config.yaml.old").server.port == 1
    again = run("migrate", str(old))
    assert again.returncode == 1
    assert "are there already; move one of them away" in again.stderr
    assert run("migrate", str(old), "--output", str(tmp_path / "other.yaml")).returncode == 0
    missing = run("migrate", str(tmp_path / "none.json"))
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "No such file" in missing.stderr
    assert "Traceback" not in again.stderr + missing.stderr
