"""What hybrid retrieval is for: it finds more than either of its halves."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from agents.rag.asking.retrieve import Retriever
from agents.rag.embedding import Embedding
from agents.rag.indexing.ingest import Ingester
from agents.rag.passage import Passage
from agents.rag.store.index import Index
from agents.rag.store.search import Searcher
from tests.agents.rag.retrieval_set import StaticEmbedder, questions

K = 5
EVERY = 3
"""Every third question is asked, and looked up in all of the functions: that tells what all of them tell."""


async def test_hybrid_finds_more_than_either_half(index: Index, tmp_path: Path) -> None:
    asked = {f"{number:04}.py": pair for number, pair in enumerate(questions())}
    folder = tmp_path / "functions"
    folder.mkdir()
    for name, (_, source) in asked.items():
        (folder / name).write_text(source)
    embedding = Embedding(StaticEmbedder([source for _, source in asked.values()]))
    report = await Ingester(index, embedding).add_folder(folder, "code")
    assert report.added == len(asked) > 900
    searcher = Searcher(index)
    words, both = Retriever(searcher, Embedding(None)), Retriever(searcher, embedding)

    async def by_vectors(question: str) -> list[Passage]:
        vector = await embedding.embed_query(question)
        assert vector is not None
        found = await asyncio.to_thread(searcher.by_vector, vector, StaticEmbedder.model, ["code"], K)
        return await asyncio.to_thread(searcher.passages, found)

    sample = list(asked.items())[::EVERY]

    async def recall(search: Callable[[str], Awaitable[list[Passage]]]) -> float:
        hits = [name in {p.document for p in await search(question)} for name, (question, _) in sample]
        return sum(hits) / len(hits)

    lexical = await recall(lambda question: words.retrieve(question, ["code"], k=K))
    dense = await recall(by_vectors)
    hybrid = await recall(lambda question: both.retrieve(question, ["code"], k=K))
    print(f"\nrecall@{K}, {len(sample)} questions to {len(asked)} functions:", end=" ")
    print(f"words {lexical:.3f}, vectors {dense:.3f}, both {hybrid:.3f}")
    assert hybrid > max(lexical, dense) + 0.02
    assert min(lexical, dense) > 0.3
