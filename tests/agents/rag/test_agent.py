"""The agent /rag: documents in by its operations and folders, grounded requests and citations out."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.runtime import spawn
from agents.api import AgentError, Call
from agents.chat import Chat, Message
from agents.host.host import AgentHost
from agents.rag.agent import Rag
from agents.rag.asking.prompt import NOTHING
from agents.rag.command_line import rag
from agents.testing import ScriptedLLM, chat, hosted, run_request

LLAMAS = "# Llamas\n\nLlamas live in the Andes.\n\n# Camels\n\nCamels live in the desert.\n"
BREAD = "Bread is made of flour and water.\n"


async def send(host: AgentHost, *documents: dict[str, Any]) -> dict[str, Any]:
    body = msgspec.json.encode({"documents": list(documents)})
    return await host.operate("rag", "POST", "documents", Call(body=body))


async def until(ask: Callable[[], Awaitable[Any]], expected: Any) -> None:
    async with asyncio.timeout(20):
        while await ask() != expected:  # noqa: ASYNC110  # what is waited for is seen from outside only
            await asyncio.sleep(0.01)


async def test_a_question_gets_numbered_sources_and_citations(tmp_path: Path) -> None:
    llm = ScriptedLLM("In the Andes [1].")
    async with hosted(Rag, llm=llm, folder=tmp_path) as host:
        reply = await send(host, {"name": "animals.md", "text": LLAMAS}, {"name": "bread.txt", "text": BREAD})
        assert (reply["added"], reply["refused"]) == (2, {})
        outcome = await run_request(host, chat("/rag Where do llamas live?"), llm)
    sent = llm.requests[0].messages[-1].text
    assert sent.endswith("</sources>\n\nWhere do llamas live?")
    assert '<source n="1"' in sent
    assert "Llamas live in the Andes." in sent
    first = outcome.answer.extra["citations"][0]
    assert (first["n"], first["document"], first["collection"]) == (1, "animals.md", "default")
    assert "Andes" in first["excerpt"]
    assert msgspec.json.encode(outcome.answer.extra)
    assert outcome.report[0]["note"].endswith("sources")


async def test_collections_and_metadata(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    documents: list[dict[str, Any]] = [
        {"name": "a.txt", "text": "Llamas spit.", "collection": "zoo", "metadata": {"year": 2024}},
        {"name": "b.txt", "text": "Llamas hum.", "collection": "zoo", "metadata": {"year": 2025}},
        {"name": "c.txt", "text": "Llamas trek.", "collection": "farm"},
    ]
    async with hosted(Rag, llm=llm, folder=tmp_path) as host:
        await send(host, *documents)

        async def found(request: Chat) -> set[str]:
            outcome = await run_request(host, request, llm)
            return {one["document"] for one in outcome.answer.extra["citations"]}

        assert await found(chat("/rag llamas?")) == {"a.txt", "b.txt", "c.txt"}
        assert await found(chat("/rag:farm llamas?")) == {"c.txt"}
        assert await found(chat("/rag:farm+zoo llamas?")) == {"a.txt", "b.txt", "c.txt"}
        wanted = {"agents": ["rag"], "rag": {"collections": ["zoo"], "where": {"year": 2025}}}
        assert await found(chat("llamas?", extra=wanted)) == {"b.txt"}
        assert "rag" not in llm.requests[-1].extra
        assert len(await found(chat("llamas?", extra={"agents": ["rag"], "rag": {"top_k": 1}}))) == 1


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (chat("/rag:nowhere hm?"), 404, "there is no collection 'nowhere'; there are: none"),
        (chat("/rag hm?", extra={"rag": {"colection": []}}), 400, "rag: Object contains unknown field"),
        (chat("/rag hm?", extra={"rag": {"top_k": 0}}), 400, "rag: Expected `int` >= 1"),
        (
            Chat(model="demo", messages=[Message("system", "x")], extra={"agents": ["rag"]}),
            400,
            "needs a question",
        ),
    ],
)
async def test_what_cannot_be_looked_up(tmp_path: Path, request_: Chat, status: int, message: str) -> None:
    llm = ScriptedLLM("x")
    async with hosted(Rag, llm=llm, folder=tmp_path) as host:
        outcome = await run_request(host, request_, llm)
    assert outcome.refused is not None
    assert outcome.refused.status == status
    assert message in outcome.refused.message


@pytest.mark.parametrize("documents", [0, 1])
async def test_where_nothing_is_found_the_model_is_told_so(tmp_path: Path, documents: int) -> None:
    llm = ScriptedLLM("x")
    async with hosted(Rag, llm=llm, folder=tmp_path) as host:
        if documents:
            await send(host, {"name": "bread.txt", "text": BREAD})
        outcome = await run_request(host, chat("/rag Where?"), llm)
    assert llm.requests[0].messages[-1].text == f"{NOTHING}\n\nWhere?"
    assert outcome.answer.extra == {"citations": []}
    assert outcome.report[0]["note"] == "0 sources"


async def test_vectors_and_reranking_are_the_gateway_s(tmp_path: Path) -> None:
    llm = ScriptedLLM("x")
    config = {"rag": {"embed_model": "embedder", "rerank_model": "reranker", "budget": {"calls": 2}}}
    async with hosted(Rag, llm=llm, folder=tmp_path, config=config) as host:
        reply = await send(host, {"name": "animals.md", "text": LLAMAS})
        assert reply["embedded"] > 0
        assert reply["pending"] == 0
        outcome = await run_request(host, chat("/rag Where do camels live?"), llm)
    assert outcome.report[0]["calls"] == 2, "the request's budget is charged"
    assert outcome.answer.extra["citations"][0]["score"] == pytest.approx(0.25), "the reranker's"


async def test_a_document_does_not_wait_for_the_vectors_of_another(tmp_path: Path) -> None:
    class Slow(ScriptedLLM):
        is_asked = asyncio.Event()

        async def embed(self, model: str, texts: list[str], *, key: str = "") -> list[list[float]]:
            self.is_asked.set()
            return await super().embed(model, texts, key=key)

    llm = Slow()
    llm.hold.clear()
    config = {"rag": {"embed_model": "embedder"}}
    async with hosted(Rag, llm=llm, folder=tmp_path, config=config) as host, asyncio.timeout(20):
        first = spawn(send(host, {"name": "animals.md", "text": LLAMAS}), name="first")
        await llm.is_asked.wait()
        reply = await send(host, {"name": "bread.txt", "text": BREAD})
        assert (reply["added"], reply["embedded"]) == (1, 0)
        found = await host.operate("rag", "GET", "collections", Call())
        assert found["collections"][0]["vectors"] == 0
        llm.hold.set()
        assert (await first)["embedded"] > 0

        async def missing() -> int:
            (one,) = (await host.operate("rag", "GET", "collections", Call()))["collections"]
            return int(one["chunks"] - one["vectors"])

        await until(missing, 0)


async def test_bad_documents_are_refused_by_name_and_the_rest_goes_in(tmp_path: Path) -> None:
    async with hosted(Rag, llm=ScriptedLLM(), folder=tmp_path) as host:
        reply = await send(
            host,
            {"name": "empty.txt", "text": "  "},
            {"name": "good.txt", "text": BREAD},
            {"name": "binary.bin", "text": "\0\1\2"},
        )
        assert reply["added"] == 1
        assert set(reply["refused"]) == {"empty.txt", "binary.bin"}
        assert "empty.txt has no text" in reply["refused"]["empty.txt"]


@pytest.mark.parametrize(
    ("name", "collection", "message"),
    [
        ("n" * 200_000, "zoo", r"the document's name 'n+…' has 200000 characters, more than the 500 allowed"),
        ("a\0b", "zoo", r"the document's name 'a\\x00b' has a control character in it"),
        ("a.txt", "x/y", "the collection's name 'x/y' has a slash or a control character in it"),
        ("a.txt", "x\0y", r"the collection's name 'x\\x00y' has a slash or a control character in it"),
    ],
)
async def test_names_that_cannot_be_used(tmp_path: Path, name: str, collection: str, message: str) -> None:
    async with hosted(Rag, llm=ScriptedLLM(), folder=tmp_path) as host:
        good = {"name": "good.txt", "text": BREAD}
        sent = Call(parameters={"name": name, "collection": collection}, body=BREAD.encode())
        for add in (
            send(host, good, {"name": name, "text": BREAD, "collection": collection}),
            host.operate("rag", "POST", "documents", sent),
        ):
            with pytest.raises(AgentError, match=f"^{message}$") as caught:
                await add
            assert caught.value.status == 400
            assert len(caught.value.message) < 200
        assert (await host.operate("rag", "GET", "collections", Call()))["collections"] == []
        for bad in ("x\0y", "x\ud800y"):
            with pytest.raises(AgentError) as caught:
                await host.operate("rag", "DELETE", f"collections/{bad}", Call())
            assert caught.value.status == 400


async def test_files_are_sent_as_they_are(tmp_path: Path) -> None:
    async with hosted(Rag, llm=ScriptedLLM(), folder=tmp_path) as host:

        async def put(body: bytes, **parameters: str) -> dict[str, Any]:
            call = Call(parameters=parameters, body=body, media_type="text/html; charset=utf-8")
            return await host.operate("rag", "POST", "documents", call)

        page = b"<html><h1>Alpacas</h1><p>They are soft.</p></html>"
        assert (await put(page, name="page", metadata='{"by": "me"}'))["added"] == 1
        assert (await put(page, name="page", metadata='{"by": "me"}'))["unchanged"] == 1
        assert (await put(page + b"<p>And small.</p>", name="page"))["changed"] == 1
        listed = await host.operate("rag", "GET", "documents", Call())
        (document,) = listed["documents"]
        assert (document["name"], document["kind"], document["title"]) == ("page", "html", "Alpacas")
        found = await host.operate("rag", "POST", "search", Call(body=b'{"query": "soft"}'))
        assert "They are soft." in found["passages"][0]["text"]
        with pytest.raises(AgentError, match="name the document"):
            await put(page)
        collections = (await host.operate("rag", "GET", "collections", Call()))["collections"]
        assert [(one["name"], one["documents"]) for one in collections] == [("default", 1)]
        assert await host.operate("rag", "DELETE", f"documents/{document['id']}", Call()) == {"deleted": 1}
        for number, status in ((document["id"], 404), ("x", 400), ("9" * 20, 404), ("9" * 5000, 404)):
            with pytest.raises(AgentError) as caught:
                await host.operate("rag", "DELETE", f"documents/{number}", Call())
            assert caught.value.status == status
        await put(page, name="page")
        assert await host.operate("rag", "DELETE", "collections/default", Call()) == {"deleted": 1}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"documents": [{"text": "x"}]}', b'{"documents": 5}'])
async def test_bodies_that_make_no_sense(tmp_path: Path, body: bytes) -> None:
    async with hosted(Rag, llm=ScriptedLLM(), folder=tmp_path) as host:
        with pytest.raises(AgentError, match="the body cannot be used"):
            await host.operate("rag", "POST", "documents", Call(body=body))


DEEP = b"[" * 100_000

BODIES = (
    b"\xff",
    b'{"query": "\xff"}',
    b'{"query": "\\ud800"}',
    b'{"query": ' + DEEP + b"}",
    b'{"query": "x", "where": {"a": ' + b"9" * 6000 + b"}}",
    b'{"query": "x", "where": {"a": [1e400]}}',
    b'{"query": "x", "where": {"a": {}}}',
    b'{"query": "x", "top_k": 1e9}',
    b'{"query": "x", "collections": ["' + b"c" * 100_000 + b'"]}',
    b'{"query": "x", "collections": ["a\\u0000"]}',
    b'{"documents": [{"name": "\\ud800", "text": "x"}]}',
    b'{"documents": [{"name": "a", "text": "\xff"}]}',
    b'{"documents": [{"name": "a", "text": "x", "metadata": ' + DEEP + b"}]}",
    b'{"documents": [' + b",".join([b'{"name":"a","text":"x"}'] * 10_001) + b"]}",
)


@pytest.mark.parametrize("path", ["documents", "search"])
@pytest.mark.parametrize("body", BODIES)
async def test_a_body_that_makes_no_sense_is_its_sender_s_mistake(
    tmp_path: Path, path: str, body: bytes
) -> None:
    async with hosted(Rag, llm=ScriptedLLM(), folder=tmp_path) as host:
        with pytest.raises(AgentError) as caught:
            await host.operate("rag", "POST", path, Call(body=body))
        assert 400 <= caught.value.status < 500
        assert host.describe()[0]["counters"]["crashes"] == 0


async def test_folders_are_watched(tmp_path: Path) -> None:
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "a.md").write_text(LLAMAS)
    llm = ScriptedLLM("x")
    config = {"rag": {"folders": {"papers": str(papers)}}}
    async with hosted(Rag, llm=llm, folder=tmp_path / "data", config=config) as host:

        async def names() -> list[str]:
            call = Call(parameters={"collection": "papers"})
            return [one["name"] for one in (await host.operate("rag", "GET", "documents", call))["documents"]]

        await until(names, ["a.md"])
        (papers / "b.md").write_text(BREAD)
        await until(names, ["a.md", "b.md"])
        assert host.describe()[0]["counters"]["crashes"] == 0


def test_a_folder_must_be_absolute() -> None:
    with pytest.raises(
        msgspec.ValidationError, match=r"folders.papers: expected an absolute path, got 'papers'"
    ):
        msgspec.convert({"folders": {"papers": "papers"}}, Rag.Config)


def test_a_folder_goes_into_a_collection_that_can_be_named() -> None:
    with pytest.raises(msgspec.ValidationError, match="folders: the collection's name 'a/b' has a slash"):
        msgspec.convert({"folders": {"a/b": "/papers"}}, Rag.Config)


def command(folder: Path, *paths: Path, action: str = "add", collection: str | None = None) -> int:
    return rag(folder, argparse.Namespace(action=action, paths=list(paths), collection=collection))


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text(LLAMAS)
    (docs / "bad.pdf").write_bytes(b"no PDF at all")
    (tmp_path / "single.txt").write_text(BREAD)
    index = tmp_path / "index"
    assert command(index, docs, tmp_path / "single.txt", collection="mine") == 1
    reply = capsys.readouterr()
    assert f"{docs}: 1 added, 0 changed, 0 unchanged, 0 deleted" in reply.out
    assert "refused: bad.pdf is no PDF" in reply.err
    (docs / "bad.pdf").unlink()
    assert command(index, docs, collection="mine") == 0
    assert "0 added, 0 changed, 1 unchanged, 1 deleted" in capsys.readouterr().out
    assert command(index, tmp_path / "nothing") == 1
    assert "cannot be read" in capsys.readouterr().err
    assert command(index) == 2
    capsys.readouterr()
    assert command(index, action="list") == 0
    listed = capsys.readouterr().out
    assert "mine: 2 documents" in listed
    assert f"{docs}/a.md" in listed
    assert command(index, action="delete", collection="mine") == 0
    assert capsys.readouterr().out == "deleted collection 'mine': 2 documents\n"


def test_what_is_deleted_is_what_was_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, docs, more = tmp_path / "index", tmp_path / "docs", tmp_path / "more"
    for folder, names in ((docs, ("a1.md", "a2.md", "sub/a3.md")), (more, ("a2.md",))):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"{folder} {name}")
    assert command(index, docs, more, collection="t") == 0

    def left() -> list[str]:
        capsys.readouterr()
        assert command(index, action="list") == 0
        return [
            Path(line.split()[1]).name
            for line in capsys.readouterr().out.splitlines()
            if "chunks" in line[4:]
        ][1:]

    def delete(*paths: str | Path, collection: str | None = "t") -> tuple[int, str]:
        capsys.readouterr()
        status = command(index, *map(Path, paths), action="delete", collection=collection)
        reply = capsys.readouterr()
        return status, reply.out + reply.err

    assert delete("a1.md") == (0, f"deleted {docs}/a1.md from collection 't'\n" + COMES_BACK)
    assert left() == ["a2.md", "a2.md", "a3.md"]
    status, reply = delete("a2.md", "nothing.md", docs)
    assert status == 1
    assert f"'a2.md' is the name of 2 documents; name one in full: {docs}/a2.md, {more}/a2.md" in reply
    assert "there is no document 'nothing.md' in collection 't'" in reply
    assert f"there is no document '{docs}' in collection 't'" in reply
    assert len(left()) == 3
    assert delete(more / "a2.md", "sub/a3.md")[0] == 0
    assert left() == ["a2.md"]
    for paths, collection, status in (((), None, 2), (("a2.md",), None, 1), ((), "u", 1)):
        assert delete(*paths, collection=collection)[0] == status
        assert left() == ["a2.md"]
    assert command(index, docs, action="list") == 2
    assert command(index, action="list", collection="u") == 1


COMES_BACK = "run.py: its file is still there: where its folder is watched it comes back\n"


def test_a_folder_that_lost_its_files_is_pruned_when_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, docs = tmp_path / "index", tmp_path / "docs"
    docs.mkdir()
    for number in range(3):
        (docs / f"{number}.md").write_text(f"llama {number}")
    assert command(index, docs) == 0
    for number in range(3):
        (docs / f"{number}.md").unlink()
    assert command(index, docs) == 1
    assert f"run.py rag prune {docs} --collection default" in capsys.readouterr().err
    assert command(index, docs, action="prune", collection="other") == 1
    assert command(index, docs, action="prune") == 0
    assert f"{docs}: 3 deleted" in capsys.readouterr().out
    assert command(index, docs, action="prune") == 1
    assert command(index, action="prune") == 2


def test_a_folder_is_pruned_wherever_its_documents_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of a watched folder are in the collection that its settings name."""
    index, docs, kept = tmp_path / "index", tmp_path / "docs", tmp_path / "kept"
    for folder in (docs, kept):
        folder.mkdir()
        (folder / "a.md").write_text("llama")
    for collection in ("papers", "more"):
        assert command(index, docs, kept, collection=collection) == 0
    (docs / "a.md").unlink()
    (kept / "a.md").unlink()
    assert command(index, docs, action="prune") == 0
    assert f"{docs}: 2 deleted" in capsys.readouterr().out
    assert command(index, kept / "a.md", action="delete") == 1
    hint = "in collection 'default'; there is one in 'more', 'papers' (--collection)"
    assert hint in capsys.readouterr().err
    assert command(index, kept, action="prune", collection="more") == 0
    assert f"{kept}: 1 deleted" in capsys.readouterr().out


async def test_what_the_command_put_in_gets_its_vectors_from_the_gateway(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(LLAMAS)
    data = tmp_path / "data"
    assert await asyncio.to_thread(command, data / "rag", tmp_path / "a.md") == 0
    config = {"rag": {"embed_model": "embedder"}}
    async with hosted(Rag, llm=ScriptedLLM(), folder=data, config=config) as host:

        async def missing() -> int:
            (one,) = (await host.operate("rag", "GET", "collections", Call()))["collections"]
            return int(one["chunks"] - one["vectors"])

        await until(missing, 0)
