"""Projectors: predictions against what llama.cpp (build 11434) allocated on a pretended GPU, and limits."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.memory.gguf import Header
from actors.memory.projector import (
    MODELLED,
    TOKEN_LIMIT,
    needs_token_limit,
    predict_projector,
    projector_inputs,
)
from tests.actors.memory.zoo import Draft, model

MIB = 1 << 20
After = Iterable[tuple[str, tuple[int, ...]]]


def layers_of(
    draft: Draft, letter: str, count: int, width: int, inner: int, *, gate: bool, fused: bool, bias: bool
) -> None:
    """The layers of an encoder."""
    queries = {"attn_qkv": 3 * width} if fused else dict.fromkeys(["attn_q", "attn_k", "attn_v"], width)
    ups = {"ffn_up": inner, "ffn_gate": inner} if gate else {"ffn_up": inner}
    for layer in range(count):
        block = f"{letter}.blk.{layer}"
        draft.add_all(block, "F32", ln1__weight=(width,), ln2__weight=(width,))
        for part, size in {**queries, "attn_out": width, **ups}.items():
            draft.add(f"{block}.{part}.weight", "F16", width, size)
            if bias:
                draft.add(f"{block}.{part}.bias", "F32", size)
        draft.add(f"{block}.ffn_down.weight", "F16", inner, width)
        if bias:
            draft.add_all(block, "F32", ffn_down__bias=(width,), ln1__bias=(width,), ln2__bias=(width,))


def vision(
    kind: str,
    layers: int,
    width: int,
    inner: int,
    heads: int,
    patch: int,
    image: int,
    after: After = (),
    *,
    gate: bool = False,
    fused: bool = False,
    bias: bool = True,
    two_kernels: bool = False,
    positions: int | None = None,
    patch_bias: bool = True,
    last_norm: bool = True,
    deepstack: tuple[int, ...] = (),
    **metadata: Any,
) -> Header:
    """An encoder of images. `after`: names and shapes of what makes tokens of its output."""
    draft = Draft("clip", 0, 0)
    draft.set(has_vision_encoder=True, projector_type=kind, vision__block_count=layers)
    draft.set(vision__embedding_length=width, vision__attention__head_count=heads)
    draft.set(vision__image_size=image, vision__patch_size=patch, **metadata)
    for name in ("v.patch_embd.weight", "v.patch_embd.weight.1")[: 1 + two_kernels]:
        draft.add(name, "F16", patch, patch, 3, width)
    if patch_bias:
        draft.add("v.patch_embd.bias", "F32", width)
    if places := (image // patch) ** 2 if positions is None else positions:
        draft.add("v.position_embd.weight", "F16" if kind == "gemma3" else "F32", width, places)
    if last_norm:
        draft.add("v.post_ln.weight", "F32", width)
    if last_norm and bias and not gate:
        draft.add("v.post_ln.bias", "F32", width)
    layers_of(draft, "v", layers, width, inner, gate=gate, fused=fused, bias=bias)
    for layer in deepstack:
        block, merged, out = f"v.deepstack.{layer}", 4 * width, dict(after)["mm.2.weight"][1]
        draft.add_all(block, "F32", norm__weight=(merged,), norm__bias=(merged,))
        draft.add_all(block, "F16", fc1__weight=(merged, merged), fc2__weight=(merged, out))
        draft.add_all(block, "F32", fc1__bias=(merged,), fc2__bias=(out,))
    for name, shape in after:
        draft.add(name, "F16" if len(shape) > 1 else "F32", *shape)
    return draft.header()


def sound(kind: str, after: After) -> Header:
    """Whisper's encoder."""
    width, draft = 1280, Draft("clip", 0, 0)
    draft.set(has_audio_encoder=True, projector_type=kind, audio__block_count=32)
    draft.set(audio__embedding_length=width, audio__attention__head_count=20, audio__num_mel_bins=128)
    draft.add("a.conv1d.1.weight", "F16", 3, 128, width)
    draft.add("a.conv1d.2.weight", "F16", 3, width, width)
    draft.add("a.position_embd.weight", "F32", width, 1500)
    layers_of(draft, "a", 32, width, 5120, gate=False, fused=False, bias=True)
    for name, shape in after:
        draft.add(name, "F16" if len(shape) > 1 else "F32", *shape)
    return draft.header()


def two(first: int, second: int, width: int, inner: int, out: int) -> list[tuple[str, tuple[int, ...]]]:
    """Two matrices with their biases."""
    return [
        (f"mm.{first}.weight", (width, inner)),
        (f"mm.{first}.bias", (inner,)),
        (f"mm.{second}.weight", (inner, out)),
        (f"mm.{second}.bias", (out,)),
    ]


SIGLIP = (27, 1152, 4304, 16)
BREAK = ("v.token_embd.img_break", (5120,))
TOWERS: dict[str, Callable[[], Header]] = {
    "gemma3": lambda: vision("gemma3", *SIGLIP, 14, 896, [("mm.input_projection.weight", (2560, 1152))]),
    "qwen2.5vl": lambda: vision(
        "qwen2.5vl_merger", 32, 1280, 3420, 16, 14, 560, two(0, 2, 5120, 5120, 3584),
        gate=True, two_kernels=True, positions=0, patch_bias=False, vision__n_wa_pattern=8,
    ),
    "qwen2vl": lambda: vision(
        "qwen2vl_merger", 32, 1280, 5120, 16, 14, 560, two(0, 2, 5120, 5120, 3584),
        two_kernels=True, positions=0, patch_bias=False,
    ),
    "qwen3vl": lambda: vision(
        "qwen3vl_merger", *SIGLIP, 16, 768, two(0, 2, 4608, 4608, 4096),
        fused=True, two_kernels=True, deepstack=(8, 16, 24), vision__spatial_merge_size=2,
    ),
    "qwen3vl-2b": lambda: vision(
        "qwen3vl_merger", 24, 1024, 4096, 16, 16, 768, two(0, 2, 4096, 4096, 2048),
        fused=True, two_kernels=True, deepstack=(5, 11, 17), vision__spatial_merge_size=2,
    ),
    "pixtral": lambda: vision(
        "pixtral", 24, 1024, 4096, 16, 16, 1024, [*two(1, 2, 1024, 5120, 5120), BREAK],
        gate=True, bias=False, positions=0, patch_bias=False, last_norm=False,
    ),
    "mistral-small": lambda: vision(
        "pixtral", 24, 1024, 4096, 16, 14, 1540,
        [*two(1, 2, 1024, 5120, 5120), BREAK, ("mm.patch_merger.weight", (4096, 1024))],
        gate=True, bias=False, positions=0, patch_bias=False, vision__spatial_merge_size=2,
    ),
    "kimivl": lambda: vision(
        "kimivl", *SIGLIP, 14, 896, two(1, 2, 4608, 4608, 2048), vision__projector__scale_factor=2
    ),
    "glm4v": lambda: vision(
        "glm4v", 24, 1536, 4096, 12, 14, 336,
        [
            ("mm.up.weight", (4096, 13696)),
            ("mm.gate.weight", (4096, 13696)),
            ("mm.down.weight", (13696, 4096))
        ],
        gate=True, fused=True, two_kernels=True, vision__spatial_merge_size=2,
    ),
    "paddleocr": lambda: vision(
        "paddleocr", *SIGLIP, 14, 384, two(1, 2, 4608, 4608, 1024),
        vision__spatial_merge_size=2, vision__image_max_pixels=2822400,
    ),
    "gemma4": lambda: vision(
        "gemma4v", *SIGLIP, 16, 768, [("mm.input_projection.weight", (1152, 5376))],
        gate=True, bias=False, patch_bias=False, last_norm=False,
    ),
    "internvl": lambda: vision(
        "internvl", 24, 1024, 4096, 16, 14, 448, two(1, 3, 4096, 3584, 3584),
        vision__projector__scale_factor=2,
    ),
    "smolvlm": lambda: vision(
        "idefics3", *SIGLIP, 14, 384, [("mm.model.fc.weight", (10368, 2048))],
        vision__projector__scale_factor=3,
    ),
    "lfm2": lambda: vision(
        "lfm2", *SIGLIP, 16, 512, two(1, 2, 4608, 2560, 2048), vision__projector__scale_factor=2
    ),
    "hunyuan": lambda: vision(
        "hunyuanvl", *SIGLIP, 16, 2048,
        [
            ("mm.0.weight", (2, 2, 1152, 2304)),
            ("mm.2.weight", (2304, 4608)),
            ("mm.model.fc.weight", (4608, 1024)),
        ],
    ),
    "llama4": lambda: vision(
        "llama4", 34, 1408, 5632, 16, 14, 336,
        [("mm.model.mlp.1.weight", (5632, 4096)), ("mm.model.fc.weight", (4096, 5120))],
        vision__projector__scale_factor=2,
    ),
    "llava": lambda: vision("mlp", 24, 1024, 4096, 16, 14, 336, two(0, 2, 1024, 4096, 4096)),
    "qwen2a": lambda: sound("qwen2a", [("mm.a.fc.weight", (1280, 3584))]),
    "ultravox": lambda: sound(
        "ultravox", [("mm.a.mlp.1.weight", (10240, 4096)), ("mm.a.mlp.2.weight", (2048, 4096))]
    ),
    "voxtral": lambda: sound(
        "voxtral", [("mm.a.mlp.1.weight", (5120, 3072)), ("mm.a.mlp.2.weight", (3072, 3072))]
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "tokens", "flash", "plain", "host"),
    [
        # Compute buffers in MiB, with and without flash attention, and what the host had.
        ("gemma3", None, 121.25, 1132.00, 9.19),
        ("qwen2.5vl", 45**2, 657.61, None, 268.6),
        ("qwen2.5vl", 46**2, 704.79, 4871.57, 292.41),
        ("qwen2.5vl", None, 1893.03, 17845.03, 1061.03),
        ("qwen2vl", 46**2, 267.08, 4598.27, 19.11),
        ("qwen2vl", None, 517.00, 16821.00, 37.00),
        ("qwen3vl", 46**2, 372.08, 4769.39, 24.93),
        ("qwen3vl", None, 720.25, 17152.25, 48.25),
        ("qwen3vl-2b", 46**2, 322.49, 4728.07, 24.93),
        ("qwen3vl-2b", None, 624.25, 17072.25, 48.25),
        ("pixtral", 625, 40.17, 38.95, 1.84),
        ("pixtral", None, 65.63, 87.63, 3.01),
        ("mistral-small", None, 257.84, 1113.84, 32.00),
        ("kimivl", 256, 34.87, 88.80, 2.30),
        ("kimivl", None, 139.47, 1123.22, 9.22),
        ("glm4v", 46**2, 515.05, 3645.66, 19.11),
        ("glm4v", None, 997.00, 12997.00, 37.00),
        ("paddleocr", None, 490.43, 13005.18, 32.52),
        ("gemma4", 33**2, 640.75, 6107.16, 28.79),
        ("internvl", None, 112.11, 320.56, 9.19),
        ("smolvlm", None, 21.58, 45.25, 1.69),
        ("lfm2", None, 30.31, 82.00, 3.00),
        ("llava", None, 23.80, 32.88, 1.30),
        ("qwen2a", None, 51.27, 200.96, 1.46),
        ("ultravox", None, 51.27, 200.96, 1.46),
        ("voxtral", None, 51.27, 200.96, 1.46),
        ("hunyuan", 1024, 133.25, 1108.00, 30.0),
        ("llama4", None, None, 37.11, 1.3),
    ],
)
def test_compute_as_llama_cpp_had_it(
    name: str, tokens: int | None, flash: float | None, plain: float | None, host: float
) -> None:
    header = TOWERS[name]()
    for measured, flash_attention in ((flash, True), (plain, False)):
        if measured is not None:
            usage = predict_projector(header, image_max_tokens=tokens, flash_attention=flash_attention)
            assert 0.99 * measured <= usage.compute / MIB <= 1.38 * measured, (measured, flash_attention)
    assert 0.97 * host <= projector_inputs(header, image_max_tokens=tokens) / MIB <= 1.65 * host


@pytest.mark.parametrize(
    "name", ["gemma3", "qwen2.5vl", "qwen2vl", "qwen3vl", "kimivl", "glm4v", "paddleocr"]
)
def test_with_flash_attention_it_is_exact(name: str) -> None:
    exact = {
        "gemma3": 121.25, "qwen2.5vl": 1893.03, "qwen2vl": 517.00, "qwen3vl": 720.25, "kimivl": 139.47,
        "glm4v": 997.00, "paddleocr": 490.43,
    }  # fmt: skip
    usage = predict_projector(TOWERS[name](), image_max_tokens=None, flash_attention=True)
    assert usage.compute / MIB == pytest.approx(exact[name], abs=0.05)


@pytest.mark.parametrize(
    ("name", "measured"), [("gemma3", 801.5), ("qwen2.5vl", 1291.4), ("qwen3vl", 1105.3)]
)
def test_weights(name: str, measured: float) -> None:
    usage = predict_projector(TOWERS[name](), image_max_tokens=None, flash_attention=True)
    assert usage.weights / MIB == pytest.approx(measured, rel=0.001)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen2.5vl", True),
        ("qwen2vl", True),
        ("qwen3vl", True),
        ("glm4v", True),
        # llama.cpp's own limit of these is lower, so that a number would raise it.
        ("pixtral", False),
        ("kimivl", False),
        ("gemma4", False),
        ("lfm2", False),
        ("paddleocr", False),  # the file has it
        ("gemma3", False),
        ("hunyuan", True),
        ("internvl", False),
        ("llava", False),
        ("qwen2a", False),
    ],
)
def test_which_need_a_limit(name: str, expected: bool) -> None:
    header = TOWERS[name]()
    assert needs_token_limit(header) is expected
    limited, free = (
        predict_projector(header, image_max_tokens=tokens, flash_attention=True).compute
        for tokens in (TOKEN_LIMIT, None)
    )
    assert (limited < free) is expected


def test_with_the_limit_memory_does_not_grow_beyond_the_first_image() -> None:
    # The warm-up image has 2,116 tokens, or the largest square that the limit allows.
    for name, at_start in {"qwen2vl": 267.08, "qwen3vl": 372.08, "qwen2.5vl": 704.79}.items():
        usage = predict_projector(TOWERS[name](), image_max_tokens=TOKEN_LIMIT, flash_attention=True)
        assert usage.compute / MIB < at_start


@pytest.mark.parametrize(("tokens", "images"), [(None, 4), (1024, 4), (600, 2), (256, 1), (1, 1), (0, 1)])
def test_images_are_encoded_together(tokens: int | None, images: int) -> None:
    header = TOWERS["internvl"]()
    usage = predict_projector(header, image_max_tokens=None, flash_attention=True, batch_tokens=tokens)
    assert images * 28.03 * 0.99 <= usage.compute / MIB <= images * 28.03 * 1.25


def test_a_file_with_both_encoders_takes_both() -> None:
    eyes, ears = TOWERS["qwen2.5vl"](), TOWERS["qwen2a"]()
    metadata = {**eyes.metadata, **ears.metadata, "clip.projector_type": "qwen2.5o"}
    both = msgspec.structs.replace(eyes, metadata=metadata, tensors=eyes.tensors + ears.tensors)
    taken = predict_projector(both, image_max_tokens=2048, flash_attention=True)
    parts = [
        predict_projector(header, image_max_tokens=2048, flash_attention=True) for header in (eyes, ears)
    ]
    assert taken.weights == sum(part.weights for part in parts)
    assert sum(part.compute for part in parts) <= taken.compute <= 1.1 * sum(part.compute for part in parts)
    assert needs_token_limit(both)


@pytest.mark.parametrize("name", sorted(TOWERS))
def test_a_projector_that_nobody_knows_is_not_underestimated(name: str) -> None:
    header = TOWERS[name]()
    stranger = msgspec.structs.replace(
        header, metadata={**header.metadata, "clip.projector_type": "newcomer"}
    )
    known, unknown = (
        predict_projector(one, image_max_tokens=256, flash_attention=True) for one in (header, stranger)
    )
    assert unknown.weights == known.weights
    assert unknown.compute >= 0.99 * known.compute or name == "paddleocr", "which has the limit in its file"


@pytest.mark.parametrize("head", [88, 48])
def test_heads_for_which_cuda_has_no_flash_attention(head: int) -> None:
    header = vision("gemma3", 4, 16 * head, 4096, 16, 14, 896, [("mm.input_projection.weight", (2560, 1152))])
    usage, plain = (
        predict_projector(header, image_max_tokens=None, flash_attention=flash) for flash in (True, False)
    )
    assert usage == plain


def test_encoders_that_are_no_transformers() -> None:
    draft = Draft("clip", 0, 0)
    draft.set(has_vision_encoder=True, projector_type="gemma3nv", vision__block_count=128)
    draft.set(vision__embedding_length=2048, vision__attention__head_count=8)
    draft.set(vision__image_size=768, vision__patch_size=3)
    draft.add("v.conv_stem.conv.weight", "F16", 3, 3, 3, 64)
    usage = predict_projector(draft.header(), image_max_tokens=None, flash_attention=True)
    assert 240 <= usage.compute / MIB <= 300, "its first stages, by their shapes"
    draft = Draft("clip", 0, 0)
    draft.set(has_audio_encoder=True, projector_type="lfm2a", audio__block_count=17)
    draft.set(audio__embedding_length=512, audio__attention__head_count=8, audio__num_mel_bins=128)
    draft.add("a.conv2d.0.weight", "F16", 3, 3, 1, 256)
    layers_of(draft, "a", 17, 512, 2048, gate=False, fused=False, bias=True)
    usage = predict_projector(draft.header(), image_max_tokens=None, flash_attention=True)
    assert usage.compute / MIB > 3 * 256 * 1500 * 64 * 4 / MIB, "three results of its first convolution"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.architecture": "llama"}, r"is no projector of images or sound \(architecture 'llama'\)"),
        ({"clip.has_vision_encoder": False}, "is no projector"),
        ({"clip.vision.embedding_length": 0}, "vision encoder has no dimensions"),
        ({"clip.vision.attention.head_count": "many"}, "vision encoder has no dimensions"),
    ],
)
def test_what_is_no_projector(metadata: dict[str, Any], message: str) -> None:
    header = TOWERS["gemma3"]()
    changed = msgspec.structs.replace(header, metadata={**header.metadata, **metadata})
    with pytest.raises(ValueError, match=message):
        predict_projector(changed, image_max_tokens=None, flash_attention=True)
    with pytest.raises(ValueError, match="is no projector"):
        predict_projector(model("llama1b"), image_max_tokens=None, flash_attention=True)
    assert not needs_token_limit(model("llama1b"))


@given(
    name=st.sampled_from(sorted(TOWERS)),
    key=st.sampled_from(
        ["image_size", "patch_size", "spatial_merge_size", "block_count", "image_max_pixels"]
    ),
    value=st.integers(0, 1 << 32) | st.sampled_from(["", 1.5, True, (1, 2)]),
)
def test_no_header_breaks_it(name: str, key: str, value: Any) -> None:
    header = TOWERS[name]()
    odd = msgspec.structs.replace(header, metadata={**header.metadata, f"clip.vision.{key}": value})
    usage = predict_projector(odd, image_max_tokens=None, flash_attention=True)
    assert usage.compute > 0
    assert projector_inputs(odd, image_max_tokens=None) > 0


def test_all_that_are_modelled_are_known() -> None:
    kinds = {str(tower().metadata["clip.projector_type"]) for tower in TOWERS.values()}
    assert kinds - {"mlp"} == MODELLED
