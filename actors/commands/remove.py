"""`run.py rm`: remove a downloaded model."""

import argparse

from actors.commands.effective_config import read_sound
from actors.commands.hub_names import add_arguments, look_up
from actors.hub.cache import cache_of
from actors.model_names import NoSuchVariantError
from actors.progress import readable_size
from actors.terminal import complain, say

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> int:
    """Remove a downloaded model; return the exit status."""
    config = read_sound(options)
    hub_name, _, _ = look_up(config, options.name)
    try:
        freed = cache_of(config.hub).remove(hub_name)
    except (NoSuchVariantError, OSError) as error:
        complain(f"{hub_name}: {error}")
        return 1
    say(f"{readable_size(freed)} freed")
    return 0
