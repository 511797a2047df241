"""What is told of a model's file."""

import json
from pathlib import Path
from typing import Any

import pytest

from actors.config.schema import Model
from actors.hub.cache import ModelFiles
from proxy.model_cards import ModelFacts, facts_of_card, read_card
from tests.gguf_files import write


def test_numbers_that_json_has_not(tmp_path: Path) -> None:
    metadata = {"llama.a": float("nan"), "llama.b": float("inf"), "llama.embedding_length": "wide"}
    card = read_card(ModelFiles(path=write(tmp_path / "m.gguf", metadata)))
    assert (card.info["llama.a"], card.info["llama.b"]) == (None, None)
    assert card.details["embedding_length"] == 0
    json.dumps([card.info, card.details], allow_nan=False)


TRAINED = {"llama.context_length": 4096, "llama.embedding_length": 256, "general.file_type": 7}


@pytest.mark.parametrize(
    ("settings", "arguments", "context"),
    [
        ({}, [], 4096),
        ({"ctx_size": 1024}, [], 1024),
        ({"ctx_size": 8192}, [], 4096),
        ({"ctx_size": 8192, "longer_context": True}, [], 8192),
        ({"ctx_size": 4096, "arguments": ["--no-kv-unified"]}, [], 1024),
        ({}, ["--ctx-size", "2048"], 2048),
        ({"ctx_size": 100_000}, [], None),
    ],
)
def test_the_context_of_one_request_by_the_settings(
    settings: dict[str, Any], arguments: list[str], context: int | None, tmp_path: Path
) -> None:
    files = ModelFiles(path=write(tmp_path / "m.gguf", TRAINED))
    card = read_card(files, Model(path="m.gguf", **settings), arguments)
    facts = facts_of_card(card)
    assert (facts.context, facts.trained_context, facts.width) == (context, 4096, 256)
    assert facts.size


def test_what_a_model_can_do(tmp_path: Path) -> None:
    template = "{{ tools }} <think>"
    chat = write(tmp_path / "chat.gguf", {**TRAINED, "tokenizer.chat_template": template})
    eyes = write(tmp_path / "eyes.gguf", {"clip.has_vision_encoder": True}, architecture="clip")
    ears = {"clip.has_vision_encoder": False, "clip.has_audio_encoder": True}
    hears = write(tmp_path / "ears.gguf", ears, architecture="clip")
    rank = write(tmp_path / "rank.gguf", {**TRAINED, "llama.pooling_type": 4})

    def told(path: Path, projector: Path | None = None, model: Model | None = None) -> tuple[str, ...]:
        return read_card(ModelFiles(path=path, projector=projector), model).capabilities

    assert told(chat) == ("completion", "tools", "thinking")
    assert told(chat, eyes) == ("completion", "vision", "tools", "thinking")
    assert told(chat, hears) == ("completion", "audio", "tools", "thinking")
    assert told(chat, model=Model(embeddings=True)) == ("embedding",)
    assert told(chat, model=Model(reranking=True)) == ("rerank",)
    assert told(chat, model=Model(arguments=["--embeddings"])) == ("embedding",)
    assert told(rank) == ("rerank",)
    assert facts_of_card(read_card(ModelFiles(path=tmp_path / "none.gguf"))) == ModelFacts()
