"""Tiny models with random weights, one for each way in which a model remembers its prompt."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from actors.demo.chat_template import chat_template
from actors.demo.model import _add_tokenizer, _tokenizer

KINDS = {"full": "llama", "windowed": "gemma2", "recurrent": "mamba", "hybrid": "lfm2"}
"""The architecture of each."""
WIDTH, HEADS, HEAD, HIDDEN, LAYERS = 64, 2, 32, 128, 2
WINDOW = 64
INNER, STATE, CONV, RANK = 128, 16, 4, 4
CONTEXT = 8192

Array = npt.NDArray[np.float32]


def write_tiny(path: Path, kind: str, *, reasoning: bool = False) -> Path:
    """Write a model. Every run writes the same bytes."""
    tokenizer = _tokenizer()
    writer = gguf.GGUFWriter(str(path), KINDS[kind])
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_vocab_size(len(tokenizer.tokens))
    writer.add_layer_norm_rms_eps(1e-6)
    _add_metadata(writer, kind)
    _add_tokenizer(writer, tokenizer)
    writer.add_chat_template(chat_template(reasoning=reasoning))
    random = np.random.default_rng(7)
    for name, values in _tensors(kind, len(tokenizer.tokens), random).items():
        writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_metadata(writer: Any, kind: str) -> None:
    writer.add_feed_forward_length(0 if kind == "recurrent" else HIDDEN)
    writer.add_head_count(0 if kind == "recurrent" else HEADS)
    if kind == "recurrent":
        writer.add_ssm_conv_kernel(CONV)
        writer.add_ssm_inner_size(INNER)
        writer.add_ssm_state_size(STATE)
        writer.add_ssm_time_step_rank(RANK)
        return
    writer.add_head_count_kv([0, HEADS] if kind == "hybrid" else HEADS)
    if kind == "hybrid":
        writer.add_shortconv_l_cache(3)
    else:
        writer.add_key_length(HEAD)
        writer.add_value_length(HEAD)
    writer.add_rope_dimension_count(HEAD)
    if kind == "windowed":
        writer.add_sliding_window(WINDOW)
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)


def _tensors(kind: str, vocabulary: int, random: np.random.Generator) -> dict[str, Array]:
    def matrix(rows: int, columns: int) -> Array:
        return random.normal(0, 1.5 / columns**0.5, (rows, columns)).astype(np.float32)

    def ones(size: int = WIDTH) -> Array:
        return np.ones(size, np.float32)

    # With tied embeddings a token would repeat itself for ever if it outweighed the layers.
    scale = 0.02 if kind == "windowed" else 1.0
    tensors = {"token_embd.weight": random.normal(0, scale, (vocabulary, WIDTH)).astype(np.float32)}
    tensors["token_embd_norm.weight" if kind == "hybrid" else "output_norm.weight"] = ones()
    if kind != "windowed":
        tensors["output.weight"] = matrix(vocabulary, WIDTH)
    for number in range(LAYERS):
        layer: dict[str, Array] = {"attn_norm.weight": ones()}
        if kind == "recurrent":
            layer |= {
                "ssm_in.weight": matrix(2 * INNER, WIDTH),
                "ssm_conv1d.weight": matrix(INNER, CONV),
                "ssm_conv1d.bias": np.zeros(INNER, np.float32),
                "ssm_x.weight": matrix(RANK + 2 * STATE, INNER),
                "ssm_dt.weight": matrix(INNER, RANK),
                "ssm_dt.bias": ones(INNER),
                "ssm_a": -np.tile(np.arange(1, STATE + 1, dtype=np.float32) / np.float32(50), (INNER, 1)),
                "ssm_d": ones(INNER),
                "ssm_out.weight": matrix(WIDTH, INNER),
            }
        elif kind == "hybrid" and number == 0:
            layer |= {
                "shortconv.conv.weight": matrix(WIDTH, 3),
                "shortconv.in_proj.weight": matrix(3 * WIDTH, WIDTH),
                "shortconv.out_proj.weight": matrix(WIDTH, WIDTH),
            }
        else:
            layer |= {f"attn_{part}.weight": matrix(HEADS * HEAD, WIDTH) for part in "qkv"}
            layer["attn_output.weight"] = matrix(WIDTH, HEADS * HEAD)
        if kind == "hybrid" and number:
            layer |= {"attn_q_norm.weight": ones(HEAD), "attn_k_norm.weight": ones(HEAD)}
        if kind == "windowed":
            layer |= {"post_attention_norm.weight": ones(), "post_ffw_norm.weight": ones()}
        if kind != "recurrent":
            layer |= {
                "ffn_norm.weight": ones(),
                "ffn_gate.weight": matrix(HIDDEN, WIDTH),
                "ffn_up.weight": matrix(HIDDEN, WIDTH),
                "ffn_down.weight": matrix(WIDTH, HIDDEN),
            }
        tensors |= {f"blk.{number}.{name}": values for name, values in layer.items()}
    return tensors
