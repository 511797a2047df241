"""What is logged becomes a line, whatever is in it."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.gateway import CHECKOUT

PROGRAM = """
import logging, os, sys, threading, warnings
import structlog
from proxy.service.logs import set_up_logging, take_over_output

class Broken:
    def __repr__(self):
        raise RuntimeError("no text")

class Dying:
    def __del__(self):
        raise OSError("dying")

writer = set_up_logging("info", sys.argv[1], 1)
take_over_output()
log = structlog.get_logger("test")
loop = []
loop.append(loop)
for value in eval(sys.argv[2]):
    log.info("value", value=value, status=200)
def fail():
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("failed")
exec(sys.argv[3])
writer.close(10)
"""


def logged(form: str, values: str = "[]", statements: str = "") -> bytes:
    command = [sys.executable, "-c", PROGRAM, form, values, statements]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, capture_output=True, timeout=30, check=True, env=environment)
    assert done.stderr == b""
    return done.stdout


def json_lines(values: str = "[]", statements: str = "") -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged("json", values, statements).splitlines()]


def test_values_that_have_no_json() -> None:
    values = "[Broken(), 'a\\ud800b', 10**5000, loop, {Broken(): 1}, [Broken()], float('nan'), b'x', {1, 2}]"
    lines = json_lines(values)
    assert [line["event"] for line in lines] == ["value"] * 9
    assert all(line["status"] == 200 for line in lines), "the other fields are told"
    assert "Broken whose repr() fails" in lines[0]["value"]
    assert lines[1]["value"] == "a\\ud800b"


def test_a_huge_value_is_shortened() -> None:
    (line,) = logged("json", "['x' * 30_000_000]").splitlines()
    assert len(line) < 64 << 10
    assert "29996000 characters" in json.loads(line)["value"]
    (line,) = logged("console", "[['y'] * 3_000_000]").splitlines()
    assert len(line) < 64 << 10


@pytest.mark.parametrize("form", ["json", "console"])
def test_nothing_steers_a_terminal(form: str) -> None:
    evil = ["\\x1b[2J", "\\r", "\\a", "\\x9b31m", "\\x7f", "\\u202e", "\\u2028", "\\0", "\\n"]
    values = "[" + ", ".join(f"'{char}', ['{char}'], Exception('{char}')" for char in evil) + "]"
    statements = "[log.info(f'event {value}') for value in " + values + "]"
    text = logged(form, values, statements).decode()
    lines = text.split("\n")[:-1]
    assert len(lines) == 6 * len(evil), "no line is two"
    assert all(line.isprintable() for line in lines)
    if form == "json":
        told = [json.loads(line).get("value") for line in lines]
        assert told[0] == "\x1b[2J"


def test_an_exception_stays_readable() -> None:
    text = logged("console", "[]", "fail()").decode()
    assert "\nTraceback (most recent call last):\n  File " in text
    assert text.endswith("ZeroDivisionError: division by zero\n")
    (line,) = json_lines("[]", "fail()")
    assert line["exception"].splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "\x1b" not in text, "no colours in a pipe"


def test_everything_else_that_is_told_is_logged() -> None:
    lines = json_lines(
        "[]",
        """
logging.getLogger("lib").warning("of %s", "a library")
logging.getLogger("lib").warning("of %s %s", "a bad call")
logging.getLogger("lib").warning("of %s", Broken())
warnings.warn("careful")
print("of an agent", end=""); print("'s"); print("on stderr", file=sys.stderr)
thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()
dying = Dying(); del dying
""",
    )
    assert [line["event"] for line in lines[:4]] == ["library message"] * 4
    assert [line["text"] for line in lines[:3]] == ["of a library", "of %s %s", "of %s"]
    assert "careful" in lines[3]["text"]
    assert [line["text"] for line in lines if line["event"] == "printed output"] == [
        "of an agent's",
        "on stderr",
    ]
    assert "ZeroDivisionError" in lines[6]["exception"]
    assert "OSError: dying" in lines[7]["exception"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_latest_lines_are_kept_as_json(form: str) -> None:
    statements = """
log.warning("careful", name="x\\x1b[31m")
log.debug("not logged")
fail()
from proxy.service.logs import LATEST
import json
kept = LATEST.after(0)
assert [line.level for line in kept] == [20, 30, 40], kept
assert json.loads(kept[0].text)["status"] == 200
assert json.loads(kept[1].text)["name"] == "x\\x1b[31m"
assert "ZeroDivisionError" in json.loads(kept[2].text)["exception"]
log.info("all is well")
"""
    assert b"all is well" in logged(form, "[1]", statements)
