"""A retrieval set that every Python brings: what functions of its library do, and the functions.

The question is the first paragraph of a function's docstring, the document is the function without it; one
document answers each question. This is how CodeSearchNet was made.

The embedding model is WordLlama's, 256 numbers for each of 32,000 tokens, which its package brings along.
"""

import ast
import importlib.util
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

MODULES = """
ast bdb calendar cmd configparser datetime difflib fractions ftplib heapq imaplib inspect mailbox
pathlib random shutil smtplib socket statistics subprocess tarfile tempfile textwrap threading typing zipfile
"""
LEAST_WORDS = 4
SMOOTHING = 1e-3


def questions() -> Iterator[tuple[str, str]]:
    """Questions, and the source of the function that answers each."""
    library = Path(sysconfig.get_path("stdlib"))
    for module in MODULES.split():
        path = library / f"{module}.py"
        path = path if path.exists() else library / module / "__init__.py"
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and len(node.body) > 1:
                question = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                if len(question.split()) >= LEAST_WORDS:
                    yield question, _without_docstring(node, source.splitlines())


def _without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    docstring = node.body[0]
    return "\n".join(
        lines[node.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : node.end_lineno]
    )


class StaticEmbedder:
    """The mean of a text's tokens, the frequent ones weighing less.

    Smooth inverse frequency (Arora et al., 2017), with its usual constant; `texts` tell what is frequent.
    """

    model = "wordllama-256"

    def __init__(self, texts: Sequence[str]) -> None:
        package = importlib.util.find_spec("wordllama")
        assert package is not None
        assert package.origin is not None
        folder = Path(package.origin).parent
        (weights,) = load_file(folder / "weights" / "l2_supercat_256.safetensors").values()
        self._weights = weights.astype(np.float32)
        self._tokenizer = Tokenizer.from_file(
            str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json")
        )
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        tokens = [
            token
            for text in self._tokenizer.encode_batch(texts, add_special_tokens=False)
            for token in text.ids
        ]
        frequency = np.bincount(tokens, minlength=len(self._weights)) / len(tokens)
        self._weights *= (SMOOTHING / (SMOOTHING + frequency)).astype(np.float32)[:, None]

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """One row per text."""
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [self._weights[text.ids].mean(axis=0).tolist() for text in encoded]
