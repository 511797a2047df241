"""The configuration file that the command line names, with the options that override it."""

import argparse

import msgspec

from actors.config.file import ConfigFile, read_config_file
from actors.config.schema import Config
from actors.errors import ConfigError
from actors.terminal import complain

UNUSABLE = 2
"""The exit status when the configuration cannot be used."""


def read(options: argparse.Namespace) -> tuple[ConfigFile, Config]:
    """Read the configuration file; return it and the settings in effect.

    If the file cannot be read at all, print why and exit.
    """
    try:
        settings = reread(options)
        return settings, settings.config
    except ConfigError as error:
        complain(str(error))
        raise SystemExit(UNUSABLE) from None


def reread(options: argparse.Namespace) -> ConfigFile:
    """Read the configuration file, with the settings in effect. Raises `ConfigError` if it cannot be read."""
    settings = read_config_file(options.config)
    return msgspec.structs.replace(settings, config=with_overrides(settings.config, options))


def read_sound(options: argparse.Namespace) -> Config:
    """Return the settings in effect. If the file has faults, print them and exit."""
    settings, config = read(options)
    if lines := settings.report():
        raise SystemExit(tell(lines))
    return config


def tell(lines: list[str]) -> int:
    """Print these faults; return the exit status."""
    for line in lines:
        complain(line)
    return UNUSABLE if lines else 0


def with_overrides(config: Config, options: argparse.Namespace) -> Config:
    """Return the settings with the command line's options applied. Raises `ConfigError`."""
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
