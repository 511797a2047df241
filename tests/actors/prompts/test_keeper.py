"""Keepers: what is saved and restored of a server that may fail in any way."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from actors.config.schema import PromptSettings
from actors.messages import ApiKey, ServerAddress
from actors.prompts.chain import Chain
from actors.prompts.identity import Cache
from actors.prompts.keeper import Visit
from actors.prompts.keeping import Figures, Prompts

PACE = 0.01
"""Seconds per token of the pretended server."""


def chain(*words: str) -> Chain:
    digests = tuple("/".join(words[: n + 1]) for n in range(len(words)))
    return Chain(("", *digests), tuple(range(len(words) + 1)))


class SlotServer:
    """Slots as llama-server has them: each has the number of its tokens. `does` orders misbehaviour."""

    def __init__(self, folder: Path, slots: int = 2) -> None:
        self.folder = folder
        self.slots: list[int | None] = [None] * slots
        self.busy: set[int] = set()
        self.tasks = [-1] * slots
        self.does: set[str] = set()
        self.asked: list[str] = []
        self.released = asyncio.Event()
        self.aside: dict[str, int] = {}
        """Tokens of the prompts in the server's own cache, by their first message."""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/slots", self.look)
        app.router.add_post("/slots/{id}", self.move)
        app.router.add_post("/v1/chat/completions", self.chat)
        return app

    async def look(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        if "no-slots" in self.does:
            return web.json_response({"error": {"message": "not supported"}}, status=501)
        if "garbage" in self.does:
            return web.Response(body=b"[{")
        return web.json_response(
            [
                {
                    "id": number,
                    "is_processing": number in self.busy,
                    "id_task": self.tasks[number],
                    **({} if tokens is None else {"n_prompt_tokens": tokens}),
                }
                for number, tokens in enumerate(self.slots)
            ]
        )

    async def chat(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.asked.append(f"recall {asked['messages'][0]}")
        tokens = self.aside.get(asked["messages"][0], 0)
        if tokens:
            self.slots[0] = tokens
            self.tasks[0] = max(self.tasks) + 1
        progress = {"total": 1900, "cache": tokens, "processed": tokens}
        return web.Response(body=b"data: " + json.dumps({"prompt_progress": progress}).encode() + b"\n\n")

    async def move(self, request: web.Request) -> web.Response:
        slot, action = int(request.match_info["id"]), request.query["action"]
        path = self.folder / (await request.json())["filename"]
        self.asked.append(f"{action} {slot}")
        if f"hang-{action}" in self.does:
            path.write_bytes(b"half")
            await self.released.wait()
        if f"refuse-{action}" in self.does:
            return web.json_response({"error": {"message": "not supported by multimodal"}}, status=501)
        if action == "save":
            tokens = self.slots[slot] or 0
            path.write_bytes(b"%8d" % tokens * tokens)
            if "cut" in self.does:
                path.write_bytes(path.read_bytes()[:100])
            return web.json_response({"n_saved": tokens, "n_written": 8 * tokens})
        raw = path.read_bytes()
        self.slots[slot] = int(raw[:8])
        return web.json_response({"n_restored": self.slots[slot], "n_read": len(raw)})


class Bench:
    """Prompts of one gateway, and of servers that come and go."""

    def __init__(self, folder: Path, session: aiohttp.ClientSession) -> None:
        self.folder = folder
        self.session = session
        self.prompts = self.make()
        self.server = SlotServer(folder)
        self.address = ServerAddress("", 0)
        self._running: list[TestServer] = []

    def make(self, **settings: Any) -> Prompts:
        return Prompts(self.session, self.folder, PromptSettings(**settings))

    async def boot(self, identity: str = "i", slots: int = 2, model: str = "m") -> None:
        """Start another server."""
        self.server = SlotServer(self.folder, slots)
        running = TestServer(self.server.app())
        await running.start_server()
        self._running.append(running)
        assert running.port is not None
        self.address = ServerAddress("127.0.0.1", running.port, key=ApiKey("secret"))
        self.prompts.opened(model, Cache(identity, 8.0), self.address)

    async def visit(self, words: Chain, client: str = "") -> Visit:
        visit = await self.prompts.visit(self.address, client, words)
        assert visit is not None
        return visit

    async def ask(
        self, words: Chain, tokens: int = 2000, *, slot: int = 0, cached: int = 0, client: str = ""
    ) -> Visit:
        """A request, and its answer by the pretended server."""
        body = json.dumps({"messages": words.digests[1:]}).encode()
        visit = await self.prompts.visit(self.address, client, words, body)
        assert visit is not None
        counts = {"prompt_tokens": tokens - 100, "completion_tokens": 100, "cached_tokens": cached}
        visit.ended(counts, visit.sent_at + PACE * (tokens - 100 - cached))
        self.server.slots[slot] = tokens - 1
        self.server.tasks[slot] = max(self.server.tasks) + 1
        return visit

    async def stop(self) -> None:
        """Stop the server as its actor does."""
        await self.prompts.save(self.address)
        self.server.released.set()
        self.prompts.gone(self.address)

    @property
    def figures(self) -> Figures:
        found = self.prompts.figures()
        assert found is not None
        return found

    async def settled(self) -> Figures:
        """What is kept when all that was saved has its digest, and all that is to go is gone."""
        while tasks := [task for task in asyncio.all_tasks() if "prompt" in task.get_name()]:
            await asyncio.wait(tasks)
        return self.figures

    async def close(self) -> None:
        await self.prompts.close()
        for running in self._running:
            await running.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with aiohttp.ClientSession() as session:
        bench = Bench(tmp_path / "prompts", session)
        await bench.prompts.open()
        await bench.boot()
        try:
            yield bench
        finally:
            bench.server.released.set()
            await bench.close()


async def test_a_prompt_survives_its_server(bench: Bench) -> None:
    await bench.ask(chain("a"))
    await bench.stop()
    assert (await bench.settled()).saved == 1
    await bench.boot()
    visit = await bench.ask(chain("a", "b"), 2100, cached=1999)
    assert visit.restored is not None
    assert bench.server.asked == ["restore 0"]
    figures = await bench.settled()
    assert (figures.restored, figures.tokens, figures.missed) == (1, 1999, 0)
    assert figures.seconds == pytest.approx(1999 * PACE, abs=1.0)
    await bench.stop()
    assert (await bench.settled()).kept == 1, "the longer one replaces it"


async def test_a_prompt_survives_the_gateway(bench: Bench) -> None:
    await bench.ask(chain("a"))
    await bench.stop()
    await bench.prompts.close()
    bench.prompts = bench.make()
    await bench.prompts.open()
    await bench.boot()
    assert (await bench.visit(chain("a", "b"))).restored is not None


async def test_what_is_restored_and_not_continued_is_not_saved_again(bench: Bench) -> None:
    await bench.ask(chain("a"))
    await bench.stop()
    await bench.settled()
    await bench.boot()
    await bench.ask(chain("a"), cached=1899)
    await bench.stop()
    assert bench.server.asked == ["restore 0"]


@pytest.mark.parametrize("identity", ["i", "j"])
@pytest.mark.parametrize("client", ["alice", "bob"])
async def test_prompts_cross_neither_keys_nor_kinds_of_servers(
    bench: Bench, client: str, identity: str
) -> None:
    await bench.ask(chain("a"), client="alice")
    await bench.stop()
    await bench.settled()
    await bench.boot(identity)
    visit = await bench.visit(chain("a", "b"), client)
    assert (visit.restored is not None) == ((client, identity) == ("alice", "i"))


async def test_a_slot_that_may_be_either_keys_is_not_saved(bench: Bench) -> None:
    await bench.ask(chain("a"), client="alice", slot=0)
    await bench.ask(chain("b"), client="bob", slot=1)
    await bench.stop()
    assert (await bench.settled()).kept == 0


async def test_short_prompts_are_not_worth_it(bench: Bench) -> None:
    await bench.ask(chain("a"), 110)
    await bench.stop()
    assert bench.server.asked == []


async def test_a_prompt_that_is_read_again_is_dropped_and_its_model_left_alone(bench: Bench) -> None:
    for words in ("a", "b"):
        await bench.boot()
        await bench.ask(chain(words))
        await bench.stop()
        await bench.settled()
        await bench.boot()
        assert (await bench.ask(chain(words, "more"), cached=10)).restored is not None
        await bench.settled()
    assert bench.figures.missed == 2
    await bench.stop()
    await bench.boot()
    await bench.ask(chain("c"))
    await bench.stop()
    assert bench.server.asked == []


async def test_a_server_that_goes_on_from_the_end_only(bench: Bench) -> None:
    await bench.ask(chain("a", "b"))
    await bench.stop()
    await bench.settled()
    for words in ("other", "another"):
        await bench.boot()
        visit = await bench.ask(chain("a", words), cached=0)
        assert (visit.restored is not None) == (words == "other"), "tried once"
    await bench.boot()
    assert (await bench.ask(chain("a", "b", "c"), 2100, cached=1999)).restored is not None
    assert (await bench.settled()).missed == 1


async def test_what_the_server_has_itself_is_not_restored(bench: Bench) -> None:
    await bench.ask(chain("a"))
    await bench.stop()
    await bench.settled()
    await bench.boot()
    await bench.ask(chain("a", "b"), 2100, cached=1999)
    assert (await bench.visit(chain("a", "b", "c"))).restored is None


async def test_a_slot_in_use_is_left_alone(bench: Bench) -> None:
    await bench.ask(chain("a"))
    await bench.stop()
    await bench.settled()
    await bench.boot()
    bench.server.busy = {0}
    visit = await bench.visit(chain("a", "b"))
    assert bench.server.asked == ["restore 1"]
    bench.server.busy = {0, 1}
    assert (await bench.visit(chain("a", "x"))).restored is None
    visit.ended({}, None)


async def test_two_requests_do_not_restore_into_one_slot(bench: Bench) -> None:
    for slot, words in enumerate(("a", "b")):
        await bench.ask(chain(words), 2000 + slot, slot=slot)
    await bench.stop()
    assert (await bench.settled()).kept == 2
    await bench.boot()
    bench.server.slots = [None, None]
    visits = [await bench.visit(chain(words, "more")) for words in ("a", "b")]
    assert [visit.restored and visit.restored.slot for visit in visits] == [0, 1]


async def test_what_is_in_the_way_is_saved_first(bench: Bench) -> None:
    await bench.boot(slots=1)
    await bench.ask(chain("a"))
    await bench.stop()
    await bench.settled()
    await bench.boot(slots=1)
    await bench.ask(chain("b"), 3000)
    visit = await bench.ask(chain("a", "more"), 2100, cached=1999)
    assert visit.restored is not None
    assert bench.server.asked == ["save 0", "restore 0"]
    await bench.settled()
    again = await bench.ask(chain("b", "more"), 3100, cached=2999)
    assert again.restored is not None
    assert bench.server.asked[2:] == ["save 0", "restore 0"]


async def test_what_the_server_has_moved_aside_is_saved_too(bench: Bench) -> None:
    for words in ("a", "b", "c"):
        await bench.ask(chain(words), 2000 + ord(words))  # each takes the place of the one before
    bench.server.aside = {words: 1900 + ord(words) for words in ("a", "b")}
    await bench.stop()
    assert sorted(bench.server.asked) == ["recall a", "recall b", "save 0", "save 0", "save 0"]
    assert (await bench.settled()).kept == 3
    await bench.boot()
    for words in ("a", "b", "c"):
        assert (await bench.visit(chain(words, "more"))).restored is not None or words == "c"


async def test_what_the_server_has_forgotten_is_not_read_again(bench: Bench) -> None:
    for words in ("a", "b", "c"):
        await bench.ask(chain(words), 2000 + ord(words))
    await bench.stop()
    assert bench.server.asked in (["save 0", "recall a"], ["save 0", "recall b"])
    assert (await bench.settled()).kept == 1


@pytest.mark.parametrize("fault", ["refuse-save", "no-slots", "garbage", "cut", "hang-save"])
async def test_a_save_that_fails_costs_nothing_else(bench: Bench, fault: str) -> None:
    await bench.ask(chain("a"), 250)  # worth less than a second
    bench.server.does = {fault}
    await bench.stop()
    assert bench.server.asked == ([] if fault in ("no-slots", "garbage") else ["save 0"])
    figures = await bench.settled()
    assert (figures.kept, figures.saved) == (0, 0)
    assert {path.name for path in bench.folder.iterdir()} == {"lock"}
    await bench.boot()
    assert (await bench.visit(chain("a", "b"))).restored is None


@pytest.mark.parametrize("fault", ["refuse-restore", "no-slots", "garbage"])
async def test_a_restore_that_fails_costs_nothing_else(bench: Bench, fault: str) -> None:
    await bench.ask(chain("a"))
    await bench.stop()
    await bench.settled()
    await bench.boot()
    bench.server.does = {fault}
    assert (await bench.ask(chain("a", "b"))).restored is None


async def test_a_damaged_file_never_reaches_a_server(bench: Bench) -> None:
    await bench.ask(chain("a"))
    await bench.stop()
    await bench.settled()
    (path,) = bench.folder.glob("*.prompt")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    await bench.boot()
    assert (await bench.visit(chain("a", "b"))).restored is None
    assert bench.server.asked == []
    assert bench.figures.kept == 0


async def test_a_server_that_dies_is_forgotten(bench: Bench) -> None:
    await bench.ask(chain("a"))
    bench.prompts.gone(bench.address)
    assert not bench.prompts.keeps(bench.address)
    assert await bench.prompts.visit(bench.address, "", chain("a")) is None
    await bench.prompts.save(bench.address)
    assert bench.server.asked == []


async def test_without_a_disk_nothing_is_kept(bench: Bench) -> None:
    off = bench.make(disk=0)
    await off.open()
    assert off.folder is None
    assert off.figures() is None
    second = bench.make()
    await second.open()
    assert second.folder is None, "another gateway has the folder"
    await second.close()
