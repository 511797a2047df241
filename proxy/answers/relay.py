"""Copies an upstream's body to the client's socket: unparsed where possible, always in whole events."""

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from aiohttp import web

from proxy.wire.http1 import CHUNK_HEADS, COMMON_CHUNK, Head
from proxy.wire.ndjson import LineSplitter
from proxy.wire.sse import BlockSplitter, EventTooLongError
from proxy.wire.upstream_connection import Splice, UpstreamResponse

EVENTS = "text/event-stream"
"""The media type of server-sent events."""
LINES_KEPT = 40
"""Number of newest pieces of a stream of lines that are kept."""
RAW_MARK = 512
"""Number of bytes by which the progress of an unread body is told."""
RAW_TAIL = 8192
"""Number of last bytes that are kept of a body passed on unread."""


class ClientProtocol(Protocol):
    """The protocol of the client's connection, which the front door's server makes."""

    on_pause: Callable[[], None] | None
    """Called when the client reads too slowly."""

    @property
    def writing_paused(self) -> bool:
        """Whether the client reads too slowly at present."""


class ClientStalledError(Exception):
    """The client has read nothing for `server.write_timeout` seconds."""


class Relay(Splice):
    """Writes a body to the client's transport as it arrives. `feed` is the sink of the response.

    The client has received whole chunks at every moment, so that an error frame can always follow. With a
    `delimiter` it has also received only whole events or lines, which end with the delimiter.

    As the protocol of the upstream's connection the relay copies llama-server's usual output, one event in
    one chunk, from socket to socket. This path determines the cost of a token.
    """

    __slots__ = (
        "_before",
        "_blocked",
        "_chunk_end",
        "_client",
        "_delimiter",
        "_patch",
        "_raw",
        "_request",
        "_response",
        "_splitter",
        "_write_through",
        "chunked",
        "last",
        "pieces",
    )

    def __init__(
        self,
        request: web.Request,
        response: UpstreamResponse,
        *,
        delimiter: bytes,
        chunked: bool,
        patch: Callable[[bytes], bytes] | None = None,
    ) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has left")
        self._request = request
        self._response = response
        self._client = cast("ClientProtocol", request.protocol)
        self._write_through = transport.write
        self._delimiter = delimiter
        self._chunk_end = delimiter + b"\r\n"
        self.chunked = chunked
        self._patch = patch
        self._splitter = _SPLITTERS[delimiter]()
        self._blocked = False
        self._before = self.last = b""
        self._raw = bytearray()
        self.pieces = 0
        """Events or lines of the model server so far, each of which is about a token."""

    def data_received(self, data: bytes) -> None:
        length = len(data)
        if length < COMMON_CHUNK and data.startswith(CHUNK_HEADS[length]) and data.endswith(self._chunk_end):
            self._before = self.last
            self.last = data
            self.pieces += 1
            try:
                self._write_through(data)
            except RuntimeError:
                self._response.give_up(ConnectionResetError("the client has left"))
        else:
            self._response.data_received(data)

    def eof_received(self) -> bool:
        return self._response.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._response.connection_lost(error)

    @property
    def clear(self) -> bool:
        return self.chunked and self._splitter is not None and not self._splitter.holds

    @property
    def is_blocked(self) -> bool:
        """Whether the client reads too slowly at present."""
        return self._blocked

    @property
    def progress(self) -> tuple[bytes, bytes]:
        """The newest bytes, which are others as soon as something has arrived."""
        return self.last, bytes(self._raw[-RAW_MARK:])

    def feed(self, payload: bytes, raw: bytes | None) -> None:
        """Pass on a piece: unchanged if it is whole chunks and events, otherwise re-framed."""
        self.pieces += payload.count(self._delimiter or b"\n\n") or 1
        splitter = self._splitter
        if splitter is None:
            self._raw += payload[-RAW_TAIL:]
            if len(self._raw) > 2 * RAW_TAIL:
                del self._raw[:-RAW_TAIL]
        else:
            if splitter.holds or not payload.endswith(self._delimiter):
                payload, raw = _whole(splitter, payload), None
            if payload:
                self._before, self.last = self.last, payload
        if self._patch is not None and payload:
            unpatched, payload = payload, self._patch(payload)
            if payload is not unpatched:
                raw = None
        if raw is not None and self.chunked:
            self._write(raw)
        else:
            self._emit(payload)
        if self._client.writing_paused:
            self._block()

    def _block(self) -> None:
        self._blocked = True
        self._response.pause()
        self._response.notify()

    def _write(self, data: bytes) -> None:
        try:
            self._write_through(data)
        except RuntimeError:  # raised by uvloop for a closed transport
            raise ConnectionResetError("the client has left") from None

    def _emit(self, payload: bytes) -> None:
        if payload:
            self._write(b"%x\r\n%b\r\n" % (len(payload), payload) if self.chunked else payload)

    async def run(self, write_timeout: float) -> None:
        """Wait until the response is passed on. Raises `UpstreamError`, `ClientStalledError`."""
        self._client.on_pause = self._block
        if self._client.writing_paused:  # by writes before the relay was attached
            self._block()
        try:
            await self._response.until(lambda: self._blocked)
            while self._blocked:
                await self._drain(write_timeout)
                await self._response.until(lambda: self._blocked)
        finally:
            self._client.on_pause = None

    async def _drain(self, write_timeout: float) -> None:
        """Wait until the client reads, with a limit, so that a dead client does not occupy a slot."""
        try:
            async with asyncio.timeout(write_timeout or None):
                await self._request.writer.drain()
        except TimeoutError:
            raise ClientStalledError(f"the client took nothing for {write_timeout:g} s") from None
        self._blocked = self._client.writing_paused
        if not self._blocked:
            self._response.resume()

    def end_with(self, frame: bytes) -> None:
        """Write a last event after the whole events so far."""
        self._emit(frame)

    @property
    def tail(self) -> bytes:
        """At least the last two events, perhaps in chunks; or the last bytes of a body passed on unread."""
        return self._before + self.last + self._raw

    def take_held(self) -> bytes:
        """Return the received part of an unfinished event, for `end_with`."""
        return self._splitter.rest() if self._splitter is not None else b""


_SPLITTERS: dict[bytes, Callable[[], BlockSplitter | LineSplitter | None]] = {
    b"\n\n": BlockSplitter,
    b"\n": LineSplitter,
    b"": lambda: None,
}
"""The splitter for each delimiter."""


def _whole(splitter: BlockSplitter | LineSplitter, payload: bytes) -> bytes:
    """Return the events or lines that `payload` completes."""
    if isinstance(splitter, LineSplitter):
        return b"".join([line + b"\n" for line in splitter.feed(payload)])
    return b"".join(splitter.feed(payload))


class LineRelay(Relay):
    """Relays lines of JSON. The end of such a stream is judged by more lines than the last two."""

    __slots__ = ("_newest",)

    def __init__(self, request: web.Request, response: UpstreamResponse, *, chunked: bool) -> None:
        super().__init__(request, response, delimiter=b"\n", chunked=chunked)
        self._newest: deque[bytes] = deque(maxlen=LINES_KEPT)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.last is data:
            self._newest.append(data)

    def feed(self, payload: bytes, raw: bytes | None) -> None:
        before = self.last
        super().feed(payload, raw)
        if self.last is not before:
            self._newest.append(self.last)

    @property
    def tail(self) -> bytes:
        return b"".join(self._newest)


def relay_of(
    request: web.Request,
    response: UpstreamResponse,
    delimiter: bytes,
    *,
    chunked: bool,
    patch: Callable[[bytes], bytes] | None,
) -> Relay:
    """Return a relay for a stream of events, of lines, or of any bytes, by the delimiter."""
    if delimiter == b"\n":
        return LineRelay(request, response, chunked=chunked)
    return Relay(request, response, delimiter=delimiter, chunked=chunked, patch=patch)


class BodyCollector:
    """Keeps a whole body in memory, up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, payload: bytes, _raw: bytes | None) -> None:
        """Sink of the response."""
        self._size += len(payload)
        if self._size > self._limit:
            raise EventTooLongError(f"an answer of more than {self._limit} bytes")
        self._pieces.append(payload)

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self._pieces)


_ENDS = 64 * 1024
"""Number of bytes at each end of an answer in which token counts are searched."""

_COUNT = re.compile(
    rb'"(prompt_n|cache_n|predicted_n|prompt_tokens|completion_tokens|cached_tokens'
    rb'|input_tokens|output_tokens|cache_read_input_tokens|prompt_eval_count|eval_count)":\s?(\d{1,15})(?![\d.eE])'
)


def count_tokens(*places: bytes) -> dict[str, int]:
    """Return prompt, cached and completion tokens as the model server reports them; the last mention wins.

    A quote inside a JSON string is escaped, so generated text cannot be mistaken for a count.
    """
    found = {
        name.decode(): int(count)
        for place in places
        for part in ([place] if len(place) <= 2 * _ENDS else [place[:_ENDS], place[-_ENDS:]])
        for name, count in _COUNT.findall(part)
    }
    if "prompt_n" in found:  # llama.cpp's timings, which do not include cached tokens
        cached = found.get("cache_n", 0)
        counts = {
            "prompt": found["prompt_n"] + cached,
            "cached": cached,
            "completion": found.get("predicted_n"),
        }
    elif "prompt_eval_count" in found or "eval_count" in found:  # Ollama's last line
        counts = {"prompt": found.get("prompt_eval_count"), "completion": found.get("eval_count")}
    elif "cache_read_input_tokens" in found:  # Anthropic, which does not include them either
        cached = found["cache_read_input_tokens"]
        counts = {
            "prompt": found.get("input_tokens", 0) + cached,
            "cached": cached,
            "completion": found.get("output_tokens"),
        }
    else:
        counts = {
            "prompt": found.get("prompt_tokens", found.get("input_tokens")),
            "cached": found.get("cached_tokens"),
            "completion": found.get("completion_tokens", found.get("output_tokens")),
        }
    return {f"{name}_tokens": count for name, count in counts.items() if count is not None}


def is_event_stream(head: Head) -> bool:
    """Whether the body consists of server-sent events."""
    return head.content_type == EVENTS
