"""The saved prompts of a model, around one request to its server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.messages import ServerAddress
from actors.prompts.chain import chain_of
from actors.prompts.keeping import Prompts
from proxy.exchange import Exchange
from proxy.wire.upstream import body_of, with_field

LARGE = 256 * 1024
"""Bytes of a body from which it is read in a thread."""


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
    visit = await prompts.visit(address, exchange.client, chain) if chain is not None else None
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
