"""What waiting users are told in the reasoning of streamed answers, as official clients read it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import msgspec
import ollama
import openai
import pytest

from actors.config.schema import Model
from actors.messages import ServerApiName
from agents.api import Agent
from agents.host.discovery import Loaded
from proxy.handlers.responses.store import ResponseStore
from tests.proxy.scripted import (
    DONE,
    Do,
    Door,
    FakeSupervisor,
    Script,
    door,
    event,
    head,
    json_answer,
    said,
    scripted,
    streamed,
)

HI: list[Any] = [{"role": "user", "content": "hi"}]
LINE = "[gateway] demo: loading, 2nd in the queue, about 7 s\n"
REASONING = {"X-Loading-State": "reasoning"}


def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"finish_reason": reason, "index": 0, "delta": delta}
    fields = {
        "created": 1700000000,
        "id": "chatcmpl-server",
        "model": "demo",
        "object": "chat.completion.chunk",
    }
    return event({"choices": [choice], **fields})


LLAMA = streamed(
    chunk({"role": "assistant", "content": None}),
    chunk({"reasoning_content": "Hm."}),
    chunk({"content": 'an "id":"chatcmpl-server"'}),
    chunk({}, "stop"),
    DONE,
)
TEXT = 'an "id":"chatcmpl-server"'
DAEMON = [
    {"model": "demo", "message": {"role": "assistant", "content": "", "thinking": "Hm."}, "done": False},
    {"model": "demo", "message": {"role": "assistant", "content": TEXT}, "done": False},
    {"model": "demo", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"},
]
OLLAMA: Script = [
    head("Content-Type: application/x-ndjson", "Connection: close"),
    b"".join(msgspec.json.encode(line) + b"\n" for line in DAEMON),
    Do.CLOSE,
]
SERVERS = pytest.mark.parametrize("api", ["llama.cpp", "ollama"])


class Passes(Agent):
    """Changes nothing."""

    description = "changes nothing"


AGENTS = [Loaded("passes", __name__, Passes, Passes.Config())]


class Wait:
    """A request that waits for its model until somebody has read what it waits for."""

    def __init__(self, opened: Door) -> None:
        self.opened = opened
        self.url = f"http://127.0.0.1:{opened.port}"

    def over(self) -> None:
        assert self.opened.supervisor.gate is not None
        self.opened.supervisor.gate.set()


@asynccontextmanager
async def waiting(
    api: ServerApiName = "llama.cpp", script: Script | None = None, **options: Any
) -> AsyncIterator[Wait]:
    """A gateway whose model is being loaded until `over`."""

    def prepare(supervisor: FakeSupervisor) -> None:
        supervisor.gate = asyncio.Event()

    if script is None:
        script = LLAMA if api == "llama.cpp" else OLLAMA
    async with scripted(script) as server:
        server.endpoint = msgspec.structs.replace(server.endpoint, api=api, model="demo")
        async with door(server, prepare=prepare, agents=AGENTS, **options) as opened:
            yield Wait(opened)


@SERVERS
@pytest.mark.parametrize("agents", [False, True])
async def test_openais_client(api: ServerApiName, agents: bool) -> None:
    headers = {**REASONING, **({"X-Agents": "passes"} if agents else {})}
    async with (
        waiting(api) as wait,
        openai.AsyncOpenAI(base_url=f"{wait.url}/v1", api_key="x", default_headers=headers) as client,
    ):
        chunks = []
        async with client.chat.completions.stream(model="demo", messages=HI) as stream:
            async for one in stream:
                if one.type == "chunk":
                    chunks.append(one.chunk)
                    if (one.chunk.choices[0].delta.model_extra or {}).get("reasoning_content"):
                        wait.over()
            final = await stream.get_final_completion()
        assert {one.id for one in chunks} == {final.id}
        assert len({one.created for one in chunks}) == 1
        deltas = [choice.delta for one in chunks for choice in one.choices]
        assert [delta.role for delta in deltas if delta.role] == ["assistant"]
        reasoning = [(delta.model_extra or {}).get("reasoning_content") for delta in deltas]
        assert "".join(filter(None, reasoning)) == LINE + "Hm."
        message = final.choices[0].message
        assert (message.role, message.content, final.choices[0].finish_reason) == ("assistant", TEXT, "stop")


@SERVERS
async def test_anthropics_client(api: ServerApiName) -> None:
    async with (
        waiting(api) as wait,
        anthropic.AsyncAnthropic(base_url=wait.url, api_key="x", default_headers=REASONING) as client,
        client.messages.stream(model="demo", messages=HI, max_tokens=9) as stream,
    ):
        async for one in stream:
            if one.type == "thinking":
                wait.over()
        message = await stream.get_final_message()
        thought, text = message.content
        assert thought.type == "thinking"
        assert (thought.thinking, bool(thought.signature)) == (LINE + "Hm.", True)
        assert text.type == "text"
        assert (text.text, message.stop_reason) == (TEXT, "end_turn")


@SERVERS
async def test_the_client_of_responses(api: ServerApiName, tmp_path: Path) -> None:
    store = ResponseStore(tmp_path / "responses", 60)
    await store.start()
    try:
        async with (
            waiting(api, responses=store) as wait,
            openai.AsyncOpenAI(base_url=f"{wait.url}/v1", api_key="x", default_headers=REASONING) as client,
        ):
            kinds = []
            async with client.responses.stream(model="demo", input="hi") as stream:
                async for one in stream:
                    kinds.append(one.type)
                    if one.type == "response.reasoning_text.delta":
                        wait.over()
                final = await stream.get_final_response()
            assert kinds.count("response.created") == kinds.count("response.in_progress") == 1
            thought, message = final.output
            assert thought.type == "reasoning"
            assert [part.text for part in thought.content or []] == [LINE + "Hm."]
            assert message.type == "message"
            assert final.output_text == TEXT
            kept = await client.responses.retrieve(final.id)
            assert kept.output[0].type == "reasoning"
            assert [part.text for part in kept.output[0].content or []] == ["Hm."], "no part of a history"
    finally:
        await store.close()


@SERVERS
@pytest.mark.parametrize("generates", [False, True])
async def test_ollamas_client(api: ServerApiName, generates: bool) -> None:
    script = None
    if generates and api == "ollama":
        lines = [{"model": "demo", "response": "", "thinking": "Hm.", "done": False}]
        lines.append({"model": "demo", "response": TEXT, "done": False})
        lines.append({"model": "demo", "response": "", "done": True, "done_reason": "stop"})
        script = [OLLAMA[0], b"".join(msgspec.json.encode(line) + b"\n" for line in lines), Do.CLOSE]
    async with waiting(api, script) as wait:
        client = ollama.AsyncClient(wait.url, headers=REASONING)
        try:
            if generates:
                parts: Any = await client.generate("demo", "hi", stream=True)
            else:
                parts = await client.chat("demo", messages=HI, stream=True)
            thoughts, texts, last = [], [], None
            async for part in parts:
                said_now = part if generates else part.message
                thoughts.append(said_now.thinking or "")
                texts.append((said_now.response if generates else said_now.content) or "")
                if thoughts[-1]:
                    wait.over()
                last = part
            assert "".join(thoughts) == LINE + "Hm."
            assert "".join(texts) == TEXT
            assert last is not None
            assert last.done
            if api == "llama.cpp":
                assert last.load_duration == 1_500_000_000, "the load that it waited for"
        finally:
            await client._client.aclose()


ERROR = json_answer(
    {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, "503 No"
)


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/v1/chat/completions", lambda body: json.loads(body.rpartition(b"data: ")[2])["error"]["message"]),
        ("/v1/messages", lambda body: json.loads(body.rpartition(b"data: ")[2])["error"]["message"]),
        (
            "/v1/responses",
            lambda body: json.loads(body.rpartition(b"data: ")[2])["response"]["error"]["message"],
        ),
        ("/api/chat", lambda body: json.loads(body.splitlines()[-1])["error"]),
    ],
)
async def test_an_error_after_that_is_the_last_event(path: str, last: Callable[[bytes], str]) -> None:
    async with waiting(script=[ERROR]) as wait:
        client = await wait.opened.connect()
        body = {"model": "demo", "messages": HI, "input": "hi", "stream": True, "max_tokens": 5}
        await client.post(path, body, "X-Loading-State: reasoning")
        assert (await client.head()).status == 200
        begin = b""
        while b"[gateway] demo: loading" not in begin:
            begin += await client.chunk()
        wait.over()
        assert "Loading model" in last(begin + await client.body())


async def pieces(wait: Wait, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, bytes]:
    """Status and body of a streamed answer, whose model is ready a little later."""
    async with httpx.AsyncClient(base_url=wait.url) as client:
        body = {"model": "demo", "messages": HI, "prompt": "hi", "stream": True}
        task = asyncio.create_task(client.post(path, json=body, headers=headers))
        await wait.opened.supervisor.waits.wait()
        for _ in range(20):  # several looks for news
            await asyncio.sleep(0.01)
        wait.over()
        answer = await task
        return answer.status_code, answer.content


async def test_each_line_is_told_once() -> None:
    async with waiting() as wait:
        _, body = await pieces(wait, **REASONING)
        assert body.count(b"[gateway]") == 1


@pytest.mark.parametrize(
    ("model", "header", "expected"),
    [
        (None, None, b": waiting for demo"),
        ("reasoning", None, b"[gateway]"),
        ("reasoning", "comments", b": waiting for demo"),
        ("none", "Reasoning", b"[gateway]"),
        ("none", None, None),
        (None, "none", None),
    ],
)
async def test_who_decides(model: Any, header: str | None, expected: bytes | None) -> None:
    models = {"demo": Model(path="x", loading_state=model)}
    async with waiting(models=models, keepalive_interval=0.02) as wait:
        status, body = await pieces(wait, **({} if header is None else {"X-Loading-State": header}))
        assert status == 200
        for words in (b": waiting for demo", b"[gateway]"):
            if words != b": waiting for demo" or expected is None or words == expected:
                assert (words in body) == (words == expected)


async def test_a_header_that_means_nothing() -> None:
    async with waiting() as wait, httpx.AsyncClient(base_url=wait.url) as client:
        body = {"model": "demo", "messages": HI, "stream": True}
        answer = await client.post("/v1/chat/completions", json=body, headers={"X-Loading-State": "loud"})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == (
            "X-Loading-State: 'loud' is none of none, comments, reasoning"
        )


@pytest.mark.parametrize("path", ["/v1/completions", "/completion"])
async def test_answers_without_a_place_for_it(path: str) -> None:
    text = event(
        {"choices": [{"text": "a", "index": 0, "finish_reason": "stop"}], "content": "a", "stop": True}
    )
    async with waiting(script=streamed(text, DONE)) as wait:
        status, body = await pieces(wait, path, **REASONING)
        assert (status, b"[gateway]" in body) == (200, False)


async def test_whole_answers_have_none_of_it() -> None:
    async with waiting() as wait, httpx.AsyncClient(base_url=wait.url, headers=REASONING) as client:
        task = asyncio.create_task(
            client.post("/v1/chat/completions", json={"model": "demo", "messages": HI})
        )
        await wait.opened.supervisor.waits.wait()
        for _ in range(10):
            await asyncio.sleep(0.01)
        wait.over()
        assert (await task).json()["choices"][0]["message"]["reasoning_content"] == "Hm."


HISTORIES: dict[str, list[Any]] = {
    "/v1/chat/completions": [{"role": "assistant", "content": "a", "reasoning_content": LINE + "Hm."}],
    "/v1/messages": [
        {"role": "assistant", "content": [{"type": "thinking", "thinking": LINE + "Hm.", "signature": "x"}]}
    ],
    "/api/chat": [{"role": "assistant", "content": "a", "thinking": LINE + "Hm."}],
    "/v1/responses": [
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": LINE + "Hm."}]},
        {"role": "assistant", "content": "a"},
    ],
}


@pytest.mark.parametrize("path", HISTORIES)
async def test_it_comes_to_no_model_in_a_history(path: str) -> None:
    finished = event({"choices": [{"finish_reason": "stop", "index": 0, "delta": {}}]})
    async with scripted(streamed(said("a"), finished, DONE)) as server, door(server) as opened:
        turns = [*HI, *HISTORIES[path], *HI]
        answer = await opened.post(
            path, **{"input" if "responses" in path else "messages": turns}, max_tokens=5
        )
        assert answer.status == 200
        sent = server.requests[0].body
        assert b"Hm." in sent
        assert b"[gateway]" not in sent
