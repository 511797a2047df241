"""The stream to a client and its one owner: head, comments during waits, events, errors, and end.

The head is sent with the first event, so that an earlier error has a status. But proxies and clients give up
after a minute without a byte, so a client that waits for its turn, a download, a load or a long prompt gets
a comment from time to time. Comment lines are not events, and a line of JSON with empty text adds nothing,
so clients ignore them. Once a comment has sent the head, an error can only be sent as the last event.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from aiohttp import HttpVersion11, web

from actors.runtime import spawn
from actors.scheduler.loading import LoadingLines
from agents.events import AnswerStarted, Reasoning
from proxy.answers.call import Conversation, ModelCall, ModelCaller, RequestLimits, blame, broken
from proxy.answers.relay import ClientStalledError, Relay, relay_of
from proxy.apis.interface import Codec, Dialect, Encoder
from proxy.apis.server_errors import of_api_error
from proxy.errors import ApiError
from proxy.exchange import Exchange
from proxy.wire.sse import EventTooLongError
from proxy.wire.upstream_connection import UpstreamError

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Headers that keep caches, and nginx in front of the gateway, from buffering events."""


class AnswerOverError(Exception):
    """The client has its whole answer although the model server's stream has not ended."""


class Content(Protocol):
    """Converts a model server's bytes for a client."""

    @property
    def delimiter(self) -> bytes:
        """The end of an event or line, if only whole ones may be passed on; empty if any cut is allowed."""

    @property
    def patch(self) -> Callable[[bytes], bytes] | None:
        """Converts a piece of the server's bytes into the client's bytes."""

    def begin(self, relay: Relay, call: ModelCall) -> None:
        """Write the bytes received so far, and attach the relay to the response."""

    def end(self, relay: Relay, call: ModelCall) -> None:
        """Write the rest at the end of the response.

        Raises `ApiError` for an error that the client must see.
        """

    def fail(self, error: ApiError) -> bytes | None:
        """Return the event that ends a failed answer; None if the API's dialect makes it."""

    def is_whole(self, relay: Relay) -> bool:
        """Whether a client that leaves now has the whole answer."""

    def account(self, relay: Relay, call: ModelCall) -> None:
        """Report the answer's tokens and failure to the exchange, however it ended."""


class Teller:
    """Writes the lines that a waiting client gets, as the beginning of the answer with this id."""

    def __init__(self, encoder: Encoder, answer_id: str) -> None:
        self.encoder = encoder
        self.started = AnswerStarted(answer_id, "", int(time.time()))
        self.has_told = False

    def tell(self, line: str, now: float) -> bytes:
        """Return the bytes of a line."""
        start = b"" if self.has_told else self.encoder.encode(self.started, now)
        self.has_told = True
        return start + self.encoder.encode(Reasoning(line), now)


class ClientStream:
    """One answer to a client. Without a `dialect`, an error cuts the connection."""

    def __init__(
        self,
        request: web.Request,
        exchange: Exchange,
        head: web.StreamResponse,
        dialect: Dialect | None,
        limits: RequestLimits,
    ) -> None:
        self.head = head
        self._request = request
        self._exchange = exchange
        self._dialect = dialect
        self._limits = limits
        self._comment: Callable[[], bytes] = bytes
        self._timer: asyncio.TimerHandle | None = None
        self._commenting: asyncio.Task[None] | None = None
        self._interval = limits.keepalive_interval
        self._next_line: Callable[[], str | None] | None = None
        self._teller: Teller | None = None
        self._telling: asyncio.Task[None] | None = None
        self._waiting = asyncio.Lock()

    @classmethod
    def to(cls, conversation: Conversation, caller: ModelCaller) -> "ClientStream":
        """Make the stream that answers a request. Raises `ApiError` for an invalid `X-Loading-State`."""
        request, exchange, endpoint = conversation.request, conversation.exchange, conversation.endpoint
        head = web.StreamResponse(headers={"Content-Type": endpoint.media_type, **STREAM_HEADERS})
        head.headers["X-Request-Id"] = exchange.request_id
        if request.version < HttpVersion11:
            head.force_close()  # the end of the connection marks the end of the body
        stream = cls(request, exchange, head, endpoint.dialect, caller.limits)
        stream._comment = lambda: endpoint.comment(
            exchange.model or "", caller.what_happens(exchange), time.time()
        )
        state = conversation.loading_state(caller.limits.loading_state)
        if state == "none":
            stream._interval = 0
        elif state == "reasoning":
            stream._next_line = partial(caller.next_line, exchange, LoadingLines())
        return stream

    def tell_by(self, codec: Codec, encoder: Encoder) -> None:
        """Let the encoder write what the client waits for, as reasoning, if the request wants that.

        If anything `was_told`, the answer goes on with this encoder, or under the same id.
        """
        if self._next_line is not None and codec.reasons:
            self._teller = Teller(encoder, f"chatcmpl-{secrets.token_hex(16)}")
            self._telling = spawn(self._tell(self._teller, self._next_line), name="loading state")

    @property
    def was_told(self) -> "Teller | None":
        """What has told the client something as reasoning; None: it was told nothing."""
        return self._teller if self._teller is not None and self._teller.has_told else None

    async def carry(self, answer: Coroutine[Any, Any, None]) -> web.StreamResponse:
        """Let `answer` write, with comments until it begins. Raises `ApiError` before the head is sent."""
        self._comment_later()
        try:
            await answer
        except ApiError as error:
            await self._end_with(error)
        except asyncio.CancelledError:
            if (cancellation := self._exchange.take_cancellation()) is None:
                raise
            await self._end_with(cancellation)
        except ClientStalledError as error:
            self._give_up(error)
        finally:
            self._stop_comments()
        return self.head

    async def _end_with(self, error: ApiError) -> None:
        """End the answer with an error. Raises it if the head is not sent."""
        if not self.head.prepared:
            raise error
        self._stop_comments()
        await self.head.write(self._last_event(error))
        await self.head.write_eof()

    async def begin(self) -> None:
        """Begin the answer: send the head, if it is not sent yet."""
        self._stop_comments()
        self._exchange.first_byte()
        self._exchange.status = self.head.status
        if not self.head.prepared:
            self.head.headers.update(self._exchange.headers)
        await self.head.prepare(self._request)

    async def write(self, data: bytes) -> None:
        """Write events. Raises `ClientStalledError`."""
        seconds = self._limits.write_timeout
        try:
            async with asyncio.timeout(seconds or None):
                await self.head.write(data)
        except TimeoutError:
            raise ClientStalledError(f"the client took nothing for {seconds:g} s") from None

    async def end(self) -> None:
        """End the answer, if the client is still connected."""
        if self._request.transport is not None and not self._request.transport.is_closing():
            await self.head.write_eof()

    async def relay(self, call: ModelCall, content: Content) -> None:
        """Pass on a model server's answer as it arrives, to its end or its error."""
        await self.begin()
        chunked = self.head.headers.get("Transfer-Encoding") == "chunked"
        relay = relay_of(
            self._request, call.response, content.delimiter, chunked=chunked, patch=content.patch
        )
        self._exchange.count_tokens = lambda: relay.pieces
        content.begin(relay, call)
        self._look_later(relay, content)
        try:
            await relay.run(self._limits.write_timeout)
            self._stop_comments()
            content.end(relay, call)
            call.lease.served = self._exchange.status < 500
        except AnswerOverError:
            call.lease.served = True
        except ApiError as error:
            self._fail(relay, content, blame(error, call.lease))
        except (UpstreamError, EventTooLongError) as error:
            call.lease.broken = isinstance(error, UpstreamError) and error.hung_up
            self._fail(relay, content, blame(broken(error, self._exchange), call.lease))
        except ClientStalledError as error:
            self._give_up(error)
        except asyncio.CancelledError:
            if (cancellation := self._exchange.take_cancellation()) is None:
                # A client may close at the last event, before the upstream connection has ended.
                self._exchange.complete = call.lease.served = content.is_whole(relay)
                raise
            call.response.abort()  # nothing of it may follow the error
            self._fail(relay, content, cancellation)
        finally:
            self._stop_comments()
            content.account(relay, call)
        await self.end()

    # Errors

    def _last_event(self, error: ApiError, content: Content | None = None) -> bytes:
        self._exchange.failed(error)
        if self._dialect is None:
            return b""
        error = self._dialect.reword(error, self._exchange.model or "")
        event = content.fail(error) if content is not None else None
        if content is None and (told := self.was_told) is not None:
            event = told.encoder.encode(of_api_error(error), time.time())
        return self._dialect.frame(error, self._exchange.request_id) if event is None else event

    def _fail(self, relay: Relay, content: Content, error: ApiError) -> None:
        relay.end_with(self._last_event(error, content))
        if self._dialect is None:
            self._cut()

    def _give_up(self, error: ClientStalledError) -> None:
        self._exchange.client_left()
        self._exchange.error = str(error)
        self._cut()

    def _cut(self) -> None:
        """Close the client's connection so that it cannot mistake the answer for a complete one."""
        if self._request.transport is not None:
            self._request.transport.abort()

    # Comments

    def _comment_later(self) -> None:
        if self._interval > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._interval, self._start_comment)

    def _start_comment(self) -> None:
        self._commenting = spawn(self._write_comment(), name="comment")
        self._comment_later()

    async def _write_comment(self) -> None:
        try:
            async with self._waiting:
                await self._prepare()
                await self.head.write(self._comment())
        except ConnectionError:
            self._stop_comments()  # the handler is cancelled when the client leaves

    async def _prepare(self) -> None:
        if not self.head.prepared:
            self.head.headers.update(self._exchange.headers)
        await self.head.prepare(self._request)

    async def _tell(self, teller: "Teller", next_line: Callable[[], str | None]) -> None:
        """Write lines about what the client waits for."""
        delay = self._limits.telling_interval
        with suppress(ConnectionError):  # the handler is cancelled when the client leaves
            while True:
                await asyncio.sleep(delay)
                delay = min(2 * delay, 8 * self._limits.telling_interval)  # a look costs more in a long queue
                async with self._waiting:
                    if (line := next_line()) is not None:
                        delay = self._limits.telling_interval
                        await self._prepare()
                        await self.head.write(teller.tell(line, time.time()))

    def _look_later(self, relay: Relay, content: Content) -> None:
        if self._interval > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(
                self._interval, self._comment_in_silence, relay, content, relay.progress
            )

    def _comment_in_silence(self, relay: Relay, content: Content, seen: object) -> None:
        """Write a comment if nothing has arrived since the last look.

        A daemon sends a tool call when it is whole, which may take minutes, and clients give up earlier.
        """
        is_between_events = content.patch is not None or relay.clear
        try:
            if relay.progress == seen and is_between_events and not relay.is_blocked:
                relay.end_with(self._comment())
        except ConnectionError:
            return  # the handler is cancelled when the client leaves
        self._look_later(relay, content)

    def _stop_comments(self) -> None:
        """Stop the comments, and wait until the last one is written completely."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in (self._commenting, self._telling):
            if task is not None:
                task.cancel()
        self._commenting = self._telling = None
