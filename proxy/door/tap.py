"""Captures a request and what is written to its client, without the knowledge of whoever writes.

Only a request that is captured has its connection's transport replaced, so that the others pay nothing.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, cast

from aiohttp import web

from proxy.exchange import EXCHANGE, Exchange
from proxy.usage.captures import Captures

CAPTURES = web.AppKey("captures", Captures)
"""The application's captures."""


class _Tapped:
    """A transport that also gives what is written to `take`."""

    def __init__(self, transport: asyncio.Transport, take: Callable[[bytes], None]) -> None:
        self.transport = transport
        self._take = take

    def write(self, data: bytes) -> None:
        self._take(data)
        self.transport.write(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


def begin_capture(
    request: web.Request, exchange: Exchange, models: Callable[[], Iterable[str]], body: bytes
) -> None:
    """Capture the request from now on, if it is chosen. `models` returns the names of its model.

    An answer in the background is not captured: its client's connection has something else.
    """
    captures = request.app.get(CAPTURES)
    if captures is None or not captures.is_on or exchange is not request[EXCHANGE]:
        return
    capture = exchange.capture = captures.begin(exchange.client, models())
    protocol = request.protocol
    if capture is not None and protocol.transport is not None:
        capture.take_request(request.method, request.path_qs, request.headers, body)
        protocol.transport = cast("asyncio.Transport", _Tapped(protocol.transport, capture.take_piece))


def end_capture(request: web.Request, exchange: Exchange, answer: web.StreamResponse | None) -> None:
    """End the request's capture with its answer; None if there is none, because the client has left."""
    if (capture := exchange.capture) is None:
        return
    protocol = request.protocol
    if isinstance(protocol.transport, _Tapped):
        protocol.transport = protocol.transport.transport
    if isinstance(answer, web.Response) and not answer.prepared:
        capture.take_answer(answer.status, answer.headers, cast("bytes", answer.body or b""))
