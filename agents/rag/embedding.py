"""The models that retrieval asks, as it sees them: an embedding model and a reranker, given from outside.

Either may be absent, and either may fail at any time. Then the work goes on with words alone; it is said
once, and again when the model is back.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import structlog

from agents.rag.trouble import Trouble

log = structlog.get_logger("rag")

Vectors = npt.NDArray[np.float32]
"""One row per text, each of length 1."""


SMALLEST_PART = 64
"""Bytes of a text below which its length is not what the model complains of."""


class TextRefusedError(Exception):
    """The model works, and does not take one of these texts."""


class TextTooLongError(TextRefusedError):
    """The model works, and one of these texts has more tokens than it reads."""


class Embedder(Protocol):
    """A model that makes vectors of texts."""

    @property
    def model(self) -> str:
        """Its name. Vectors are comparable with those of the same name only."""
        ...

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """One vector per text, all of the same length.

        Raises `TextTooLongError` if shorter texts would do, `TextRefusedError` if asking again is useless,
        anything else if the model is not to be had now.
        """
        ...


class Reranker(Protocol):
    """A model that reads a question and a text together."""

    async def rerank(self, query: str, texts: list[str]) -> list[float]:
        """How well each text answers the query: higher is better."""
        ...


class Embedding:
    """An embedder that may be None, or fail.

    The prefixes are for models that were trained with them, such as "query: " and "passage: " of E5.
    """

    def __init__(self, embedder: Embedder | None, *, query_prefix: str = "", text_prefix: str = "") -> None:
        self._embedder = embedder
        self._query_prefix = query_prefix
        self._text_prefix = text_prefix
        self._trouble = Trouble("the embedding model fails; words only", model=embedder and embedder.model)
        if embedder is None:
            log.info("no embedding model is configured; searching by words only")

    @property
    def model(self) -> str | None:
        """What vectors are kept under: the model's name, and the prefix that its texts get."""
        if self._embedder is None:
            return None
        return self._embedder.model + (f" {self._text_prefix!r}" if self._text_prefix else "")

    async def embed_query(self, query: str) -> Vectors | None:
        """One row, or None: there is no model, or it fails."""
        try:
            return await self._embed([query], self._query_prefix)
        except TextRefusedError as error:
            log.warning("the embedding model does not take a query", characters=len(query), reason=str(error))
            return None

    async def embed_texts(self, texts: Sequence[str]) -> Vectors | None:
        """One row per text, or None: there is no model, or it fails. Raises `TextRefusedError`."""
        return await self._embed(texts, self._text_prefix)

    async def _embed(self, texts: Sequence[str], prefix: str) -> Vectors | None:
        if self._embedder is None:
            return None
        try:
            vectors = await self._in_parts(self._embedder, texts, prefix)
        except TextRefusedError:
            raise
        except Exception as error:  # the boundary of a model: words are left
            self._trouble.met(error)
            return None
        self._trouble.over()
        return vectors

    async def _in_parts(self, embedder: Embedder, texts: Sequence[str], prefix: str) -> Vectors:
        """A text that is too long is read in parts, and its vector is the mean of theirs.

        Bytes are the measure, for they are nearer to tokens than characters are, whatever the language.
        """
        most = max((len(text.encode()) for text in texts), default=0)
        while True:
            parts = [split(text, most) for text in texts]
            asked = [prefix + part for several in parts for part in several]
            try:
                vectors = _normalised(await embedder.embed(asked), len(asked))
            except TextTooLongError:
                most //= 2
                if most < SMALLEST_PART:
                    raise
                continue
            return _means(vectors, [[len(part) for part in several] for several in parts])


class Reranking:
    """A reranker that may be None, or fail."""

    def __init__(self, reranker: Reranker | None) -> None:
        self._reranker = reranker
        self._trouble = Trouble("the reranker fails; its order is not used")

    async def scores(self, query: str, texts: Sequence[str]) -> list[float] | None:
        """One per text, or None: there is no reranker, or it fails."""
        if self._reranker is None or not texts:
            return None
        try:
            scores = [float(score) for score in await self._reranker.rerank(query, list(texts))]
            if len(scores) != len(texts) or not np.isfinite(scores).all():
                raise ValueError(f"expected {len(texts)} finite scores, got {scores[:20]}")
        except Exception as error:  # as above
            self._trouble.met(error)
            return None
        self._trouble.over()
        return scores


def split(text: str, most: int) -> list[str]:
    """The text in as few parts of about the same length as have at most so many bytes; not in a character."""
    data = text.encode()
    count = -(-len(data) // most) if data else 1
    ends = [len(data) * nth // count for nth in range(count + 1)]
    for nth in range(1, count):
        while data[ends[nth]] & 0xC0 == 0x80:
            ends[nth] -= 1
    return [data[start:end].decode() for start, end in pairwise(ends)]


def _means(vectors: Vectors, weights: Sequence[Sequence[int]]) -> Vectors:
    """The mean of each text's parts by their weights, of length 1."""
    if all(len(several) == 1 for several in weights):
        return vectors
    starts = np.cumsum([0, *(len(several) for several in weights[:-1])])
    heavy = vectors * np.array([weight for several in weights for weight in several], np.float32)[:, None]
    return _normalised(np.add.reduceat(heavy, starts), len(weights))


def _normalised(rows: Sequence[Sequence[float]] | Vectors, count: int) -> Vectors:
    vectors = np.array(rows, np.float32)
    if vectors.ndim != 2 or len(vectors) != count or not vectors.shape[1] or not np.isfinite(vectors).all():
        raise ValueError(f"expected {count} finite vectors, got an array of shape {vectors.shape}")
    # A text of which the model knows nothing may be all zeros, and is then like nothing.
    lengths: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, np.maximum(lengths, np.float32(1e-12)))
