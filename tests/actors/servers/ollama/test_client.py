"""A daemon that says what Ollama would not: always an `OllamaError`, and its watcher goes on."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest

from actors.servers.ollama.client import OllamaClient, OllamaError
from actors.servers.ollama.daemon import Daemon, Sighting
from actors.servers.ollama.memory import context_of, demand_of
from tests.raw_server import answer, saying


@asynccontextmanager
async def daemon_that_says(reply: bytes, *, endless: bytes = b"") -> AsyncIterator[Daemon]:
    async with saying(lambda _: reply, endless=endless) as url, aiohttp.ClientSession() as session:
        yield Daemon("d", url, session, timeout=5, poll=0.01)


def model(**fields: Any) -> bytes:
    """Something that has each answer's fields, with others in their place."""
    entry = {"name": "m", "model": "m", "size": 1, **fields}
    whole = {"version": "1", "models": [entry], "model_info": {}, "status": "x", **entry}
    return json.dumps(whole).encode()


BODIES = {
    "invalid UTF-8": model(name="NAME").replace(b"NAME", b"\xff\xfe"),
    "a lone surrogate": model(name="NAME").replace(b"NAME", b"\\ud800"),
    "6,000 digits": model(size=123456).replace(b"123456", b"9" * 6000),
    "a count that overflows": model(size=1 << 63),
    "a negative count": model(size=-1),
    "a count that is none": model(size="1"),
    "deep": b'{"models":' * 100_000,
    "null": b"null",
    "a list": b"[]",
    "nothing": b"",
    "a web page": b"<html>sign in</html>",
}
HEADS = {
    "an evil reason": answer(b"\xff\x1b[2J", b"500 \xff\x1b[2J"),
    "status 000": answer(b"{}", b"000 Nothing"),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "a redirect": answer(b"", b"302 Found", b"Location: http://[::1\r\n"),
    "no HTTP": b"220 mail.example ESMTP\r\n",
    "undecodable gzip": answer(b"no gzip", headers=b"Content-Encoding: gzip\r\n"),
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "it hangs up": b"",
    "it hangs up in the middle": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
}
REPLIES = {**{name: answer(body) for name, body in BODIES.items()}, **HEADS}

QUESTIONS: dict[str, Callable[[OllamaClient], Any]] = {
    "tags": lambda client: client.tags(),
    "ps": lambda client: client.ps(),
    "show": lambda client: client.show("m"),
    "load": lambda client: client.load("m", {}),
    "pull": lambda client: client.pull("m", lambda _: None),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES.keys())
async def test_answers_that_are_none(reply: bytes, question: Callable[[OllamaClient], Any]) -> None:
    async with daemon_that_says(reply) as daemon:
        with suppress(OllamaError):
            await question(daemon)


@pytest.mark.parametrize("name", ["tags", "ps"])
@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES.keys())
async def test_no_list_is_told_as_one(reply: bytes, name: str) -> None:
    async with daemon_that_says(reply) as daemon:
        with pytest.raises(OllamaError) as caught:
            await QUESTIONS[name](daemon)
    assert "Ollama daemon 'd'" in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES.keys())
async def test_the_watcher_goes_on(reply: bytes) -> None:
    sightings: list[Sighting] = []
    enough = asyncio.Event()

    def watch(sighting: Sighting) -> None:
        sightings.append(sighting)
        if len(sightings) == 4:
            enough.set()

    async with daemon_that_says(reply) as daemon:
        daemon.watch(watch)
        daemon.start()
        async with asyncio.timeout(20):
            await enough.wait()
        await daemon.stop()
    assert all(sighting.running is None for sighting in sightings)


@pytest.mark.parametrize("question", ["tags", "pull"])
async def test_what_never_ends(question: str) -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    async with daemon_that_says(head, endless=b" " * 65536) as daemon:
        with pytest.raises(OllamaError):
            await QUESTIONS[question](daemon)


async def test_a_pull_of_files_without_end() -> None:
    lines = b"".join(b'{"status":"p","digest":"%d","total":1}\n' % number for number in range(2000))
    async with daemon_that_says(b"HTTP/1.1 200 OK\r\n\r\n" + lines) as daemon:
        with pytest.raises(OllamaError, match="files without end"):
            await daemon.pull("m", lambda _: None)


@pytest.mark.parametrize("number", [1 << 62, -1, True, "x", None, [1 << 62], 1.5, {}])
def test_headers_with_any_numbers(number: Any) -> None:
    keys = ("block_count", "embedding_length", "attention.head_count", "context_length", "vocab_size")
    info = {"general.architecture": "a", **{f"a.{key}": number for key in keys}}
    for architecture in ("a", None, 5, ["x"]):
        metadata = {**info, "general.architecture": architecture}
        context = context_of(metadata, "num_ctx " + "9" * 6000, None, 4096)
        demand = demand_of(1 << 49, metadata, context)
        for option in demand.options:
            assert len(option.layers) < 2000
            assert 0 <= sum(option.layers) + option.pinned + option.mapped < 1 << 62
