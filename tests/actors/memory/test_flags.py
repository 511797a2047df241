"""llama-server's flags, as llama.cpp reads them, and what it refuses."""

import re
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.memory.flags import (
    CACHE_TYPES,
    EXPERTS,
    LAYER_FLAGS,
    ProjectorFlags,
    check,
    is_given,
    projector_flags,
    settings_of,
    without,
)
from actors.memory.graph.work import on_gpu
from actors.memory.prediction.predict import predict
from actors.memory.prediction.results import HOST
from actors.memory.prediction.settings import LoadSettings
from actors.memory.shape import Shape
from tests.actors.memory.zoo import MODELS, model

GATEWAY = LoadSettings(context=8192, parallel=4, unified=True)
"""What the gateway passes itself."""


def read(*words: str, context: int = 8192, parallel: int = 4) -> LoadSettings:
    return settings_of(words, context=context, parallel=parallel)


def changed(name: str, **metadata: Any) -> Shape:
    header = model(name)
    more = {f"{header.architecture}.{key.replace('__', '.')}": value for key, value in metadata.items()}
    return Shape(msgspec.structs.replace(header, metadata={**header.metadata, **more}))


def test_without_flags_it_is_what_the_gateway_passes() -> None:
    assert read() == GATEWAY
    assert read(parallel=1) == LoadSettings(context=8192, parallel=1, unified=False)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-c 4096", {"context": 4096}),
        ("--ctx-size 0", {"context": 0}),
        ("--ctx_size 512", {"context": 512}),
        ("--ctx-size=512", {"context": 512}),
        ("-c 1 -c 2 --ctx-size 3", {"context": 3}),
        ("-np 2", {"parallel": 2}),
        ("-np 1", {"parallel": 1}),
        ("-np -1", {"parallel": 4}),
        ("-no-kvu", {"unified": False}),
        ("--no-kv-unified -kvu", {}),
        ("-ctk q8_0 --cache-type-v bf16", {"type_k": "Q8_0", "type_v": "BF16"}),
        ("-fa off", {"flash_attention": False}),
        ("-fa 0", {"flash_attention": False}),
        ("--flash-attn disabled --flash-attn auto", {}),
        ("-ub 256 -b 1024", {"micro_batch": 256, "batch": 1024}),
        ("--swa-full", {"full_window": True}),
        ("-nkvo", {"offload_kv": False}),
        ("--no-kv-offload --kv-offload", {"offload_kv": True}),
        ("-ngl 12", {"gpu_layers": 12}),
        ("--n-gpu-layers 12 --gpu-layers all", {"gpu_layers": None}),
        ("-ngl auto", {}),
        ("-ngl -1", {}),
        ("-dev none", {"gpu_layers": 0}),
        ("--device CUDA0,CUDA1", {}),
        ("-sm none -mg 1", {"split": False, "main_gpu": 1}),
        ("-sm none --split-mode layer", {}),
        ("-ts 3,1", {"tensor_split": (3.0, 1.0)}),
        ("--tensor-split 0.5/0.5", {"tensor_split": (0.5, 0.5)}),
        ("-ts 0,0", {}),
        ("-ot exps=CPU", {"overrides": "exps"}),
        ("-ot a=CPU,b=CUDA0 --override-tensor c=CPU", {"overrides": "a|c"}),
        ("-ot a=CUDA1", {}),
        ("-cmoe", {"overrides": EXPERTS}),
        ("--cpu-moe -ot a=CPU", {"overrides": "a|" + EXPERTS}),
        ("-ncmoe 2", {"overrides": r"blk\.(0|1)" + EXPERTS}),
        ("--n-cpu-moe 0", {}),
        ("--n-cpu-ffn 1", {"overrides": r"blk\.(0)\.ffn_(up|down|gate)\."}),
        ("--embeddings", {"outputs": 0}),
        ("--pooling mean", {"outputs": 0}),
        ("--pooling none", {}),
        ("--threads 8 --alias x -c 2048 --jinja", {"context": 2048}),
    ],
)
def test_flags(words: str, expected: dict[str, Any]) -> None:
    assert read(*words.split()) == msgspec.structs.replace(GATEWAY, **expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-c many", "-c: expected a number, 0 or more, got 'many'"),
        ("-c -5", "-c: expected a number, 0 or more, got '-5'"),
        ("--ctx-size 99999999999", "--ctx-size: expected a number"),
        ("--ctx-size", "--ctx-size: expected a value"),
        ("-np 0", "-np: expected a number, 1 or more"),
        ("-ctk q9", "-ctk: 'q9' is no type of a cache; such are f32, f16, bf16, q8_0"),
        ("-ctv Q8_0", "-ctv: 'Q8_0' is no type of a cache"),
        ("-fa maybe", "-fa: expected on, off or auto, got 'maybe'"),
        ("-ngl most", "-ngl: expected a number"),
        ("-sm diagonal", "-sm: expected none, layer, row or tensor"),
        ("-ts 1,x", "-ts: expected numbers with commas between"),
        ("-ts 1,-1", "-ts: expected numbers with commas between"),
        ("-ot exps", "-ot: expected PATTERN=BUFFER, got 'exps'"),
        ("-ot (=CPU", "-ot: '(' is no pattern"),
        ("-ncmoe -1", "-ncmoe: expected a number, 0 or more"),
    ],
)
def test_wrong_values_name_their_flag(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read(*words.split())


def test_experts_of_the_first_layers_are_on_the_host() -> None:
    shape = Shape(model("qwen3moe-30b"))
    some, every = (predict(shape, read(*words.split()), [1]) for words in ("-ncmoe 11", "-cmoe"))
    experts = [
        sum(on_gpu(tensor) for name, tensor in block.items() if "exps" in name) for block in shape.blocks
    ]
    whole = predict(shape, read(), [1]).gpus[0].weights
    assert some.gpus[0].weights == whole - sum(experts[:11])
    assert every.gpus[0].weights == whole - sum(experts)
    assert HOST not in every.layers


@given(
    st.lists(st.text(max_size=6) | st.sampled_from(["-c", "-np", "--ctx-size", "7", "-ot", "a=CPU", "-fa"]))
)
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    with suppress(ValueError):
        settings = read(*words)
        assert settings.parallel >= 1
        assert settings.context >= 0


def test_projector_flags() -> None:
    assert projector_flags([]) == ProjectorFlags()
    words = ["--image-max-tokens", "1024", "--no-mmproj-offload", "--mtmd-batch-max-tokens", "0", "-c", "5"]
    expected = ProjectorFlags(image_max_tokens=1024, batch_tokens=0, on_gpu=False)
    assert projector_flags(words) == expected
    with pytest.raises(ValueError, match="--image-max-tokens: expected a number, 1 or more"):
        projector_flags(["--image-max-tokens", "0"])


def test_without_some() -> None:
    words = ["-t", "8", "-ngl", "20", "--gpu-layers=9", "-ngl=7", "--n_gpu_layers", "all", "--mlock", "-ngl"]
    assert without(words, *LAYER_FLAGS) == ["-t", "8", "--mlock"]


def test_which_are_given() -> None:
    assert is_given(["--ctx_size=5"], "-c", "--ctx-size")
    assert not is_given(["--ctx-sizes", "5"], "-c", "--ctx-size")


# What llama.cpp refuses


@pytest.mark.parametrize("name", sorted(MODELS))
def test_ordinary_settings_pass(name: str) -> None:
    shape = Shape(model(name))
    check(shape, GATEWAY)
    check(shape, msgspec.structs.replace(GATEWAY, type_k="BF16", type_v="BF16"))


@pytest.mark.parametrize(
    ("name", "metadata", "settings", "message"),
    [
        ("qwen3-8b", {}, {"parallel": 257}, "257 slots are more than llama.cpp's 256"),
        ("qwen3-8b", {}, {"batch": 0, "micro_batch": 0}, "cannot both be 0"),
        ("qwen3-8b", {}, {"type_k": "Q4_K"}, "--cache-type-k: 'q4_k' is no type of a cache"),
        (
            "qwen3-8b",
            {"attention__key_length": 80},
            {"type_k": "Q8_0"},
            "--cache-type-k q8_0 has blocks of 32, which do not divide the model's heads of 80",
        ),
        (
            "qwen3-8b",
            {"attention__value_length": 80},
            {"type_v": "Q5_1"},
            "--cache-type-v q5_1 has blocks of 32, which do not divide the model's heads of 80",
        ),
        (
            "qwen3-8b",
            {"attention__key_length": 80, "attention__head_count_kv": 3},
            {"type_k": "Q8_0", "flash_attention": False},
            "which do not divide the model's rows of 240",
        ),
        (
            "qwen3-8b",
            {},
            {"type_v": "Q8_0", "flash_attention": False},
            "--cache-type-v q8_0 needs flash attention, which is off",
        ),
        ("dsv2-lite", {}, {"type_k": "Q8_0"}, "--cache-type-k and --cache-type-v must be the same"),
    ],
)
def test_what_is_refused(name: str, metadata: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check(changed(name, **metadata), msgspec.structs.replace(GATEWAY, **settings))


@pytest.mark.parametrize(
    ("name", "metadata", "settings"),
    [
        # Without flash attention whole rows must consist of blocks, and 4 heads of 80 do.
        (
            "qwen3-8b",
            {"attention__key_length": 80, "attention__head_count_kv": 4},
            {"type_k": "Q8_0", "flash_attention": False},
        ),
        ("mamba-2.8b", {}, {"type_k": "Q8_0", "type_v": "Q8_0"}),
        ("dsv2-lite", {}, {"type_k": "Q8_0", "type_v": "Q8_0"}),
        ("qwen3-8b", {}, {"parallel": 256, "context": 256}),
    ],
)
def test_what_passes(name: str, metadata: dict[str, Any], settings: dict[str, Any]) -> None:
    check(changed(name, **metadata), msgspec.structs.replace(GATEWAY, **settings))


@pytest.mark.parametrize("kind", CACHE_TYPES)
def test_every_type_can_be_predicted(kind: str) -> None:
    settings = read("-ctk", kind, "-ctv", kind)
    shape = Shape(model("qwen3-0.6b"))
    check(shape, settings)
    assert predict(shape, settings, [1]).gpus[0].kv > 0
