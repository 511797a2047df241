"""The pool of connections to model servers, and each server's state as seen through them."""

import asyncio
import math
import time

from actors.config.schema import authority
from actors.messages import ServerAddress
from actors.servers.sockets import listening
from proxy.wire.upstream_connection import (
    StaleConnectionError,
    UnreachableError,
    UpstreamError,
    UpstreamResponse,
    UpstreamTimeoutError,
)

LOOK = 1.0
"""Seconds between checks for silent servers, at most a quarter of `server_pool.request_timeout`."""

SILENT = 5.0
"""Seconds without a byte after which the requests to a server that counts as gone are ended."""

REMEMBERED = 30.0
"""Seconds for which the latest byte or refusal of a server is remembered."""

CONNECT_TIMEOUT = 10.0
"""Time-out of a connection in seconds, since a server's machine may be switched off."""

IDLE_CONNECTIONS = 64
"""Most idle connections for each server. llama-server itself closes an idle connection after 5 s."""


class Upstream:
    """The pool of connections to all model servers. Implements `actors.servers.liveness.Requests`."""

    def __init__(self, *, silence_limit: float) -> None:
        self.silence_limit = silence_limit
        self._idle: dict[ServerAddress, list[UpstreamResponse]] = {}
        self._active: dict[UpstreamResponse, ServerAddress] = {}
        self._heard: dict[ServerAddress, float] = {}
        self._asked_since: dict[ServerAddress, float] = {}
        self._refused: dict[ServerAddress, float] = {}
        self._watch: asyncio.TimerHandle | None = None

    async def send(self, endpoint: ServerAddress, request: bytes) -> UpstreamResponse:
        """Send a request; return the response when its head has arrived. The caller must call `give_back`.

        Raises `UpstreamError`.
        """
        while True:
            connection, reused = await self._connect(endpoint)
            self._active[connection] = endpoint
            if self._watch is None:
                self._look_later()
            try:
                await connection.send(request)
                self._check_key(endpoint, connection)
                return connection
            except StaleConnectionError:
                self._active.pop(connection, None)
                if not reused:
                    raise UpstreamError("the model server closed the connection") from None
            except BaseException:
                self._active.pop(connection, None)
                connection.abort()
                raise

    def _check_key(self, endpoint: ServerAddress, connection: UpstreamResponse) -> None:
        if endpoint.refuses and connection.head.status == 401:
            self._note_refusal(endpoint)
            raise UnreachableError("the model server's port is another program's, which refuses its key")

    def give_back(self, endpoint: ServerAddress, connection: UpstreamResponse) -> None:
        """Return a response's connection to the pool, or close it if the response is unfinished."""
        self._active.pop(connection, None)
        if connection.reusable:
            self._park(endpoint, connection)
        else:
            connection.abort()

    async def close(self) -> None:
        """Close the idle connections."""
        if self._watch is not None:
            self._watch.cancel()
        for endpoint in list(self._idle):
            self._close_idle(endpoint)

    def _close_idle(self, endpoint: ServerAddress) -> None:
        for connection in self._idle.pop(endpoint, ()):
            connection.unpark()
            connection.abort()

    # actors.servers.liveness.Requests

    def asked_since(self, endpoint: ServerAddress) -> float | None:
        """Return since when a server has had requests; -inf after a refusal, None if there are none."""
        return -math.inf if endpoint in self._refused else self._asked_since.get(endpoint)

    def last_heard(self, endpoint: ServerAddress) -> float:
        """Return when a server last sent anything; -inf if long ago."""
        return self._heard.get(endpoint, -math.inf)

    def abandon(self, endpoint: ServerAddress, reason: str) -> None:
        """End all requests of a server that is being killed."""
        self._close_idle(endpoint)
        for connection, its in list(self._active.items()):
            if its == endpoint and not connection.finished:
                connection.abandon(reason)

    def abandon_silent(self, endpoint: ServerAddress, reason: str) -> None:
        """End a server's requests that have received nothing for some seconds."""
        now = time.monotonic()
        for connection, its in list(self._active.items()):
            if its == endpoint and not connection.finished and now - connection.quiet_since > SILENT:
                connection.abandon(reason)

    async def _connect(self, endpoint: ServerAddress) -> tuple[UpstreamResponse, bool]:
        if idle := self._idle.get(endpoint):
            connection = idle.pop()
            connection.unpark()
            return connection, True
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, connection = await loop.create_connection(UpstreamResponse, endpoint.host, endpoint.port)
        except TimeoutError:
            self._note_refusal(endpoint)
            message = f"the model server took no connection within {CONNECT_TIMEOUT:g} s"
            raise UnreachableError(message) from None
        except OSError as error:
            self._note_refusal(endpoint)
            raise UnreachableError(f"the model server does not accept connections: {error}") from error
        if endpoint.sockets and listening(endpoint.host, endpoint.port) != endpoint.sockets:
            connection.abort()
            self._note_refusal(endpoint)
            raise UnreachableError("another program listens on the model server's port too")
        return connection, False

    def _note_refusal(self, endpoint: ServerAddress) -> None:
        self._refused[endpoint] = time.monotonic()
        if self._watch is None:
            self._look_later()

    def _look_later(self) -> None:
        pause = min(LOOK, self.silence_limit / 4) if self.silence_limit else LOOK
        self._watch = asyncio.get_running_loop().call_later(pause, self._look)

    def _look(self) -> None:
        """Check all responses by one timer: a timer each costs more than the rest of a short request."""
        self._watch = None
        now = time.monotonic()
        asked: dict[ServerAddress, float] = {}
        for connection, endpoint in list(self._active.items()):
            if connection.finished:
                continue
            if connection.heard():
                connection.quiet_since = self._heard[endpoint] = now
            asked[endpoint] = self._asked_since.get(endpoint) or connection.quiet_since
            if self.silence_limit and now - connection.quiet_since >= self.silence_limit:
                message = f"the model server was silent for {self.silence_limit:g} s"
                connection.give_up(UpstreamTimeoutError(message))
        self._asked_since = asked
        self._refused = _recent(self._refused, now)
        self._heard = _recent(self._heard, now)
        if self._active or self._refused or self._heard:
            self._look_later()

    def _park(self, endpoint: ServerAddress, connection: UpstreamResponse) -> None:
        idle = self._idle.setdefault(endpoint, [])
        if len(idle) >= IDLE_CONNECTIONS:
            connection.abort()
            return

        def closed() -> None:
            idle.remove(connection)
            if not idle:
                self._idle.pop(endpoint, None)

        idle.append(connection)
        connection.park(closed)


def _recent(times: dict[ServerAddress, float], now: float) -> dict[ServerAddress, float]:
    return {endpoint: at for endpoint, at in times.items() if now - at < REMEMBERED}


def body_of(request: bytes) -> memoryview:
    """Return the body of a rendered request."""
    return memoryview(request)[request.index(b"\r\n\r\n") + 4 :]


def with_field(request: bytes, name: bytes, value: bytes) -> bytes:
    """Add a field to the JSON object that is the body of a rendered request. One of the same name wins."""
    body = bytes(body_of(request))
    at = body.index(b"{") + 1
    return with_body(request, b'%b"%b":%b,%b' % (body[:at], name, value, body[at:]))


def with_body(request: bytes, body: bytes) -> bytes:
    """Replace the body of a rendered request."""
    before = body_of(request)
    head = request[: len(request) - len(before)]
    old, new = (b"Content-Length: %d\r\n" % len(one) for one in (before, body))
    return head.replace(old, new) + body


def render_request(
    method: str, target: str, headers: dict[str, str], body: bytes | None, endpoint: ServerAddress
) -> bytes:
    """Render a request. `target` is the percent-encoded path with its query."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {authority(endpoint.host, endpoint.port)}"]
    if endpoint.key is not None:
        lines.append(f"Authorization: Bearer {endpoint.key.secret}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    # aiohttp decodes headers this way, so the bytes are passed on unchanged.
    head = "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"
    return head + body if body else head
