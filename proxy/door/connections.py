"""Clients' connections as a whole: listens, limits their number, and sets their time limits."""

import asyncio
import socket
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Any

import msgspec
from aiohttp import web

from actors.config.schema import Config
from proxy.door.client_connection import ConnectionServer
from proxy.door.parsing import make_request, make_request_below
from proxy.exchange import Account

BACKLOG = 1024
"""Most connections that wait in the kernel to be accepted."""
MOST_CONNECTIONS = 4096
"""Most clients, unless `server_pool.queue_size` lets more of them wait."""
SPARE_FILES = 128
"""Number of open files reserved for other uses than connections."""

HEAD_TIMEOUT = 20.0
"""Seconds within which a new connection must send the whole head of its first request."""
IDLE_TIMEOUT = 75.0
"""Seconds without a request, or with an unfinished head, after which a connection is closed.
Proxies before us close theirs after 60."""
LINGER = 5.0
"""Seconds for which further data of a client is discarded after an answer, so that it can read the answer."""

READ_AHEAD = 64 * 1024
"""Bytes of a body that are read ahead; at most twice as many."""


class ConnectionRules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules for clients' connections.

    `most`: the number of clients. `head_timeout`: seconds for the head of a request. `write_timeout`: seconds
    within which a client must read some of its answer; 0: no limit. `base_path`: what each path begins with.
    """

    most: int = MOST_CONNECTIONS
    head_timeout: float = HEAD_TIMEOUT
    write_timeout: float = 0.0
    base_path: str = ""

    @classmethod
    def of(cls, config: Config) -> "ConnectionRules":
        """Return the rules of the configuration and of this machine."""
        server = config.server
        return cls(
            most=most_connections(config.server_pool.queue_size),
            write_timeout=server.write_timeout,
            base_path=server.base_path,
        )


class _Runner(web.AppRunner):
    """An aiohttp runner whose server is a `ConnectionServer`."""

    def __init__(
        self, app: web.Application, accounts: tuple[Account, ...], rules: ConnectionRules, **options: Any
    ) -> None:
        super().__init__(app, **options)
        self._accounts = accounts
        self._rules = rules

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = ConnectionServer
        assert isinstance(server, ConnectionServer)
        server.accounts = self._accounts
        server.most = self._rules.most
        server.head_timeout = self._rules.head_timeout
        server.write_timeout = self._rules.write_timeout
        base, make = self._rules.base_path, server.request_factory
        server.request_factory = (
            partial(make_request_below, base, make) if base else partial(make_request, make)
        )
        return server


class Site(web.SockSite):
    """A listener with time limits for TLS, in which aiohttp's own has the minute and more of asyncio."""

    async def start(self) -> None:
        """Accept connections."""
        await super(web.SockSite, self).start()
        server = self._runner.server
        assert server is not None
        tls = self._ssl_context is not None
        self._server = await asyncio.get_running_loop().create_server(
            server,
            sock=self._sock,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=HEAD_TIMEOUT if tls else None,
            ssl_shutdown_timeout=LINGER if tls else None,
        )


def most_connections(queue_size: int) -> int:
    """Allow as many open files as these clients need; return the most clients."""
    try:
        import resource  # noqa: PLC0415 (absent on Windows)
    except ImportError:
        return max(MOST_CONNECTIONS, queue_size)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files_for(queue_size)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(MOST_CONNECTIONS, queue_size) if files < 0 else most_clients(files, queue_size)


def files_for(queue_size: int) -> int:
    """Return how many open files the most clients need: those that only wait need one, the others two."""
    return 2 * MOST_CONNECTIONS + max(0, queue_size - MOST_CONNECTIONS) + SPARE_FILES


def most_clients(files: int, queue_size: int) -> int:
    """Return how many clients that many open files are enough for."""
    files -= SPARE_FILES
    served = min(MOST_CONNECTIONS, files // 2)
    waiting = max(0, min(queue_size - served, files - 2 * served))
    return max(16, served + waiting)


def listening(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of `host`. Raises `OSError`.

    This is separate from serving, so that a gateway whose address is taken has changed nothing yet.
    """
    sockets: list[socket.socket] = []
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            one.listen(BACKLOG)
            one.setblocking(False)
    except OSError:
        for one in sockets:
            one.close()
        raise
    return sockets


def on_loopback(sockets: list[socket.socket]) -> bool:
    """Whether only this machine can connect."""
    return all(ip_address(one.getsockname()[0].partition("%")[0]).is_loopback for one in sockets)


def make_runner(app: web.Application, accounts: tuple[Account, ...], rules: ConnectionRules) -> web.AppRunner:
    """Make the runner of the front door. `accounts` also get unreadable requests.

    A handler is cancelled when its client leaves. The code behind it relies on that; aiohttp's default is
    off, although its test server turns it on.
    """
    return _Runner(
        app,
        accounts,
        rules,
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,
        handle_signals=False,
        keepalive_timeout=IDLE_TIMEOUT,
        lingering_time=LINGER,
        read_bufsize=READ_AHEAD,
        shutdown_timeout=2.0,
    )
