"""Clients that take an answer more slowly than it comes get all of it, whenever the wait for them begins."""

import asyncio

from tests.proxy.scripted import (
    DONE,
    END,
    STREAM,
    Do,
    chunk,
    door,
    request_body,
    said,
    scripted,
    unchunk,
    whole,
)

MIB = 2**20
TRIES = 8
BIG = bytes(range(256)) * 4096
EVENTS = b"".join([chunk(said("x" * 30_000)) for _ in range(30)] + [chunk(DONE), END])


async def test_a_paced_client_gets_all_of_an_answer() -> None:
    """The first read alone fills its buffers, before the relay waits for room in them."""
    script = [step for _ in range(TRIES) for step in (whole(BIG, "Content-Type: video/mp4"), Do.NEXT)]
    async with scripted(script, buffer=4 * MIB) as server, door(server) as opened:
        for _ in range(TRIES):
            client = await opened.connect(buffer=1024)
            await client.request("GET", "/upstream/demo/film")
            left = int((await client.head()).headers["content-length"])
            assert left == len(BIG)
            while left:
                piece = await client.some(16 * 1024)
                assert piece, "the answer is cut"
                left -= len(piece)
                await asyncio.sleep(0)


async def test_a_paced_client_gets_all_of_a_stream() -> None:
    script = [step for _ in range(TRIES) for step in (STREAM + EVENTS, Do.NEXT)]
    async with scripted(script, buffer=4 * MIB) as server, door(server) as opened:
        for _ in range(TRIES):
            client = await opened.connect(buffer=1024)
            path = "/v1/chat/completions"
            await client.post(path, request_body(path, stream=True))
            assert (await client.answer()).body == b"".join(unchunk(EVENTS))
