"""`run.py doctor`: prints what works on this machine, what does not, and the cure."""

import argparse
import asyncio
import json
from collections.abc import Sequence

import msgspec

from actors.commands.effective_config import with_overrides
from actors.config.file import read_config_file
from actors.config.schema import Config
from actors.errors import ConfigError
from actors.terminal import complain, say, wants_colour
from proxy.doctor.checks import Finding, Status
from proxy.doctor.diagnosis import diagnose

COLOURS: dict[Status, str] = {"ok": "32", "warning": "33", "error": "31", "absent": "2"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    """Print the findings; return the exit status: 0, or 1 if one of them is an error."""
    findings = asyncio.run(diagnose(_config(options), options.config, serves=False))
    if options.json:
        say(json.dumps({"checks": msgspec.to_builtins(findings)}, indent=2))
    else:
        say(_table(findings))
    return int(any(finding.status == "error" for finding in findings))


def _config(options: argparse.Namespace) -> Config:
    """Return the settings in effect, with defaults in place of faults, which a check of its own reports."""
    config = Config()
    try:
        config = read_config_file(options.config).config
        return with_overrides(config, options)
    except ConfigError as error:
        complain(str(error))
        return config


def _table(findings: Sequence[Finding]) -> str:
    coloured = wants_colour(1)
    lines = []
    for finding in findings:
        status = f"{finding.status:<8}"
        if coloured:
            status = f"\x1b[{COLOURS[finding.status]}m{status}\x1b[0m"
        lines.append(f"{status} {finding.name:<14} {finding.found}")
        if finding.cure is not None:
            lines.append(f"{'':<23} -> {finding.cure}")
    return "\n".join(lines)
