"""What a hub may say instead of a list, a header or a file: a `HubError` that can be told to a client."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from actors.config.schema import HubSettings
from actors.hub.download import HubError
from actors.hub.hub import Hub
from actors.model_names import HubName
from tests.raw_server import answer, saying

NAME = HubName("org/model", "Q8_0")
SHA = "0" * 40


def listing(**file: Any) -> bytes:
    files = [{"rfilename": "m-Q8_0.gguf", "size": 1000, "lfs": {"sha256": "1" * 64}, **file}]
    return json.dumps({"id": "org/model", "sha": SHA, "siblings": files}).encode()


@asynccontextmanager
async def hub_that_says(
    listed: bytes, rest: bytes, cache: Path, *, endless: bytes = b""
) -> AsyncIterator[Hub]:
    """`listed` answers the question for a list, `rest` all others; then comes `endless`, again and again."""

    def reply(request: bytes) -> bytes:
        return listed if b"/api/models/" in request else rest

    async with saying(reply, endless=endless) as url, aiohttp.ClientSession() as session:
        settings = HubSettings(endpoint=url, cache_dir=str(cache), token="t")
        yield Hub(settings, session, retry_delay=0.001)


async def failure_of(hub: Hub) -> str:
    with pytest.raises(HubError) as caught:
        await hub.find(NAME)
    message = caught.value.failure.message
    json.dumps(message).encode()
    message.encode()
    assert message.isprintable()
    assert len(message) < 1000
    return message


BODIES: dict[str, bytes] = {
    "invalid UTF-8": listing().replace(b"m-Q8_0", b"m-\xff-Q8_0"),
    "a lone surrogate": listing().replace(b"m-Q8_0", b"m-\\ud800-Q8_0"),
    "6,000 digits": listing().replace(b"1000", b"9" * 6000),
    "a size that overflows": listing(size=1 << 70),
    "a negative size": listing(size=-1),
    "deep": b'{"siblings":' * 100_000,
    "null": b"null",
    "a list": b"[]",
    "no commit": listing().replace(b"sha", b"shb"),
    "a commit that leads away": listing().replace(SHA.encode(), b"../../x"),
    "files of another type": b'{"sha": "%s", "siblings": [1]}' % SHA.encode(),
    "a name of another type": listing(rfilename=["x"]),
    "a hash of another type": listing(lfs={"sha256": 5}),
    "no hash": listing(lfs=None),
    "a hash that leads away": listing(lfs={"sha256": "../../../" + "1" * 50}),
    "a web page": b"<html>sign in</html>",
    "nothing": b"",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_lists_that_are_none(body: bytes, tmp_path: Path) -> None:
    async with hub_that_says(answer(body), b"", tmp_path) as hub:
        assert "org/model" in await failure_of(hub)


EVIL = b"X-Error-Message: \xff\xfe \x1b[2J " + b"x" * 5000 + b"\r\n"
HEADS: dict[str, bytes] = {
    "an evil reason": answer(b"", b"500 \xff\x1b[2J", EVIL),
    "an evil refusal": answer(b"", b"403 Forbidden", EVIL + b"X-Error-Code: GatedRepo\r\n"),
    "status 000": answer(b"", b"000 Nothing"),
    "status 999": answer(b"", b"999 Much"),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "no HTTP": b"220 mail.example ESMTP\r\n",
    "undecodable gzip": answer(b"no gzip", headers=b"Content-Encoding: gzip\r\n"),
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "a circle": answer(b"", b"302 Found", b"Location: /api/models/x\r\n"),
    "a redirect to nowhere": answer(b"", b"302 Found", b"Location: http://[::1\r\n"),
    "it hangs up": b"",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("lists", [True, False])
async def test_answers_that_are_none(head: bytes, lists: bool, tmp_path: Path) -> None:
    async with hub_that_says(head if not lists else answer(listing()), head, tmp_path) as hub:
        await failure_of(hub)


@pytest.mark.parametrize(
    ("listed", "rest"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b""),
        (answer(listing()), b"HTTP/1.1 206 Partial\r\n\r\nGGUF"),
    ],
)
async def test_what_never_ends(listed: bytes, rest: bytes, tmp_path: Path) -> None:
    async with hub_that_says(listed, rest, tmp_path, endless=b" " * 65536) as hub:
        await failure_of(hub)


def _text(value: bytes) -> bytes:
    return len(value).to_bytes(8, "little") + value


def _header(*pairs: bytes, tensors: int = 0) -> bytes:
    count = len(pairs).to_bytes(8, "little")
    return b"GGUF\3\0\0\0" + tensors.to_bytes(8, "little") + count + b"".join(pairs)


HEADERS: dict[str, Callable[[], bytes]] = {
    "invalid UTF-8 in a key": lambda: _header(_text(b"\xff\xfe") + b"\x08\0\0\0" + _text(b"x")),
    "invalid UTF-8 in a value": lambda: _header(
        _text(b"general.architecture") + b"\x08\0\0\0" + _text(b"\xff")
    ),
    "a type that is none": lambda: _header(_text(b"x") + b"\xff\0\0\0"),
    "a length that overflows": lambda: _header(b"\xff" * 8),
    "an array in arrays": lambda: _header(_text(b"x") + b"\x09\0\0\0" * 50),
    "tensors without end": lambda: _header(tensors=(1 << 64) - 1),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
async def test_headers_that_are_none(header: Callable[[], bytes], tmp_path: Path) -> None:
    body = header().ljust(1000, b"\xff")
    async with hub_that_says(answer(listing()), answer(body, b"206 Partial"), tmp_path) as hub:
        await failure_of(hub)
