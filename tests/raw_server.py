"""A server that says what a test likes, which need not be HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


def answer(body: bytes, status: bytes = b"200 OK", headers: bytes = b"") -> bytes:
    """A whole answer over HTTP."""
    return b"HTTP/1.1 " + status + b"\r\n" + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


@asynccontextmanager
async def saying(reply: Callable[[bytes], bytes], *, endless: bytes = b"") -> AsyncIterator[str]:
    """Its URL. It answers the head of each connection's first request, goes on with `endless`, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(reply(await reader.readuntil(b"\r\n\r\n")))
            while endless:
                writer.write(endless)
                await writer.drain()
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
