"""Texts that are longer than an embedding model reads at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.rag.embedding import Embedding, TextTooLongError, Vectors, split
from tests.agents.rag.embedders import WordEmbedder
from tests.effort import examples


class ShortEmbedder(WordEmbedder):
    """Reads so many bytes of a text at most."""

    def __init__(self, most: int) -> None:
        super().__init__(width=256)
        self.most = most

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """One row per text, or the error."""
        if any(len(text.encode()) > self.most for text in texts):
            self.asked.append(0)
            raise TextTooLongError("the text is too long")
        return await super().embed(texts)


async def vectors(embedder: WordEmbedder, *texts: str) -> Vectors:
    found = await Embedding(embedder, text_prefix="p: ").embed_texts(texts)
    assert found is not None
    return found


async def test_a_long_text_is_read_in_parts() -> None:
    words = [f"w{number}" for number in range(400)]
    long, short = " ".join(words), "w1 w2 w3"
    embedder = ShortEmbedder(500)
    found = await vectors(embedder, short, long, short)
    assert found.shape == (3, 256)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert (found[0] == found[2]).all()
    assert (found[0] == (await vectors(WordEmbedder(width=256), short))[0]).all()
    whole = (await vectors(WordEmbedder(width=256), long))[0]
    assert float(found[1] @ whole) > 0.9
    assert embedder.asked[:-1].count(0) == len(embedder.asked) - 1


async def test_a_question_is_read_in_parts_too() -> None:
    found = await Embedding(ShortEmbedder(100), query_prefix="q: ").embed_query("日本語の文章。" * 30)
    assert found is not None
    assert found.shape == (1, 256)


async def test_a_text_that_no_cutting_helps() -> None:
    with pytest.raises(TextTooLongError):
        await vectors(ShortEmbedder(8), "a llama", "b " * 300)


@settings(max_examples=examples(60))
@given(text=st.text(max_size=60), most=st.integers(4, 30))
def test_parts_are_the_text(text: str, most: int) -> None:
    parts = split(text, most)
    assert "".join(parts) == text
    assert len(parts) == max(1, -(-len(text.encode()) // most))
    assert all(len(part.encode()) < most + 4 for part in parts)
