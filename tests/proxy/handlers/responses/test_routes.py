"""The routes of responses, before a scripted model server."""

import asyncio
import json
from pathlib import Path
from typing import Any

from proxy.handlers.responses.store import ResponseStore
from tests.openai_types import check_stream, events_of
from tests.proxy.scripted import DONE, END, STREAM, Door, Script, chunk, door, event, said, scripted, streamed

PATH = "/v1/responses"
FINISHED = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
COMMENT = b": the answer is under way\n\n"
Json = dict[str, Any]


def held(gate: asyncio.Event) -> Script:
    return [STREAM, gate, chunk(said("hello")), chunk(FINISHED + DONE), END]


async def get(opened: Door, path: str) -> tuple[int, Json]:
    async with opened.session.get(f"http://127.0.0.1:{opened.port}{path}") as answer:
        return answer.status, await answer.json()


async def test_who_waits_for_a_background_answer_is_told_so(tmp_path: Path) -> None:
    gate, store = asyncio.Event(), ResponseStore(tmp_path / "r", 60)
    async with (
        scripted(held(gate)) as server,
        door(server, responses=store, keepalive_interval=0.01) as opened,
    ):
        client = await opened.ask(PATH, background=True)
        assert (await client.head()).status == 200
        come = b""
        while COMMENT not in come:
            come += await client.chunk()
        gate.set()
        come += await client.body()
        response = check_stream(events_of(come.replace(COMMENT, b"")))
        assert response["output"][0]["content"][0]["text"] == "hello"
        await store.close()


async def test_a_background_answer_goes_on_without_its_client(tmp_path: Path) -> None:
    gate, store = asyncio.Event(), ResponseStore(tmp_path / "r", 60)
    async with scripted(held(gate)) as server, door(server, responses=store) as opened:
        client = await opened.ask(PATH, background=True)
        assert (await client.head()).status == 200
        first = json.loads((await client.chunk()).partition(b"data: ")[2].partition(b"\n")[0])
        client.leave()
        await client.closed()
        status, response = await get(opened, f"{PATH}/{first['response']['id']}")
        assert (status, response["status"]) in [(200, "queued"), (200, "in_progress")]
        assert opened.bodies.budget.held > 0, "its body is still there"
        gate.set()
        await opened.supervisor.freed.wait()
        _, response = await get(opened, f"{PATH}/{response['id']}")
        assert (response["status"], response["background"]) == ("completed", True)
        assert opened.bodies.budget.held == 0
        await store.close()


async def test_a_store_that_cannot_be_used(tmp_path: Path) -> None:
    """Answers come all the same, and what needs it says so."""
    (tmp_path / "r").mkdir()
    store = ResponseStore(tmp_path / "r", 60)
    async with (
        scripted(streamed(said("hello"), FINISHED + DONE)) as server,
        door(server, responses=store) as opened,
    ):
        assert (await opened.post(PATH)).status == 200
        status, body = await get(opened, f"{PATH}/resp_1")
        assert (status, body["error"]["code"]) == (503, "responses_unusable")
        assert str(tmp_path) not in body["error"]["message"]
        refused = await opened.post(PATH, previous_response_id="resp_1")
        assert (refused.status, refused.json["error"]["code"]) == (503, "responses_unusable")
        await store.close()
