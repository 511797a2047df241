"""Models that give vectors, against what llama.cpp allocated for them."""

import msgspec
import pytest

from actors.memory.prediction.predict import predict
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import ENCODERS, Shape
from tests.actors.memory.headers import MIB, header, loads, names, predicted, shape

EMBEDDERS = [name for name in names() if "pooling_type" in " ".join(header(name).metadata)]


@pytest.mark.parametrize("name", EMBEDDERS)
def test_whole_it_is_exact(name: str) -> None:
    found = [load for load in loads() if load.model == name and load.is_whole]
    assert len(found) >= 5
    for load in found:
        answer = predicted(load)
        assert answer.certainty == "exact"
        for ours, (weights, kv, compute) in zip(answer.gpus, load.loaded, strict=True):
            assert (ours.weights, ours.kv) == (weights, kv), load
            assert abs(ours.compute - compute) <= 0.0005 * compute, load


def test_partly_offloaded_is_a_bound() -> None:
    found = [load for load in loads() if load.model in EMBEDDERS and not load.is_whole]
    assert len(found) >= 20
    for load in found:
        answer = predicted(load)
        assert answer.certainty == "bound"
        (usage,), (loaded,) = answer.gpus, load.loaded
        assert -0.001 * sum(loaded) < usage.total - sum(loaded) < max(0.12 * sum(loaded), 16 * MIB), load


def test_an_encoder_has_no_cache_and_only_some_a_head() -> None:
    for name in EMBEDDERS:
        known = shape(name)
        answer = predict(known, LoadSettings(context=2048, pooling="mean"), [1])
        assert (answer.gpus[0].kv == 0) == (known.architecture in ENCODERS)
    assert {shape(name).architecture for name in EMBEDDERS if not shape(name).writes} == {
        "bert", "eurobert", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "nomic-bert",
        "nomic-bert-moe",
    }  # fmt: skip


def test_bge_m3_reads_8192_tokens_on_a_small_card() -> None:
    settings = LoadSettings(
        context=8192, parallel=4, unified=True, pooling="cls", outputs=0, input_limit=8192
    )
    answer = predict(shape("bge-m3-q8"), settings, [1])
    assert answer.gpus[0].total < 640 * MIB
    assert settings.whole_batch == 8192


def test_a_row_of_the_vocabulary_for_each_token_of_a_text() -> None:
    """Measured with a vocabulary of 100,000: 8,002 tokens made a server larger by 3.2 GB, for good."""
    known = shape("bge-m3")
    row = 4 * (known.vocabulary + known.width)
    whole = LoadSettings(context=8192, parallel=4, unified=True, pooling="cls", outputs=0, input_limit=8192)
    in_parts = LoadSettings(context=8192, pooling="last", outputs=0)
    assert predict(known, whole, [1]).host.output == predict(known, whole, []).host.output == 8192 * row
    assert predict(known, in_parts, [1]).host.output == 512 * row
    assert predict(known, LoadSettings(parallel=3), [1]).host.output == 3 * 4 * known.vocabulary


@pytest.mark.parametrize(("flash", "same_as"), [(None, False), (True, True)])
def test_heads_for_which_gpus_have_no_flash_attention(flash: bool | None, same_as: bool) -> None:
    settings = LoadSettings(context=512, batch=512, pooling="cls", flash_attention=flash)
    explicit = msgspec.structs.replace(settings, flash_attention=same_as)
    known = shape("bge-small")
    assert predict(known, settings, [1]) == predict(known, explicit, [1])
    on_host = predict(known, msgspec.structs.replace(settings, flash_attention=True), [])
    assert predict(known, msgspec.structs.replace(settings, flash_attention=None), []) == on_host


def test_a_text_that_has_to_fit_into_one_micro_batch() -> None:
    known: Shape = shape("bge-m3")
    settings = LoadSettings(context=4096, parallel=2, unified=True, pooling="cls", input_limit=8192)
    by_hand = LoadSettings(
        context=4096, parallel=2, unified=True, pooling="cls", batch=4096, micro_batch=4096
    )
    assert predict(known, settings, [1]) == predict(known, by_hand, [1])
    shrunk = msgspec.structs.replace(settings, context=1024)
    assert shrunk.whole_batch == 1024
    assert msgspec.structs.replace(settings, unified=False).whole_batch == 2048
