"""`run.py models`: the models on the disk."""

import argparse
from pathlib import Path

from actors.commands.effective_config import read_sound
from actors.config.schema import BUILTIN
from actors.hub.cache import cache_of
from actors.memory.gguf import HeaderError, read_model
from actors.progress import readable_size
from actors.terminal import printable, say


def run(options: argparse.Namespace) -> int:
    """Print the models that are configured or downloaded, with what their headers say.

    Return the exit status: 1 if a file cannot be read.
    """
    config = read_sound(options)
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
