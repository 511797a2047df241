"""Small embedding and reranking models for a real llama.cpp server: a BERT's header and random weights."""

from pathlib import Path

import gguf
import numpy as np

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNKNOWN, FIRST, LAST = range(4)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.日本語文章長の検索"
WIDTH, INNER, HEADS, LAYERS = 128, 256, 2, 2


def write_encoder(path: Path, *, context: int = 1024, pooling: str = "cls") -> Path:
    """A model of `context` tokens; each word is a token of its own letters. `pooling`: cls, mean or rank."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[pooling.upper()])
    tokens = [*SPECIAL, *(f"\u2581{letter}" for letter in LETTERS), *LETTERS]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list(tokens)
    ordinary = len(tokens) - len(SPECIAL)
    writer.add_token_types([gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * ordinary)
    writer.add_token_type_count(2)
    writer.add_pad_token_id(PAD)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_bos_token_id(FIRST)
    writer.add_eos_token_id(LAST)
    writer.add_sep_token_id(LAST)
    random = np.random.default_rng(7)

    def add(name: str, *shape: int) -> None:
        """Weights are small, so that layers change little; norms are the identity."""
        values = np.zeros(shape) if name.endswith("bias") else random.normal(0, 0.3, shape)
        if name.endswith("norm.weight"):
            values = np.ones(shape)
        writer.add_tensor(name, values.astype(np.float32))

    add("token_embd.weight", len(tokens), WIDTH)
    add("token_types.weight", 2, WIDTH)
    add("position_embd.weight", context, WIDTH)
    for part in ("weight", "bias"):
        add(f"token_embd_norm.{part}", WIDTH)
        if pooling == "rank":
            add(f"cls.{part}", *([WIDTH, WIDTH] if part == "weight" else [WIDTH]))
            add(f"cls.output.{part}", *([1, WIDTH] if part == "weight" else [1]))
        for layer in range(LAYERS):
            block = f"blk.{layer}"
            for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
                add(f"{block}.{name}.{part}", *([WIDTH, WIDTH] if part == "weight" else [WIDTH]))
            add(f"{block}.ffn_up.{part}", *([INNER, WIDTH] if part == "weight" else [INNER]))
            add(f"{block}.ffn_down.{part}", *([WIDTH, INNER] if part == "weight" else [WIDTH]))
            add(f"{block}.attn_output_norm.{part}", WIDTH)
            add(f"{block}.layer_output_norm.{part}", WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
