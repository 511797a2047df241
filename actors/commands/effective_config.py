"""The configuration that the command line names, with what it says instead."""

import argparse

import msgspec

from actors.config.file import ConfigFile, read_config_file
from actors.config.schema import Config
from actors.errors import ConfigError
from actors.terminal import complain

UNUSABLE = 2
"""The exit status when the configuration cannot be used."""


def read(options: argparse.Namespace) -> tuple[ConfigFile, Config]:
    """The file, and the settings in effect. One that cannot be read at all is told, and ends the command."""
    try:
        settings = read_config_file(options.config)
        return settings, with_overrides(settings.config, options)
    except ConfigError as error:
        complain(str(error))
        raise SystemExit(UNUSABLE) from None


def read_sound(options: argparse.Namespace) -> Config:
    """The settings in effect. Where there are faults, they are told, and end the command."""
    settings, config = read(options)
    if lines := settings.report():
        raise SystemExit(tell(lines))
    return config


def tell(lines: list[str]) -> int:
    """Print what is wrong; return the exit status."""
    for line in lines:
        complain(line)
    return UNUSABLE if lines else 0


def with_overrides(config: Config, options: argparse.Namespace) -> Config:
    """The settings with what the command line says instead. Raises `ConfigError`."""
    server = config.server
    if options.host is not None:
        server = msgspec.structs.replace(server, host=options.host)
    if options.port is not None:
        if not 0 <= options.port <= 65535:
            raise ConfigError(f"--port: expected 0 to 65535, got {options.port}")
        server = msgspec.structs.replace(server, port=options.port)
    if options.log_level is not None:
        server = msgspec.structs.replace(
            server, log=msgspec.structs.replace(server.log, level=options.log_level)
        )
    return msgspec.structs.replace(config, server=server)
