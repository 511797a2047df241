"""The index: whole documents whatever happens, searches for any text, and errors that say what to do."""

import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.rag.reading.chunks import Chunk
from agents.rag.store.index import Collection, Entry, Index
from agents.rag.store.schema import MAX_QUERY, MAX_TERMS, IndexUnusableError, match_expression, searchable
from agents.rag.store.search import Searcher


def chunks(*texts: str, headings: tuple[str, ...] = ()) -> list[Chunk]:
    return [Chunk(text, 0, len(text), headings, 1, None) for text in texts]


def put(index: Index, name: str, *texts: str, collection: str = "c", **fields: Any) -> int:
    return index.put(Entry(collection=collection, name=name, digest=name, **fields), chunks(*texts))


def found(index: Index, query: str, collection: str = "c", **where: Any) -> list[str]:
    searcher = Searcher(index)
    return [p.text for p in searcher.passages(searcher.by_words(query, [collection], 50, where))]


def nearest(searcher: Searcher, vector: list[float], limit: int = 9, **where: Any) -> list[str]:
    row = np.array([vector], np.float32)
    return [p.text for p in searcher.passages(searcher.by_vector(row, "m", ["c"], limit, where))]


def add_vectors(index: Index, *vectors: list[float], model: str = "m") -> None:
    numbers = [number for number, _ in index.pending(model, len(vectors))]
    index.put_vectors(model, numbers, np.array(vectors, np.float32))


def test_a_document_replaces_the_one_of_its_name(index: Index) -> None:
    put(index, "a", "old llama", "second llama")
    put(index, "b", "other llama")
    put(index, "a", "new llama")
    assert sorted(found(index, "llama")) == ["new llama", "other llama"]
    assert found(index, "old") == []
    assert [(listed.name, listed.chunks) for listed in index.documents("c")] == [("a", 1), ("b", 1)]


def test_sources_and_collections_are_apart(index: Index) -> None:
    put(index, "a", "posted llama")
    put(index, "a", "folder llama", source="/docs")
    put(index, "a", "another llama", collection="d")
    assert sorted(found(index, "llama")) == ["folder llama", "posted llama"]
    assert [listed.source for listed in index.documents("c", "/docs")] == ["/docs"]
    assert index.delete_collection("c") == 2
    assert found(index, "llama") == []
    assert found(index, "llama", "d") == ["another llama"]
    assert [collection.name for collection in index.collections()] == ["d"]


def test_nothing_is_left_of_what_was_deleted(index: Index, tmp_path: Path) -> None:
    numbers = [put(index, name, f"llama {name}", "more") for name in "abc"]
    add_vectors(index, *([1.0, 0.0] for _ in range(6)))
    assert index.delete_documents([*numbers[:2], 999]) == 2
    assert found(index, "llama") == ["llama c"]
    with closing(sqlite3.connect(tmp_path / "index.sqlite3")) as database:
        for table in ("chunks", "vectors", "words"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (2,)
        database.execute("INSERT INTO words (words) VALUES ('integrity-check')")


def test_figures_of_a_collection(index: Index) -> None:
    put(index, "a", "one", "two")
    index.put(Entry(collection="c", name="b", digest=""), [], refused="b is no PDF")
    add_vectors(index, [1.0, 0.0])
    assert index.collections() == [Collection(name="c", documents=1, refused=1, chunks=2, vectors=1)]
    assert [listed.refused for listed in index.documents("c")] == ["", "b is no PDF"]


SYNTAX = [
    '"',
    "a AND",
    "NOT x",
    "near(a, b)",
    "text:a",
    "a*",
    "^a",
    "-a",
    "(",
    "{a}: b",
    "'; DROP",
    "\0",
    "_",
]


@given(query=st.one_of(st.text(), st.sampled_from(SYNTAX)))
def test_any_text_is_a_query(searched: Index, query: str) -> None:
    Searcher(searched).by_words(query, ["c"], 5)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with closing(Index(tmp_path_factory.mktemp("index") / "index.sqlite3")) as index:
        put(index, "a", "some text")
        yield index


@given(text=st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=40))
def test_a_text_is_found_by_itself(text: str) -> None:
    expression = match_expression(text)
    assert (expression is None) == (re.search("[a-zA-Z0-9]", text) is None)
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE VIRTUAL TABLE words USING fts5(text, tokenize = 'porter unicode61')")
        database.execute("INSERT INTO words VALUES (?)", (searchable(text),))
        if expression is not None:
            assert database.execute("SELECT count(*) FROM words(?)", (expression,)).fetchone() == (1,)


def test_a_query_of_megabytes_is_read_at_its_beginning() -> None:
    assert match_expression("llama " + "?" * MAX_QUERY + " alpaca") == '"llama"'
    begun = time.thread_time()
    assert match_expression("a llama " * 2_000_000) == '"a" OR "llama"'
    assert time.thread_time() - begun < 0.2


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("def parse_header(data)", "header"),
        ("class HttpServer", "server"),
        ("getUserName()", "user name"),
        ("getUserName()", "getusername"),
        ("running servers", "run server"),
        ("Grüße aus München", "munchen"),
        ("這是一個簡單的文本", "簡單"),
        ("これはテストです", "テスト"),
        ("naïve café", "NAIVE"),
    ],
)
def test_words_are_found_in_other_forms(index: Index, text: str, query: str) -> None:
    put(index, "a", text)
    put(index, "b", "something else entirely")
    assert found(index, query) == [text]


def test_headings_and_names_are_searched_and_headings_count_more(index: Index) -> None:
    put(index, "guide/install.md", "x")
    index.put(Entry(collection="c", name="b", digest=""), chunks("a long text that tells of docker now"))
    below = chunks("a long text that tells of it now", headings=("Docker",))
    index.put(Entry(collection="c", name="d", digest=""), below)
    assert found(index, "install") == ["x"]
    assert found(index, "docker")[0] == "a long text that tells of it now"


def test_long_queries_are_cut() -> None:
    expression = match_expression(" ".join(f"w{number}" for number in range(1000)))
    assert expression is not None
    assert expression.count(" OR ") == MAX_TERMS - 1
    assert match_expression("?! \n") is None


FIELDS: dict[str, Any] = {"lang": "en", "year": 2024, "draft": False, "tags": ["a", "b"], 'odd."key': "x"}


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        ({}, True),
        ({"lang": "en"}, True),
        ({"lang": "de"}, False),
        ({"lang": ["de", "en"]}, True),
        ({"year": 2024}, True),
        ({"year": "2024"}, False),
        ({"draft": False}, True),
        ({"draft": True}, False),
        ({"tags": "b"}, True),
        ({"tags": ["c", "a"]}, True),
        ({"tags": "c"}, False),
        ({'odd."key': "x"}, True),
        ({"none": "x"}, False),
        ({"lang": "en", "year": 2023}, False),
        ({"name": "doc"}, True),
        ({"kind": "markdown"}, True),
        ({"kind": ["pdf", "html"]}, False),
        ({"lang": []}, False),
    ],
)
def test_filters(index: Index, where: dict[str, Any], passes: bool) -> None:
    put(index, "doc", "llama", metadata=FIELDS, kind="markdown")
    add_vectors(index, [1.0, 0.0])
    assert found(index, "llama", **where) == ["llama"] * passes
    assert nearest(Searcher(index), [1.0, 0.0], **where) == ["llama"] * passes


def test_the_nearest_vectors_come_first(index: Index) -> None:
    put(index, "a", "east", "north", "northeast")
    add_vectors(index, [1.0, 0.0], [0.0, 1.0], [0.7, 0.7])
    searcher = Searcher(index)
    assert nearest(searcher, [1.0, 0.1]) == ["east", "northeast", "north"]
    assert nearest(searcher, [0.1, 1.0], 2) == ["north", "northeast"]


def test_a_search_sees_every_change_also_of_another_process(index: Index, tmp_path: Path) -> None:
    searcher = Searcher(index)
    put(index, "a", "one")
    assert nearest(searcher, [1.0, 0.0]) == []
    add_vectors(index, [1.0, 0.0])
    assert nearest(searcher, [1.0, 0.0]) == ["one"]
    with closing(Index(tmp_path / "index.sqlite3")) as other:
        number = put(other, "b", "two")
        add_vectors(other, [0.0, 1.0])
        assert nearest(searcher, [1.0, 0.0]) == ["one", "two"]
        other.delete_documents([number])
        assert nearest(searcher, [1.0, 0.0]) == ["one"]


def test_vectors_belong_to_a_model_and_a_length(index: Index) -> None:
    put(index, "a", "one", "two")
    add_vectors(index, [1.0, 0.0], [0.0, 1.0], model="old")
    assert index.count_pending("old") == 0
    assert index.count_pending("m") == 2
    add_vectors(index, [0.0, 1.0])
    searcher = Searcher(index)
    assert nearest(searcher, [1.0, 0.0]) == ["one"]
    add_vectors(index, [1.0, 0.0, 0.0])
    assert index.count_pending("m") == 1
    assert nearest(searcher, [1.0, 0.0]) == []
    assert nearest(searcher, [1.0, 0.0, 0.0]) == ["two"]


def test_vectors_for_chunks_that_are_gone_are_dropped(index: Index) -> None:
    number = put(index, "a", "one")
    ((chunk, _),) = index.pending("m", 9)
    index.delete_documents([number])
    index.put_vectors("m", [chunk], np.ones((1, 2), np.float32))
    put(index, "b", "two")
    assert index.count_pending("m") == 1


def test_pending_texts_say_where_they_stand(index: Index) -> None:
    index.put(
        Entry(collection="c", name="a.md", digest="", title="Guide"),
        chunks("text", headings=("Guide", "Install")),
    )
    index.put(Entry(collection="c", name="b.md", digest=""), chunks("other"))
    (first, text), (second, other) = index.pending("m", 9)
    assert (text, other) == ("Guide > Install\ntext", "b.md\nother")
    assert index.pending("m", 1, after=first) == [(second, other)]


def test_many_threads_may_use_it(index: Index) -> None:
    def work(name: str) -> None:
        for number in range(10):
            put(index, name, f"llama {number}", "more text")
            assert len(found(index, "llama")) <= 4

    threads = [Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found(index, "llama") == ["llama 9"] * 4


KILLED = """
import sys
from pathlib import Path
from agents.rag.reading.chunks import Chunk
from agents.rag.store.index import Entry, Index
index = Index(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    name = f"d{number % 7}"
    texts = [f"llama {number} {position}" for position in range(50)]
    chunks = [Chunk(text, 0, len(text), (), 1, None) for text in texts]
    index.put(Entry(collection="c", name=name, digest=str(number)), chunks)
    print(number, flush=True)
"""


def test_killed_in_the_middle_it_holds_whole_documents_only(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite3"
    for kill_after in (1, 10):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
        )
        assert process.stdout is not None
        last = [process.stdout.readline().strip() for _ in range(kill_after)][-1]
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        with closing(Index(path)) as index:
            listed = index.documents("c")
            assert {document.chunks for document in listed} == {50}
            assert last in {document.digest for document in listed}
            for document in listed:
                texts = found(index, f"{document.digest}", name=document.name)
                assert len(texts) == 50
                assert {text.split()[1] for text in texts} == {document.digest}
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            database.execute("INSERT INTO words (words) VALUES ('integrity-check')")
            assert database.execute("SELECT count(*) FROM words").fetchone() == (50 * len(listed),)


def test_an_index_of_another_version_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite3"
    Index(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(IndexUnusableError, match=r"index\.sqlite3 is of version 99, not 1; move .* away"):
        Index(path)


def test_a_file_that_is_no_index(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite3"
    path.write_text("this is not a database, and long enough to be sure of that" * 100)
    with pytest.raises(IndexUnusableError, match=r"index\.sqlite3 is damaged \(.*\); move .* away"):
        Index(path)
    with pytest.raises(IndexUnusableError, match="cannot be opened"):
        Index(path / "below" / "index.sqlite3")


def test_a_closed_index_says_so(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite3")
    index.close()
    with pytest.raises(IndexUnusableError, match="cannot be used: Cannot operate on a closed database"):
        index.collections()
