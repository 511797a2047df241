"""Reads the files that a model's arguments name: draft models, adapters, a projector. Blocking.

A file that is not there may be inside of a container, so it is no error, but nothing is known of its size.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from actors.hub.cache import ModelFiles
from actors.memory.flags import adapters, draft_flags, last_of
from actors.memory.gguf import Header, HeaderError, read_model
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape
from actors.placement.options import Draft, Projector


def projector_header(files: ModelFiles, arguments: Sequence[str]) -> Header | None:
    """Return the header of the model's projector, which may be named in its arguments; None without one."""
    named = last_of(arguments, "-mm", "--mmproj")
    path = files.projector or (Path(named[1]) if named is not None else None)
    return None if path is None or (path != files.projector and not path.is_file()) else read_model(path)


def draft_of(arguments: Sequence[str]) -> Draft | None:
    """Return the draft model in a model's arguments. Raises `ValueError` if its file is no model."""
    flags = draft_flags(arguments)
    if flags.model is None or not Path(flags.model).is_file():
        return None
    settings = LoadSettings(
        type_k=flags.type_k, type_v=flags.type_v, gpu_layers=flags.gpu_layers, overrides=flags.overrides
    )
    try:
        return Draft(shape=Shape(read_model(Path(flags.model))), settings=settings)
    except HeaderError as error:
        raise ValueError(f"the draft model {flags.model} {error}") from error


def with_adapters(projector: Projector, arguments: Sequence[str]) -> Projector:
    """Add the files of adapters and control vectors, which lie beside the weights on GPUs."""
    size = sum(Path(name).stat().st_size for name in adapters(arguments) if Path(name).is_file())
    device = msgspec.structs.replace(projector.device, weights=projector.device.weights + size)
    return msgspec.structs.replace(projector, device=device) if size else projector


def missing(arguments: Sequence[str]) -> list[str]:
    """Return the named files that are not there."""
    return [name for name in _named(arguments) if not Path(name).is_file()]


def identity(arguments: Sequence[str]) -> str:
    """Return an identity of the contents of the named files; empty without any."""
    found = [(Path(name).resolve(), Path(name).stat()) for name in _named(arguments) if Path(name).is_file()]
    return " ".join(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in found)


def _named(arguments: Sequence[str]) -> Iterator[str]:
    if (draft := draft_flags(arguments).model) is not None:
        yield draft
    if (projector := last_of(arguments, "-mm", "--mmproj")) is not None:
        yield projector[1]
    yield from adapters(arguments)
