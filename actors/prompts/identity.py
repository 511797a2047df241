"""Which saved prompts a server may use: those of the same file, build, cache, adapters and template."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from actors.memory.flags import without
from actors.model_names import part_names

SAMPLES = 64
SAMPLE_BYTES = 64 << 10
"""Of a large file so many samples of so many bytes are read, spread evenly, besides its size and time."""

ELSEWHERE = (
    "--alias",
    "-a",
    "--host",
    "--port",
    "--api-key",
    "--api-key-file",
    "--model",
    "-m",
    "--mmproj",
    "-mm",
    "--ctx-size",
    "-c",
    "--parallel",
    "-np",
    "--gpu-layers",
    "--n-gpu-layers",
    "-ngl",
    "--tensor-split",
    "-ts",
    "--main-gpu",
    "-mg",
    "--override-tensor",
    "-ot",
    "--fit",
    "-fit",
    "--threads",
    "-t",
    "--threads-batch",
    "-tb",
    "--threads-http",
    "--timeout",
    "-to",
    "--cache-ram",
    "-cram",
    "--ctx-checkpoints",
    "-ctxcp",
    "--slot-save-path",
    "--slot-prompt-similarity",
    "-sps",
    "--log-verbosity",
    "--verbosity",
    "-lv",
)
"""Flags with a value that does not change what a token is in the cache: names, places, sizes of other things.

The model and its projector are looked at as files.
"""


class Cache(msgspec.Struct, frozen=True):
    """The cache of a server, of which prompts can be saved.

    `identity` is the same for the servers that can use each other's; empty if none are saved. `weight`: bytes
    of a token, about; 0 if unknown. `isolated`: no key uses what another one's requests have left.
    """

    identity: str
    weight: float = 0.0
    isolated: bool = False


def cache_identity(build: str, arguments: Sequence[str], files: Iterable[Path]) -> str:
    """Return a digest of all that decides what a token is in a server's cache, in hex. Blocking.

    `arguments` are the server's flags without its program. Raises `OSError` if a file cannot be read.
    """
    told = without(arguments, *ELSEWHERE)
    named = [Path(word.rpartition("=")[2]) for word in told]
    state = hashlib.sha256()
    for word in (build, *told):
        state.update(word.encode("utf-8", "surrogateescape") + b"\0")
    # An adapter, a control vector or a template is named by an argument.
    parts = [file.with_name(name) for file in files for name in part_names(file.name)]
    for file in (*parts, *(path for path in named if _is_file(path))):
        state.update(_digest(file))
    return state.hexdigest()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or with a null byte
        return False


def _digest(path: Path) -> bytes:
    """Return a digest of a file: its size, its time of change, and all of it or samples."""
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        state = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
        if stat.st_size <= SAMPLES * SAMPLE_BYTES:
            state.update(file.read(SAMPLES * SAMPLE_BYTES))
        else:
            for nth in range(SAMPLES):
                file.seek((stat.st_size - SAMPLE_BYTES) * nth // (SAMPLES - 1))
                state.update(file.read(SAMPLE_BYTES))
    return state.digest()
