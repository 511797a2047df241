"""A request around which a prompt is restored."""

from pathlib import Path

import aiohttp
import msgspec
import pytest

from actors.config.schema import PromptSettings
from actors.messages import ServerAddress
from actors.prompts.keeping import Prompts
from proxy.exchange import Exchange
from proxy.prompts import remembered
from proxy.wire.upstream import body_of, render_request, with_field

ADDRESS = ServerAddress("127.0.0.1", 1)


@pytest.mark.parametrize("body", [b'{"a": 1}', b' {"a":{"b":[]}}', b'{"a": "Content-Length: 28"}'])
def test_a_field_is_added(body: bytes) -> None:
    request = render_request("POST", "/x", {"A": "b"}, body, ADDRESS)
    assert bytes(body_of(request)) == body
    added = with_field(request, b"id_slot", b"3")
    new = body_of(added)
    assert msgspec.json.decode(new) == {"id_slot": 3, **msgspec.json.decode(body)}
    head = added[: len(added) - len(new)].decode()
    assert (
        head.replace(f"Content-Length: {len(new)}", f"Content-Length: {len(body)}").encode() + body == request
    )


def test_the_clients_own_slot_wins() -> None:
    request = with_field(render_request("POST", "/x", {}, b'{"id_slot": 1}', ADDRESS), b"id_slot", b"3")
    assert msgspec.json.decode(body_of(request)) == {"id_slot": 1}


async def test_where_nothing_is_kept_a_request_stays_as_it_is(tmp_path: Path) -> None:
    exchange = Exchange("POST", "/x", "id")
    request = render_request("POST", "/x", {}, b'{"messages": ["a"]}', ADDRESS)
    async with aiohttp.ClientSession() as session:
        prompts = Prompts(session, tmp_path, PromptSettings(disk=0))
        for kept in (prompts, None):
            async with remembered(kept, exchange, ADDRESS, request) as sent:
                assert sent is request
    assert "X-Prompt" not in exchange.headers
