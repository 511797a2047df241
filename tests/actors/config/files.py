"""Configuration files, and what is told of them."""

from pathlib import Path
from typing import Any

from actors.config.file import read_config_file
from actors.errors import ConfigError


def read(text: str, folder: Path, **environment: str) -> Any:
    """The `Config` of a file with this text."""
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    settings = read_config_file(path, environment=environment)
    assert settings.report() == []
    return settings.config


def faults(text: str | bytes, folder: Path, **environment: str) -> list[str]:
    """What is told of a file with this text, without the file's name."""
    path = folder / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    try:
        lines = read_config_file(path, environment=environment).report()
    except ConfigError as error:
        lines = str(error).split("\n")
    assert all(line.startswith(f"{path}:") and line.isprintable() for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]
