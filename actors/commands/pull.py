"""`run.py pull`: download a model from the hub, in a terminal."""

import argparse
import asyncio
from typing import Any

from tqdm import tqdm

from actors.commands.effective_config import read_sound
from actors.commands.hub_names import add_arguments, look_up
from actors.config.schema import Config
from actors.hub.download import HubError, download_session
from actors.hub.hub import Hub
from actors.progress import Progress
from actors.terminal import INTERRUPTED, complain, say

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> int:
    """Download a model, or the files that changed, with a progress bar; return the exit status."""
    return asyncio.run(_pull(read_sound(options), options.name))


async def _pull(config: Config, name: str) -> int:
    hub_name, revision, projector = look_up(config, name)
    async with download_session() as session:
        hub = Hub(config.hub, session)
        bar: tqdm[Any] = tqdm(
            unit="B", unit_scale=True, unit_divisor=1000, desc=str(hub_name), total=0, disable=None
        )
        with bar:

            def on_progress(progress: Progress) -> None:
                bar.total = progress.total
                bar.update(progress.have - bar.n)

            try:
                files = await hub.find(
                    hub_name, revision=revision, projector=projector, refresh=True, on_progress=on_progress
                )
            except HubError as error:
                bar.leave = False
                complain(str(error))
                return 1
            except asyncio.CancelledError:
                complain("interrupted; what has arrived is kept")
                return INTERRUPTED
    say(str(files.path))
    return 0
