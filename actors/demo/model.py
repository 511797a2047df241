"""Writes the built-in models: tiny llama-architecture GGUFs whose weights are made by hand, not trained.

How the chat model works. The residual stream (320 wide) is divided into codes of 44: the present token,
the four before it, the token's own topic, the topic at hand, and three constants.

* Attention heads 0 to 3 copy the tokens at distance 1 to 4: their queries and keys are constants whose
  rotary phases agree at that distance only. Head 4 copies the topic of the last keyword.
* The feed-forward layer is a key-value memory: one unit for each place in the corpus, which fires when
  the last five tokens and the topic match and writes the next token's code.
* The output layer is the transposed embedding: the token whose code was written wins.

Run as `python -m actors.demo.model PATH [--embed]`. numpy and gguf are imported there only: they would cost
the gateway half of its memory.
"""

import argparse
import glob
import hashlib
import itertools
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from actors.demo.corpus import ANSWERS, CHAT_TEMPLATE, LOOP

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float64]

VERSION = 2
"""Part of the file's name: to be raised with every change that makes other weights."""

CONTEXT = 4096
HEADS, HEAD_SIZE = 5, 64
WIDTH = HEADS * HEAD_SIZE
CODE = 44
ROPE_BASE = 10000.0
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CURRENT = slice(0, CODE)
PREVIOUS = tuple(slice(CODE * k, CODE * (k + 1)) for k in range(1, 5))
OWN_TOPIC = slice(5 * CODE, 6 * CODE)
TOPIC = slice(6 * CODE, 7 * CODE)
ONE, FLAG, FILL = 7 * CODE, 7 * CODE + 1, 7 * CODE + 2
"""Constant 1; marks a keyword; fills the norm up, which is sqrt(2.5) for every token."""

_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


def demo_path(name: str, folder: Path) -> Path:
    """Where a built-in model lies, whether it has been written or not."""
    return folder / f"{name}-v{VERSION}.gguf"


def is_whole_demo(path: Path) -> bool:
    """Whether a built-in model is all that was written; a cut of power may leave less. Blocking."""
    try:
        return _digest_path(path).read_bytes().strip() == _digest(path)
    except OSError:
        return False


def write_demo(path: Path, *, embedding: bool) -> None:
    """Write the chat model, or the one for embeddings, and its digest. Byte-identical on every run.

    Whole or not at all: what a killed process left behind is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_partial_files(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    digest = partial.with_suffix(".digest.partial")
    try:
        _write_gguf(partial, _Weights(_Tokenizer(), embedding=embedding))
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


def _byte_letters() -> list[str]:
    """GPT-2's letters for the 256 bytes: printable ones stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in letters]
    letters |= {byte: chr(256 + rank) for rank, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


_LETTERS = _byte_letters()
Word = tuple[str, ...]


def _letters(word: str) -> Word:
    return tuple(_LETTERS[byte] for byte in word.encode())


def _merge(word: Word, pair: tuple[str, str]) -> Word:
    merged: list[str] = []
    position = 0
    while position < len(word):
        if word[position : position + 2] == pair:
            merged.append(word[position] + word[position + 1])
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return tuple(merged)


def _keyword_forms(keyword: str) -> tuple[str, ...]:
    return keyword, keyword.capitalize(), f" {keyword}", f" {keyword.capitalize()}"


class _Tokenizer:
    """A byte-level BPE of the corpus's own text, in which each form of a keyword is one token."""

    def __init__(self) -> None:
        answers = " ".join(answer for *_, answer in ANSWERS).replace(LOOP.strip(), "")
        keywords = [keyword for _, keywords, _ in ANSWERS for keyword in keywords.split()]
        forms = "\n".join(form for keyword in keywords for form in _keyword_forms(keyword))
        roles = " system user assistant\nsystem\nuser\nassistant\n" * 9
        self.merges = self._train(f"{answers}\n{forms * 3}{roles}")
        self._rank = {pair: rank for rank, pair in enumerate(self.merges)}
        self.tokens = [*_LETTERS, *(left + right for left, right in self.merges), *SPECIAL]
        self.ids = {token: index for index, token in enumerate(self.tokens)}

    @staticmethod
    def _train(text: str) -> list[tuple[str, str]]:
        words = Counter(_letters(word) for word in _WORDS.findall(text))
        merges: list[tuple[str, str]] = []
        while True:
            pairs: Counter[tuple[str, str]] = Counter()
            for word, count in words.items():
                for pair in itertools.pairwise(word):
                    pairs[pair] += count
            if not pairs:
                return merges
            best = max(pairs, key=lambda pair: (pairs[pair], pair))
            merges.append(best)
            words = Counter({_merge(word, best): count for word, count in words.items()})

    def encode(self, text: str) -> list[int]:
        """Token ids of a text with special tokens in it."""
        ids: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, SPECIAL)) + ")", text):
            if part in SPECIAL:
                ids.append(self.ids[part])
                continue
            for found in _WORDS.findall(part):
                word = _letters(found)
                while len(word) > 1:
                    known = [pair for pair in itertools.pairwise(word) if pair in self._rank]
                    if not known:
                        break
                    word = _merge(word, min(known, key=self._rank.__getitem__))
                ids += [self.ids[token] for token in word]
        return ids


class _Weights:
    """All the matrices, as (outputs, inputs)."""

    def __init__(self, tokenizer: _Tokenizer, *, embedding: bool) -> None:
        import numpy as np

        self.tokenizer = tokenizer
        self.embedding = embedding
        random = np.random.default_rng(7)
        self.codes = random.choice([-1.0, 1.0], (len(tokenizer.tokens), CODE)) / np.sqrt(CODE)
        self.topic_codes = random.choice([-1.0, 1.0], (len(ANSWERS), CODE)) / np.sqrt(CODE)
        self.topic_of = self._keyword_tokens()
        self.token_embd = self._embed()
        # |x|^2 = 2.5 for every token, so that this weight undoes the norm exactly.
        self.attn_norm = np.full(WIDTH, np.sqrt(2.5 / WIDTH))
        self.ffn_norm = np.full(WIDTH, np.sqrt(7 / WIDTH))
        self.attn_q, self.attn_k, self.attn_v, self.attn_output = self._attention()
        self.ffn_gate, self.ffn_up, self.ffn_down = self._memory()
        self.output_norm = np.zeros(WIDTH)
        if embedding:
            self.ffn_down[:] = 0
            self.output_norm[CURRENT] = 1
            self.output_norm[PREVIOUS[0]] = 0.3
        else:
            self.output_norm[CURRENT] = 22 / np.sqrt(WIDTH)

    def _keyword_tokens(self) -> dict[int, int]:
        topics: dict[int, int] = {}
        for topic, (_, keywords, _) in enumerate(ANSWERS):
            for keyword in keywords.split():
                for form in _keyword_forms(keyword):
                    ids = self.tokenizer.encode(form)
                    assert len(ids) == 1, f"keyword {form!r} is not one token"
                    topics[ids[0]] = topic
        return topics

    def _embed(self) -> "Matrix":
        import numpy as np

        embedding = np.zeros((len(self.tokenizer.tokens), WIDTH))
        embedding[:, CURRENT] = self.codes
        embedding[:, ONE] = 1
        embedding[:, FILL] = np.sqrt(0.5)
        for token, topic in self.topic_of.items():
            embedding[token, OWN_TOPIC] = 0.5 * self.topic_codes[topic]
            embedding[token, FLAG] = 0.5
            embedding[token, FILL] = 0
        return embedding

    @staticmethod
    def _attention() -> tuple["Matrix", "Matrix", "Matrix", "Matrix"]:
        import numpy as np

        query, key, value, output = (np.zeros((WIDTH, WIDTH)) for _ in range(4))
        phases = ROPE_BASE ** (-np.arange(HEAD_SIZE // 2) / (HEAD_SIZE // 2))
        for head in range(4):
            first = head * HEAD_SIZE
            # Scores of 80 at the right distance and 66 at most elsewhere: larger ones overflow F16.
            for pair, phase in enumerate(phases[:6]):
                row = first + 2 * pair
                query[row, ONE] = 107 * np.cos(-(head + 1) * phase)
                query[row + 1, ONE] = 107 * np.sin(-(head + 1) * phase)
                key[row, ONE] = 1
            value[first : first + CODE, CURRENT] = np.eye(CODE)
            output[PREVIOUS[head], first : first + CODE] = np.eye(CODE)
        first, pair = 4 * HEAD_SIZE, 16  # a slow phase: the latest keyword within about 120 tokens
        row = first + 2 * pair
        query[row, ONE], query[row + 1, ONE] = 2400 * np.cos(0.35), 2400 * np.sin(0.35)
        key[row, FLAG] = 2
        value[first : first + CODE, OWN_TOPIC] = 2 * np.eye(CODE)
        output[TOPIC, first : first + CODE] = np.eye(CODE)
        return query, key, value, output

    def _memory(self) -> tuple["Matrix", "Matrix", "Matrix"]:
        import numpy as np

        units = self._units()
        rows = len(units) + CODE + 1
        size = -(-rows // 32) * 32  # q8_0 quantises blocks of 32
        gate, up, down = np.zeros((size, WIDTH)), np.zeros((size, WIDTH)), np.zeros((WIDTH, size))
        for row, (key, gain, following) in enumerate(units):
            gate[row] = up[row] = 6.0 * key
            down[CURRENT, row] = gain * self.codes[following]
        for column in range(CODE):  # takes the present token's own code away
            row = len(units) + column
            gate[row, ONE], up[row, column], down[column, row] = 10, 1, -0.1
        last = rows - 1  # the last resort, where nothing fires
        gate[last, ONE], up[last, ONE] = 10, 1
        down[CURRENT, last] = 0.002 * self.codes[self.tokenizer.encode("I")[0]]
        return gate, up, down

    def _units(self) -> list[tuple["Matrix", float, int]]:
        """One unit per place of the corpus, and a weak one for each token's most frequent follower."""
        units: list[tuple[Matrix, float, int]] = []
        followers: dict[int, Counter[int]] = {}
        for _topic, keywords, answer in ANSWERS:
            units += self._answer_units(keywords, answer, followers)
        for token, counts in followers.items():
            _, following = max((count, token) for token, count in counts.items())
            units.append((self._key([(CURRENT, 1.0, self.codes[token])], 0.75), 0.6, following))
        return units

    def _answer_units(
        self, keywords: str, answer: str, followers: dict[int, Counter[int]]
    ) -> list[tuple["Matrix", float, int]]:
        encode = self.tokenizer.encode
        loops = answer.startswith(LOOP)
        answer = answer.removeprefix(LOOP)
        question = [
            *encode("<|im_start|>user\n"),
            *(encode(keywords.split(maxsplit=1)[0]) if keywords else ()),
            *encode("<|im_end|>\n<|im_start|>assistant\n"),
        ]
        body = encode(answer)
        body += encode(f" {answer}") * 2 if loops else [self.tokenizer.ids["<|im_end|>"]]
        text = question + body
        units: list[tuple[Matrix, float, int]] = []
        topic: int | None = None
        for place in range(len(text) - 1):
            topic = self.topic_of.get(text[place], topic)
            if place < len(question) - 1:
                continue
            following = text[place + 1]
            followers.setdefault(text[place], Counter())[following] += 1
            # The second time round a loop has been learned already.
            if loops and place > len(question) + 2 * len(encode(answer)):
                continue
            weights = zip((CURRENT, *PREVIOUS), (1, 1, 0.9, 0.8, 0.7), range(5), strict=True)
            parts = [(where, weight, self.codes[text[place - back]]) for where, weight, back in weights]
            if topic is not None:
                parts.append((TOPIC, 1.4, self.topic_codes[topic]))
            units.append((self._key(parts, 3.8), 4.0 if topic is None else 1.0, following))
        return units

    @staticmethod
    def _key(parts: "list[tuple[slice, float, Matrix]]", threshold: float) -> "Matrix":
        import numpy as np

        key = np.zeros(WIDTH)
        for where, weight, code in parts:
            key[where] += weight * code
        key[ONE] = -threshold
        return key


def _write_gguf(path: Path, weights: _Weights) -> None:
    import gguf
    import numpy as np

    tokenizer = weights.tokenizer
    ids = tokenizer.ids
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("demo-embed" if weights.embedding else "demo")
    writer.add_description("hand-made demo model of llama smart proxy")
    writer.add_license("CC0-1.0")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(len(weights.ffn_gate))
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokenizer.tokens))
    if weights.embedding:
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokenizer.tokens)
    ordinary = len(tokenizer.tokens) - len(SPECIAL)
    writer.add_token_types([gguf.TokenType.NORMAL] * ordinary + [gguf.TokenType.CONTROL] * len(SPECIAL))
    writer.add_token_merges([f"{left} {right}" for left, right in tokenizer.merges])
    writer.add_bos_token_id(ids["<|endoftext|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_eot_token_id(ids["<|im_end|>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)

    def add(name: str, values: Any) -> None:
        values = np.ascontiguousarray(values, np.float32)
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", weights.token_embd)
    add("output_norm.weight", weights.output_norm)
    for name in ("attn_norm", "ffn_norm", "attn_q", "attn_k", "attn_v", "attn_output"):
        add(f"blk.0.{name}.weight", getattr(weights, name))
    for name in ("ffn_gate", "ffn_up", "ffn_down"):
        add(f"blk.0.{name}.weight", getattr(weights, name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Write one model."""
    parser = argparse.ArgumentParser(
        prog="python -m actors.demo.model", description="Write a built-in model."
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--embed", action="store_true", help="the one for embeddings, not the chat model")
    options = parser.parse_args()
    try:
        write_demo(options.path, embedding=options.embed)
    except OSError as error:
        sys.exit(f"error: {options.path} cannot be written: {error.strerror}")


if __name__ == "__main__":
    main()
