"""The difference of two configurations: what it is, what it takes, and what must wait."""

import re
from pathlib import Path
from typing import Any

import pytest

from actors.config.changes import (
    AT_ONCE,
    NEEDS_RESTART,
    NOT_RELOADED,
    RELOADED,
    applicable,
    changes,
    is_reloaded,
    launch_of,
)
from actors.config.file import parse_config
from actors.config.schema import Config, documented_keys
from tests.gateway import CHECKOUT

PRESENT = {
    "server_pool": {"image": "one", "arguments": ["--threads", "1"]},
    "llama_cpp": {
        "models": {
            "a": {"path": "/a.gguf"},
            "b": {"path": "/b.gguf", "runtime": "docker", "gpu_layers": 3},
            "c": {"path": "/c.gguf", "runtime": "docker", "image": "own"},
        }
    },
    "ollama": {"host": "127.0.0.1", "models": {"o": {"aliases": ["oo"]}}},
    "keys": {"alice": {"secret": "sixteen-characters"}},
    "agents": ["vram", {"guard": {"deny": ["x"]}}],
}


def read(data: Any) -> Config:
    return parse_config(data, folder=Path("/"))


def merged(data: Any, change: Any) -> Any:
    if not (isinstance(data, dict) and isinstance(change, dict)):
        return change
    both = {**data, **{key: merged(data.get(key), value) for key, value in change.items()}}
    return {key: value for key, value in both.items() if value != "gone"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"server": {"port": 9000}}, {"server.port": NEEDS_RESTART}),
        ({"hub": {"cache_dir": "/x", "grace": 1}}, {"hub.cache_dir": NEEDS_RESTART, "hub.grace": AT_ONCE}),
        ({"server_pool": {"size": 9}}, {"server_pool.size": AT_ONCE}),
        ({"server_pool": {"image": "two"}}, {"server_pool.image": "restarts model b"}),
        ({"server_pool": {"gpu_layers": 5}}, {"server_pool.gpu_layers": "restarts models a, c"}),
        ({"server_pool": {"host": "127.0.0.2"}}, {"server_pool.host": "restarts models a, b, c"}),
        ({"server_pool": {"command": "x"}}, {"server_pool.command": "restarts model a"}),
        ({"server_pool": {"docker": {"gpus": "cdi"}}}, {"server_pool.docker.gpus": "restarts models b, c"}),
        ({"server_pool": {"docker": {"name": "me"}}}, {"server_pool.docker.name": NEEDS_RESTART}),
        ({"gpu": {"headroom": 5, "enabled": False}}, {"gpu.enabled": NEEDS_RESTART, "gpu.headroom": AT_ONCE}),
        (
            {"llama_cpp": {"models": {"a": {"ctx_size": 5, "priority": 2}}}},
            {"llama_cpp.models.a.ctx_size": "restarts model a", "llama_cpp.models.a.priority": AT_ONCE},
        ),
        ({"llama_cpp": {"models": {"a": "gone"}}}, {"llama_cpp.models.a": "stops model a"}),
        ({"llama_cpp": {"models": {"n": {"path": "/n.gguf"}}}}, {"llama_cpp.models.n": AT_ONCE}),
        ({"ollama": {"models": {"o": {"parallel": 2}}}}, {"ollama.models.o.parallel": AT_ONCE}),
        ({"ollama": {"models": {"o": {"ctx_size": 2}}}}, {"ollama.models.o.ctx_size": "restarts model o"}),
        ({"ollama": {"host": "::1"}}, {"ollama.host": "restarts model o"}),
        (
            {"ollama": {"daemons": {"b": "http://b"}, "timeout": 3}},
            {"ollama.daemons.b": AT_ONCE, "ollama.timeout": AT_ONCE},
        ),
        ({"ollama": {"elsewhere": ["ollama"]}}, {"ollama.elsewhere": "restarts model o"}),
        ({"agents": ["vram"]}, {"agents.guard": AT_ONCE}),
        ({"agents": {"vram": None, "guard": {"deny": ["y"]}}}, {"agents.guard.deny": AT_ONCE}),
        ({"agents": [{"guard": {"deny": ["x"]}}, "vram"]}, {"agents": AT_ONCE}),
        ({"agent_data": "/x"}, {"agent_data": NEEDS_RESTART}),
    ],
)
def test_each_difference_says_what_it_takes(change: Any, expected: dict[str, str]) -> None:
    found = changes(read(PRESENT), read(merged(PRESENT, change)))
    assert {one.path: one.effect for one in found} == expected


def test_values_are_shown_without_secrets() -> None:
    wanted = read(merged(PRESENT, {"keys": {"alice": {"secret": "another-secret-of-it", "weight": 2}}}))
    secret, weight = changes(read(PRESENT), wanted, {"sixteen-characters", "another-secret-of-it"})
    assert (secret.path, secret.old, secret.new) == ("keys.alice.secret", "***", "***")
    assert (weight.path, weight.old, weight.new) == ("keys.alice.weight", 1.0, 2.0)


def test_what_must_wait_keeps_its_value() -> None:
    present = read(PRESENT)
    wanted = read(
        merged(PRESENT, {"server": {"port": 1, "drain_timeout": 5}, "gpu": {"enabled": False, "headroom": 1}})
    )
    found = applicable(present, wanted)
    assert (found.server.port, found.server.drain_timeout) == (8000, 5)
    assert (found.gpu.enabled, found.gpu.headroom) == (True, 1)
    assert {one.path for one in changes(found, wanted)} == {"server.port", "gpu.enabled"}


def test_a_setting_of_the_pool_does_not_restart_a_model_that_overrides_it() -> None:
    present, wanted = read(PRESENT), read(merged(PRESENT, {"server_pool": {"gpu_layers": 5}}))
    assert launch_of(present, "b") == launch_of(wanted, "b")
    assert launch_of(present, "a") != launch_of(wanted, "a")


def test_the_page_names_all_that_waits_for_a_restart() -> None:
    page = (CHECKOUT / "docs" / "configuration.md").read_text()
    (row,) = [line for line in page.splitlines() if "it waits for a restart" in line]
    named = set(re.findall(r"`([a-z_.]+)`", row.partition(" | ")[0]))
    keys = documented_keys()
    single = [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]
    waits = {key for key in single if not is_reloaded(tuple(key.split(".")))}
    assert {key for key in waits if not any(f"{key}.".startswith(f"{one}.") for one in named)} == set()
    assert {one for one in named if not any(f"{key}.".startswith(f"{one}.") for key in waits)} == set()


def test_the_table_has_only_settings_that_exist() -> None:
    known = {tuple(key.split(".")) for key in documented_keys()}
    assert known >= RELOADED | NOT_RELOADED
    assert not any(map(is_reloaded, {("server", "host"), ("server", "port"), ("agent_data",)}))
