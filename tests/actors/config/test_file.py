"""A configuration file in all the forms that files have: a `Config`, or one clear line for each fault."""

import contextlib
import os
import string
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from actors.config.document import read_document
from actors.config.file import load_config, parse_config, read_config_file
from actors.config.schema import Config
from actors.errors import ConfigError
from agents.host.discovery import load_agents
from tests.actors.config.files import faults, read
from tests.gateway import CHECKOUT

HERE = Path("/folder")


def test_all_faults_are_told_at_once_with_their_lines_and_models(tmp_path: Path) -> None:
    text = """\
server: {port: 70000}
server_pool:
  sise: 4
  runtime: dokcer
llama_cpp:
  models:
    coder:
      path: x.gguf
      ctx_size: big
      parallel: 0
    other:
      path: x.gguf
      variant: Q4
gpu: {on_no_gpu: panic, headroom: -1}
"""
    assert faults(text, tmp_path) == [
        "1: server.port: expected a whole number from 0 to 65535, got 70000",
        "3: server_pool.sise: unknown key; did you mean 'size'?",
        "4: server_pool.runtime: expected one of auto, docker, embedded, llama-server, got 'dokcer'; "
        "did you mean 'docker'?",
        "9: llama_cpp.models.coder.ctx_size: expected a whole number, 0 or more, got 'big'",
        "10: llama_cpp.models.coder.parallel: expected a whole number, 1 or more, got 0",
        "13: llama_cpp.models.other.variant: goes with repo, not with path",
        "14: gpu.on_no_gpu: expected one of cpu, fail, queue, got 'panic'",
        "14: gpu.headroom: expected a whole number, 0 or more, got -1",
    ]


def test_what_a_fault_leads_to_is_not_told_too(tmp_path: Path) -> None:
    text = "llama_cpp:\n  models:\n    m: {path: [1]}\n    n: {ctx_size: x}\n"
    assert faults(text, tmp_path) == [
        "3: llama_cpp.models.m.path: expected text, got a list",
        "4: llama_cpp.models.n.ctx_size: expected a whole number, 0 or more, got 'x'",
        "4: llama_cpp.models.n: expected either a path or a repo",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "server: {port: 1}\nserver: {port: 2}",
            "2: server: the key 'server' is there twice: in line 1 and in line 2",
        ),
        (
            "server:\n  log:\n    level: info\n    level: debug",
            "'level' is there twice: in line 3 and in line 4",
        ),
        (
            "llama_cpp:\n  models:\n    a: {path: x}\n    a: {path: y}",
            "4: llama_cpp.models.a: the key 'a' is",
        ),
        (
            "agents:\n- guard:\n    deny: []\n    'deny': []",
            "4: agents[0].guard.deny: the key 'deny' is there",
        ),
        ("gpu: {headroom: 1, headroom: 1}", "in line 1 and in line 1"),
        ("x: &a {}\nserver:\n  <<: *a\n  <<: *a", "4: server.<<: the key '<<' is there twice"),
        ("server: {on: 1}", "1: server.True: expected text as a key, got true; put it in quotes"),
        ("? [a]\n: b", "1: the top level: expected text as a key, got a list or a mapping"),
        ("server: {host: no}", "1: server.host: expected text, got false; put it in quotes"),
        ("server: {port: -1}", "1: server.port: expected a whole number from 0 to 65535, got -1"),
        (
            'server: {port: "8000"}',
            "1: server.port: expected a whole number from 0 to 65535, got '8000'; "
            "without the quotes it is not text",
        ),
        (
            'server: {allowed_hosts: "[a, b]"}',
            "1: server.allowed_hosts: expected a list, got '[a, b]'; without the quotes it is not text",
        ),
        ("server: {port: ${X}}", '; between { } and [ ] a reference needs quotes, as "${NAME}"'),
        ("server: {port: 8e3}", "1: server.port: expected a whole number from 0 to 65535, got '8e3'"),
        ("server: {port: 1.5}", "1: server.port: expected a whole number from 0 to 65535, got 1.5"),
        ("gpu: {headroom: 9223372036854775808}", "1: gpu.headroom: expected a number up to"),
        (f"gpu: {{headroom: {'9' * 5000}}}", "1: gpu.headroom: '999"),
        (f"gpu: {{headroom: 0x{'9' * 5000}}}", "1: gpu.headroom: expected a number up to"),
        (f"gpu: {{monitoring_interval: 0x{'9' * 5000}}}", "1: gpu.monitoring_interval: expected"),
        ("gpu: {monitoring_interval: .nan}", "expected a number, 0 or more, got nan"),
        ("gpu: {monitoring_interval: .inf}", "expected a number, 0 or more, got inf"),
        ("hub: {max_disk: .inf}", "1: hub.max_disk: expected a finite number, got inf"),
        ("llama_cpp: {models: {a: {path: x, tensor_split: [.nan]}}}", "tensor_split[0]: expected a num"),
        ("server: {port: }\n", "1: server.port: expected a whole number from 0 to 65535, got nothing (null)"),
        ("llama_cpp: {models: {a: {path: x, aliases: [null]}}}", "a.aliases[0]: expected text, got nothing"),
        ("server: {host: !!binary aGk=}", "1: server.host: the YAML tag tag:yaml.org,2002:binary has"),
        ("server: !!python/object/apply:os.system [x]", "1: server: the YAML tag tag:yaml.org,2002:python"),
        ("server: !mine {}", "1: server: the YAML tag !mine has no meaning here"),
        ("server: {port: !!int x}", "1: server.port: 'x' cannot be read as int"),
        ("server: {port: !!bool x}", "1: server.port: 'x' cannot be read as bool"),
        ("server: {host: 2024-99-99}\ngpu: {x: 1}", "2: gpu.x: unknown key"),
        ('server: {host: "\\ud800"}', "1: server.host: the text has half a character"),
        ("- a", " the top level: expected a mapping, got a list"),
        ("a", " the top level: expected a mapping, got 'a'"),
        ("---\nserver: {}\n---\n", " line 3: a second document begins; expected one"),
        ("server:\n\tport: 1", " line 2, column 1: is not YAML: while scanning"),
        ("a: [", " line 1, column 5: is not YAML: while parsing"),
        ('a: 1\nb: "\\UFFFFFFFF"', " line 2: is not YAML: PyYAML cannot read it"),
        (f"%YAML 1.{'1' * 5000}\n---\na: 1", " line 1: is not YAML: PyYAML cannot read it"),
        ("a: *b", " line 1: there is no anchor &b before the alias"),
        ("a: &b [*b]", " line 1: the alias *b is a part of what it stands for"),
        ("server: {<<: 5}", "1: server: <<: expected a mapping, or a list of mappings"),
        ("a: " + "[" * 100_000, " line 1: more than 100 levels of lists and mappings"),
        ("x: 1\n" * 250_000, " has more than 1 MiB, which is no configuration"),
        (b"server: {}\nx: \xff", " line 2: is not UTF-8 (byte 0xff)"),
        ("server: {}\nx: \0", " line 2: the character U+0000 is not allowed in YAML"),
        ("server: {host: ${HOST}}", "is not YAML"),
        ("server:\n  host: ${HOST}", "2: server.host: the environment variable HOST is not set"),
        ("server:\n  host: ${HOST", "2: server.host: expected ${NAME} or ${NAME:-default}"),
        ("server:\n  host: ${HO-x}", "2: server.host: expected ${NAME} or ${NAME:-default}"),
        ("server:\n  host: ${HO:-x", "2: server.host: a reference has no closing brace"),
        ("llama_cpp:\n  models:\n    ${NAME}: {path: x}", "3: llama_cpp.models.${NAME}: references are"),
        ("hub: {cache_dir: ~nobody-here/x}", "1: hub.cache_dir: there is no home folder of '~nobody-here'"),
        ("agent_folders: [~nobody-here]", "1: agent_folders[0]: there is no home folder of '~nobody-here'"),
        ('hub: {cache_dir: ""}', "1: hub.cache_dir: expected a path, got ''"),
        ('llama_cpp: {models: {a: {path: "x\\0y"}}}', "a.path: the text has a NUL character"),
        ('server_pool: {command: "x \'y"}', "1: server_pool.command: cannot be split into words"),
        ("server_pool: {command: []}", "1: server_pool.command: expected a program, got nothing"),
    ],
)
def test_one_clear_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    lines = faults(text, tmp_path)
    assert sum(message in line for line in lines) == 1, lines


def test_what_an_unset_variable_leads_to_is_not_told_too(tmp_path: Path) -> None:
    (line,) = faults("server:\n  host: ${NOT_SET}\n", tmp_path)
    assert "the environment variable NOT_SET is not set" in line


def test_files_that_are_none(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file or directory")):
        with pytest.raises(ConfigError, match=f"^{path}: cannot be read: {reason}$"):
            load_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "a\0b")


def test_a_text_that_is_repeated_is_no_bomb(tmp_path: Path) -> None:
    text = f"hub:\n  token: &a '{'x' * 100_000}${{X}}'\n  allow: [{', '.join(['*a'] * 10_000)}]\n"
    (line,) = faults(text, tmp_path, X="1")
    assert "more than 100,000 values, with those of aliases" in line


def test_many_and_long_faults_are_told_in_few_words(tmp_path: Path) -> None:
    lines = faults("server:\n" + "".join(f"  {'k' * 200}{n}: 1\n" for n in range(3000)), tmp_path)
    assert (len(lines), lines[-1]) == (101, " and 2900 more")
    (line,) = faults(f"server: {{{'k' * 100_000}: 1}}", tmp_path)
    assert len(line) < 1200


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment: ${X}\n",
        "---\n",
        "---\n...\n",
        "\ufeff",
        "\ufeffserver:\n",
        "server:\r\nhub:\r\n",
        "server:\nserver_pool:\nhub:\nagents:\nagent_folders:\ngpu:\nollama:\nllama_cpp:\n",
        "server:\n  log:\nllama_cpp:\n  models:\nollama:\n  models:\n  daemons:\n  elsewhere:\n",
        "server_pool:\n  arguments:\n  docker:\nhub:\n  allow:\n",
    ],
)
def test_what_has_nothing_in_it_counts_as_empty(text: str, tmp_path: Path) -> None:
    assert read(text, tmp_path) == Config()


def test_a_model_whose_lines_are_all_comments(tmp_path: Path) -> None:
    assert read("ollama:\n  host: x\n  models:\n    m:\n", tmp_path).ollama.models["m"].aliases == []
    assert faults("llama_cpp:\n  models:\n    m:\n", tmp_path) == [
        "3: llama_cpp.models.m: expected either a path or a repo"
    ]


def test_yaml_keeps_its_features(tmp_path: Path) -> None:
    text = """\
llama_cpp:
  models:
    a: &base
      path: /x/a.gguf
      arguments: &flags [--threads, "1"]
      parallel: 2
    b:
      <<: *base
      path: /x/b.gguf
    c:
      <<: [{path: /x/c.gguf}, *base]
      arguments: *flags
server_pool:
  command: >-
    /opt/x
    --flag
"""
    models = read(text, tmp_path).llama_cpp.models
    assert [(m.path, m.parallel, m.arguments) for m in models.values()] == [
        (f"/x/{name}.gguf", 2, ["--threads", "1"]) for name in "abc"
    ]


def test_a_line_of_what_a_merge_brought(tmp_path: Path) -> None:
    text = "llama_cpp:\n  models:\n    a: &base\n      path: x\n      parallel: 0\n    b:\n      <<: *base\n"
    assert [line.partition(":")[0] for line in faults(text, tmp_path)] == ["5", "5"]


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 30))
    maps = "".join(f"m{n}: &m{n} {{a: *m{n - 1}, b: *m{n - 1}}}\n" for n in range(1, 60))
    began = time.process_time()
    for bomb in ("l0: &l0 [x]\n" + levels, "m0: &m0 {x: 1}\n" + maps):
        (line,) = faults(bomb, tmp_path)
        assert "more than 100,000 values, with those of aliases" in line
    assert time.process_time() - began < 5


def test_options_of_agents_have_their_own_types(tmp_path: Path) -> None:
    text = """\
agents:
- guard:
    deny: ${D}
    longest: ${L}
    replacement: ${R}
- cache: {ttl: 5, on_error: no}
- rag: {x: 1}
"""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    settings = read_config_file(path, environment={"D": "[x]", "L": "9", "R": "12345"})
    with pytest.raises(ConfigError) as caught:
        load_agents(settings.config, tmp_path)
    assert settings.report(caught.value.faults) == [
        f"{path}:6: agents.cache.on_error: expected one of fail, skip, got false",
        f"{path}:7: agents.rag.x: unknown key; there are: " + str(caught.value).rpartition("there are: ")[2],
    ]
    path.write_text(text.rpartition("- cache")[0] + "- rag: {folders: {papers: papers}}\n")
    settings = read_config_file(path, environment={"D": "[x]", "L": "9", "R": "12345"})
    (guard, rag), _ = load_agents(settings.config, tmp_path)
    options: Any = guard.config
    assert (list(options.deny), options.longest, options.replacement) == (["x"], 9, "12345")
    found: Any = rag.config
    assert found.folders == {"papers": str(tmp_path / "papers")}


def test_paths_are_taken_from_the_files_folder(tmp_path: Path) -> None:
    text = """\
server_pool: {command: bin/serve --flag 'a b', docker: {mounts: [adapters, /abs]}}
hub: {cache_dir: hub}
agent_folders: [mine, /abs]
agent_data: data
llama_cpp:
  models:
    a: {path: m/a.gguf, mmproj: m/p.gguf, command: [./run, -x]}
    b: {path: ~/b.gguf, command: llama-server -x}
    c: {repo: org/c, mmproj: p/*, command: ~/run}
    d: {path: builtin:demo, runtime: docker, command: bin/inside}
"""
    config = read(text, tmp_path)
    home = os.path.expanduser("~")  # noqa: PTH111
    assert config.server_pool.docker.mounts == [f"{tmp_path}/adapters", "/abs"]
    assert config.server_pool.command == [f"{tmp_path}/bin/serve", "--flag", "a b"]
    assert (config.hub.cache_dir, config.agent_data) == (f"{tmp_path}/hub", f"{tmp_path}/data")
    assert config.agent_folders == [f"{tmp_path}/mine", "/abs"]
    a, b, c, d = config.llama_cpp.models.values()
    assert (a.path, a.mmproj, a.command) == (
        f"{tmp_path}/m/a.gguf",
        f"{tmp_path}/m/p.gguf",
        [f"{tmp_path}/run", "-x"],
    )
    assert (b.path, b.command) == (f"{home}/b.gguf", "llama-server -x")
    assert (c.mmproj, c.command) == ("p/*", [f"{home}/run"])
    assert (d.path, d.command) == ("builtin:demo", "bin/inside"), "that is in a container"


SNIPPETS = st.sampled_from(
    [
        "a: ",
        "- ",
        "\n",
        "\n  ",
        "\n    ",
        ": ",
        "<<: *a",
        "!!int ",
        "| \n",
        "\t",
        "\ufeff",
        "\x85",
        "\u2028",
        "# ",
        *[
            "server",
            "llama_cpp",
            "models",
            "agents",
            "path",
            "x",
            "{",
            "}",
            "[",
            "]",
            "&a",
            "*a",
            "!x",
            "'",
            '"',
            "${X}",
            "${",
            "$${",
            "%",
            "?",
            "---",
            "...",
            "null",
            "~",
            "yes",
        ],
        *["1e9", "0x1f", "1:30", "2024-01-01", "2024-99-99", ".inf", "!!float", "!!timestamp", "9"],
    ]
)
KEYS = [
    "server",
    "port",
    "models",
    "path",
    "a",
    "log",
    "llama_cpp",
    "ollama",
    "agents",
    "hub",
    "token",
    "command",
]
SHIPPED = (CHECKOUT / "config.yaml").read_text()


@given(st.lists(SNIPPETS | st.text(max_size=4), max_size=25).map("".join))
@example("=: =")
@example("a: !!float 1_")
@example("a: !!timestamp x")
@example("a: !!int ''")
@example("? \n: ")
def test_any_text_is_a_configuration_or_an_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_config(read_document(text).data or {}, folder=HERE, environment={"X": "1"})


@given(
    st.integers(0, len(SHIPPED)),
    st.integers(0, 40),
    st.sampled_from(["", "\n", " ", ":", "[", "}", "'", "&", "é", "1"]),
)
def test_a_mutated_file_is_a_configuration_or_an_error(at: int, cut: int, put: str) -> None:
    text = SHIPPED[:at] + put + SHIPPED[at + cut :]
    with contextlib.suppress(ConfigError):
        parse_config(read_document(text).data or {}, folder=HERE, environment={})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable, max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(KEYS) | st.integers(), inner, max_size=4)
        ),
    )
)
def test_any_data_is_a_configuration_or_an_error(data: Any) -> None:
    for given_data in (
        data,
        yaml.safe_load(yaml.safe_dump(data)),
        {"llama_cpp": data, "server": data, "agents": data},
    ):
        with contextlib.suppress(ConfigError):
            parse_config(given_data, folder=HERE, environment={})
