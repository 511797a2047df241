"""The hub model that a command's argument names."""

import argparse

from actors.config.schema import Config
from actors.model_names import HubName, parse_name
from actors.terminal import complain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument("name", metavar="NAME", help="org/repo:variant, or a configured model")


def look_up(config: Config, name: str) -> tuple[HubName, str, str | None]:
    """Resolve the name of a configured model, or of a model on a hub, with its revision and projector.

    If the name is not a model of a hub, print why and exit.
    """
    model = config.llama_cpp.find(name)
    found = model.hub_name if model else parse_name(name)
    if found is None:
        complain(f"{name!r} is no model of a hub; expected org/repo or org/repo:variant")
        raise SystemExit(1)
    return (found, model.revision, model.mmproj) if model else (found, "main", None)
