"""Retrieves passages for a question: searched by words and by vectors, fused by rank, filtered, reranked."""

import asyncio
from collections.abc import Hashable, Sequence
from typing import TypeVar

import msgspec

from agents.rag.embedding import Embedding, Reranker, Reranking
from agents.rag.passage import Filter, Passage
from agents.rag.store.schema import MAX_QUERY
from agents.rag.store.search import Searcher

RRF_K = 10
"""Of reciprocal rank fusion: the smaller, the more the first ranks are worth. The paper's 60 is for many
systems; of two, it puts what both found late before what one found first. Recall@5 with 60 and with 10 was
0.518 and 0.539 on the set of `tests/agents/rag/retrieval_set.py`, 0.777 and 0.780 on the questions of
perlfaq; recall@3 and @10 rose as well."""

CANDIDATES = 50
"""Most chunks that each search contributes to the fusion."""

RERANKED = 20
"""Most passages for the reranker, which costs more per passage than all other steps together."""

T = TypeVar("T", bound=Hashable)


def fuse(rankings: Sequence[Sequence[T]], k: int = RRF_K) -> list[tuple[T, float]]:
    """Reciprocal rank fusion: the item at rank r (from 1) of each ranking scores 1 / (k + r); best sum first.

    Among equal sums the item seen first wins. Within a ranking an item counts once.
    """
    scores: dict[T, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(dict.fromkeys(ranking), 1):
            scores[item] = scores.get(item, 0.0) + 1 / (k + rank)
    return sorted(scores.items(), key=lambda pair: -pair[1])


class Retriever:
    """Finds passages. If a model is missing or fails, the search by words still works."""

    def __init__(self, searcher: Searcher, embedding: Embedding, reranker: Reranker | None = None) -> None:
        self._searcher = searcher
        self._embedding = embedding
        self._reranking = Reranking(reranker)

    async def retrieve(
        self, query: str, collections: Sequence[str], *, k: int = 5, where: Filter | None = None
    ) -> list[Passage]:
        """Return the best `k` passages of these collections, best first, without duplicate texts.

        `score` is the reranker's if it works, otherwise the fusion's.
        """
        query = query[:MAX_QUERY]  # models refuse longer queries, or read only their beginning
        candidates = max(CANDIDATES, k)
        searcher = self._searcher
        rankings = [await asyncio.to_thread(searcher.by_words, query, collections, candidates, where)]
        model = self._embedding.model
        if (
            model is not None
            and query.strip()
            and (vector := await self._embedding.embed_query(query)) is not None
        ):
            rankings.append(
                await asyncio.to_thread(searcher.by_vector, vector, model, collections, candidates, where)
            )
        fused = fuse(rankings)
        found = await asyncio.to_thread(searcher.passages, [chunk for chunk, _ in fused])
        scores = dict(fused)
        passages = _unique([msgspec.structs.replace(found_, score=scores[found_.chunk]) for found_ in found])
        return (await self._rerank(query, passages[: max(RERANKED, k)]))[:k]

    async def _rerank(self, query: str, passages: list[Passage]) -> list[Passage]:
        texts = ["\n".join((" > ".join(passage.headings), passage.text)).strip() for passage in passages]
        scores = await self._reranking.scores(query, texts)
        if scores is None:
            return passages
        scored = zip(passages, scores, strict=True)
        reranked = [msgspec.structs.replace(passage, score=score) for passage, score in scored]
        return sorted(reranked, key=lambda passage: -passage.score)


def _unique(passages: list[Passage]) -> list[Passage]:
    """Keep the first passage of each text, since one file may be in several folders."""
    return list({passage.text: passage for passage in reversed(passages)}.values())[::-1]
