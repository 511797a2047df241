"""What is told of a model's file."""

import json
from pathlib import Path

from actors.hub.cache import ModelFiles
from proxy.model_cards import read_card
from tests.gguf_files import write


def test_numbers_that_json_has_not(tmp_path: Path) -> None:
    metadata = {"llama.a": float("nan"), "llama.b": float("inf"), "llama.embedding_length": "wide"}
    card = read_card(ModelFiles(path=write(tmp_path / "m.gguf", metadata)))
    assert (card.info["llama.a"], card.info["llama.b"]) == (None, None)
    assert card.details["embedding_length"] == 0
    json.dumps([card.info, card.details], allow_nan=False)
