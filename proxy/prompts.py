"""The saved prompts of a model, and its slots, around one request to its server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote_to_bytes

from actors.messages import ServerAddress
from actors.prompts.chain import Chain, chain_of
from actors.prompts.keeping import Prompts, Seat
from actors.prompts.slots import SlotError
from proxy.apis.requests import fields_of, with_fields
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.wire.upstream import body_of, with_body, with_field

LARGE = 1024 * 1024
"""Bytes of a body from which it is read in a thread, and of which no copy is kept."""
_CHAT = b"POST /v1/chat/completions "
_SLOTTED = (_CHAT, b"POST /v1/completions ", b"POST /completion ", b"POST /infill ")
"""Requests that may name a slot."""


def look_at_raw(prompts: Prompts | None, address: ServerAddress, request: bytes) -> None:
    """Note a request that a client sends to the server itself. Raises `ApiError` for one that is not allowed.

    The file of a saved slot would be among the gateway's. After a change of adapters, what the server has
    read is of no use to its next run. Where keys are kept apart, nobody may choose a slot.
    """
    method, target = request.split(b" ", 2)[:2]
    path = unquote_to_bytes(target.partition(b"?")[0])
    if prompts is None or method in (b"GET", b"HEAD"):
        return
    if prompts.isolates(address):
        raise ApiError(403, "this model keeps its keys apart (`isolate`)", code="not_supported")
    if not prompts.keeps(address):
        return
    if path.startswith(b"/slots/"):
        message = (
            "the gateway itself saves this model's slots; with `prompts: false` in its settings it does not"
        )
        raise ApiError(403, message, code="not_supported")
    if path.startswith(b"/lora-adapters"):
        prompts.keep_no_more(address)


@asynccontextmanager
async def remembered(
    prompts: Prompts | None, exchange: Exchange, address: ServerAddress, request: bytes
) -> AsyncIterator[bytes]:
    """Restore what is saved of the request's prompt, or give it a slot; yield the request to send.

    At the end the server's counts of tokens are noted, by which it is known what is in its slots.
    Raises `ApiError` where keys are kept apart and that cannot be done.
    """
    if prompts is None or not (prompts.keeps(address) or prompts.isolates(address)):
        yield request
        return
    body = body_of(request)
    chain = chain_of(body) if len(body) < LARGE else await asyncio.to_thread(chain_of, body)
    seat, visit = None, None
    before = exchange.tokens
    try:
        if prompts.isolates(address) and request.startswith(_SLOTTED):
            seat = await _seat(prompts, exchange, address, body, chain)
        if chain is not None:
            kept = bytes(body) if request.startswith(_CHAT) and len(body) < LARGE else b""
            slot = seat.slot if seat is not None else None
            visit = await prompts.visit(address, exchange.client, chain, kept, slot)
        restored = visit.restored if visit is not None else None
        if restored is not None:
            exchange.prompt = f"restored {restored.entry.tokens:,} tokens in {restored.seconds:.2g} s"
        if seat is not None:
            request = _seated(request, seat, own=restored is not None)
        elif restored is not None:
            # By likeness alone some builds would choose another slot for a much longer prompt.
            request = with_field(request, b"id_slot", b"%d" % restored.slot)
        yield request
    finally:
        if visit is not None:
            counted = exchange.tokens if exchange.tokens is not before else {}
            began = exchange.first_byte_at
            visit.ended(counted, began if began is not None and began > visit.sent_at else None)
        if seat is not None:
            seat.leave()


async def _seat(
    prompts: Prompts, exchange: Exchange, address: ServerAddress, body: memoryview, chain: Chain | None
) -> Seat:
    """Take a slot for a request where keys are kept apart. Raises `ApiError`."""
    fields = fields_of(bytes(body))
    for name in ("n", "n_cmpl"):
        if bytes(fields.get(name, b"1")) not in (b"1", b"null"):
            message = "a model that keeps its keys apart (`isolate`) gives one answer at a time"
            raise ApiError(400, message, code="unsupported_value", param=name)
    try:
        return await prompts.seat(address, exchange.client, chain)
    except SlotError as error:
        message = f"model {exchange.model!r}: its keys cannot be kept apart: {error}"
        raise ApiError(503, message, code="upstream_error", retry_after=1) from None


def _seated(request: bytes, seat: Seat, *, own: bool) -> bytes:
    """Send the request to its slot; what is in it is used only if it is the key's own."""
    given = {"id_slot": b"%d" % seat.slot}
    if seat.strange and not own:
        given["cache_prompt"] = b"false"
    return with_body(request, with_fields(fields_of(bytes(body_of(request))), given))
