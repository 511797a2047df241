"""Requests of `run.py` to the gateway that runs on this machine."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.commands.running_gateway import (
    KEY_VARIABLE,
    GatewayAwayError,
    GatewayRefusalError,
    ask,
    url_of,
)
from actors.config.file import parse_config
from actors.config.schema import Config
from tests.raw_server import answer, saying


def config(url: str, **sections: Any) -> Config:
    server = {"host": "127.0.0.1", "port": int(url.rpartition(":")[2])}
    return parse_config({"server": server, **sections}, folder=Path("/"))


async def sent(
    reply: bytes | Callable[[bytes], bytes], method: str = "GET", body: object = None, **sections: Any
) -> Any:
    """What comes of a request to a server that replies this."""
    async with saying(reply if callable(reply) else lambda _: reply) as url:
        return await asyncio.to_thread(ask, config(url, **sections), method, "/admin/x", body)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:9")
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.mark.parametrize(("host", "url"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")])
def test_an_address_that_means_all_of_them(host: str, url: str) -> None:
    given = parse_config({"server": {"host": host, "port": 80}}, folder=Path("/"))
    assert url_of(given) == f"http://{url}:80"


async def test_an_answer() -> None:
    assert await sent(answer(b'{"a": 1}')) == {"a": 1}
    assert await sent(answer(b"", b"204 No Content"), "DELETE") is None


@pytest.mark.parametrize("given", ["of the environment", "of the configuration", "none"])
async def test_the_key(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def reply(request: bytes) -> bytes:
        seen.append(request)
        return answer(b"{}")

    keys = {"user": {"secret": "u" * 20}, "root": {"secret": "r" * 20, "admin": True}}
    if given == "of the environment":
        monkeypatch.setenv(KEY_VARIABLE, "e" * 20)
    await sent(reply, "POST", {"b": 1}, **({} if given == "none" else {"keys": keys}))
    (request,) = seen
    assert request.startswith(b"POST /admin/x HTTP/1.1")
    secret = {"of the environment": b"e", "of the configuration": b"r"}.get(given)
    assert (secret is None) == (b"Authorization" not in request)
    assert secret is None or b"Bearer " + secret * 20 in request


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (b"404 Not Found", b'{"error": {"message": "no such model"}}', "no such model"),
        (b"404 Not Found", b"<html>", "status 404"),
        (b"404 Not Found", b'{"error": []}', "status 404"),
        (b"403 Forbidden", b'{"error": {"message": "no"}}', KEY_VARIABLE),
    ],
)
async def test_a_refusal(status: bytes, body: bytes, message: str) -> None:
    with pytest.raises(GatewayRefusalError, match=message) as caught:
        await sent(answer(body, status))
    assert caught.value.status == int(status[:3])


@pytest.mark.parametrize("reply", [b"", b"SSH-2.0-OpenSSH_9\r\n", answer(b"hello"), answer(b"{")[:-1]])
async def test_another_program(reply: bytes) -> None:
    with pytest.raises(GatewayAwayError, match=r"no gateway answers at http://127\.0\.0\.1:\d+: "):
        await sent(reply)


def test_nothing_listens() -> None:
    with pytest.raises(GatewayAwayError, match=os.strerror(111)):
        ask(config("http://127.0.0.1:9"), "GET", "/")
