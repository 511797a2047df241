"""The cache: which requests are the same, and which answers are kept for how long."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.api import Agent, Call, Context, Filter, Reply, TextFilter
from agents.cache.agent import FILE, Cache, key_of
from agents.cache.store import Store
from agents.chat import Chat, Message, Sampling, ToolCall
from agents.events import Answer, AnswerFailed, Text, Usage
from agents.host.host import AgentHost
from agents.testing import ScriptedLLM, chat, hosted, run_request

Log = list[Any]


class Clock:
    """Stands still until it is set."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


async def ask(host: AgentHost, llm: ScriptedLLM, request: Chat | None = None, **asked: Any) -> Answer:
    """Ask, and wait until what was to be kept is kept."""
    outcome = await run_request(host, request or chat(), llm, **{"header": "cache", **asked})
    actor = host._actors["cache"]
    await actor._idle.wait()
    return outcome.answer


async def test_the_same_request_has_the_same_answer(tmp_path: Path) -> None:
    said = Answer(
        id="a1",
        model="demo",
        text="hello there",
        reasoning="hm",
        tool_calls=[ToolCall("1", "f", "{}")],
        reason="tool_calls",
        usage=Usage(prompt=5, completion=7, completion_seconds=2.0),
    )
    llm, clock = ScriptedLLM(said, "never"), Clock()
    async with hosted(Cache, llm=llm, folder=tmp_path, clock=clock) as host:
        first = await ask(host, llm)
        clock.now += 12.5
        again = await ask(host, llm, chat(stream=True, include_usage=True, keep_alive=5.0))
    assert len(llm.requests) == 1
    assert first.extra == {}
    assert again.extra == {"cache": {"age": 12.5}}
    assert again.usage == Usage(prompt=5, completion=7, cached=5)
    same = msgspec.structs.replace(first, extra=again.extra, usage=again.usage, created=1012)
    assert again == same


async def test_it_outlives_the_gateway(tmp_path: Path) -> None:
    llm = ScriptedLLM("once", "twice")
    for _ in range(2):
        async with hosted(Cache, llm=llm, folder=tmp_path) as host:
            assert (await ask(host, llm)).text == "once"


@pytest.mark.parametrize(
    "other",
    [
        chat("hello!"),
        chat(model="other"),
        chat(sampling=Sampling(temperature=0.5)),
        chat(extra={"grammar": "x"}),
        chat(think=True),
    ],
)
async def test_another_request_has_another_answer(tmp_path: Path, other: Chat) -> None:
    llm = ScriptedLLM("once", "twice")
    async with hosted(Cache, llm=llm, folder=tmp_path) as host:
        assert (await ask(host, llm)).text == "once"
        assert (await ask(host, llm, other)).text == "twice"


async def test_keys_do_not_share(tmp_path: Path) -> None:
    llm = ScriptedLLM("for a", "for b")
    async with hosted(Cache, llm=llm, folder=tmp_path) as host:
        assert (await ask(host, llm, key="a")).text == "for a"
        assert (await ask(host, llm, key="b")).text == "for b"
        assert (await ask(host, llm, key="a")).text == "for a"
    assert key_of(chat(), "a") != key_of(chat(), "b")


class Adds(Agent):
    """Has the model asked for something else, as its argument says."""

    async def before(self, ctx: Context, request: Chat) -> Chat:
        messages = [*request.messages, Message("user", ctx.argument)]
        return msgspec.structs.replace(request, messages=messages)


class Replies(Agent):
    """Answers in the model's stead."""

    async def before(self, ctx: Context, request: Chat) -> Reply:
        return Reply.of([Text(f"replied {ctx.argument}")])


async def test_what_comes_after_it_counts(tmp_path: Path) -> None:
    llm = ScriptedLLM("plain", "of papers", "of books", "never")
    async with hosted(Cache, Adds, Replies, llm=llm, folder=tmp_path) as host:
        for _ in range(2):
            for order, text in (
                ("/cache /replies:all x", "replied all"),
                ("/cache /replies x", "replied "),
                ("/cache x", "plain"),
                ("/cache /adds:papers x", "of papers"),
                ("/cache /adds:books x", "of books"),
            ):
                assert (await ask(host, llm, chat(order), header=None)).text == text
    assert len(llm.requests) == 3


async def test_it_grows_old(tmp_path: Path) -> None:
    llm, clock = ScriptedLLM("once", "twice"), Clock()
    config = {"cache": {"ttl": 60}}
    async with hosted(Cache, llm=llm, folder=tmp_path, config=config, clock=clock) as host:
        await ask(host, llm)
        clock.now += 59
        assert (await ask(host, llm)).text == "once"
        clock.now += 1
        assert (await ask(host, llm)).text == "twice"


@pytest.mark.parametrize(
    "said", [AnswerFailed(502, "gone"), Answer(text="cut o", reason="length"), Answer(text="x" * 2000)]
)
async def test_what_is_not_kept(tmp_path: Path, said: Any) -> None:
    llm = ScriptedLLM(said, "whole")
    config = {"cache": {"max_kb": 1}}
    async with hosted(Cache, llm=llm, folder=tmp_path, config=config) as host:
        await ask(host, llm)
        assert (await ask(host, llm)).text == "whole"


class Doubles(Agent):
    """A filter that would be seen if it were applied twice, or not at all."""

    def stream(self, ctx: Context) -> Filter:
        class Double(TextFilter):
            def text(self, piece: str) -> str:
                return piece * 2

        return Double()


@pytest.mark.parametrize("order", ["/cache /doubles x", "/doubles /cache x"])
async def test_filters_are_applied_once(tmp_path: Path, order: str) -> None:
    llm = ScriptedLLM("ab", "never")
    async with hosted(Cache, Doubles, llm=llm, folder=tmp_path) as host:
        assert (await ask(host, llm, chat(order), header=None)).text == "abab"
        assert (await ask(host, llm, chat(order), header=None)).text == "abab"


async def test_all_of_it_can_be_forgotten(tmp_path: Path) -> None:
    llm = ScriptedLLM("once", "twice")
    async with hosted(Cache, llm=llm, folder=tmp_path) as host:
        await ask(host, llm)
        assert await host.operate("cache", "DELETE", "answers", Call()) == {"deleted": 1}
        assert (await ask(host, llm)).text == "twice"


def test_the_oldest_make_room(tmp_path: Path) -> None:
    store = Store(tmp_path / "x.sqlite3", ttl=100, max_entries=3)
    for number in range(5):
        store.put(bytes([number]), b"x", 10.0 + number)
    assert [store.get(bytes([number]), 15.0) is not None for number in range(5)] == [False] * 2 + [True] * 3
    assert store.get(b"\4", 15.0) == (b"x", 1.0)
    assert store.clear() == 3
    store.close()


DAMAGED = {
    "garbage": lambda path: path.write_bytes(b"this is no database " * 500),
    "truncated": lambda path: os.truncate(path, 5000),
    "empty page": lambda path: path.write_bytes(path.read_bytes()[:4096] + bytes(path.stat().st_size - 4096)),
}


@pytest.mark.parametrize("how", DAMAGED)
async def test_a_damaged_database_is_set_aside_and_another_begun(tmp_path: Path, how: str, log: Log) -> None:
    llm = ScriptedLLM("an answer")
    path = tmp_path / "cache" / FILE
    async with hosted(Cache, llm=llm, folder=tmp_path) as host:
        for number in range(20):
            await ask(host, llm, chat(f"{number}" * 200))
    await asyncio.to_thread(DAMAGED[how], path)
    async with hosted(Cache, llm=llm, folder=tmp_path) as host:
        for text in ("1" * 200, "new", "new"):
            assert (await ask(host, llm, chat(text))).text == "an answer"
        assert (await ask(host, llm, chat("new"))).extra
        assert host.describe()[0]["counters"]["crashes"] == 0
    (line,) = [line for line in log if line["event"] == "database is damaged; starting a new one"]
    assert Path(line["kept_as"]).name.startswith(f"{FILE}.broken-")
    assert await asyncio.to_thread(Path(line["kept_as"]).exists)


async def test_a_database_that_is_deleted_while_it_is_used_begins_anew(tmp_path: Path) -> None:
    llm = ScriptedLLM("an answer")
    async with hosted(Cache, llm=llm, folder=tmp_path) as host:
        await ask(host, llm)
        await asyncio.to_thread(shutil.rmtree, tmp_path / "cache")
        assert not (await ask(host, llm)).extra, "who deletes it wants other answers"
    async with hosted(Cache, llm=llm, folder=tmp_path) as host:
        assert (await ask(host, llm)).extra, "what was kept after that is kept"


async def test_a_database_that_cannot_be_opened_costs_nothing_but_the_cache(tmp_path: Path) -> None:
    llm = ScriptedLLM("an answer")
    path = tmp_path / "cache" / FILE
    path.mkdir(parents=True)
    async with hosted(Cache, llm=llm, folder=tmp_path) as host:
        outcome = await run_request(host, chat(), llm, header="cache")
        assert outcome.answer.text == "an answer"
        assert outcome.report[0]["outcome"] == "skipped"
        path.rmdir()
        await ask(host, llm)
        assert (await ask(host, llm)).extra, "it is used as soon as it can be"
        assert host.describe()[0]["counters"]["crashes"] == 0
