"""Reads request bodies for all routes, so that no client can make them costly for the others.

All bodies share one budget of bytes and must arrive at a minimum rate. Compressed bodies are decoded only up
to the limit, and JSON is checked for its size before it is decoded. Work on large bodies is done in slices.
"""

import asyncio
import codecs
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import StreamReader, web

from proxy.door.encodings import DECODERS, Decoder, EncodingError
from proxy.door.json_bounds import Bounds, BoundsError, may_be_deep
from proxy.errors import ApiError

SMALL = 64 * 1024
"""Bytes of a small body, which is accepted even if large bodies have used their part of the budget."""
LARGE = 1024 * 1024
"""Bytes of a body from which work on it is done in slices."""
SLICE = 256 * 1024

WINDOW = 10.0
"""Seconds within which a body must make progress."""
SLOWEST = 1024
"""Minimum rate in bytes per second; a phone at the edge of its network is faster."""
SLOWEST_IF_SHORT = 32 * 1024
"""Minimum rate while more than half of the budget is used."""

CONTINUES = web.RequestKey("continues", bool)
"""Set if the client waits for a `100 Continue` before it sends its body."""


class ByteBudget:
    """The budget of bytes for the bodies of all requests. The last eighth is for small ones."""

    def __init__(self, size: int) -> None:
        self.held = 0
        self.resize(size)

    def resize(self, size: int) -> None:
        """Set the budget. What is taken stays taken."""
        self._size = size
        self._for_large = size - size // 8

    @property
    def is_short(self) -> bool:
        """Whether more than half of the budget is used."""
        return self.held > self._size // 2

    def take(self, count: int, have: int) -> None:
        """Reserve `count` bytes for a body that already has `have`. Raises `ApiError`."""
        limit = self._size if have + count <= SMALL else self._for_large
        if self.held + count > limit:
            message = "the gateway holds as many bytes of other requests' bodies as it may; try again soon"
            raise ApiError(503, message, code="bodies_busy", retry_after=2)
        self.held += count


class _Held:
    """The bytes of the budget that a request's body has reserved."""

    __slots__ = ("budget", "count")

    def __init__(self, budget: ByteBudget) -> None:
        self.budget = budget
        self.count = 0

    def take(self, count: int) -> None:
        self.budget.take(count, self.count)
        self.count += count


_HELD = web.RequestKey("held", _Held)


class Bodies:
    """Reads bodies of at most `limit` bytes, encoded and decoded; all together eight times as many.

    `window`: seconds within which each body must make progress.
    """

    def __init__(self, limit: int, *, window: float = WINDOW) -> None:
        self.limit = limit
        self.budget = ByteBudget(8 * limit)
        self._window = window

    def resize(self, limit: int) -> None:
        """Set the limit of further bodies."""
        self.limit = limit
        self.budget.resize(8 * limit)

    async def json(self, request: web.Request, *, any_type: bool = False) -> bytes:
        """Read a JSON body, in UTF-8 and of limited contents. Raises `ApiError`.

        `any_type`: accept any content type, as Ollama does, since curl's default is that of a form.
        """
        if not any_type:
            _check_type(request.headers.get("Content-Type"))
        body = await self.read(request)
        if not body:
            raise ApiError(400, "missing request body", code="invalid_json")
        await check_json(body)
        return body

    async def read(self, request: web.Request) -> bytes:
        """Read a body of any type; empty if there is none. Raises `ApiError`.

        Its bytes count against the budget until `release`.
        """
        if (request.content_length or 0) > self.limit:
            raise too_large(self.limit)
        held = request[_HELD] = _Held(self.budget)
        if "Content-Encoding" not in request.headers and request.content.is_eof():
            try:
                body = request.content.read_nowait()  # the body arrived together with the head
            except web.RequestPayloadError as error:
                raise _broken(error) from None
            if len(body) > self.limit:
                raise too_large(self.limit)
            held.take(len(body))
            return body
        pieces = []
        async with aclosing(self.stream(request)) as stream:
            async for piece in stream:
                if held.count + len(piece) > self.limit:
                    raise too_large(self.limit)
                held.take(len(piece))
                pieces.append(piece)
        return b"".join(pieces)

    def release(self, request: web.Request) -> None:
        """Release the budget of a finished request."""
        if (held := request.get(_HELD)) is not None:
            self.budget.held -= held.count
            held.count = 0

    async def stream(self, request: web.Request) -> AsyncGenerator[bytes, None]:
        """Yield a body of any size as it arrives, piece by piece. Raises `ApiError`."""
        decoder = _decoder_of(request)
        if request.get(CONTINUES) and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        pace = _Pace(request.content, self.budget, self._window)
        came = 0
        try:
            while data := await pace.read():
                if decoder is None:
                    yield data
                    continue
                came += len(data)
                if came > self.limit:
                    raise too_large(self.limit)
                for piece in decoder.feed(data):
                    yield piece
                    await asyncio.sleep(0)
            if decoder is not None and came:
                decoder.end()
        except EncodingError as error:
            encoding = request.headers["Content-Encoding"]
            raise ApiError(400, f"the body is not {encoding[:20]!r} as its head says: {error}") from None
        except web.RequestPayloadError as error:
            raise _broken(error) from None


BODIES = web.AppKey("bodies", Bodies)
"""The application's reader of bodies."""


class _Pace:
    """Reads a body and enforces the minimum rate. Only the time spent waiting for the client counts."""

    def __init__(self, content: StreamReader, budget: ByteBudget, window: float) -> None:
        self._content = content
        self._budget = budget
        self._window = window
        self._waited = 0.0
        self._came = 0

    async def read(self) -> bytes:
        """Return the next piece, empty at the end. Raises `ApiError`."""
        now = asyncio.get_running_loop().time
        while True:
            if self._waited >= self._window:
                self._check_rate()
            began = now()
            try:
                async with asyncio.timeout(self._window - self._waited):
                    data = await self._content.readany()
                    self._came += len(data)
                    return data
            except TimeoutError:
                continue
            finally:
                self._waited += now() - began

    def _check_rate(self) -> None:
        rate = SLOWEST_IF_SHORT if self._budget.is_short else SLOWEST
        if self._came < rate * self._window:
            message = f"the body came at less than {rate} bytes a second for {self._window:g} s"
            raise ApiError(408, message, code="request_timeout")
        self._waited, self._came = 0.0, 0


def _check_type(content_type: str | None) -> None:
    if content_type is None:
        return
    media = content_type.partition(";")[0].strip().lower()
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise ApiError(
            415, f"the body must be JSON, with Content-Type: application/json, and not {media[:100]!r}"
        )


def _decoder_of(request: web.Request) -> Decoder | None:
    encodings = [
        encoding
        for value in request.headers.getall("Content-Encoding", ())
        for encoding in map(str.strip, value.lower().split(","))
        if encoding not in ("", "identity")
    ]
    if not encodings:
        return None
    if len(encodings) > 1 or encodings[0] not in DECODERS:
        encoding, known = ", ".join(encodings)[:50], ", ".join(DECODERS)
        error = ApiError(415, f"the body's encoding {encoding!r} is not known; send one of: {known}")
        error.headers["Accept-Encoding"] = known
        raise error
    return DECODERS[encodings[0]]()


async def check_json(body: bytes) -> None:
    """Raise `ApiError` unless a JSON body is UTF-8 and quick to decode. Checks large bodies in slices."""
    is_bounded = len(body) <= LARGE and not may_be_deep(body)
    if is_bounded and body.isascii():
        return
    text = codecs.getincrementaldecoder("utf-8")()
    bounds = Bounds()
    start = 0
    try:
        for start in range(0, len(body), SLICE):
            piece = body[start : start + SLICE]
            text.decode(piece, final=start + SLICE >= len(body))
            if not is_bounded:
                bounds.feed(piece)
            if len(body) > LARGE:
                await asyncio.sleep(0)
        bounds.end()
    except UnicodeDecodeError as error:
        at = start + error.start
        raise ApiError(400, f"the body is not UTF-8: {error.reason} near byte {at}") from None
    except BoundsError as error:
        if error.deep:
            message = f"the body's JSON is nested too deeply, {error}"
            raise ApiError(400, message, code="invalid_json") from None
        raise ApiError(413, f"the body's JSON has {error}", code="request_too_large") from None


async def breathe(body: bytes) -> None:
    """Let other tasks run between two steps of work on a large body."""
    if len(body) > LARGE:
        await asyncio.sleep(0)


def too_large(limit: int) -> ApiError:
    """Make the error for a body of more than `limit` bytes."""
    message = f"the body is larger than {limit // 2**20} MiB (server.max_body_mb)"
    return ApiError(413, message, code="request_too_large")


def _broken(error: web.RequestPayloadError) -> ApiError:
    """Make the error for a body with invalid framing."""
    text = str(error).strip().splitlines() or ["its framing is wrong"]
    return ApiError(400, f"the body cannot be read: {text[0][:200]}", code="bad_http")
