"""Estimates the compute buffer of a model whose graph is not modelled."""

from actors.memory.graph.work import F32, Work
from actors.memory.shape import Shape


def estimate(shape: Shape, work: Work) -> int:
    """Estimate a compute buffer from dimensions alone, fitted to llama.cpp's for many architectures."""
    used, expert = shape.number("expert_used_count"), shape.number("expert_feed_forward_length")
    dense = max(
        (block["ffn_up.weight"].shape[1] for block in shape.blocks if "ffn_up.weight" in block), default=0
    )
    wide = max(2 * dense, used * (2 * expert + shape.width) if used else 0)
    inner = shape.ssm_state // (shape.number("ssm.state_size") or shape.number("kda.head_dim") or shape.width)
    heads, kv_heads = max(shape.heads), max(shape.kv_heads)
    cells = work.cells * work.streams
    mask = (2 if work.flash else 4) * work.cells * work.tokens
    scores = 0 if work.flash else F32 * heads * work.cells * work.tokens
    converted = work.flash and (work.type_k, work.type_v) != ("F16", "F16")
    copies = 2 * cells * kv_heads * (max(shape.keys) + max(shape.values)) if converted else 0
    activations = work.tokens * F32 * (9.8 * shape.width + 2.07 * wide + 2.1 * inner)
    logits = F32 * shape.vocabulary * work.outputs
    return int(activations + logits + 0.74 * mask + 0.86 * scores + 0.70 * copies)
