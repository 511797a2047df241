"""Headers of well-known models, made from their dimensions: what a prediction reads, without a file.

Each of them was also written as a sparse GGUF file and loaded by llama.cpp (build 11434) on a pretended GPU
with CUDA's sizes; `prediction/golden.jsonl` has what it allocated: weights, cache and compute
buffer of each GPU.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

from actors.memory.gguf import Header, Tensor, block_of

Mix = Callable[[str, int, int], str]
LLAMA3, QWEN, GEMMA, LLAMA2, DEEPSEEK, GPT_OSS = 128256, 151936, 262144, 32000, 102400, 201088
SMALLER = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What llama-quantize takes where a row is no multiple of 256."""


def mix(kind: str) -> Mix:
    """Types as llama-quantize chooses them, by the part of the model, the layer and the number of layers."""

    def choose(part: str, layer: int = 0, layers: int = 1) -> str:
        if kind == "Q4_0":
            return "Q6_K" if part == "output" else "Q4_0"
        if kind != "Q4_K_M":
            return kind
        if part == "output":
            return "Q6_K"
        better = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        return "Q6_K" if part in ("attn_v", "ffn_down") and better else "Q4_K"

    return choose


class Draft:
    """A header in the making."""

    def __init__(self, architecture: str, layers: int, width: int, **metadata: Any) -> None:
        self.architecture = architecture
        self.metadata: dict[str, Any] = {"general.architecture": architecture}
        self.set(block_count=layers, embedding_length=width, **metadata)
        self.tensors: list[Tensor] = []

    def set(self, **metadata: Any) -> None:
        """Metadata of the architecture; `__` stands for a dot."""
        for key, value in metadata.items():
            self.metadata[f"{self.architecture}.{key.replace('__', '.')}"] = value

    def add(self, name: str, kind: str, *shape: int) -> None:
        """One tensor."""
        if shape[0] % block_of(kind)[0]:
            kind = SMALLER[kind] if shape[0] % 32 == 0 else "F16"
        block, size = block_of(kind)
        self.tensors.append(Tensor(name, shape, kind, 0, math.prod(shape) // block * size))

    def add_all(self, prefix: str, kind: str, **shapes: tuple[int, ...]) -> None:
        """Several tensors of one type; `__` stands for a dot."""
        for name, shape in shapes.items():
            self.add(f"{prefix}.{name.replace('__', '.')}", kind, *shape)

    def add_ends(self, types: Mix, width: int, vocabulary: int, *, tied: bool = False) -> None:
        """The embedding and the output; `tied`: they are one tensor."""
        self.add("token_embd.weight", types("output" if tied else "token_embd", 0, 1), width, vocabulary)
        self.add("output_norm.weight", "F32", width)
        if not tied:
            self.add("output.weight", types("output", 0, 1), width, vocabulary)

    def header(self) -> Header:
        return Header(
            version=3,
            size=sum(tensor.size for tensor in self.tensors),
            data_offset=0,
            metadata=self.metadata,
            lengths={},
            tensors=tuple(self.tensors),
        )


def transformer(  # noqa: C901, PLR0912 (one branch for each part that a family may have)
    architecture: str,
    layers: int,
    width: int,
    inner: int,
    heads: int,
    kv_heads: int,
    head: int,
    vocabulary: int,
    kind: str = "Q4_K_M",
    *,
    tied: bool = False,
    bias: bool = False,
    qk_norm: bool = False,
    post_norm: bool = False,
    frequencies: bool = False,
    window: int = 0,
    fused: bool = False,
    sinks: bool = False,
    experts: tuple[int, int, int] | None = None,
    expert_type: str | None = None,
    **metadata: Any,
) -> Header:
    """A transformer with attention in every layer; `experts`: how many, how many are used, their width."""
    types = mix(kind)
    draft = Draft(architecture, layers, width, feed_forward_length=inner, **metadata)
    draft.set(attention__head_count=heads, attention__head_count_kv=kv_heads)
    draft.set(attention__key_length=head, attention__value_length=head, rope__dimension_count=head)
    if window:
        draft.set(attention__sliding_window=window)
    draft.add_ends(types, width, vocabulary, tied=tied)
    if frequencies:
        draft.add("rope_freqs.weight", "F32", head // 2)
    for layer in range(layers):
        block = f"blk.{layer}"

        def of(part: str, layer: int = layer) -> str:
            return types(part, layer, layers)

        draft.add(f"{block}.attn_norm.weight", "F32", width)
        if fused:
            draft.add(f"{block}.attn_qkv.weight", of("attn_v"), width, (heads + 2 * kv_heads) * head)
        else:
            draft.add(f"{block}.attn_q.weight", of("attn_q"), width, heads * head)
            draft.add(f"{block}.attn_k.weight", of("attn_k"), width, kv_heads * head)
            draft.add(f"{block}.attn_v.weight", of("attn_v"), width, kv_heads * head)
        draft.add(f"{block}.attn_output.weight", of("attn_output"), heads * head, width)
        if bias:
            draft.add_all(
                block,
                "F32",
                attn_q__bias=(heads * head,),
                attn_k__bias=(kv_heads * head,),
                attn_v__bias=(kv_heads * head,),
            )
        if qk_norm:
            draft.add_all(block, "F32", attn_q_norm__weight=(head,), attn_k_norm__weight=(head,))
        if post_norm:
            draft.add_all(block, "F32", post_attention_norm__weight=(width,), post_ffw_norm__weight=(width,))
        if sinks:
            draft.add_all(
                block,
                "F32",
                attn_sinks__weight=(heads,),
                attn_output__bias=(width,),
                post_attention_norm__weight=(width,),
            )
        else:
            draft.add(f"{block}.ffn_norm.weight", "F32", width)
        if experts:
            _experts(draft, block, width, experts, expert_type or of("ffn_up"), of, bias=sinks)
        else:
            if not fused:
                draft.add(f"{block}.ffn_gate.weight", of("ffn_gate"), width, inner)
            draft.add(f"{block}.ffn_down.weight", of("ffn_down"), inner, width)
            draft.add(f"{block}.ffn_up.weight", of("ffn_up"), width, 2 * inner if fused else inner)
    if experts:
        count, used, size = experts
        draft.set(expert_count=count, expert_used_count=used, expert_feed_forward_length=size)
    return draft.header()


def _experts(
    draft: Draft,
    block: str,
    width: int,
    experts: tuple[int, int, int],
    kind: str,
    of: Callable[[str], str],
    *,
    bias: bool,
) -> None:
    count, _, size = experts
    down = kind if bias else of("ffn_down")
    draft.add(f"{block}.ffn_gate_inp.weight", "F32", width, count)
    draft.add(f"{block}.ffn_gate_exps.weight", kind, width, size, count)
    draft.add(f"{block}.ffn_down_exps.weight", down, size, width, count)
    draft.add(f"{block}.ffn_up_exps.weight", kind, width, size, count)
    if bias:
        draft.add_all(
            block,
            "F32",
            ffn_gate_inp__bias=(count,),
            ffn_gate_exps__bias=(size, count),
            ffn_down_exps__bias=(width, count),
            ffn_up_exps__bias=(size, count),
        )


def deepseek2(
    layers: int,
    width: int,
    inner: int,
    heads: int,
    vocabulary: int,
    experts: tuple[int, int, int],
    shared: int,
    *,
    q_rank: int = 0,
    dense: int = 1,
) -> Header:
    """Multi-head latent attention and experts beside shared ones."""
    types, rank, rope, plain, value = mix("Q4_K_M"), 512, 64, 128, 128
    count, used, size = experts
    draft = Draft("deepseek2", layers, width, feed_forward_length=inner)
    draft.set(attention__head_count=heads, attention__head_count_kv=1, rope__dimension_count=rope)
    draft.set(attention__kv_lora_rank=rank, attention__key_length=rank + rope, attention__value_length=rank)
    draft.set(attention__key_length_mla=plain + rope, attention__value_length_mla=value)
    draft.set(expert_count=count, expert_used_count=used, expert_feed_forward_length=size)
    draft.set(expert_shared_count=shared)
    draft.add_ends(types, width, vocabulary)
    for layer in range(layers):
        block = f"blk.{layer}"

        def of(part: str, layer: int = layer) -> str:
            return types(part, layer, layers)

        draft.add_all(block, "F32", attn_norm__weight=(width,), attn_kv_a_norm__weight=(rank,))
        if q_rank:
            draft.add(f"{block}.attn_q_a_norm.weight", "F32", q_rank)
            draft.add(f"{block}.attn_q_a.weight", of("attn_q"), width, q_rank)
            draft.add(f"{block}.attn_q_b.weight", of("attn_q"), q_rank, heads * (plain + rope))
        else:
            draft.add(f"{block}.attn_q.weight", of("attn_q"), width, heads * (plain + rope))
        draft.add(f"{block}.attn_kv_a_mqa.weight", of("attn_k"), width, rank + rope)
        draft.add(f"{block}.attn_k_b.weight", "Q8_0", plain, rank, heads)
        draft.add(f"{block}.attn_v_b.weight", "Q8_0", rank, value, heads)
        draft.add(f"{block}.attn_output.weight", of("attn_output"), heads * value, width)
        draft.add(f"{block}.ffn_norm.weight", "F32", width)
        if layer < dense:
            draft.add(f"{block}.ffn_gate.weight", of("ffn_gate"), width, inner)
            draft.add(f"{block}.ffn_down.weight", of("ffn_down"), inner, width)
            draft.add(f"{block}.ffn_up.weight", of("ffn_up"), width, inner)
            continue
        _experts(draft, block, width, experts, of("ffn_up"), of, bias=False)
        if q_rank:
            draft.add(f"{block}.exp_probs_b.bias", "F32", count)
        draft.add(f"{block}.ffn_gate_shexp.weight", of("ffn_gate"), width, size * shared)
        draft.add(f"{block}.ffn_down_shexp.weight", of("ffn_down"), size * shared, width)
        draft.add(f"{block}.ffn_up_shexp.weight", of("ffn_up"), width, size * shared)
    return draft.header()


def mamba(layers: int, width: int, vocabulary: int, kind: str) -> Header:
    """A state space model without attention."""
    types, state, kernel, inner, rank = mix(kind), 16, 4, 2 * width, -(-width // 16)
    draft = Draft("mamba", layers, width, feed_forward_length=0, attention__head_count=0)
    draft.set(ssm__conv_kernel=kernel, ssm__inner_size=inner, ssm__state_size=state, ssm__time_step_rank=rank)
    draft.add_ends(types, width, vocabulary, tied=True)
    for layer in range(layers):
        block = f"blk.{layer}"
        draft.add(f"{block}.attn_norm.weight", "F32", width)
        draft.add(f"{block}.ssm_in.weight", kind, width, 2 * inner)
        draft.add_all(block, "F32", ssm_conv1d__weight=(kernel, inner), ssm_conv1d__bias=(inner,))
        draft.add(f"{block}.ssm_x.weight", kind, inner, rank + 2 * state)
        draft.add_all(
            block,
            "F32",
            ssm_dt__weight=(rank, inner),
            ssm_dt__bias=(inner,),
            ssm_a=(state, inner),
            ssm_d=(inner,),
        )
        draft.add(f"{block}.ssm_out.weight", kind, inner, width)
    return draft.header()


def hybrid(
    architecture: str,
    layers: int,
    width: int,
    heads: int,
    kv_heads: int,
    head: int,
    vocabulary: int,
    *,
    inner: int = 0,
    experts: tuple[int, int, int] | None = None,
    shared: int = 0,
) -> Header:
    """Three gated delta nets to each layer of attention."""
    types, state, groups, steps, kernel, interval = mix("Q4_K_M"), 128, 16, 32, 4, 4
    keys, values = state * groups, state * steps
    draft = Draft(architecture, layers, width, feed_forward_length=inner)
    draft.set(attention__head_count=heads, attention__head_count_kv=kv_heads)
    draft.set(attention__key_length=head, attention__value_length=head, rope__dimension_count=head // 4)
    draft.set(ssm__conv_kernel=kernel, ssm__inner_size=values, ssm__state_size=state)
    draft.set(ssm__time_step_rank=steps, ssm__group_count=groups)
    draft.add_ends(types, width, vocabulary)
    for layer in range(layers):
        block = f"blk.{layer}"

        def of(part: str, layer: int = layer) -> str:
            return types(part, layer, layers)

        draft.add_all(block, "F32", attn_norm__weight=(width,), post_attention_norm__weight=(width,))
        if (layer + 1) % interval == 0:
            draft.add(f"{block}.attn_q.weight", of("attn_q"), width, heads * head * 2)
            draft.add(f"{block}.attn_k.weight", of("attn_k"), width, kv_heads * head)
            draft.add(f"{block}.attn_v.weight", of("attn_v"), width, kv_heads * head)
            draft.add(f"{block}.attn_output.weight", of("attn_output"), heads * head, width)
            draft.add_all(block, "F32", attn_q_norm__weight=(head,), attn_k_norm__weight=(head,))
        else:
            draft.add(f"{block}.attn_qkv.weight", of("attn_q"), width, 2 * keys + values)
            draft.add(f"{block}.attn_gate.weight", of("attn_q"), width, values)
            draft.add_all(
                block,
                "F32",
                ssm_conv1d__weight=(kernel, 2 * keys + values),
                ssm_dt__bias=(steps,),
                ssm_a=(steps,),
            )
            if architecture == "qwen35":
                draft.add(f"{block}.ssm_beta.weight", of("attn_k"), width, steps)
                draft.add(f"{block}.ssm_alpha.weight", of("attn_k"), width, steps)
            else:
                draft.add(f"{block}.ssm_ba.weight", of("attn_k"), width, 2 * steps)
            draft.add(f"{block}.ssm_norm.weight", "F32", state)
            draft.add(f"{block}.ssm_out.weight", of("attn_output"), values, width)
        if experts is None:
            draft.add(f"{block}.ffn_gate.weight", of("ffn_gate"), width, inner)
            draft.add(f"{block}.ffn_down.weight", of("ffn_down"), inner, width)
            draft.add(f"{block}.ffn_up.weight", of("ffn_up"), width, inner)
            continue
        _experts(draft, block, width, experts, of("ffn_up"), of, bias=False)
        draft.add(f"{block}.ffn_gate_inp_shexp.weight", "F32", width)
        draft.add(f"{block}.ffn_gate_shexp.weight", of("ffn_gate"), width, shared)
        draft.add(f"{block}.ffn_up_shexp.weight", of("ffn_up"), width, shared)
        draft.add(f"{block}.ffn_down_shexp.weight", of("ffn_down"), shared, width)
    if experts:
        count, used, size = experts
        draft.set(expert_count=count, expert_used_count=used, expert_feed_forward_length=size)
        draft.set(expert_shared_feed_forward_length=shared)
    return draft.header()


def _gemma(
    layers: int,
    width: int,
    inner: int,
    heads: int,
    kv_heads: int,
    head: int,
    kind: str,
    window: int,
    vocabulary: int = GEMMA,
) -> Header:
    return transformer(
        "gemma3",
        layers,
        width,
        inner,
        heads,
        kv_heads,
        head,
        vocabulary,
        kind,
        tied=True,
        qk_norm=True,
        post_norm=True,
        window=window,
    )


MODELS: dict[str, Callable[[], Header]] = {
    "llama1b": lambda: transformer("llama", 16, 2048, 8192, 32, 8, 64, LLAMA3, tied=True, frequencies=True),
    "llama3b-q8": lambda: transformer(
        "llama", 28, 3072, 8192, 24, 8, 128, LLAMA3, "Q8_0", tied=True, frequencies=True
    ),
    "llama8b": lambda: transformer("llama", 32, 4096, 14336, 32, 8, 128, LLAMA3, frequencies=True),
    "llama8b-f16": lambda: transformer("llama", 32, 4096, 14336, 32, 8, 128, LLAMA3, "F16", frequencies=True),
    "llama70b": lambda: transformer("llama", 80, 8192, 28672, 64, 8, 128, LLAMA3, frequencies=True),
    "llama2-7b": lambda: transformer("llama", 32, 4096, 11008, 32, 32, 128, LLAMA2, "Q4_0"),
    "mixtral": lambda: transformer("llama", 32, 4096, 14336, 32, 8, 128, LLAMA2, experts=(8, 2, 14336)),
    "qwen2-7b": lambda: transformer("qwen2", 28, 3584, 18944, 28, 4, 128, QWEN, bias=True),
    "qwen3-0.6b": lambda: transformer(
        "qwen3", 28, 1024, 3072, 16, 8, 128, QWEN, "Q8_0", tied=True, qk_norm=True
    ),
    "qwen3-8b": lambda: transformer("qwen3", 36, 4096, 12288, 32, 8, 128, QWEN, qk_norm=True),
    "qwen3-32b": lambda: transformer("qwen3", 64, 5120, 25600, 64, 8, 128, QWEN, qk_norm=True),
    "qwen3moe-30b": lambda: transformer(
        "qwen3moe", 48, 2048, 6144, 32, 4, 128, QWEN, qk_norm=True, experts=(128, 8, 768)
    ),
    "gemma3-1b": lambda: _gemma(26, 1152, 6912, 4, 1, 256, "Q8_0", 512),
    "gemma3-4b": lambda: _gemma(34, 2560, 10240, 8, 4, 256, "Q4_K_M", 1024),
    "gemma3-27b": lambda: _gemma(62, 5376, 21504, 32, 16, 128, "Q4_K_M", 1024),
    "gemma2-9b": lambda: transformer(
        "gemma2",
        42,
        3584,
        14336,
        16,
        8,
        256,
        GEMMA,
        tied=True,
        post_norm=True,
        window=4096,
        attn_logit_softcapping=50.0,
    ),
    "gptoss-20b": lambda: transformer(
        "gpt-oss",
        24,
        2880,
        2880,
        64,
        8,
        64,
        GPT_OSS,
        "Q8_0",
        window=128,
        sinks=True,
        bias=True,
        experts=(32, 4, 2880),
        expert_type="MXFP4",
    ),
    "phi3-mini": lambda: transformer("phi3", 32, 3072, 8192, 32, 32, 96, 32064, fused=True, window=2047),
    "dsv2-lite": lambda: deepseek2(27, 2048, 10944, 16, DEEPSEEK, (64, 6, 1408), 2),
    "dsv3": lambda: deepseek2(61, 7168, 18432, 128, 129280, (256, 8, 2048), 1, q_rank=1536, dense=3),
    "mamba-2.8b": lambda: mamba(64, 2560, LLAMA2, "Q8_0"),
    "qwen3next-80b": lambda: hybrid(
        "qwen3next", 48, 2048, 16, 2, 256, QWEN, experts=(512, 10, 512), shared=512
    ),
    "qwen35-9b": lambda: hybrid("qwen35", 32, 4096, 16, 4, 256, QWEN, inner=12288),
    # Shapes that several builds of llama.cpp loaded.
    "llama3.2-3b": lambda: transformer(
        "llama", 28, 3072, 8192, 24, 8, 128, LLAMA3, tied=True, frequencies=True
    ),
    "qwen3-4b": lambda: transformer("qwen3", 36, 2560, 9728, 32, 8, 128, QWEN, tied=True, qk_norm=True),
    "mistral-small-24b": lambda: transformer("llama", 40, 5120, 32768, 32, 8, 128, 131072),
    "gemma3-12b": lambda: _gemma(48, 3840, 15360, 16, 8, 256, "Q4_K_M", 1024, 262208),
    "smollm2-135m": lambda: transformer("llama", 30, 576, 1536, 9, 3, 64, 49152, "Q8_0", tied=True),
    "mixtral-8x22b": lambda: transformer("llama", 56, 6144, 16384, 48, 8, 128, 32768, experts=(8, 2, 16384)),
    "qwen3-235b": lambda: transformer(
        "qwen3moe", 94, 4096, 12288, 64, 4, 128, QWEN, qk_norm=True, experts=(128, 8, 1536)
    ),
    "gemma2-27b": lambda: transformer(
        "gemma2",
        46,
        4608,
        36864,
        32,
        16,
        128,
        256000,
        tied=True,
        post_norm=True,
        window=4096,
        attn_logit_softcapping=50.0,
    ),
    "gptoss-120b": lambda: transformer(
        "gpt-oss",
        36,
        2880,
        2880,
        64,
        8,
        64,
        GPT_OSS,
        "Q8_0",
        window=128,
        sinks=True,
        bias=True,
        experts=(128, 4, 2880),
        expert_type="MXFP4",
    ),
    "dsv2-236b": lambda: deepseek2(60, 5120, 12288, 128, DEEPSEEK, (160, 6, 1536), 2, q_rank=1536),
}


@cache
def model(name: str) -> Header:
    """One of them."""
    return MODELS[name]()
