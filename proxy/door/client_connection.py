"""One client's connection: pipelined requests, slow readers, unreadable requests, and clients that have left.

aiohttp reads the requests. This module adds limits and checks that aiohttp lacks.
"""

import socket
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import HttpVersion11, web
from aiohttp.http import RawRequestMessage

from proxy.apis.table import dialect_of
from proxy.door.parsing import BEGINNING, first_line, head_too_long, refusal
from proxy.errors import ApiError
from proxy.exchange import Account, Exchange, request_id_of

HEAD_LIMIT = 64 * 1024
"""Most bytes of a request's head."""
WRITE_GRACE = 1.25
"""Multiple of `write_timeout`, so that a relay reports its stalled stream first."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LOOKS = (0.01, 0.01, 0.03, 0.05, 0.1, 0.3, 0.5)
"""Seconds between checks of a half-closed connection; then every second."""
PROBES = (1, 5, 11)
"""The checks at which an interim answer is sent. Go's clients accept at most five."""
_TCP_CLOSE = 7
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)


class ClientConnection(web.RequestHandler):
    """One client's connection. Requests that cannot be read are answered, with no traceback in the log.

    It notifies the relay at once when the client reads too slowly, which saves a check per event.
    """

    __slots__ = (
        "_accounts",
        "_head_bytes",
        "_is_tls",
        "_is_watched",
        "_server",
        "_unwritten",
        "beginning",
        "on_pause",
    )

    def __init__(self, manager: "ConnectionServer", **options: Any) -> None:
        super().__init__(manager, **options)
        self._accounts = manager.accounts
        self._server = manager
        self._head_bytes = 0
        """Bytes of an incomplete head so far."""
        self.beginning = b""
        """The first bytes of that head, or of an unreadable request."""
        self._is_tls = False
        self._is_watched = False
        self._unwritten = 0
        self.on_pause: Callable[[], None] | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
        self._next_keepalive_close_time = self._loop.time() + self._server.head_timeout
        self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        self._server.make_room(self)

    @property
    def waits(self) -> bool:
        """Whether the connection is open and all its requests are answered."""
        return self.transport is not None and self._waiter is not None and not self._waiter.done()

    # Pipelined requests

    def data_received(self, data: bytes) -> None:
        """Read at most one request ahead; otherwise thirty heads of a megabyte each could be queued."""
        request = self._current_request
        is_first = not self._request_count  # its task may not wait for it yet
        in_head = (is_first or self._waiter is not None) if request is None else request.content.is_eof()
        super().data_received(data)
        if self._messages:
            self._head_bytes = 0
            newest = self._messages[-1][0]
            if isinstance(newest, RawRequestMessage):
                self.beginning = b""
            else:
                self.beginning = (self.beginning + data[:BEGINNING])[:BEGINNING]
                self._break_bodies(newest.message)
            if (self._waiter is None or len(self._messages) > 1) and not self._buffer_paused:
                self._pause_reading_for_buffer()
        elif in_head:
            self._head_bytes += len(data)
            self.beginning = (self.beginning + data[:BEGINNING])[:BEGINNING]
            if self._head_bytes > HEAD_LIMIT and self.transport is not None:
                if request is None:
                    self.transport.write(self._too_long())
                self.force_close()

    def _break_bodies(self, why: str) -> None:
        """Have whoever reads a body learn that the rest of it cannot be read: aiohttp says so to nobody."""
        bodies = [body for _, body in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError(why))
                self._lingering_time = 0.0  # there is nothing more that can be read

    # Slow readers

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.on_pause is not None:
            self.on_pause()
        if not self._is_watched and self._server.write_timeout > 0:
            self._watch_writing()

    def _watch_writing(self) -> None:
        assert self.transport is not None
        self._is_watched = True
        self._unwritten = self.transport.get_write_buffer_size()
        self._loop.call_later(self._server.write_timeout * WRITE_GRACE, self._check_writing)

    def _check_writing(self) -> None:
        """Close the connection if the client has read nothing since the last check."""
        self._is_watched = False
        if self.transport is None or not self._paused:
            return
        if self.transport.get_write_buffer_size() == self._unwritten:
            self.transport.abort()
        else:
            self._watch_writing()

    # Half-closed connections

    def eof_received(self) -> bool:  # type: ignore[override] # aiohttp's never keeps it open
        """Return whether the connection stays open: the client may have left, or closed only its own side.

        TCP cannot distinguish these cases. A client that has left resets the connection when it is sent
        something, so before the answer begins it is sent a `100 Continue`, which every HTTP/1.1 client
        skips. TLS connections cannot stay half open in asyncio, so there the client has left.
        """
        request = self._current_request
        has_begun = request is not None and request.writer.output_size > 0 and not self._messages
        if self.waits or has_begun or _TCP_INFO is None or self._is_tls:
            return False
        if not self._messages or (len(self._messages) == 1 and self._waiter is not None):
            self.close()  # after the one running request
        self._loop.call_later(LOOKS[0], self._look, 1)
        return True

    def _look(self, count: int) -> None:
        """Close the connection if its client has left or has all its answers."""
        transport, request = self.transport, self._current_request
        if transport is None or transport.is_closing():
            return
        is_answered = (
            request is None and not self._messages and count > 1
        )  # the first check may come too early
        if self.waits or is_answered:
            transport.close()
            return
        if self._is_reset(transport) or (request is not None and self._is_over(request, count)):
            transport.abort()
            return
        if count in PROBES and request is not None and request.writer.output_size == 0:
            transport.write(CONTINUE)
        self._loop.call_later(LOOKS[count] if count < len(LOOKS) else 1.0, self._look, count + 1)

    def _is_reset(self, transport: Any) -> bool:
        assert _TCP_INFO is not None
        try:
            state = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)
        except OSError:
            return True
        return bool(state[0] == _TCP_CLOSE)

    def _is_over(self, request: web.BaseRequest, count: int) -> bool:
        """Whether the request is incomplete, or an HTTP/1.0 client has waited long enough."""
        return not request.content.is_eof() or (count > 4 and request.version < HttpVersion11)

    # Data that is not HTTP

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun; no other can follow")
        error = ApiError(status, "internal error")
        if status == 400:
            error = refusal(exc, message or str(exc), self.beginning)
        request_id, body = self._refuse(request.method, request.path, error)
        headers = {"X-Request-Id": request_id, "Request-Id": request_id, "Content-Type": _JSON}
        response = web.Response(status=error.status, body=body, headers=headers)
        response.force_close()
        return response

    def _too_long(self) -> bytes:
        """Answer a head that exceeds the limit before it is complete."""
        request_id, body = self._refuse(*first_line(self.beginning), head_too_long(HEAD_LIMIT))
        head = (
            "HTTP/1.1 431 Request Header Fields Too Large",
            f"X-Request-Id: {request_id}",
            f"Request-Id: {request_id}",
            f"Content-Type: {_JSON}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        return "\r\n".join((*head, "", "")).encode() + body

    def _refuse(self, method: str, path: str, error: ApiError) -> tuple[str, bytes]:
        """Account for an unreadable request. Returns its id, and the error in its API's dialect."""
        exchange = Exchange(method, path, request_id_of(None), self._accounts)
        exchange.failed(error)
        exchange.finish()
        dialect = dialect_of(path)
        told = dialect.body(dialect.reword(error, ""), exchange.request_id)
        return exchange.request_id, msgspec.json.encode(told)


_JSON = "application/json; charset=utf-8"


class ConnectionServer(web.Server):
    """An aiohttp server whose connections are `ClientConnection`s."""

    accounts: tuple[Account, ...]
    most: int
    head_timeout: float
    write_timeout: float

    def __call__(self) -> web.RequestHandler:
        return ClientConnection(self, loop=self._loop, **self._kwargs)

    def make_room(self, newest: ClientConnection) -> None:
        """If there are too many connections, close the oldest idle one, or else the newest."""
        if len(self._connections) <= self.most:
            return
        for protocol in self._connections:
            if isinstance(protocol, ClientConnection) and protocol.waits:
                protocol.force_close()
                return
        newest.force_close()
