"""The folder `config.d` beside config.yaml: its files are added; contradictions are told with both places."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config.document import Mapping, merge, read_document
from actors.config.file import config_files, read_config_file
from actors.config.schema import Config
from actors.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`config.d`, beside an empty config.yaml."""
    (tmp_path / "config.yaml").write_text("")
    folder = tmp_path / "config.d"
    folder.mkdir()
    return folder


def read(folder: Path, main: str = "", **files: str) -> Config:
    """The `Config` of these files."""
    settings = settings_of(folder, main, **files)
    assert settings.report() == []
    config: Config = settings.config
    return config


def settings_of(folder: Path, main: str = "", **files: str) -> Any:
    (folder.parent / "config.yaml").write_text(main)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return read_config_file(folder.parent / "config.yaml", environment={"SIZE": "7"})


def test_mappings_are_merged_over_all_files(folder: Path) -> None:
    config = read(
        folder,
        "server: {port: 9000}\nllama_cpp:\n  models:\n    a: {path: a.gguf}\nagents: []\nhub:\n",
        one="server: {host: '::1'}\nllama_cpp: {models: {b: {path: b.gguf}}}",
        two="agents: [vram]\nserver_pool:\n  size: ${SIZE}\nhub: {grace: 5}",
        three="",
    )
    assert (config.server.host, config.server.port) == ("::1", 9000)
    assert list(config.llama_cpp.models) == ["a", "b"]
    assert config.llama_cpp.models["b"].path == str(folder.parent / "b.gguf"), "from config.yaml's folder"
    assert (config.agents, config.server_pool.size, config.hub.grace) == (["vram"], 7, 5)


def test_what_is_set_to_two_values_is_told_with_both_places(folder: Path) -> None:
    settings = settings_of(
        folder,
        "server_pool:\n  size: 4\n  queue_size: 5\nagents: [vram]\n",
        a="\nserver_pool: {size: 5, queue_size: 5}\n",
        b="server_pool:\n  size: 6\nagents: [guard]\n",
    )
    main = folder.parent / "config.yaml"
    assert settings.report() == [
        f"{folder / 'a.yaml'}:2: server_pool.size: is set to another value in {main}:2",
        f"{folder / 'b.yaml'}:2: server_pool.size: is set to another value in {main}:2",
        f"{folder / 'b.yaml'}:3: agents: is set to another value in {main}:4",
    ]
    between = settings_of(folder, "", a="server: {port: 1}", b="server: {port: 2}")
    assert between.report() == [
        f"{folder / 'b.yaml'}:1: server.port: is set to another value in {folder / 'a.yaml'}:1"
    ]


def test_secrets_are_not_told(folder: Path) -> None:
    keys = "keys: {alice: {secret: %s}}"
    settings = settings_of(folder, keys % "secret-of-sixteen", a=keys % "other-secret-of-16")
    (line,) = settings.report()
    assert "is set to another value" in line
    assert "sixteen" not in line
    assert "of-16" not in line


def test_faults_are_told_in_the_order_of_the_files_with_their_names(folder: Path) -> None:
    settings = settings_of(
        folder,
        "\n\nserver: {prot: 1}\nllama_cpp: {models: {m: {path: a.gguf, aliases: [n]}}}\n",
        a="llama_cpp:\n  models:\n    n: {path: b.gguf}\nserver: {port: 1, port: 2}\n",
        b="gpu: {headroom: -1}\n",
    )
    main = folder.parent / "config.yaml"
    told = settings.report()
    assert told[0] == f"{main}:3: server.prot: unknown key; did you mean 'port'?"
    assert f"the name 'n' is already that of llama_cpp.models.m.aliases[0] ({main}:4)" in told[1]
    assert told[1].startswith(f"{folder / 'a.yaml'}:3: llama_cpp.models.n: ")
    assert told[2].startswith(f"{folder / 'a.yaml'}:4: server.port: the key 'port' is there twice")
    assert told[3].startswith(f"{folder / 'b.yaml'}:1: gpu.headroom: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: [", "is not YAML"),
        ("- a\n", "expected a mapping of settings"),
        ("\0", "is not allowed in YAML"),
    ],
)
def test_one_that_cannot_be_read_is_named(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        settings_of(folder, "", a=text)
    assert str(raised.value).startswith(f"{folder / 'a.yaml'}: ")


def test_which_files_are_read(folder: Path) -> None:
    main = folder.parent / "config.yaml"
    for name in ("b.yaml", "a.yaml", ".hidden.yaml", "c.yml", "a.yaml~"):
        (folder / name).write_text("")
    assert config_files(main) == [main, folder / "a.yaml", folder / "b.yaml"]
    assert config_files(folder.parent / "other.yaml") == [folder.parent / "other.yaml"]
    assert read_config_file(main).files == config_files(main)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_told(folder: Path) -> None:
    folder.chmod(0)
    with pytest.raises(ConfigError, match=r"config\.d: cannot be read"):
        config_files(folder.parent / "config.yaml")
    folder.chmod(0o700)


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.lists(st.integers(0, 1), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


def _mapping(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    found = Mapping()
    found.update({key: _mapping(value) for key, value in data.items()})
    found.lines = dict.fromkeys(data, 1)
    return found


@given(DOCUMENTS, DOCUMENTS)
def test_a_merge_loses_nothing_in_silence(first: Any, second: Any) -> None:
    faults: list[Any] = []
    one, other = _mapping(first), _mapping(second)
    found = merge(one, other, faults, main="m")
    assert (one, other) == (first, second), "neither is changed, since aliases share mappings"
    assert set(found) == {*first, *second}
    if not faults:
        assert _leaves(found) == _leaves(first) | _leaves(second)


def _leaves(data: Any, path: tuple[str, ...] = ()) -> set[Any]:
    if isinstance(data, dict):
        return {leaf for key, value in data.items() for leaf in _leaves(value, (*path, key))}
    return set() if data in (None, []) else {(path, str(data))}


def test_an_anchor_of_one_file_is_not_changed_by_another() -> None:
    first = read_document("a: &x {k: 1}\nb: *x\n").data
    second = read_document("a: {l: 2}\n").data
    assert merge(first, second, [], main="m") == {"a": {"k": 1, "l": 2}, "b": {"k": 1}}
