"""Slots of a real server: a restored prompt gives the same answers as one that is read anew."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from actors.messages import ServerAddress
from actors.prompts.slots import SlotError, Slots
from actors.servers.health import answers
from tests.deploy import free_port
from tests.gateway import CHECKOUT, Json
from tests.tiny_models import KINDS, write_tiny

LONG = "Tell me about docker containers and llamas. " * 40
TALK: list[Json] = [
    {"role": "system", "content": "You are helpful."},
    {"role": "user", "content": LONG},
    {"role": "assistant", "content": "Docker is a program.", "reasoning_content": "They ask about docker."},
    {"role": "user", "content": "And what is a llama? " * 10},
]


def edited(at: int, content: str) -> list[Json]:
    return [{**one, "content": content} if nth == at else one for nth, one in enumerate(TALK)]


def more(answer: str) -> list[Json]:
    return [*TALK, {"role": "assistant", "content": answer}, {"role": "user", "content": "And more?"}]


class Server:
    """A running embedded server."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self.slots = Slots(session, ServerAddress("127.0.0.1", port))
        self._session = session
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"

    async def ask(self, messages: list[Json], **fields: Any) -> tuple[str, int]:
        """The answer at temperature 0, and how many tokens of the prompt were not read again."""
        body = {"messages": messages, "temperature": 0, "max_tokens": 24, "id_slot": 0, **fields}
        async with self._session.post(self._url, json=body) as response:
            assert response.status == 200, await response.text()
            answer = await response.json()
            message = answer["choices"][0]["message"]
            said = f"{message.get('reasoning_content')}|{message.get('content')}"
            return said, answer["timings"]["cache_n"]


@contextmanager
def process(argv: list[str]) -> Iterator[None]:
    child = subprocess.Popen(argv, cwd=CHECKOUT, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        child.terminate()
        child.wait()


@asynccontextmanager
async def running(model: Path, folder: Path, *flags: str) -> AsyncIterator[Server]:
    port = free_port()
    argv = [sys.executable, "-m", "actors.servers.llama.embedded", "--model", str(model)]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--slot-save-path", f"{folder}/", *flags]
    argv += ["--ctx-size", "8192", "--parallel", "2", "--kv-unified", "--threads", "1"]
    # Exact, so that a prompt that is read in other pieces gives the same numbers.
    argv += ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]
    async with aiohttp.ClientSession() as session:
        with process(argv):
            async with asyncio.timeout(60):
                while not await answers(session, "127.0.0.1", port):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)  # another process has no event
            yield Server(session, port)


@pytest.mark.parametrize("reasoning", [False, True], ids=["plain", "thinks"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_restored_prompt_answers_as_one_that_was_read(
    kind: str, reasoning: bool, tmp_path: Path, real_server: None
) -> None:
    model = write_tiny(tmp_path / "model.gguf", kind, reasoning=reasoning)
    async with running(model, tmp_path) as before:
        answer, _ = await before.ask(TALK)
        (slot,) = [one for one in await before.slots.look() if one.n_prompt_tokens]
        saved = await before.slots.save(slot.id, "a.prompt")
        assert saved.tokens == slot.n_prompt_tokens
        assert saved.bytes == (tmp_path / "a.prompt").stat().st_size
    asked = {
        "the next turn": more(answer.partition("|")[2]),
        "the same again": TALK,
        "the last turn taken back": TALK[:2],
        "another last message": edited(3, "No, what is a container?"),
        "an edit in the middle": edited(2, "Docker is a whale."),
        "another system prompt": edited(0, "You are a pirate."),
        "another conversation": [{"role": "user", "content": "hello"}],
    }
    async with running(model, tmp_path) as fresh, running(model, tmp_path) as restored:
        for name, messages in asked.items():
            assert await restored.slots.restore(0, "a.prompt") == saved
            found, cached = await restored.ask(messages)
            expected, _ = await fresh.ask(messages, cache_prompt=False)
            assert found == expected, name
            if name == "the next turn":
                assert cached > saved.tokens // 2


async def test_a_server_without_slots(tmp_path: Path, real_server: None) -> None:
    model = write_tiny(tmp_path / "model.gguf", "full")
    async with running(model, tmp_path, "--no-slots") as server:
        with pytest.raises(SlotError, match="501"):
            await server.slots.look()


async def test_a_file_that_is_not_there(tmp_path: Path, real_server: None) -> None:
    model = write_tiny(tmp_path / "model.gguf", "full")
    async with running(model, tmp_path) as server:
        with pytest.raises(SlotError, match="400"):
            await server.slots.restore(0, "none.prompt")


async def test_a_server_that_is_gone() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(SlotError, match="Connect"):
            await Slots(session, ServerAddress("127.0.0.1", free_port())).look()
