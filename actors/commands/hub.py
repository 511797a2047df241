"""`run.py pull | models | rm`: the models on the disk, from a terminal."""

import asyncio
from pathlib import Path
from typing import Any

from tqdm import tqdm

from actors.config import BUILTIN, Config
from actors.hub.download import HubError, download_session
from actors.hub.hub import Hub, cache_of
from actors.memory.gguf import HeaderError, read_model
from actors.model_names import HubName, NoSuchVariantError, parse_name
from actors.progress import Progress, readable_size
from actors.terminal import INTERRUPTED, complain, printable, say


async def pull(config: Config, name: str) -> int:
    """Download a model, or what is new of it, with a progress bar; return the exit status."""
    hub_name, revision, projector = _look_up(config, name)
    if hub_name is None:
        return _complain(f"{name!r} is no model of a hub; expected org/repo or org/repo:variant")
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
                return _complain(str(error))
            except asyncio.CancelledError:
                complain("interrupted; what has arrived is kept")
                return INTERRUPTED
    say(str(files.path))
    return 0


def list_models(config: Config) -> int:
    """Print the models that are configured or downloaded, with what their headers say.

    Return the exit status: 1 if a file cannot be read.
    """
    rows = [("NAME", "SIZE", "QUANT", "CONTEXT", "ARCHITECTURE", "")]
    described: dict[Path, tuple[str, str, str, str, str]] = {}
    cache = cache_of(config.hub)
    for name, model in config.llama_cpp.models.items():
        if hub_name := model.hub_name:
            found = cache.find(hub_name, model.revision, model.mmproj)
            if found is None:
                rows.append((name, "-", "-", "-", "-", "not downloaded"))
                continue
            path = found.path
        elif model.path is None or model.path.startswith(BUILTIN):
            rows.append((name, "-", "-", "-", "-", "built in"))
            continue
        else:
            path = Path(model.path)
        described[path] = _describe(path)
        rows.append((name, *described[path]))
    for cached in cache.models():
        if cached.path not in described:
            described[cached.path] = _describe(cached.path)
            rows.append((str(cached.name), *described[cached.path]))
    shown = [tuple(map(printable, row)) for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    for row in shown:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    say(f"\n{readable_size(cache.size())} in {printable(str(cache.folder))}")
    return int(any(trouble for *_, trouble in described.values()))


def remove(config: Config, name: str) -> int:
    """Remove a downloaded model; return the exit status."""
    hub_name, _, _ = _look_up(config, name)
    if hub_name is None:
        return _complain(f"{name!r} is no model of a hub; expected org/repo or org/repo:variant")
    try:
        freed = cache_of(config.hub).remove(hub_name)
    except (NoSuchVariantError, OSError) as error:
        return _complain(f"{hub_name}: {error}")
    say(f"{readable_size(freed)} freed")
    return 0


def _look_up(config: Config, name: str) -> tuple[HubName | None, str, str | None]:
    """A configured model's name, or else a hub's: with its revision and projector."""
    if model := config.llama_cpp.find(name):
        return model.hub_name, model.revision, model.mmproj
    return parse_name(name), "main", None


def _describe(path: Path) -> tuple[str, str, str, str, str]:
    try:
        header = read_model(path)
    except (HeaderError, OSError) as error:
        return "-", "-", "-", "-", str(error)
    return (
        readable_size(header.size),
        header.quantization or "-",
        str(header.context_length or "-"),
        header.architecture or "-",
        "",
    )


def _complain(message: str) -> int:
    complain(message)
    return 1
