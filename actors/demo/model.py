"""Writes the built-in models: tiny GGUF files whose weights are computed by `weights`, not trained.

Run as `python -m actors.demo.model PATH [--embed | --reasoning]`. Only that process imports numpy and gguf,
which would cost the gateway half of its memory.
"""

import argparse
import glob
import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from actors.demo.chat_template import chat_template
from actors.demo.corpus import ANSWERS, LOOP
from actors.demo.tokenizer import WRITTEN, Tokenizer
from actors.demo.vocabulary import COMMON_WORDS, IDIOMS

if TYPE_CHECKING:
    from actors.demo.weights import Weights

VERSION = 9
"""The version in the file's name. Raise it with every change of the weights."""

ARCHITECTURE = "gemma3"
CONTEXTS = {"demo": 131072, "demo-reasoning": 131072, "demo-embed": 4096}
"""The context in tokens, by the model's name."""


def demo_path(name: str, folder: Path) -> Path:
    """Return the path of a built-in model, whether or not the file exists."""
    return folder / f"{name}-v{VERSION}.gguf"


def is_whole_demo(path: Path) -> bool:
    """Whether a built-in model's file matches its digest; a power failure may truncate it. Blocking."""
    try:
        return _digest_path(path).read_bytes().strip() == _digest(path)
    except OSError:
        return False


def write_demo(path: Path, *, embedding: bool = False, reasoning: bool = False) -> None:
    """Write the chat model, the one that reasons before it answers, or the one for embeddings.

    Its digest is written too. Every run writes the same bytes. The files appear only when they are complete;
    partial files of killed processes are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_partial_files(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    digest = partial.with_suffix(".digest.partial")
    try:
        _write_gguf(partial, embedding=embedding, reasoning=reasoning)
        digest.write_bytes(_digest(partial))
        for file in (partial, digest):
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        digest.replace(_digest_path(path))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        digest.unlink(missing_ok=True)


def _remove_partial_files(path: Path) -> None:
    for partial in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
        number = partial.name.removeprefix(f"{path.name}.").partition(".")[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            partial.unlink(missing_ok=True)


def _digest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().encode()


def _tokenizer() -> Tokenizer:
    """Return the tokenizer. Each form of a keyword, and each JSON sign that the weights use, is one token."""
    from actors.demo.weights import ANSWER, END, ENDS, JSON, PLAN, QUOTES, SAY, VALUE, VALUES, keyword_forms

    answers = " ".join(answer for *_, answer in ANSWERS).replace(LOOP.strip(), "")
    keywords = [keyword for _, keywords, _ in ANSWERS for keyword in keywords.split()]
    forms = "\n".join(form for keyword in keywords for form in keyword_forms(keyword))
    roles = " system user assistant\nsystem\nuser\nassistant\n" * 9
    signs = {sign for known in (*JSON, *JSON.values(), *QUOTES, ENDS, VALUES) for sign in known}
    text = f"{answers}\n{forms * 3}{roles}{COMMON_WORDS}{IDIOMS}\n" + "\n".join(
        sorted(signs - {END, VALUE, *WRITTEN})
    )
    return Tokenizer(text, (*PLAN, *SAY, ANSWER))


def _write_gguf(path: Path, *, embedding: bool, reasoning: bool) -> None:
    import gguf

    from actors.demo import weights as dimensions

    tokenizer = _tokenizer()
    weights = dimensions.Weights(tokenizer, embedding=embedding)
    writer = gguf.GGUFWriter(str(path), ARCHITECTURE)
    name = "demo-embed" if embedding else "demo-reasoning" if reasoning else "demo"
    writer.add_name(name)
    writer.add_description("hand-made demo model of llama smart proxy")
    writer.add_license("CC0-1.0")
    writer.add_context_length(CONTEXTS[name])
    writer.add_embedding_length(dimensions.WIDTH)
    writer.add_block_count(dimensions.LAYERS)
    writer.add_feed_forward_length(len(weights.layers[0].ffn_gate))
    writer.add_head_count(dimensions.HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(dimensions.HEAD_SIZE)
    writer.add_value_length(dimensions.HEAD_SIZE)
    writer.add_sliding_window(dimensions.WINDOW)
    writer.add_rope_dimension_count(dimensions.ROTATED)
    writer.add_rope_freq_base(dimensions.ROPE_BASE)
    writer.add_layer_norm_rms_eps(dimensions.EPSILON)
    writer.add_vocab_size(len(tokenizer.tokens))
    if embedding:
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_tokenizer(writer, tokenizer)
    writer.add_chat_template(chat_template(reasoning=reasoning))
    _add_tensors(writer, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, tokenizer: Tokenizer) -> None:
    import gguf

    ids = tokenizer.ids
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokenizer.tokens)
    kinds = dict.fromkeys(WRITTEN, gguf.TokenType.USER_DEFINED)
    kinds |= dict.fromkeys(tokenizer.control, gguf.TokenType.CONTROL)
    writer.add_token_types([kinds.get(token, gguf.TokenType.NORMAL) for token in tokenizer.tokens])
    writer.add_token_merges([f"{left} {right}" for left, right in tokenizer.merges])
    writer.add_bos_token_id(ids["<|endoftext|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_eot_token_id(ids["<|im_end|>"])
    writer.add_add_bos_token(False)


def _add_tensors(writer: Any, weights: "Weights") -> None:
    import numpy as np

    tensors = {"token_embd": weights.token_embd, "output": weights.output, "output_norm": weights.output_norm}
    for number, layer in enumerate(weights.layers):
        tensors |= {f"blk.{number}.{name}": values for name, values in vars(layer).items()}
    for name, values in tensors.items():
        kind = np.float32 if values.ndim == 1 else np.float16
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(values, kind))


def main() -> None:
    """Write one model, as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m actors.demo.model", description="Write a built-in model."
    )
    parser.add_argument("path", type=Path)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--embed", action="store_true", help="the one for embeddings, not the chat model")
    kind.add_argument(
        "--reasoning", action="store_true", help="the chat model that reasons before it answers"
    )
    options = parser.parse_args()
    try:
        write_demo(options.path, embedding=options.embed, reasoning=options.reasoning)
    except OSError as error:
        sys.exit(f"error: {options.path} cannot be written: {error.strerror}")


if __name__ == "__main__":
    main()
