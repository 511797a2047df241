"""Facts of a model's file, mostly in the terms of Ollama's API."""

import functools
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from actors.config.schema import Model
from actors.hub.cache import ModelFiles
from actors.memory.gguf import Header, HeaderError, read_metadata, read_model
from actors.memory.purpose import purpose_of
from actors.servers.llama.appraisal import request_context
from actors.servers.ollama.client import Tag

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
    context: int | None = None
    """The most tokens of one request by the model's settings; None: unknown."""


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What clients ask before they use a model. None and empty fields: unknown, as before a download.

    `context`: the most tokens of one request; `trained_context`: those that the model was made for. `width`:
    the length of its vectors. `size` is in bytes.
    """

    size: int | None = None
    parameters: int | None = None
    width: int | None = None
    quantization: str = ""
    context: int | None = None
    trained_context: int | None = None
    capabilities: tuple[str, ...] = ()


def facts_of_card(card: ModelCard) -> ModelFacts:
    """Return the facts of a file's header."""
    return ModelFacts(
        size=card.size or None,
        parameters=card.info.get("general.parameter_count"),
        width=card.details.get("embedding_length") or None,
        quantization=card.details.get("quantization_level", ""),
        context=card.context,
        trained_context=card.details.get("context_length") or None,
        capabilities=card.capabilities,
    )


def facts_of_tag(tag: Tag) -> ModelFacts:
    """Return the facts that a daemon lists."""
    return ModelFacts(
        size=tag.size or None,
        width=tag.details.embedding_length or None,
        quantization=tag.details.quantization_level,
        trained_context=tag.details.context_length or None,
        capabilities=tag.capabilities,
    )


def read_card(files: ModelFiles, model: Model | None = None, arguments: Sequence[str] = ()) -> ModelCard:
    """Read a model's header. Blocking. An unreadable file has an empty card.

    `arguments`: those of all llama.cpp models.
    """
    key = msgspec.json.encode((model or Model(), arguments))
    try:
        return _read(files.path, files.projector, files.path.stat().st_mtime, key)
    except (HeaderError, OSError):
        return ModelCard()


_decode_key = msgspec.json.Decoder(tuple[Model, list[str]]).decode


@functools.lru_cache(maxsize=512)
def _read(path: Path, projector: Path | None, modified_at: float, key: bytes) -> ModelCard:
    header, eyes = read_model(path), None if projector is None else read_model(projector)
    model, arguments = _decode_key(key)
    template = header.chat_template or ""
    try:
        context: int | None = request_context(model, header, arguments)
    except ValueError:  # requests to the model report the reason
        context = None
    return ModelCard(
        size=header.size,
        modified_at=modified_at,
        details=_details(header),
        info=_info(header),
        projector=_info(eyes) if eyes is not None else {},
        template=template,
        capabilities=_capabilities(header, model, [*arguments, *model.arguments], eyes),
        context=context,
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


def _capabilities(
    header: Header, model: Model, arguments: Sequence[str], projector: Header | None
) -> tuple[str, ...]:
    purpose = purpose_of(header, arguments, embeds=model.embeddings, ranks=model.reranking)
    if purpose.pooling is not None:
        return ("rerank",) if purpose.pooling == "rank" else ("embedding",)
    template = header.chat_template or ""
    found = ["completion"]
    if projector is not None:
        sees = projector.metadata.get("clip.has_vision_encoder") is not False
        hears = projector.metadata.get("clip.has_audio_encoder") is True
        found += ["vision"] * sees + ["audio"] * hears
    if "tools" in template:
        found.append("tools")
    if "tokenizer.ggml.fim_pre_token_id" in header.metadata or (
        "tokenizer.ggml.prefix_token_id" in header.metadata
    ):
        found.append("insert")
    if any(word in template for word in ("<think>", "enable_thinking", "reasoning_content")):
        found.append("thinking")
    return tuple(found)


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
