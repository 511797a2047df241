"""One raw HTTP/1.1 connection to a model server, and its response.

The response's body is pushed into a synchronous sink from `data_received`, without a task switch per event.
proxy/answers/README.md explains why.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import cast

from proxy.wire.http1 import Body, Head, HeadReader, OpenBody, ProtocolError, body_of

Sink = Callable[[bytes, bytes | None], None]
"""Called with a piece of payload, and with its wire bytes if these are whole chunks (else None)."""


class Splice(asyncio.Protocol):
    """Replaces the connection's protocol while `clear`, between two chunks of a body.

    Data that it cannot handle goes to the response's own `data_received`, and from there to the sink.
    """

    last: bytes
    """The last received piece, to detect silence."""

    @property
    def clear(self) -> bool:
        """Whether nothing is held back, so that the next byte begins an event."""
        raise NotImplementedError


BACKLOG_LIMIT = 256 * 1024
"""Most bytes of a body that are read without a sink."""

TURN = 64 * 1024
"""Bytes of one read after which other tasks run, since libuv reads up to 32 times in a row."""


class UpstreamError(Exception):
    """The model server did not answer, or not completely. The message says how."""

    hung_up = True
    """Whether the connection was closed or refused, so that the server may be dying."""


class BadAnswerError(UpstreamError):
    """The model server's answer is invalid or incomplete. The message says why."""

    hung_up = False


class UnreachableError(UpstreamError):
    """The model server accepted no connection, or ended before it answered: the request had no effect."""


class UpstreamTimeoutError(UpstreamError):
    """The model server was silent for `server_pool.request_timeout`."""

    hung_up = False


class StaleConnectionError(Exception):
    """A reused connection was closed before a byte of the answer arrived, so a retry is safe."""


class UpstreamResponse(asyncio.Protocol):
    """One connection and its response. `head` is set when `send` returns."""

    def __init__(self) -> None:
        self.head: Head
        self.finished = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._body: Body | None = None
        self._method = ""
        self._head_reader = HeadReader()
        self._backlog: deque[tuple[bytes, bytes | None]] = deque()
        self._backlog_size = 0
        self._sink: Sink | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._splice: Splice | None = None
        self._spliced = False
        self._heard = True
        self.quiet_since = 0.0
        """Monotonic time since which nothing has arrived, or could arrive, at the latest check."""
        self._last_seen = b""
        self._paused = False
        self._surplus = False
        self._requests = 0
        self._on_closed: Callable[[], None] | None = None

    # For the relay

    async def send(self, request: bytes) -> None:
        """Send a request and wait for the response's head. Raises `UpstreamError`."""
        self._requests += 1
        self._method = request[: request.find(b" ")].decode("latin-1")
        self._body = None
        self._head_reader = HeadReader()
        self._backlog.clear()  # the rest of an answer that was not read
        self._backlog_size = 0
        self.finished = False
        self._sink = None
        self._heard = False
        self.quiet_since = time.monotonic()
        if self._error is None:
            self._transport.write(request)
        await self.until(lambda: self._body is not None)

    def attach(self, sink: Sink, splice: Splice | None = None) -> None:
        """Pass the body into `sink`, beginning with the bytes received so far; or past it, by `splice`.

        An exception of the sink ends the response at any time.
        """
        self._sink = sink
        self._splice = splice
        self.resume()  # a slow sink pauses again
        try:
            while self._backlog and self._sink is not None:
                self._sink(*self._backlog.popleft())
            self._backlog_size = sum(len(payload) for payload, _ in self._backlog)
            if splice is not None:
                self._choose_protocol(splice)
        except Exception as error:
            self.finished = False
            self.give_up(error)

    def detach(self) -> None:
        """Keep the bytes until the next sink is attached, and pause reading beyond a limit."""
        self._sink = None

    def _choose_protocol(self, splice: Splice) -> None:
        between = self._body is not None and self._body.whole and not self._body.done
        if self._spliced != (between and splice.clear):
            self._spliced = not self._spliced
            self._transport.set_protocol(splice if self._spliced else self)

    def notify(self) -> None:
        """Let `until` check its condition again, which must be true already."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait until `reached` is true, after a call of `notify`, or the body has ended.

        Raises `UpstreamError` when neither can happen any more. Nothing is awaited between the check and the
        wait, so no change is missed.
        """
        while not (reached() or self.finished):
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    async def hold(self, feed: Callable[[bytes], bool]) -> bool:
        """Pass the body to `feed` until it returns true, then return true. Later bytes are kept.

        Return false if the body ends before. Raises `UpstreamError`, and exceptions of `feed`.
        """
        is_enough = False

        def sink(payload: bytes, _raw: bytes | None) -> None:
            nonlocal is_enough
            if feed(payload):
                is_enough = True
                self.detach()
                self.notify()

        self.attach(sink)
        await self.until(lambda: is_enough)
        return is_enough

    async def finish(self) -> None:
        """Wait for the end of the body. Raises `UpstreamError` if it was cut off."""
        await self.until(lambda: False)

    def pause(self) -> None:
        """Pause reading, so that the model server is slowed down to the client's speed."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Resume reading."""
        if self._paused:
            self._paused = False
            self._heard = True
            self._transport.resume_reading()

    # For the pool

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent on this connection.

        Bytes after a body would count as its answer.
        """
        return (
            self.finished
            and self._error is None
            and self.head.keeps_alive
            and not self._paused
            and not self._surplus
        )

    def park(self, on_closed: Callable[[], None]) -> None:
        """Put the connection into the pool; `on_closed` is called if the server closes it there."""
        self._sink = self._splice = None
        self._on_closed = on_closed

    def unpark(self) -> None:
        """Take the connection out of the pool."""
        self._on_closed = None

    def abort(self) -> None:
        """Close the connection now. A streaming llama-server then frees its slot."""
        self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        try:
            if self._body is None:
                data = self._read_head(data)
                if self._body is None:
                    return
            self._read_body(data)
            if self._splice is not None:
                self._choose_protocol(self._splice)
            if len(data) >= TURN:
                self._give_way()
        except ProtocolError as error:
            self._fail(UpstreamError(f"the model server answered with something that is not HTTP: {error}"))
            self._transport.abort()
        except Exception as error:  # an exception of the sink: without this the client would wait for ever
            self.give_up(error)

    def _give_way(self) -> None:
        """Let other tasks run before the next read."""
        if not (self._paused or self.finished or self._transport.is_closing()):
            self._transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not (self._paused or self._transport.is_closing()):
            self._transport.resume_reading()

    def _read_head(self, data: bytes) -> bytes:
        if (found := self._head_reader.feed(data)) is None:
            return b""
        self.head, rest = found
        self._body = body_of(self.head, self._method)
        self.finished = self._body.done
        self.notify()
        return rest

    def _read_body(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        if not data:
            return
        if self.finished:
            self._surplus = True
            self._transport.abort()
            return
        payload = body.feed(data)
        raw = data if body.whole else None
        if payload:
            if self._sink is None:
                self._backlog.append((payload, raw))
                self._backlog_size += len(payload)
                if self._backlog_size > BACKLOG_LIMIT:
                    self.pause()
            else:
                self._sink(payload, raw)
        if body.done:
            self.finished = True
            self._surplus = bool(body.rest)
            self.notify()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._on_closed is not None:
            self._on_closed()
        if self._error is not None:
            return  # the gateway itself has ended it
        if self.finished:
            self._error = StaleConnectionError()
        elif isinstance(self._body, OpenBody) and error is None:
            self.finished = True
            self.notify()
        elif self._requests > 1 and self._body is None and not self._head_reader.has_begun:
            self._fail(StaleConnectionError())
        else:
            self._fail(UpstreamError("the model server closed the connection before its answer was complete"))

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self.notify()

    def heard(self) -> bool:
        """Whether anything has arrived since the last call.

        A paused connection counts as heard.
        """
        last = self._splice.last if self._splice is not None else b""
        heard = self._heard or last is not self._last_seen or self._paused
        self._heard = False
        self._last_seen = last
        return heard

    def abandon(self, reason: str) -> None:
        """End the response because the server is killed.

        A request without an answer so far may be retried.
        """
        unanswered = self._body is None and not self._head_reader.has_begun
        self.give_up(UnreachableError(reason) if unanswered else UpstreamError(reason))

    def give_up(self, error: Exception) -> None:
        """End the response with an error of the gateway."""
        self._fail(error)
        self._transport.abort()
