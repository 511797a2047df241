"""Facts of a model's file, in the terms of Ollama's API."""

import functools
import hashlib
import math
from pathlib import Path
from typing import Any

import msgspec

from actors.hub.cache import ModelFiles
from actors.memory.gguf import Header, HeaderError, read_metadata, read_model
from actors.memory.purpose import purpose_of

Json = dict[str, Any]


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """One model file; `size` in bytes, `modified_at` in seconds since the epoch."""

    size: int = 0
    modified_at: float = 0.0
    details: Json = {}
    info: Json = {}
    projector: Json = {}
    """The header of its projector, if it has one."""
    template: str = ""
    capabilities: tuple[str, ...] = ()


def read_card(files: ModelFiles, *, embeds: bool | None = None, ranks: bool | None = None) -> ModelCard:
    """Read a model's header. Blocking. An unreadable file has an empty card."""
    try:
        return _read(files.path, files.projector, files.path.stat().st_mtime, embeds=embeds, ranks=ranks)
    except (HeaderError, OSError):
        return ModelCard()


@functools.lru_cache(maxsize=512)
def _read(
    path: Path, projector: Path | None, modified_at: float, *, embeds: bool | None, ranks: bool | None
) -> ModelCard:
    header = read_model(path)
    template = header.chat_template or ""
    purpose = purpose_of(header, (), embeds=embeds, ranks=ranks)
    return ModelCard(
        size=header.size,
        modified_at=modified_at,
        details=_details(header),
        info=_info(header),
        projector=_info(read_model(projector)) if projector is not None else {},
        template=template,
        capabilities=("embedding",)
        if purpose.pooling is not None
        else tuple(_capabilities(header, template, vision=projector is not None)),
    )


def read_verbose(files: ModelFiles) -> Json:
    """Read `model_info` with all arrays, and `tensors`; nothing of a file that cannot be read. Blocking."""
    try:
        header, metadata = read_model(files.path), read_metadata(files.path)
    except (HeaderError, OSError):
        return {}
    metadata.pop("tokenizer.chat_template", None)
    tensors = [{"name": one.name, "type": one.type, "shape": one.shape} for one in header.tensors]
    return {"model_info": {**metadata, "general.parameter_count": header.parameters}, "tensors": tensors}


def _details(header: Header) -> Json:
    family = header.architecture or ""
    width = header.metadata.get(f"{family}.embedding_length")
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": human_number(header.parameters),
        "quantization_level": header.quantization or "",
        "context_length": header.context_length or 0,
        "embedding_length": width if isinstance(width, int) else 0,
    }


def _info(header: Header) -> Json:
    """The header's keys and values; arrays are null, as they are without `verbose`, and what JSON has not."""
    scalars = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in header.metadata.items()
        if isinstance(value, str | int | float)
    }
    scalars.pop("tokenizer.chat_template", None)
    arrays = dict.fromkeys(header.lengths)
    return {**arrays, **scalars, "general.parameter_count": header.parameters}


def _capabilities(header: Header, template: str, *, vision: bool) -> list[str]:
    found = ["completion"]
    if vision:
        found.append("vision")
    if "tools" in template:
        found.append("tools")
    if "tokenizer.ggml.fim_pre_token_id" in header.metadata or (
        "tokenizer.ggml.prefix_token_id" in header.metadata
    ):
        found.append("insert")
    if any(word in template for word in ("<think>", "enable_thinking", "reasoning_content")):
        found.append("thinking")
    return found


def human_number(count: int) -> str:
    """Write a number of parameters as Ollama does: 7.6B, 1.63M."""
    for unit, letter, digits in ((1e9, "B", 1), (1e6, "M", 2), (1e3, "K", 0)):
        if count >= unit:
            value = count / unit
            return f"{value:.0f}{letter}" if value == int(value) else f"{value:.{digits}f}{letter}"
    return str(count)


def digest_of(name: str) -> str:
    """Return a digest by which clients distinguish models.

    It does not cover the content, which takes minutes.
    """
    return hashlib.sha256(name.encode()).hexdigest()
