"""The listener's certificate: new pairs are taken, broken ones are not; clients that leave or say nothing."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
import trustme
from aiohttp import web

from actors.config.certificate import client_context
from actors.config.schema import Tls
from proxy.door import connections
from proxy.door.certificate import Certificate
from proxy.door.connections import ConnectionRules, Site, listening, make_runner
from tests.certificates import write_pair

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(autouse=True)
def no_blocking_calls() -> None:
    """Files are written and read here in place of the watcher's thread."""


class Listener:
    """An application behind TLS. `left` is set when a client of `/wait` leaves."""

    def __init__(self, tls: Tls) -> None:
        self.tls = tls
        self.certificate = Certificate(tls)
        self.waits, self.left = asyncio.Event(), asyncio.Event()
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Listener"]:
        app = web.Application()
        app.router.add_get("/", self._answer)
        app.router.add_get("/wait", self._wait)
        runner = make_runner(app, (), ConnectionRules())
        await runner.setup()
        (sock,) = listening("127.0.0.1", 0)
        self.port = sock.getsockname()[1]
        await Site(runner, sock, ssl_context=self.certificate.context).start()
        try:
            yield self
        finally:
            await runner.cleanup()
            sock.close()

    async def _answer(self, _: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def _wait(self, _: web.Request) -> web.Response:
        self.waits.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()
        return web.Response()

    async def connect(self, known: Tls) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=client_context(known))

    async def shows(self, known: Tls) -> bool:
        """Whether a new connection is shown this certificate, and answered."""
        try:
            reader, writer = await self.connect(known)
        except ssl.SSLCertVerificationError:
            return False
        assert await answered(reader, writer)
        await close(writer)
        return True


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(GET)
    head = await reader.readuntil(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200") and await reader.readexactly(5) == b"hello"


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def test_a_new_pair_is_taken_and_connections_go_on(tmp_path: Path) -> None:
    first, second = (write_pair(tmp_path, name) for name in ("1", "2"))
    tls = write_pair(tmp_path)
    replace(tls, first)
    async with Listener(tls).serving() as listener:
        reader, writer = await listener.connect(first)
        assert await answered(reader, writer)
        with structlog.testing.capture_logs() as logs:
            listener.certificate.look()
            assert logs == []
            replace(tls, second)
            listener.certificate.look()
        (line,) = logs
        assert (line["event"], line["log_level"]) == ("certificate taken", "info")
        assert await listener.shows(second)
        assert not await listener.shows(first)
        assert await answered(reader, writer), "on the connection of before"
        await close(writer)


def replace(tls: Tls, pair: Tls) -> None:
    for target, source in ((tls.certificate, pair.certificate), (tls.key, pair.key)):
        Path(str(target)).write_bytes(Path(str(source)).read_bytes())


async def test_a_broken_pair_is_told_once_and_the_old_one_stays(tmp_path: Path) -> None:
    tls, kept = write_pair(tmp_path), write_pair(tmp_path, "kept")
    replace(kept, tls)
    async with Listener(tls).serving() as listener:
        Path(str(tls.key)).write_text("half a key")
        with structlog.testing.capture_logs() as logs:
            listener.certificate.look()
            assert logs == [], "the other file may follow"
            for _ in range(3):
                listener.certificate.look()
            (line,) = logs
            assert (line["event"], line["log_level"]) == (
                "certificate cannot be used; the old one stays",
                "error",
            )
            assert await listener.shows(kept)
            Path(str(tls.key)).unlink()
            for _ in range(3):
                listener.certificate.look()
            assert len(logs) == 2
            replace(tls, write_pair(tmp_path, "new"))
            listener.certificate.look()
            assert logs[-1]["event"] == "certificate taken"
        assert not await listener.shows(kept)


async def test_the_two_files_of_a_pair_may_come_one_after_the_other(tmp_path: Path) -> None:
    tls, new = write_pair(tmp_path), write_pair(tmp_path, "new")
    certificate = Certificate(tls)
    with structlog.testing.capture_logs() as logs:
        Path(str(tls.certificate)).write_bytes(Path(str(new.certificate)).read_bytes())
        certificate.look()
        Path(str(tls.key)).write_bytes(Path(str(new.key)).read_bytes())
        certificate.look()
    assert [line["event"] for line in logs] == ["certificate taken"]


async def test_a_client_that_leaves_is_noticed(tmp_path: Path) -> None:
    tls = write_pair(tmp_path)
    async with Listener(tls).serving() as listener:
        _, writer = await listener.connect(tls)
        writer.write(GET.replace(b"/ ", b"/wait "))
        await listener.waits.wait()
        await close(writer)
        async with asyncio.timeout(10):
            await listener.left.wait()


@pytest.mark.parametrize("data", [b"", GET, b"\x16\x03\x01\x00\x05garbage"])
async def test_a_client_that_does_not_speak_tls_is_disconnected(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.2)
    tls = write_pair(tmp_path)
    async with Listener(tls).serving() as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(data)
        async with asyncio.timeout(10):
            assert b"HTTP" not in await rest(reader)
        writer.close()
        assert await listener.shows(tls)


async def rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def test_the_whole_chain_is_shown(tmp_path: Path) -> None:
    root = trustme.CA()
    tls = write_pair(tmp_path, authority=root.create_child_ca())
    trusting = ssl.create_default_context()
    root.configure_trust(trusting)
    async with Listener(tls).serving() as listener:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", listener.port, ssl=trusting, server_hostname="localhost"
        )
        await close(writer)
