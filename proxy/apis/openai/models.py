"""Writes the list of models in OpenAI's form, with the fields that clients of other servers read there."""

from typing import Literal

import msgspec

from proxy.apis.fields import Json, present


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A model, or a preset or an alias of the model `parent`. None and empty fields: unknown.

    `created` is in seconds since the epoch, `context` the most tokens of one request, `trained_context` those
    that the model was made for, `width` the length of its vectors, `size` is in bytes.
    """

    name: str
    created: int
    owner: str
    status: Literal["loaded", "loading", "unloaded"] = "unloaded"
    failed: bool = False
    aliases: tuple[str, ...] = ()
    parent: str = ""
    description: str = ""
    context: int | None = None
    trained_context: int | None = None
    parameters: int | None = None
    width: int | None = None
    size: int | None = None
    quantization: str = ""
    capabilities: tuple[str, ...] = ()


def encode_model(entry: Entry) -> Json:
    """Return a model as the list of models shows it.

    `max_model_len` is vLLM's name, `context_length` and `architecture` are OpenRouter's, `status` and `meta`
    llama.cpp's, `capabilities` and `aliases` have the values of Ollama's and of llama.cpp's lists.
    """
    status: Json = {"value": entry.status}
    if entry.failed:
        status["failed"] = True
    return {
        "id": entry.name,
        "object": "model",
        "created": entry.created,
        "owned_by": entry.owner,
        "aliases": list(entry.aliases),
        "status": status,
        **present(
            parent=entry.parent,
            description=entry.description,
            context_length=entry.context,
            max_model_len=entry.context,
            capabilities=list(entry.capabilities),
            architecture=_modalities(entry.capabilities),
            quantization=entry.quantization,
            meta=present(
                n_ctx_train=entry.trained_context,
                n_params=entry.parameters,
                n_embd=entry.width,
                size=entry.size,
            ),
        ),
    }


def _modalities(capabilities: tuple[str, ...]) -> Json:
    if not capabilities:
        return {}
    inputs = ["text", *(kind for name, kind in _INPUTS.items() if name in capabilities)]
    outputs = [kind for name, kind in _OUTPUTS.items() if name in capabilities]
    return {"input_modalities": inputs, "output_modalities": outputs or ["text"]}


_INPUTS = {"vision": "image", "audio": "audio"}
_OUTPUTS = {"embedding": "embeddings", "rerank": "scores"}
