"""Retrieval: fusion by its definition, and answers whatever model is missing or fails."""

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from agents.rag.asking.retrieve import RRF_K, Retriever, fuse
from agents.rag.embedding import Embedding, TextRefusedError
from agents.rag.indexing.ingest import Ingester
from agents.rag.store.index import Index
from agents.rag.store.search import Searcher
from tests.agents.rag.embedders import FailingEmbedder, WordEmbedder

RANKINGS = st.lists(st.lists(st.integers(0, 9), unique=True), max_size=4)
TEXTS = {
    "docker": "Docker runs a llama server in a container.",
    "memory": "Memory decides how many models fit on a card.",
    "slots": "A request takes a slot of the llama server.",
    "animal": "A llama is a calm animal from the mountains.",
}


class LengthReranker:
    """Likes short texts."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def rerank(self, query: str, texts: list[str]) -> list[float]:
        if self.error is not None:
            raise self.error
        return [-float(len(text)) for text in texts]


@given(RANKINGS, st.integers(1, 100))
def test_fusion_is_the_sum_of_reciprocal_ranks(rankings: list[list[int]], k: int) -> None:
    fused = fuse(rankings, k)
    scores = dict(fused)
    assert scores.keys() == {item for ranking in rankings for item in ranking}
    for item, score in scores.items():
        ranks = [ranking.index(item) + 1 for ranking in rankings if item in ranking]
        assert score == pytest.approx(sum(1 / (k + rank) for rank in ranks))
    assert [score for _, score in fused] == sorted(scores.values(), reverse=True)


def test_fusion_of_one_ranking_is_that_ranking() -> None:
    assert [item for item, _ in fuse([["c", "a", "b", "a"]])] == ["c", "a", "b"]
    assert fuse([]) == []
    assert [item for item, _ in fuse([["a", "b"], ["c", "b"]])] == ["b", "a", "c"]


async def fill(index: Index, embedding: Embedding) -> None:
    ingester = Ingester(index, embedding)
    for name, text in TEXTS.items():
        await ingester.add_document(text.encode(), name, "docs", metadata={"topic": name})


async def test_passages_say_where_they_are_from(index: Index) -> None:
    embedding = Embedding(None)
    text = b"# Guide\n\nintro\n\n## Install\n\n" + b"Run the installer of llama. " * 30
    await Ingester(index, embedding).add_document(text, "guide.md", "docs")
    (passage,) = await Retriever(Searcher(index), embedding).retrieve("installer", ["docs"])
    assert (passage.document, passage.collection, passage.kind) == ("guide.md", "docs", "markdown")
    assert passage.title == "Guide"
    assert passage.headings == ("Guide",)
    assert (passage.position, passage.line, passage.page) == (0, 1, None)
    assert text.decode()[passage.start : passage.end] == passage.text


async def test_words_and_vectors_are_both_heard(index: Index) -> None:
    embedding = Embedding(WordEmbedder(width=512))
    await fill(index, embedding)
    passages = await Retriever(Searcher(index), embedding).retrieve("calm llama animal", ["docs"], k=3)
    assert passages[0].document == "animal"
    assert passages[0].score == pytest.approx(2 / (RRF_K + 1))
    assert len(passages) == 3


async def test_no_model_no_words_no_collection(index: Index) -> None:
    with structlog.testing.capture_logs() as logs:
        embedding = Embedding(None)
    assert [line["event"] for line in logs] == ["no embedding model is configured; searching by words only"]
    await fill(index, embedding)
    retriever = Retriever(Searcher(index), embedding)
    with structlog.testing.capture_logs() as logs:
        assert [p.document for p in await retriever.retrieve("container", ["docs"])] == ["docker"]
        assert await retriever.retrieve("container", ["other"]) == []
        assert await retriever.retrieve("container", []) == []
        assert await retriever.retrieve("?!", ["docs"]) == []
        assert await retriever.retrieve("zebra", ["docs"]) == []
    assert not logs


@pytest.mark.parametrize("error", [ConnectionError("refused"), TextRefusedError("too long")])
async def test_a_model_that_fails_leaves_the_words(index: Index, error: Exception) -> None:
    embedder = FailingEmbedder(None)
    embedding = Embedding(embedder)
    await fill(index, embedding)
    embedder.error = error
    retriever = Retriever(Searcher(index), embedding)
    with structlog.testing.capture_logs() as logs:
        assert [p.document for p in await retriever.retrieve("container", ["docs"])] == ["docker"]
    assert [line["reason"] for line in logs] == [str(error)]


async def test_filters_hold_for_both_searches(index: Index) -> None:
    embedding = Embedding(WordEmbedder())
    await fill(index, embedding)
    retriever = Retriever(Searcher(index), embedding)
    passages = await retriever.retrieve("llama", ["docs"], where={"topic": ["slots", "memory"]})
    assert {passage.document for passage in passages} == {"slots", "memory"}


async def test_several_collections_are_one_answer_and_no_text_comes_twice(index: Index) -> None:
    embedding = Embedding(WordEmbedder())
    await fill(index, embedding)
    await Ingester(index, embedding).add_document(TEXTS["docker"].encode(), "copy", "other")
    await Ingester(index, embedding).add_document(b"Another llama server.", "more", "other")
    passages = await Retriever(Searcher(index), embedding).retrieve("llama server", ["docs", "other"], k=9)
    assert len(passages) == len({passage.text for passage in passages}) == 5
    assert {passage.collection for passage in passages} == {"docs", "other"}


async def test_a_reranker_has_the_last_word(index: Index) -> None:
    embedding = Embedding(None)
    await fill(index, embedding)
    passages = await Retriever(Searcher(index), embedding, LengthReranker()).retrieve("llama", ["docs"], k=2)
    lengths = sorted((len(text), name) for name, text in TEXTS.items() if "llama" in text)
    assert [passage.document for passage in passages] == [name for _, name in lengths[:2]]
    assert passages[0].score == -lengths[0][0]


async def test_a_reranker_that_fails_is_told_once_and_not_heard(index: Index) -> None:
    embedding = Embedding(None)
    await fill(index, embedding)
    plain = await Retriever(Searcher(index), embedding).retrieve("llama server", ["docs"])
    reranker = LengthReranker(ConnectionError("gone"))
    retriever = Retriever(Searcher(index), embedding, reranker)
    with structlog.testing.capture_logs() as logs:
        assert await retriever.retrieve("llama server", ["docs"]) == plain
        assert await retriever.retrieve("llama server", ["docs"]) == plain
        reranker.error = None
        assert await retriever.retrieve("llama server", ["docs"]) != plain
    assert [line["event"] for line in logs] == ["the reranker fails; its order is not used", "works again"]
