"""The certificate of `server.tls`, taken anew when its files change."""

import asyncio
import ssl
from pathlib import Path

import structlog

from actors.config.certificate import expiry, server_context
from actors.config.schema import Tls

log = structlog.get_logger("door")

PERIOD = 1.0
"""Seconds between two looks at the files."""

_Stamp = tuple[object, ...]


class Certificate:
    """A TLS context for the listener, which hands each new connection to the context of the latest good pair.

    Raises `ValueError` if the pair cannot be used. Blocking.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._taken = self._seen = self._told = self._stamp()
        self._current = server_context(tls)
        self.context = server_context(tls)
        # To load another pair into the same context could fail half-way: a new certificate with an old key.
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    async def watch(self) -> None:
        """Look at the files from time to time."""
        while True:
            await asyncio.sleep(PERIOD)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Take the pair if a file has changed. If it cannot be used, log that and keep the old one."""
        stamp = self._stamp()
        if stamp == self._taken:
            return
        try:
            context = server_context(self._tls)
            expires = expiry(self._tls)
        except ValueError as error:
            reason = str(error)
        else:
            self._current, self._taken = context, stamp
            log.info("certificate taken", certificate=self._tls.certificate, expires=expires.isoformat())
            return
        # The second file may be written a moment after the first.
        if stamp == self._seen != self._told:
            log.error("certificate cannot be used; the old one stays", reason=reason)
            self._told = stamp
        self._seen = stamp

    def _stamp(self) -> _Stamp:
        """Return what changes with the files."""
        stamp: list[object] = []
        for file in (self._tls.certificate, self._tls.key):
            try:
                found = Path(str(file)).stat()
                stamp.append((found.st_mtime_ns, found.st_ino, found.st_size))
            except OSError:
                stamp.append(None)
        return tuple(stamp)
