"""Settings that are valid one by one, and make no sense together."""

from pathlib import Path
from typing import Any

import pytest

from actors.config.file import parse_config
from actors.errors import ConfigError
from tests.actors.config.files import faults


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("demo", "demo:latest"),
        ("Demo", "demo"),
        ("org/Demo:LATEST", "ORG/demo"),
        ("ﬁle", "file"),
        ("demo", "\uff24\uff25\uff2d\uff2f"),
    ],
)
def test_names_that_can_be_mistaken(one: str, other: str, tmp_path: Path) -> None:
    for models in (
        f"llama_cpp:\n  models:\n    {one}: {{path: x}}\n    {other}: {{path: y}}\n",
        f"llama_cpp:\n  models:\n    a: {{path: x, aliases: ['{one}']}}\n    {other}: {{path: y}}\n",
        f"llama_cpp:\n  models:\n    {one}: {{path: x}}\n    a: {{path: y, aliases: ['{other}']}}\n",
        f"llama_cpp:\n  models:\n    {one}: {{path: x}}\n#\nollama: {{host: x, models: {{{other}: {{}}}}}}\n",
    ):
        (line,) = faults(models, tmp_path)
        assert f"can be mistaken for {one!r}" in line
        assert line.endswith(" (line 3)")
        assert int(line.partition(":")[0]) > 3


def test_one_model_may_have_names_that_are_alike() -> None:
    models = {"Demo": {"path": "x", "aliases": ["demo", "demo:latest"]}}
    assert parse_config({"llama_cpp": {"models": models}}, folder=Path("/x")).llama_cpp.find("demo")


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "\t",
        " a",
        "a ",
        "a\n",
        "a\nb",
        "a\x1b[31m",
        "a\u202eb",
        "a\xa0b",
        "/a",
        "a/",
        "a//b",
        "..",
        "../a",
        "a/../b",
        "a/.",
        ".",
        "a?b",
        "a#b",
        "a%2Fb",
        "a\\b",
        "x" * 301,
    ],
)
def test_names_that_cannot_be_used(name: str) -> None:
    for models in ({name: {"path": "x"}}, {"m": {"path": "x", "aliases": [name]}}):
        with pytest.raises(ConfigError, match=r"llama_cpp\.models.*: a (model needs a )?name\b") as caught:
            parse_config({"llama_cpp": {"models": models}}, folder=Path("/x"))
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name", ["a", "a b", "org/repo:Q4_K_M", "qwen3:30b", "ü", "a.b", "a+b", "@x", ".hidden", "a..b"]
)
def test_names_that_can(name: str) -> None:
    models: Any = {name: {"path": "x", "aliases": [f"{name}2"]}}
    assert parse_config({"llama_cpp": {"models": models}}, folder=Path("/x")).llama_cpp.models.keys() == {
        name
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"server_pool": {"retry_delay": 2, "retry_delay_max": 1}}, "server_pool.retry_delay: is more than"),
        ({"server_pool": {"arguments": ["--port", "1"]}}, "server_pool.arguments[0]: --port is given by"),
        (
            {"llama_cpp": {"models": {"a": {"path": "x", "arguments": ["-x", "--host=y"]}}}},
            "llama_cpp.models.a.arguments[1]: --host is given by the gateway; use server_pool.host",
        ),
        (
            {"server_pool": {"port_start": 65534, "size": 4}},
            "there are not 4 ports (server_pool.size) from 65534",
        ),
        (
            {"server": {"port": 8000}, "ollama": {"host": "127.0.0.1:8000"}},
            "ollama.host: this is the gateway itself",
        ),
        (
            {"server": {"port": 1}, "ollama": {"daemons": {"a": "http://localhost:1"}}},
            "ollama.daemons.a: this is the",
        ),
        (
            {"ollama": {"host": "x", "models": {"m": {}, "n": {"model": "M:latest"}}}},
            "is already ollama.models.m",
        ),
    ],
)
def test_other_pairs(data: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(data, folder=Path("/x"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "origin", ["*", "null", "http://localhost:*", "https://[::1]:3", "app://obsidian.md"]
)
@pytest.mark.parametrize("host", ["*", "*.lan", "llm.example.org.", "192.0.2.1", "::1", "[fd00::1]"])
def test_pages_and_names_that_may_be_allowed(origin: str, host: str) -> None:
    parse_config({"server": {"allowed_origins": [origin], "allowed_hosts": [host]}}, folder=Path("/x"))


@pytest.mark.parametrize(
    "origin", ["chat.example.org", "https://a.example/", "https://a.example/x", "", "https://a b"]
)
def test_origins_that_are_none(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"server.allowed_origins\[0\]: expected an origin without a path"):
        parse_config({"server": {"allowed_origins": [origin]}}, folder=Path("/x"))


@pytest.mark.parametrize("host", ["llm.example.org:8000", "https://llm.example.org", "", "a b", "a/b", "*.*"])
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(ConfigError, match=r"server.allowed_hosts\[0\]: expected a name or an address"):
        parse_config({"server": {"allowed_hosts": [host]}}, folder=Path("/x"))


@pytest.mark.parametrize(
    "server_pool", [{"port_start": 65532, "size": 4}, {"port_start": 0}, {"port_start": 65535, "size": 0}]
)
def test_ports_that_suffice(server_pool: Any) -> None:
    parse_config({"server_pool": server_pool}, folder=Path("/x"))


@pytest.mark.parametrize(
    ("models", "preset", "message"),
    [
        ({"qwen": {"path": "x"}}, "Q4_K_M", "is the name of a quantisation"),
        ({"org/qwen": {"path": "x"}}, "ud-q4_k_xl", "is the name of a quantisation"),
        ({"qwen": {"path": "x"}}, "8b", "is a tag of Ollama's models"),
        ({"qwen": {"path": "x"}}, "latest", "can be mistaken for 'qwen', that of"),
        ({"qwen": {"path": "x"}, "Qwen:high": {"path": "y"}}, "high", "can be mistaken for"),
        ({"qwen": {"path": "x"}, "b": {"path": "y", "aliases": ["qwen:high"]}}, "high", "is already that of"),
        ({"qwen": {"path": "x", "aliases": ["qwen:high"]}}, "high", "is already that of"),
        (
            {"org/q": {"path": "x"}, "b": {"repo": "org/q", "variant": "big"}},
            "big",
            "on the hub or in a daemon",
        ),
        ({"qwen": {"path": "x"}}, "a:b", "a preset's name has letters"),
        ({"qwen": {"path": "x"}}, "", "a preset's name has letters"),
    ],
)
def test_names_of_presets(models: dict[str, Any], preset: str, message: str) -> None:
    name = next(iter(models))
    models = {**models, name: {**models[name], "presets": {preset: {}}}}
    with pytest.raises(ConfigError) as caught:
        parse_config({"llama_cpp": {"models": models}}, folder=Path("/x"))
    assert message in str(caught.value)


def test_a_preset_of_an_ollama_model_is_no_tag_that_is_configured() -> None:
    models = {"qwen": {"presets": {"instruct": {}}}, "other": {"model": "Qwen:Instruct"}}
    with pytest.raises(ConfigError, match="on the hub or in a daemon"):
        parse_config({"ollama": {"host": "x", "models": models}}, folder=Path("/x"))


def test_presets_whose_names_are_free() -> None:
    models = {"qwen": {"path": "x", "presets": {"high": {"request": {"set": {"seed": 1}}}, "low": {}}}}
    (model,) = parse_config({"llama_cpp": {"models": models}}, folder=Path("/x")).llama_cpp.models.values()
    assert list(model.named_presets("qwen")) == ["qwen:high", "qwen:low"]
    faulty = {"qwen": {"path": "x", "presets": {"high": {"request": {"set": {"model": "x"}}}}}}
    with pytest.raises(ConfigError, match=r"presets\.high\.request\.set\.model"):
        parse_config({"llama_cpp": {"models": faulty}}, folder=Path("/x"))
