"""That each flag of several builds of llama-server is known to change memory, or not to."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.memory.flag_effects import COUNTED, UNCOUNTED, UNRELATED, uncounted, uncounted_in

HELP = Path(__file__).with_name("help")
_NAME = re.compile(r"(?:^|, +)(-{1,2}[A-Za-z][\w.-]*)")


def flags_in(text: str) -> Iterator[str]:
    """The flags at the beginnings of lines of a help text."""
    for line in text.splitlines():
        if re.match(r"-{1,2}[A-Za-z]", line):
            head = re.sub(r"^(-\w+), +", r"\1, ", line).split("  ")[0]
            yield from _NAME.findall(head)


@pytest.mark.parametrize("build", [9294, 11434, 11549])
def test_each_flag_of_a_build_is_in_one_list(build: int) -> None:
    found = set(flags_in((HELP / f"{build}.txt").read_text()))
    assert len(found) > 380
    assert found - COUNTED - UNCOUNTED - UNRELATED == set()


def test_each_flag_of_the_installed_server_is_in_one_list() -> None:
    if (program := shutil.which("llama-server")) is None:
        pytest.skip("there is no llama-server on the PATH")
    text = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert set(flags_in(text)) - COUNTED - UNCOUNTED - UNRELATED == set()


def test_no_flag_is_in_two_lists() -> None:
    assert COUNTED & UNCOUNTED == UNCOUNTED & UNRELATED == UNRELATED & COUNTED == set()


def test_the_lists_have_only_flags_of_some_build() -> None:
    known = {flag for path in HELP.glob("*.txt") for flag in flags_in(path.read_text())}
    assert (COUNTED | UNCOUNTED | UNRELATED) - known == set()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-c 4096 --temp -1 --mlock --no-mmap -md draft.gguf --lora a.gguf", []),
        ("--rpc host:1 -t 4", ["--rpc"]),
        ("--no_such_flag 3 -xyz", ["--no-such-flag", "-xyz"]),
        ("-sm layer", []),
        ("-sm tensor", ["-sm tensor"]),
        ("--split-mode=row", ["--split-mode row"]),
        ("--spec-type draft-mtp", []),
        ("--spec-type ngram-simple,draft-eagle3", ["--spec-type ngram-simple,draft-eagle3"]),
        ("--override-kv llama.context_length=int:5", ["--override-kv"]),
    ],
)
def test_what_is_not_counted(words: str, expected: list[str]) -> None:
    assert uncounted(words.split()) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("llama-server", []),
        ("nice -n 5 --wrapped llama-server --temp 1", []),
        ("env LLAMA_ARG_CTX_SIZE=512 OTHER=1 /bin/llama-server -c 5", ["LLAMA_ARG_CTX_SIZE", "-c"]),
        ("python -m server --made-up 3", []),
    ],
)
def test_what_of_a_command_is_not_counted(command: str, expected: list[str]) -> None:
    assert uncounted_in(command.split()) == expected
