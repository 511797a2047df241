"""Embedding models for tests. They are small and simple, and what they return is computed from the texts."""

import re
import zlib


class WordEmbedder:
    """Counts words in hashed places: texts with the same words are near each other."""

    def __init__(self, model: str = "words", width: int = 64) -> None:
        self.model = model
        self.width = width
        self.asked: list[int] = []

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """One row per text."""
        self.asked.append(len(texts))
        return [self._row(text) for text in texts]

    def _row(self, text: str) -> list[float]:
        row = [0.0] * self.width
        for word in re.findall(r"\w+", text.lower()):
            row[zlib.crc32(word.encode()) % self.width] += 1
        return row


class FailingEmbedder(WordEmbedder):
    """Fails as long as `error` is one, from the `after`-th batch on."""

    def __init__(self, error: Exception | None, *, after: int = 0) -> None:
        super().__init__()
        self.error = error
        self.after = after

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """One row per text, or the error."""
        if self.error is not None and len(self.asked) >= self.after:
            raise self.error
        return await super().embed(texts)
