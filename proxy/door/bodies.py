"""Reading requests' bodies: one way for all routes, that no client can make costly for the others.

Their bytes come out of one budget, they have to come at a rate, what is compressed is decoded only as far as
the limit, and JSON is bounded before anything decodes it. All work on large ones is done in slices.
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
"""Bytes of a body that are given although large bodies have taken all of their part of the budget."""
LARGE = 1024 * 1024
"""Bytes from which on the work on a body is cut into slices."""
SLICE = 256 * 1024

WINDOW = 10.0
"""Seconds in which a body must make progress."""
SLOWEST = 1024
"""Bytes a second that must come: a phone at the edge of its network is faster."""
SLOWEST_IF_SHORT = 32 * 1024
"""The same while more than half of the budget is taken."""

CONTINUES = web.RequestKey("continues", bool)
"""Whether the client waits for a `100 Continue` before it sends its body."""


class ByteBudget:
    """Bytes of bodies that all requests together may hold. The last eighth is for small ones."""

    def __init__(self, size: int) -> None:
        self.held = 0
        self._size = size
        self._for_large = size - size // 8

    @property
    def is_short(self) -> bool:
        """Whether more than half of it is taken."""
        return self.held > self._size // 2

    def take(self, count: int, have: int) -> None:
        """Take `count` bytes for a body that has `have` already. Raises `ApiError`."""
        limit = self._size if have + count <= SMALL else self._for_large
        if self.held + count > limit:
            message = "the gateway holds as many bytes of other requests' bodies as it may; try again soon"
            raise ApiError(503, message, code="bodies_busy", retry_after=2)
        self.held += count


class _Held:
    """What a request's body has taken of the budget."""

    __slots__ = ("budget", "count")

    def __init__(self, budget: ByteBudget) -> None:
        self.budget = budget
        self.count = 0

    def take(self, count: int) -> None:
        self.budget.take(count, self.count)
        self.count += count


_HELD = web.RequestKey("held", _Held)


class Bodies:
    """Reads bodies of at most `limit` bytes, decoded or not; all together may hold eight times as many.

    `window`: seconds in which each must make progress.
    """

    def __init__(self, limit: int, *, window: float = WINDOW) -> None:
        self.limit = limit
        self.budget = ByteBudget(8 * limit)
        self._window = window

    async def json(self, request: web.Request, *, any_type: bool = False) -> bytes:
        """A body that is JSON, in UTF-8 and bounded. Raises `ApiError`.

        `any_type`: it is JSON whatever its head says, as Ollama takes it; curl says that it is a form.
        """
        if not any_type:
            _check_type(request.headers.get("Content-Type"))
        body = await self.read(request)
        if not body:
            raise ApiError(400, "missing request body", code="invalid_json")
        await check_json(body)
        return body

    async def read(self, request: web.Request) -> bytes:
        """A body, whatever it is; empty without one. Raises `ApiError`.

        Its bytes count until `release`.
        """
        if (request.content_length or 0) > self.limit:
            raise too_large(self.limit)
        held = request[_HELD] = _Held(self.budget)
        if "Content-Encoding" not in request.headers and request.content.is_eof():
            try:
                body = request.content.read_nowait()  # it came with its head
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
        """The request is done, and holds its body no more."""
        if (held := request.get(_HELD)) is not None:
            self.budget.held -= held.count
            held.count = 0

    async def stream(self, request: web.Request) -> AsyncGenerator[bytes, None]:
        """A body of any size, piece by piece as it comes. Raises `ApiError`."""
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
"""Where an application has its reader."""


class _Pace:
    """Reads a body as it comes, which must be fast enough. Only the time that is waited for it counts."""

    def __init__(self, content: StreamReader, budget: ByteBudget, window: float) -> None:
        self._content = content
        self._budget = budget
        self._window = window
        self._waited = 0.0
        self._came = 0

    async def read(self) -> bytes:
        """The next piece, empty at the end. Raises `ApiError`."""
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
    """Raise `ApiError` unless a JSON body is UTF-8 and quickly decoded. Large ones in slices."""
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
    """Let the others have the loop between two steps of work on a large body."""
    if len(body) > LARGE:
        await asyncio.sleep(0)


def too_large(limit: int) -> ApiError:
    """The answer to a body over the limit of `limit` bytes."""
    message = f"the body is larger than {limit // 2**20} MiB (server.max_body_mb)"
    return ApiError(413, message, code="request_too_large")


def _broken(error: web.RequestPayloadError) -> ApiError:
    """The answer to a body whose framing is wrong."""
    text = str(error).strip().splitlines() or ["its framing is wrong"]
    return ApiError(400, f"the body cannot be read: {text[0][:200]}", code="bad_http")
