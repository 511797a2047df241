"""A model in OpenAI's list."""

import pytest

from proxy.apis.fields import Json
from proxy.apis.openai.models import Entry, encode_model

PLAIN: Json = {
    "id": "m",
    "object": "model",
    "created": 5,
    "owned_by": "me",
    "aliases": [],
    "status": {"value": "unloaded"},
}


def test_unknown_facts_are_left_out() -> None:
    assert encode_model(Entry(name="m", created=5, owner="me")) == PLAIN


def test_all_facts() -> None:
    entry = Entry(
        name="m",
        created=5,
        owner="me",
        status="loaded",
        failed=True,
        aliases=("a",),
        parent="base",
        description="writes",
        context=4096,
        trained_context=8192,
        parameters=7,
        width=3,
        size=9,
        quantization="Q4_K_M",
        capabilities=("completion", "vision", "audio", "tools"),
    )
    assert encode_model(entry) == {
        **PLAIN,
        "aliases": ["a"],
        "status": {"value": "loaded", "failed": True},
        "parent": "base",
        "description": "writes",
        "context_length": 4096,
        "max_model_len": 4096,
        "capabilities": ["completion", "vision", "audio", "tools"],
        "architecture": {"input_modalities": ["text", "image", "audio"], "output_modalities": ["text"]},
        "quantization": "Q4_K_M",
        "meta": {"n_ctx_train": 8192, "n_params": 7, "n_embd": 3, "size": 9},
    }


@pytest.mark.parametrize(("capability", "output"), [("embedding", "embeddings"), ("rerank", "scores")])
def test_models_that_do_not_write(capability: str, output: str) -> None:
    told = encode_model(Entry(name="m", created=5, owner="me", capabilities=(capability,)))
    assert told["architecture"] == {"input_modalities": ["text"], "output_modalities": [output]}
