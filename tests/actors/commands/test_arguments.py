"""What a command does not need is not imported, and each has the options of all beside its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from actors.commands.arguments import VERSION, parse
from tests.gateway import CHECKOUT

COMMANDS = {
    "rm": ("remove", "actors.commands.remove"),
    "models": ("list", "actors.commands.models"),
    "plan": ("plan", "actors.commands.plan"),
}
CONFIG = Path("/etc/config.yaml")


def imported(*words: str, status: int = 0) -> set[str]:
    """The modules that this command line brings in."""
    argv = [sys.executable, "-X", "importtime", str(CHECKOUT / "run.py"), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr[-2000:]
    return set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))


@pytest.mark.parametrize("word", ["--version", "--help"])
def test_to_tell_its_version_it_needs_next_to_nothing(word: str) -> None:
    modules = imported(word)
    assert "argparse" in modules
    assert not modules & {"aiohttp", "asyncio", "msgspec", "yaml", "structlog", "numpy", "proxy", "agents"}


@pytest.mark.parametrize(
    ("words", "status"), [(["plan", "no-such-model"], 1), (["models"], 0), (["rm", "org/none"], 1)]
)
def test_commands_of_the_disk_need_no_http_and_no_arrays(
    words: list[str], status: int, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"hub: {{cache_dir: {tmp_path}}}")
    modules = imported("--config", str(config), *words, status=status)
    assert "actors.config.schema" in modules
    assert not modules & {"aiohttp", "aiodocker", "numpy", "huggingface_hub", "uvloop", "xllamacpp", "agents"}


def test_the_first_command_is_the_default() -> None:
    options = parse(COMMANDS, config=CONFIG, arguments=[])
    assert (options.command, options.config, options.port) == ("rm", CONFIG, None)
    assert options.run.__module__ == "actors.commands.remove"


@pytest.mark.parametrize(
    "words", [["--port", "1", "plan", "x", "--ctx", "5"], ["plan", "x", "--ctx=5", "--port=1"]]
)
def test_options_of_all_stand_before_or_after_the_command(words: list[str]) -> None:
    options = parse(COMMANDS, config=CONFIG, arguments=words)
    assert (options.command, options.name, options.ctx, options.port) == ("plan", "x", 5, 1)
    assert options.run.__module__ == "actors.commands.plan"


def test_another_command_s_argument_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(COMMANDS, config=CONFIG, arguments=["models", "--ctx", "5"])
    assert ended.value.code == 2
    assert "--ctx" in capsys.readouterr().err


def test_one_version() -> None:
    project = (CHECKOUT / "pyproject.toml").read_text()
    assert f'\nversion = "{VERSION}"\n' in project
