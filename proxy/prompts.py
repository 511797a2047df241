"""The saved prompts of a model, around one request to its server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote_to_bytes

from actors.messages import ServerAddress
from actors.prompts.chain import chain_of
from actors.prompts.keeping import Prompts
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.wire.upstream import body_of, with_field

LARGE = 1024 * 1024
"""Bytes of a body from which it is read in a thread, and of which no copy is kept."""
_CHAT = b"POST /v1/chat/completions "


def look_at_raw(prompts: Prompts | None, address: ServerAddress, request: bytes) -> None:
    """Note a request that a client sends to the server itself. Raises `ApiError` for one that saves slots.

    Its file would be among the gateway's. After a change of adapters, what the server has read is of no use
    to its next run.
    """
    method, target = request.split(b" ", 2)[:2]
    path = unquote_to_bytes(target.partition(b"?")[0])
    if prompts is None or method in (b"GET", b"HEAD") or not prompts.keeps(address):
        return
    if path.startswith(b"/slots/"):
        message = (
            "the gateway itself saves this model's slots; with `prompts: false` in its settings it does not"
        )
        raise ApiError(403, message, code="not_supported")
    if path.startswith(b"/lora-adapters"):
        prompts.gone(address)


@asynccontextmanager
async def remembered(
    prompts: Prompts | None, exchange: Exchange, address: ServerAddress, request: bytes
) -> AsyncIterator[bytes]:
    """Restore what is saved of the request's prompt; yield the request to send.

    At the end the server's counts of tokens are noted, by which it is known what is in its slots.
    """
    if prompts is None or not prompts.keeps(address):
        yield request
        return
    body = body_of(request)
    chain = chain_of(body) if len(body) < LARGE else await asyncio.to_thread(chain_of, body)
    kept = bytes(body) if request.startswith(_CHAT) and len(body) < LARGE else b""
    visit = await prompts.visit(address, exchange.client, chain, kept) if chain is not None else None
    if visit is None:
        yield request
        return
    if (restored := visit.restored) is not None:
        exchange.prompt = f"restored {restored.entry.tokens:,} tokens in {restored.seconds:.2g} s"
        # By likeness alone some builds would choose another slot for a much longer prompt.
        request = with_field(request, b"id_slot", b"%d" % restored.slot)
    before = exchange.tokens
    try:
        yield request
    finally:
        counted = exchange.tokens if exchange.tokens is not before else {}
        began = exchange.first_byte_at
        visit.ended(counted, began if began is not None and began > visit.sent_at else None)
