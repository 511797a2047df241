"""Draft models, adapters and projectors that a model's arguments name."""

from pathlib import Path

import pytest

from actors.hub.cache import ModelFiles
from actors.placement.options import Projector
from actors.servers.llama.companions import draft_of, identity, missing, projector_header, with_adapters
from tests import gguf_files

METADATA = {
    "llama.block_count": 1,
    "llama.embedding_length": 256,
    "llama.attention.head_count": 2,
    "llama.context_length": 4096,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tensors = (*gguf_files.SMALL, ("blk.0.attn_k.weight", (256, 256), gguf_files.Q8_0))
    return gguf_files.write(tmp_path / "draft.gguf", METADATA, tensors)


def test_a_draft_model(model: Path) -> None:
    words = ["--model-draft", str(model), "-ctkd", "q8_0", "-ngld", "1", "-cmoed", "-c", "512"]
    draft = draft_of(words)
    assert draft is not None
    assert draft.shape.layers == 1
    assert (draft.settings.type_k, draft.settings.type_v, draft.settings.gpu_layers) == ("Q8_0", "F16", 1)
    assert draft.settings.overrides is not None
    assert str(model.stat().st_mtime_ns) in identity(words)
    assert missing(words) == []


def test_files_inside_of_a_container_are_not_there() -> None:
    words = ["-md", "/models/draft.gguf", "-mm", "/models/mmproj.gguf", "--lora-scaled", "/a:0.5,/b:2"]
    assert draft_of(words) is None
    assert projector_header(ModelFiles(path=Path("model")), words) is None
    assert missing(words) == ["/models/draft.gguf", "/models/mmproj.gguf", "/a", "/b"]
    assert identity(words) == ""


def test_a_draft_model_that_is_none(tmp_path: Path) -> None:
    (odd := tmp_path / "odd.gguf").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"the draft model .*odd.gguf is not a GGUF file"):
        draft_of(["-md", str(odd)])


def test_adapters_take_what_their_files_are(tmp_path: Path) -> None:
    (adapter := tmp_path / "a.gguf").write_bytes(bytes(5000))
    (vector := tmp_path / "v.gguf").write_bytes(bytes(70))
    words = ["--lora", f"{adapter},{adapter}", "--control-vector-scaled", f"{vector}:1.5", "-c", "1"]
    assert with_adapters(Projector(), words).device.weights == 10_070
    assert with_adapters(Projector(), ["-c", "1"]) == Projector()


def test_a_projector_among_the_arguments(model: Path, tmp_path: Path) -> None:
    found = projector_header(ModelFiles(path=tmp_path / "model.gguf"), ["--mmproj", str(model)])
    assert found is not None
    assert found.architecture == "llama"
    assert projector_header(ModelFiles(path=model), []) is None
