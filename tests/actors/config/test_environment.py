"""`${NAME}` in the settings: text stays as it is, whatever is in it; other fields have their types."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config.file import parse_config
from tests.actors.config.files import faults, read

HERE = Path("/folder")
EVIL = [
    "*",
    "12345",
    "yes",
    "null",
    "~",
    "a: b",
    "a # b",
    "x\ny",
    "\"'",
    "- a",
    "{",
    "[",
    "!!int 5",
    "&a",
    ".nan",
]


@pytest.mark.parametrize("value", EVIL)
def test_a_value_is_never_read_as_yaml_in_a_text_field(value: str, tmp_path: Path) -> None:
    text = """\
server:
  host: ${X}
hub:
  token: ${X}
  revision_is_no_key: 1
  allow: ["${X}", 'a${X}b']
server_pool:
  image: "${X}"
llama_cpp: {models: {m: {path: /x, arguments: [ "${X}" ]}}}
""".replace("  revision_is_no_key: 1\n", "")
    config = read(text, tmp_path, X=value)
    assert (config.server.host, config.hub.token, config.server_pool.image) == (value,) * 3
    assert config.hub.allow == [value, f"a{value}b"]
    assert config.llama_cpp.models["m"].arguments == [value]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_value_comes_out_of_a_text_field_unchanged(value: str) -> None:
    data = {"server": {"host": "${X}"}, "hub": {"token": "${X}", "allow": ["${X}", "${Y:-${X}}"]}}
    config = parse_config(data, folder=HERE, environment={"X": value})
    assert (config.server.host, config.hub.token, config.hub.allow) == (value, value, [value, value])


@pytest.mark.parametrize(
    ("written", "environment", "expected"),
    [
        ("${A:-d}", {}, "d"),
        ("${A:-d}", {"A": ""}, "d"),
        ("${A:-d}", {"A": "a"}, "a"),
        ("${A}", {"A": ""}, ""),
        ("$${A}", {}, "${A}"),
        ("$$${A}", {}, "$${A}"),
        ("x$${A}${A}", {"A": "a"}, "x${A}a"),
        ("$A $$ ${A}$", {"A": "a"}, "$A $$ a$"),
        ("${A:-${B:-c}}", {}, "c"),
        ("${A:-${B:-c}}", {"B": "b"}, "b"),
        ("${A:-${B}}", {"A": "a"}, "a"),
        ("${A:-x${B:-c}y}z", {}, "xcyz"),
        ("${A:-$${B}}", {}, "${B}"),
        ("${A:-$${B}}", {"A": "a"}, "a"),
        ("${A}", {"A": "${B}"}, "${B}"),
        ("${A:-}", {}, ""),
        ("${A:-a:-b}", {}, "a:-b"),
        ("}", {}, "}"),
    ],
)
def test_references(written: str, environment: dict[str, str], expected: str) -> None:
    config = parse_config({"server": {"host": written}}, folder=HERE, environment=environment)
    assert config.server.host == expected


@pytest.mark.parametrize(
    ("section", "field", "written", "environment", "expected"),
    [
        ("server", "port", "${X}", {"X": "99"}, 99),
        ("server", "port", "${X:-99}", {"X": ""}, 99),
        ("server_pool", "patience", "${X}", {"X": "2.5"}, 2.5),
        ("server_pool", "gpu_layers", "${X:-null}", {}, None),
        ("server_pool", "gpu_layers", "${X}", {"X": "null"}, None),
        ("server_pool", "gpu_layers", "${X}", {"X": ""}, None),
        ("server_pool", "image", "${X:-null}", {}, None),
        ("server_pool", "image", "${X:-}", {}, None),
        ("server_pool", "image", "${X:-}", {"X": "null"}, "null"),
        ("server_pool", "image", "x${X:-null}", {}, "xnull"),
        ("server_pool", "runtime", "${X:-auto}", {}, "auto"),
        ("server_pool", "arguments", "${X}", {"X": "[--threads, '8']"}, ["--threads", "8"]),
        ("server_pool", "arguments", "${X:-}", {}, []),
        ("hub", "offline", "${X}", {"X": "true"}, True),
        ("hub", "offline", "${X:-no}", {}, False),
        ("hub", "max_disk", "${X}", {"X": "5"}, 5.0),
    ],
)
def test_a_reference_alone_has_its_fields_type(
    section: str, field: str, written: str, environment: dict[str, str], expected: Any, tmp_path: Path
) -> None:
    config = read(f"{section}:\n  {field}: {written}\n", tmp_path, **environment)
    found = getattr(getattr(config, section), field)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("written", "value"),
    [("${X}", "x"), ("${X}", "[1]"), ("${X}", "{"), ("${X}", ""), ('"${X}"', "99"), ("9${X}", "9")],
)
def test_a_reference_that_is_not_of_its_fields_type(written: str, value: str, tmp_path: Path) -> None:
    (line,) = faults(f"server:\n  port: {written}\n", tmp_path, X=value)
    assert line.startswith("2: server.port: expected a whole number")


def test_references_in_comments_are_none(tmp_path: Path) -> None:
    assert read("# ${NOPE}\nserver: # ${NOPE\n  port: 1 # ${NOPE:-}\n", tmp_path).server.port == 1
